"""All shards of a sweep put together: a few result files, and a last one that says they are whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from energylens import _core
from energylens.common.errors import EnergylensError, Problem
from energylens.engine.evaluate import checked_threads
from energylens.results.parquet import parquet_bytes
from energylens.results.result import Result, reduced_result
from energylens.sweeps.frozen import Sweep, thaw_here
from energylens.sweeps.merged import FRAMES, SUCCESS, merged_result
from energylens.sweeps.shard import Damaged, read_parts, shard_name
from energylens.sweeps.status import all_shards, held_sweep
from energylens.sweeps.storage import Storage, open_storage

_SHOWN = 3


def merge(out: str | Path, *, threads: int | None = None) -> Result:
    """Return the result of the sweep in a folder or at a URL, merging its shards if that is not done yet.

    Parameters
    ----------
    out
        Folder or URL of the sweep. `front.parquet` is written there, `top.parquet`, `best_per.parquet` and
        `distributions.parquet` if the job keeps them, and `_SUCCESS` last.
    threads
        Threads of the core; all CPUs of the process, if None.

    Returns
    -------
    Result

    Raises
    ------
    EnergylensError
        If there is no sweep, or a shard is missing or damaged.

    Examples
    --------
    >>> import tempfile
    >>> from energylens import sweep
    >>> job = {"name": "small", "space": {"models": "llama-3.1-8b", "gpus": "h100-sxm", "batch": "1:64"}, "shards": 4}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for part in ("1/2", "2/2"):
    ...         _ = sweep(job, folder, shard=part)
    ...     result = merge(folder)
    >>> result.points
    256
    """
    storage = open_storage(out)
    sweep = held_sweep(storage)
    if (result := merged_result(storage, sweep)) is not None:
        return result
    here = thaw_here(sweep.manifest, f"{storage.location}/manifest.json")
    return merge_shards(storage, here, checked_threads(threads))


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
    result = reduced_result(sweep.space, sweep.keep, reduction.contents(), "exhaustive", 0.0, threads)
    _write(storage, sweep, result, rows)
    return result


def _write(storage: Storage, sweep: Sweep, result: Result, rows: int) -> None:
    storage.delete(SUCCESS)
    files: dict[str, str] = {}
    for name in FRAMES:
        frame = result.frame if name == "front" else getattr(result, name)
        if frame is not None:
            kind = {"kind": name}
            data = parquet_bytes(frame, result.plan_sha256, result.note | kind, sealed=True)
            storage.write(f"{name}.parquet", data)
            files[f"{name}.parquet"] = hashlib.sha256(data).hexdigest()
    summary: dict[str, Any] = {
        "sweep_sha256": sweep.sha256,
        "plan_sha256": result.plan_sha256,
        "energylens": _core.__version__,
        "points": result.points,
        "by_reason": result.by_reason,
        "outside_limits": result.outside_limits,
        "files": files,
    }
    if sweep.rows != "none":
        summary["rows"] = rows
    storage.write(SUCCESS, (json.dumps(summary, indent=1) + "\n").encode())


def _incomplete(storage: Storage, sweep: Sweep, missing: list[str]) -> EnergylensError:
    shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
    message = f"{len(missing):,} of {sweep.count:,} shards are missing: {shown}"
    where = storage.location
    hint = f"energylens sweep {where}/manifest.json --out {where} makes them and merges"
    return EnergylensError(Problem(message, hint=hint, code="missing-shards"))
