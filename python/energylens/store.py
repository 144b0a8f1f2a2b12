"""Parquet files that say what they hold: plan hash, version and units in the metadata."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from energylens import _core
from energylens.common.written import note as note_written
from energylens.common.written import so_far
from energylens.errors import EnergylensError, Problem
from energylens.units import unit

_PREFIX = "energylens."
_TEMPORARY = ".energylens-tmp"
_ATTEMPTS = 5
_OLD_S = 3600.0


def checked_target(path: str | Path) -> Path:
    """Return where to write, links followed; raise `EnergylensError` if something other than a file is there."""
    path = Path(path)
    try:
        path = path.resolve() if path.is_symlink() else path
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "not a regular file"
            raise EnergylensError(Problem(f"cannot write `{path}`: it is {what}", hint=so_far(), code="write"))
    except OSError as error:
        raise EnergylensError(Problem(f"cannot write `{path}`: {error.strerror or error}", code="write")) from None
    return path


def write_parquet(frame: pl.DataFrame, path: str | Path, plan_sha256: str, note: dict[str, Any] | None = None) -> Path:
    """Write a frame under a temporary name, then rename; raise `EnergylensError` if that cannot be done."""
    return write_file(path, parquet_bytes(frame, plan_sha256, note))


def write_file(path: str | Path, data: bytes) -> Path:
    """Write a file under a temporary name, then rename; raise `EnergylensError` if that cannot be done."""
    path = checked_target(path)
    try:
        replace_file(path, data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise EnergylensError(Problem(f"cannot write `{path}`: {reason}", hint=so_far(), code="write")) from None
    return path


def parquet_bytes(frame: pl.DataFrame, plan_sha256: str, note: dict[str, Any] | None = None) -> bytes:
    """Return a frame as a Parquet file that says what it holds; the same frame and note give the same bytes."""
    units = {name: found for name in frame.columns if (found := unit(name))}
    metadata = {
        f"{_PREFIX}plan_sha256": plan_sha256,
        f"{_PREFIX}version": _core.__version__,
        f"{_PREFIX}units": json.dumps(units, sort_keys=True),
        f"{_PREFIX}note": json.dumps(note or {}, sort_keys=True),
    }
    buffer = io.BytesIO()
    frame.rechunk().write_parquet(buffer, metadata=metadata)
    return buffer.getvalue()


def replace_file(path: Path, data: bytes, keep: bool = False) -> bool:
    """Put a whole file in place, on disk before it has its name; with `keep`, one that is there stays: return False.

    A temporary is locked while it is written, so that `remove_temporaries` can tell those of dead processes. Raises
    `OSError`, and then nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(_ATTEMPTS):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_TEMPORARY, dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                if _locked(file) is False:
                    raise BlockingIOError
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                temporary.chmod(0o644)
                placed = _link(temporary, path) if keep else temporary.replace(path) == path
            break
        except (FileNotFoundError, BlockingIOError):
            # Between its making and its lock, someone took the temporary for a dead process's.
            if attempt == _ATTEMPTS - 1:
                raise
        finally:
            temporary.unlink(missing_ok=True)
    if placed:
        note_written(path)
    _sync_folder(path.parent)
    return placed


def remove_temporaries(folder: Path) -> int:
    """Remove temporaries of processes that died while writing, and return how many there were."""
    removed = 0
    for path in folder.glob(f".*{_TEMPORARY}"):
        with contextlib.suppress(OSError), path.open("r+b") as file:
            locked = _locked(file)
            if locked or (locked is None and time.time() - os.fstat(file.fileno()).st_mtime > _OLD_S):
                path.unlink()
                removed += 1
    return removed


def _locked(file: BinaryIO) -> bool | None:
    """Lock a file until it is closed or the process dies; False if another process has it, None without locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _link(temporary: Path, path: Path) -> bool:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if path.exists():
            return False
        temporary.replace(path)
    return True


def _sync_folder(folder: Path) -> None:
    """Have the new name on disk too, where folders can be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_parquet(path: str | Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return the frame and its metadata (plan_sha256, version, units, note); raise `EnergylensError`."""
    if Path(path).is_dir():
        hint = "name a file in it: front.parquet, if it is a sweep's"
        raise EnergylensError(Problem(f"`{path}` is a folder", hint=hint, code="read"))
    return _read(Path(path), str(path))


def read_parquet_bytes(data: bytes, name: str) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return what `read_parquet` does, from the bytes of a file."""
    return _read(io.BytesIO(data), name)


def _read(source: Path | io.BytesIO, name: str) -> tuple[pl.DataFrame, dict[str, Any]]:
    try:
        frame = pl.read_parquet(source)
        raw = pl.read_parquet_metadata(source)
        found = {key.removeprefix(_PREFIX): value for key, value in raw.items() if key.startswith(_PREFIX)}
        return frame, {key: json.loads(value) if key in {"units", "note"} else value for key, value in found.items()}
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        message = f"cannot read `{name}` as Parquet: {next(iter(str(error).splitlines()), error)}"
        raise EnergylensError(Problem(message, code="read")) from None
