"""All shards of a sweep put together: a few result files, and a last one that says they are whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import polars as pl

from energylens import _core
from energylens.common.errors import EnergylensError, Problem
from energylens.common.json_file import strict_json
from energylens.common.parquet_file import parquet_bytes, read_parquet_bytes
from energylens.engine.evaluate import checked_threads
from energylens.inputs.form import check
from energylens.results.result import Result, kept_result
from energylens.sweeps.form import SuccessForm
from energylens.sweeps.frozen import Sweep, thaw_here
from energylens.sweeps.shard import Damaged, read_parts, shard_name
from energylens.sweeps.status import all_shards, held_sweep
from energylens.sweeps.storage import Storage, open_storage

SUCCESS = "_SUCCESS"
_FRAMES = ("front", "top", "best_per", "distributions")
_SHOWN = 3


def merge(out: str | Path, *, threads: int | None = None) -> Result:
    """Return the result of the sweep in a folder or at a URL, merging its shards if that is not done yet.

    Writes front.parquet, and top.parquet, best_per.parquet and distributions.parquet if they were asked for, and last
    `_SUCCESS`. Raises `EnergylensError` if a shard is missing or damaged.
    """
    storage = open_storage(out)
    sweep = held_sweep(storage)
    if (result := merged_result(storage, sweep)) is not None:
        return result
    here = thaw_here(sweep.manifest, f"{storage.location}/manifest.json")
    return merge_shards(storage, here, checked_threads(threads))


def merged_result(storage: Storage, sweep: Sweep) -> Result | None:
    """Return the result that was merged before, or none if its files are not all there and whole."""
    told = _merged(storage, sweep)
    if told is None or damaged_files(storage, sweep):
        return None
    frames: dict[str, pl.DataFrame] = {}
    try:
        for name in told["files"]:
            frames[name.removesuffix(".parquet")] = read_parquet_bytes(storage.read(name) or b"", name)[0]
    except EnergylensError:
        return None
    front, counts = frames.pop("front"), dict(told["by_reason"])
    return Result(front, sweep.space, "exhaustive", told["points"], counts, told["outside_limits"], 0.0, **frames)


def damaged_files(storage: Storage, sweep: Sweep) -> list[str]:
    """Return the names of merged files that are missing or not what was written."""
    files = (_merged(storage, sweep) or {"files": {}})["files"]
    return [name for name, digest in files.items() if hashlib.sha256(storage.read(name) or b"").hexdigest() != digest]


def _merged(storage: Storage, sweep: Sweep) -> dict[str, Any] | None:
    """Return what says that a sweep is merged, or none if that is of another sweep, or says something else."""
    text = storage.read(SUCCESS)
    try:
        told: dict[str, Any] | None = None if text is None else strict_json(text)
        if told is None or told.get("sweep_sha256") != sweep.sha256:
            return None
        check(SuccessForm, told, None, SUCCESS)
    except (ValueError, AttributeError):
        return None
    names = {name.removesuffix(".parquet") for name in told["files"]}
    return told if "front" in names and names <= set(_FRAMES) else None


def merge_shards(storage: Storage, sweep: Sweep, threads: int) -> Result:
    """Merge all shards and write the result; raise `EnergylensError` if one is missing or damaged."""
    reduction = sweep.keep.reduction(sweep.space)
    rows = 0
    missing: list[str] = []
    for shard, part in read_parts(storage, sweep, all_shards(sweep)):
        if isinstance(part, Damaged):
            missing.append(f"{part} (damaged)")
        elif part is None:
            missing.append(shard_name(sweep, shard))
        elif not missing:
            reduction.merge(part.points, part.bins, part.by_reason, part.outside, threads)
            rows += part.rows or 0
    if missing:
        raise _incomplete(storage, sweep, missing)
    result = kept_result(sweep.space, sweep.keep, reduction.contents(), "exhaustive", 0.0, threads)
    _write(storage, sweep, result, rows)
    return result


def _write(storage: Storage, sweep: Sweep, result: Result, rows: int) -> None:
    storage.delete(SUCCESS)
    files: dict[str, str] = {}
    for name in _FRAMES:
        frame = result.frame if name == "front" else getattr(result, name)
        if frame is not None:
            kind = {"kind": name}
            data = parquet_bytes(frame, result.plan_sha256, result.note | kind, sealed=True)
            storage.write(f"{name}.parquet", data)
            files[f"{name}.parquet"] = hashlib.sha256(data).hexdigest()
    told: dict[str, Any] = {
        "sweep_sha256": sweep.sha256,
        "plan_sha256": result.plan_sha256,
        "energylens": _core.__version__,
        "points": result.points,
        "by_reason": result.by_reason,
        "outside_limits": result.outside_limits,
        "files": files,
    }
    if sweep.rows != "none":
        told["rows"] = rows
    storage.write(SUCCESS, (json.dumps(told, indent=1) + "\n").encode())


def _incomplete(storage: Storage, sweep: Sweep, missing: list[str]) -> EnergylensError:
    shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
    message = f"{len(missing):,} of {sweep.count:,} shards are missing: {shown}"
    where = storage.location
    hint = f"energylens sweep {where}/manifest.json --out {where} makes them and merges"
    return EnergylensError(Problem(message, hint=hint, code="missing-shards"))
