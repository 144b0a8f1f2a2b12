"""How far a sweep is: shards done, damaged and missing, and whether they are merged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from energylens.common.errors import EnergylensError, Problem
from energylens.common.memory import require_bytes
from energylens.engine.trust import levels
from energylens.sweeps.frozen import Shard, Sweep, thaw
from energylens.sweeps.merged import damaged_files, merged_result
from energylens.sweeps.shard import Damaged, read_parts, shard_name
from energylens.sweeps.storage import Storage, open_storage

MANIFEST = "manifest.json"

_SHARD_BYTES = 600
"""Memory of a shard: itself, its name, and whether it is there."""


@dataclass(frozen=True)
class Status:
    """How far a sweep is; `computed` counts the shards of this run, `damaged` names files that will be made again.

    `trust` says how far each GPU's profile is trusted.
    """

    name: str
    sweep_sha256: str
    shards: int
    shards_done: int
    points: int
    points_done: int
    merged: bool
    trust: dict[str, str]
    damaged: list[str] = field(default_factory=list)
    computed: int = 0

    @property
    def complete(self) -> bool:
        """Whether every shard is done."""
        return self.shards_done == self.shards

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def read_manifest(storage: Storage) -> Sweep | None:
    """Return the sweep a folder holds, or none; raise `EnergylensError` if its manifest is damaged."""
    text = storage.read(MANIFEST)
    return None if text is None else thaw(text.decode(errors="replace"), f"{storage.location}/{MANIFEST}")


def held_sweep(storage: Storage) -> Sweep:
    """Return the sweep a folder holds; raise `EnergylensError` if there is none."""
    sweep = read_manifest(storage)
    if sweep is None:
        hint = f"energylens sweep JOB --out {storage.location} starts one"
        raise EnergylensError(Problem(f"`{storage.location}` holds no sweep", hint=hint, code="no-sweep"))
    return sweep


def survey(
    storage: Storage, sweep: Sweep, shards: Iterable[Shard], verify: bool = False, ends: bool = False
) -> tuple[list[Shard], list[str]]:
    """Return which of some shards are done, and the names of damaged files; with `verify` rows are read and hashed.

    With `ends` the last bytes of each file of rows are read, which a disk that lost its contents has not.
    """
    there = storage.sizes("shards")
    done: list[Shard] = []
    damaged: list[str] = []
    written = [shard for shard in shards if shard_name(sweep, shard) in there]
    for shard, part in read_parts(storage, sweep, written, verify, ends):
        if isinstance(part, Damaged):
            damaged.append(str(part))
        elif part is not None:
            done.append(shard)
    return done, damaged


def all_shards(sweep: Sweep) -> list[Shard]:
    """Return every shard; raise `MemoryBudgetError` if they are too many to list."""
    require_bytes(sweep.count * _SHARD_BYTES, f"a sweep of {sweep.count:,} shards", "cut it into fewer")
    return [sweep.shard(number) for number in range(sweep.count)]


def status(out: str | Path, *, verify: bool = False) -> Status:
    """Return how far the sweep in a folder or at a URL is.

    Parameters
    ----------
    out
        Folder or URL of the sweep.
    verify
        Read and hash every file of rows too. Without it, files are checked by size alone, which a disk that lost their
        contents leaves as it was. Merged files are hashed either way.

    Returns
    -------
    Status
        `damaged` names the files that are not what was written; a shard with one is not done, and the same sweep
        computes it again once the file is deleted.

    Raises
    ------
    EnergylensError
        If there is no sweep, or its manifest is damaged.

    Examples
    --------
    >>> import tempfile
    >>> from energylens import sweep
    >>> job = {"name": "small", "space": {"models": "llama-3.1-8b", "gpus": "h100-sxm", "batch": "1:64"}, "shards": 4}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sweep(job, folder, shard="1/2")
    ...     state = status(folder)
    >>> state.shards_done, state.complete
    (2, False)
    """
    storage = open_storage(out)
    sweep = held_sweep(storage)
    done, damaged = survey(storage, sweep, all_shards(sweep), verify)
    merged = merged_result(storage, sweep) is not None
    if verify and not merged:
        damaged += damaged_files(storage, sweep)
    return made_status(sweep, done, merged, damaged)


def made_status(
    sweep: Sweep, done: list[Shard], merged: bool, damaged: Iterable[str] = (), computed: int = 0
) -> Status:
    """Return the status of a sweep whose done shards are known."""
    points = sum(shard.hi - shard.lo for shard in done)
    shards = (sweep.count, len(done))
    return Status(
        sweep.name, sweep.sha256, *shards, sweep.points, points, merged, levels(sweep.trust), list(damaged), computed
    )
