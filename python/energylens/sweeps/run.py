"""A sweep run: what is left of it, done by an executor, and merged."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from energylens.common.errors import EnergylensError, Problem
from energylens.common.progress import progress
from energylens.common.show import shown
from energylens.engine.evaluate import checked_threads
from energylens.sweeps.executors import executor_named
from energylens.sweeps.frozen import Shard, Sweep, prepared
from energylens.sweeps.merge import merge_shards
from energylens.sweeps.merged import merged_result
from energylens.sweeps.shard import ShardWork
from energylens.sweeps.status import MANIFEST, Status, all_shards, made_status, read_manifest, survey
from energylens.sweeps.storage import Storage, open_storage


def sweep(
    job: str | Path | Mapping[str, Any],
    out: str | Path,
    *,
    threads: int | None = None,
    shard: str | None = None,
    executor: str = "local",
    workers: int | None = None,
    address: str | None = None,
    show_progress: bool = False,
) -> Status:
    """Do what is left of a sweep in a folder or at a URL, merge it, and return how far it is.

    Parameters
    ----------
    job
        A job file, the same as a mapping, or the `manifest.json` of a sweep.
    out
        Folder or URL (s3, gs, az) of its files. The same call resumes what was begun there.
    threads
        Threads of the core, for each worker; all CPUs here, one a worker of Ray, if None.
    shard
        `K/N`: only each N-th shard from the K-th on, without merging, for the elements of an array job.
    executor
        `local` (this process) or `ray`.
    workers, address
        Of Ray: most workers at a time, and the cluster.
    show_progress
        Whether to draw a progress bar on a terminal.

    Returns
    -------
    Status

    Raises
    ------
    EnergylensError
        With every problem of the job; if the folder holds another sweep; if files cannot be written. Finished shards
        are kept.

    Examples
    --------
    >>> import tempfile
    >>> job = {"name": "small", "space": {"models": "llama-3.1-8b", "gpus": "h100-sxm", "batch": "1:64"}, "shards": 4}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     state = sweep(job, folder)
    >>> state.shards_done, state.points, state.merged
    (4, 256, True)

    Notes
    -----
    The bytes of the results depend on the job alone: not on shards' order, threads or executor.
    """
    part, parts = _part(shard)
    checked_threads(threads)
    runner = executor_named(executor, threads, workers, address)
    frozen = prepared(job)
    storage = open_storage(out)
    _claim(storage, frozen)
    storage.tidy()
    alone = parts == 1
    merged = merged_result(storage, frozen) is not None
    assigned = [item for item in all_shards(frozen) if item.number % parts == part - 1]
    done, damaged = survey(storage, frozen, assigned, ends=True)
    for name in damaged:
        print(f"{name} is damaged: computing it again", file=sys.stderr)
    if merged and len(done) == len(assigned):
        return made_status(frozen, all_shards(frozen), True)
    here = {item.number for item in done}
    left = [item.number for item in assigned if item.number not in here]
    location = str(Path(storage.location).absolute()) if "://" not in storage.location else storage.location
    work = ShardWork(frozen.manifest, location, checked_threads(threads) if executor == "local" else threads or 1)
    computed: list[Shard] = []
    try:
        with progress("sweeping", sum(map(_points, assigned)), show_progress) as advance:
            advance(sum(map(_points, done)))
            with closing(runner.run(work, left)) as numbers:
                for number in numbers:
                    computed.append(frozen.shard(number))
                    advance(_points(computed[-1]))
        storage.tidy()  # a worker may have died while writing
        if alone:
            merge_shards(storage, frozen, checked_threads(threads))
    except KeyboardInterrupt:
        message = f"interrupted: {_so_far(done, computed, assigned)}; the same command goes on"
        raise KeyboardInterrupt(message) from None
    except EnergylensError as error:
        raise _with_hint(error, _so_far(done, computed, assigned)) from None
    if not alone:
        done, damaged = survey(storage, frozen, all_shards(frozen))
        return made_status(frozen, done, False, damaged, len(computed))
    return made_status(frozen, done + computed, True, (), len(computed))


def _points(shard: Shard) -> int:
    return shard.hi - shard.lo


def _so_far(done: list[Shard], computed: list[Shard], assigned: list[Shard]) -> str:
    return f"{len(done) + len(computed):,} of {len(assigned):,} shards are done and kept"


def _with_hint(error: EnergylensError, progress_words: str) -> EnergylensError:
    """Return a failure to write, with how many shards are done in its hint."""
    problems = [
        Problem(p.message, p.place, f"{progress_words}; {p.hint} and run the same command again", p.code, p.where)
        if p.code == "storage" and p.hint
        else p
        for p in error.problems
    ]
    return type(error)(problems)


def _part(text: str | None) -> tuple[int, int]:
    """Read `K/N`."""
    if text is None:
        return 1, 1
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text) if isinstance(text, str) else None
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        hint = "write K/N with K from 1 to N, as in 3/16"
        raise EnergylensError(Problem(f"cannot read `{shown(text)}` as a share of the shards", hint=hint, code="shard"))
    return part, parts


def _claim(storage: Storage, sweep: Sweep) -> None:
    """Write the manifest; raise `EnergylensError` if the folder holds another sweep."""
    held = read_manifest(storage)
    if held is None:
        if storage.create(MANIFEST, sweep.manifest.encode()):
            return
        held = read_manifest(storage)
    if held is None:
        hint = "remove what is there, or give another --out"
        message = f"cannot write `{storage.location}/{MANIFEST}`: a link to nothing is there"
        raise EnergylensError(Problem(message, hint=hint, code="storage"))
    if held.sha256 == sweep.sha256:
        return
    differing = ", ".join(held.differences(sweep))
    message = f"`{storage.location}` holds another sweep, `{held.name}`; this one has {differing}"
    hint = "give another --out, or delete that folder to start again; nothing was touched"
    raise EnergylensError(Problem(message, hint=hint, code="other-sweep"))
