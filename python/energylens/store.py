"""Parquet files that say what they hold: plan hash, version and units in the metadata."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

from energylens import _core
from energylens.errors import EnergylensError, Problem
from energylens.units import unit

_PREFIX = "energylens."


def checked_target(path: str | Path) -> Path:
    """Return where to write, links followed; raise `EnergylensError` if something other than a file is there."""
    path = Path(path)
    try:
        path = path.resolve() if path.is_symlink() else path
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "not a regular file"
            raise EnergylensError(
                Problem(f"cannot write `{path}`: it is {what}", hint="nothing was written", code="write")
            )
    except OSError as error:
        raise EnergylensError(Problem(f"cannot write `{path}`: {error.strerror or error}", code="write")) from None
    return path


def write_parquet(frame: pl.DataFrame, path: str | Path, plan_sha256: str, note: dict[str, Any] | None = None) -> Path:
    """Write a frame under a temporary name, then rename; raise `EnergylensError` if that cannot be done."""
    path = checked_target(path)
    units = {name: found for name in frame.columns if (found := unit(name))}
    metadata = {
        f"{_PREFIX}plan_sha256": plan_sha256,
        f"{_PREFIX}version": _core.__version__,
        f"{_PREFIX}units": json.dumps(units, sort_keys=True),
        f"{_PREFIX}note": json.dumps(note or {}, sort_keys=True),
    }
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        frame.write_parquet(temporary, metadata=metadata)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise EnergylensError(
            Problem(f"cannot write `{path}`: {reason}", hint="nothing was written", code="write")
        ) from None
    except BaseException:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise
    return path


def read_parquet(path: str | Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return the frame and its metadata (plan_sha256, version, units, note); raise `EnergylensError`."""
    path = Path(path)
    try:
        frame = pl.read_parquet(path)
        raw = pl.read_parquet_metadata(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        message = f"cannot read `{path}` as Parquet: {str(error).splitlines()[0]}"
        raise EnergylensError(Problem(message, code="read")) from None
    found = {key.removeprefix(_PREFIX): value for key, value in raw.items() if key.startswith(_PREFIX)}
    return frame, {key: json.loads(value) if key in {"units", "note"} else value for key, value in found.items()}
