"""The merged files of a sweep: whether they are there and whole, and the result in them."""

from __future__ import annotations

import hashlib
from typing import Any

import polars as pl

from energylens.common.errors import EnergylensError
from energylens.common.json_file import strict_json
from energylens.common.parquet_file import read_parquet_bytes
from energylens.inputs.form import check
from energylens.results.result import Result
from energylens.sweeps.form import SuccessForm
from energylens.sweeps.frozen import Sweep
from energylens.sweeps.storage import Storage

SUCCESS = "_SUCCESS"
"""The file that is written last: what is merged is whole."""

FRAMES = ("front", "top", "best_per", "distributions")
"""Frames that a sweep may keep, each in a Parquet file of its name."""


def merged_result(storage: Storage, sweep: Sweep) -> Result | None:
    """Return the result that was merged before, or none if its files are not all there and whole."""
    summary = _merged(storage, sweep)
    if summary is None or damaged_files(storage, sweep):
        return None
    frames: dict[str, pl.DataFrame] = {}
    try:
        for name in summary["files"]:
            frames[name.removesuffix(".parquet")] = read_parquet_bytes(storage.read(name) or b"", name)[0]
    except EnergylensError:
        return None
    front, counts = frames.pop("front"), dict(summary["by_reason"])
    return Result(front, sweep.space, "exhaustive", summary["points"], counts, summary["outside_limits"], 0.0, **frames)


def damaged_files(storage: Storage, sweep: Sweep) -> list[str]:
    """Return the names of merged files that are missing or not what was written."""
    files = (_merged(storage, sweep) or {"files": {}})["files"]
    return [name for name, digest in files.items() if hashlib.sha256(storage.read(name) or b"").hexdigest() != digest]


def _merged(storage: Storage, sweep: Sweep) -> dict[str, Any] | None:
    """Return what says that a sweep is merged, or none if that is of another sweep, or says something else."""
    text = storage.read(SUCCESS)
    try:
        summary: dict[str, Any] | None = None if text is None else strict_json(text)
        if summary is None or summary.get("sweep_sha256") != sweep.sha256:
            return None
        check(SuccessForm, summary, None, SUCCESS)
    except (ValueError, AttributeError):
        return None
    names = {name.removesuffix(".parquet") for name in summary["files"]}
    return summary if "front" in names and names <= set(FRAMES) else None
