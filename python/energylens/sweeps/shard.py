"""One shard: computed, written as one small file, read back and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens.common.errors import EnergylensError
from energylens.common.footer import TAIL, ends_whole
from energylens.common.parquet_file import read_parquet_bytes
from energylens.engine.reductions import Kept, point_frame, reduce_range
from energylens.inputs.form import check
from energylens.inputs.plan import canonical
from energylens.results.parquet import parquet_bytes
from energylens.sweeps.form import ShardNote
from energylens.sweeps.frozen import Shard, Sweep, thaw_here
from energylens.sweeps.storage import Storage, open_storage

_POINTS = ("front", "top", "best")
_SCHEMA = {"kind": pl.String, "index": pl.UInt64, "column": pl.UInt64, "bin": pl.UInt64, "count": pl.UInt64}

_READERS = 8
_AHEAD = 128

Numbers = NDArray[np.uint64]


class Damaged(Exception):
    """A file is there, but it is not the whole file of its shard."""


@dataclass(frozen=True)
class Part:
    """What a shard kept: points of its front, top and groups, bins, and counts."""

    points: Numbers
    bins: list[tuple[int, int, int]]
    by_reason: list[int]
    outside: int
    rows: int | None


def shard_name(sweep: Sweep, shard: Shard, folder: str = "shards") -> str:
    """Return the name of a shard's file, which depends on the sweep's hash and the range alone."""
    width = len(str(sweep.points))
    return f"{folder}/{sweep.sha256[:12]}-{shard.lo:0{width}}-{shard.hi:0{width}}.parquet"


@dataclass(frozen=True)
class ShardWork:
    """The work of a shard, for any process: the manifest's text, where files go, and threads."""

    manifest: str
    location: str
    threads: int

    def __call__(self, number: int) -> int:
        """Do a shard unless its whole file is there, and return its number."""
        sweep = thaw_here(self.manifest, f"{self.location}/manifest.json")
        storage = open_storage(self.location)
        shard = sweep.shard(number)
        if find_part(storage, sweep, shard) is None:
            write_shard(storage, sweep, shard, self.threads)
        return number


def write_shard(storage: Storage, sweep: Sweep, shard: Shard, threads: int) -> None:
    """Compute a shard and write its rows, if wanted, and then what it kept."""
    space = sweep.space
    reduction = sweep.keep.reduction(space)
    reduce_range(reduction, shard.lo, shard.hi, threads)
    contents = reduction.contents()
    note = {
        "sweep": sweep.sha256,
        "lo": shard.lo,
        "hi": shard.hi,
        "by_reason": contents["by_reason"].tolist(),
        "outside": int(contents["outside"]),
    }
    if sweep.rows != "none":
        rows = point_frame(space, np.arange(shard.lo, shard.hi, dtype=np.uint64), threads, breakdown=False)
        if sweep.rows == "feasible":
            rows = rows.filter(pl.col("feasible"))
        rows_note = {"sweep": sweep.sha256, "lo": shard.lo, "hi": shard.hi}
        data = parquet_bytes(rows, space.plan.sha256, rows_note)
        storage.write(shard_name(sweep, shard, "rows"), data)
        note["rows"] = {"rows": rows.height, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    frame = _frame(contents)
    note["digest"] = _digest(frame, note)
    storage.write(shard_name(sweep, shard), parquet_bytes(frame, space.plan.sha256, note))


def find_part(storage: Storage, sweep: Sweep, shard: Shard) -> Part | None:
    """Return what a shard kept, or none if its file is missing or damaged."""
    try:
        return read_part(storage, sweep, shard, ends=True)
    except Damaged:
        return None


def read_part(
    storage: Storage,
    sweep: Sweep,
    shard: Shard,
    sizes: dict[str, int] | None = None,
    verify: bool = False,
    ends: bool = False,
) -> Part | None:
    """Return what a shard kept, or none if there is no file; raise `Damaged` if it or its file of rows is not whole.

    `sizes` are those of all files of rows, where they are known already. A file of rows is held against the size that
    the shard's file tells, with `ends` it has to end as Parquet does, with `verify` its SHA-256 is held against it too.
    """
    name = shard_name(sweep, shard)
    data = storage.read(name)
    if data is None:
        return None
    try:
        frame, metadata = read_parquet_bytes(data, name)
    except EnergylensError:
        raise Damaged(name) from None
    note = metadata.get("note", {})
    try:
        check(ShardNote, note, None, "note")
    except EnergylensError:
        raise Damaged(name) from None
    if frame.schema != _SCHEMA or note.pop("digest") != _digest(frame, note):
        raise Damaged(name)
    if [note["sweep"], note["lo"], note["hi"]] != [sweep.sha256, shard.lo, shard.hi]:
        raise Damaged(name)
    rows_note = note.get("rows")
    if sweep.rows != "none":
        rows_name = shard_name(sweep, shard, "rows")
        sizes = storage.sizes("rows") if sizes is None else sizes
        if rows_note is None or sizes.get(rows_name) != rows_note["bytes"]:
            raise Damaged(rows_name)
        if ends and not ends_whole(storage.tail(rows_name, rows_note["bytes"], TAIL), rows_note["bytes"]):
            raise Damaged(rows_name)
        if verify and hashlib.sha256(storage.read(rows_name) or b"").hexdigest() != rows_note["sha256"]:
            raise Damaged(rows_name)
    rows = int(rows_note["rows"]) if rows_note is not None and sweep.rows != "none" else None
    arrays = _arrays(frame)
    is_bin = frame["index"].is_null().to_numpy()
    bins = [arrays[name][is_bin].tolist() for name in ("column", "bin", "count")]
    points = np.unique(arrays["index"][~is_bin])
    return Part(points, list(zip(*bins, strict=True)), note["by_reason"], note["outside"], rows)


def read_parts(
    storage: Storage, sweep: Sweep, shards: Sequence[Shard], verify: bool = False, ends: bool = False
) -> Iterator[tuple[Shard, Part | Damaged | None]]:
    """Yield shards in order with what `read_part` returns or raises, some read ahead."""
    rows = storage.sizes("rows") if sweep.rows != "none" else {}

    def read(shard: Shard) -> Part | Damaged | None:
        try:
            return read_part(storage, sweep, shard, rows, verify, ends)
        except Damaged as error:
            return error

    with ThreadPoolExecutor(_READERS) as pool:
        for first in range(0, len(shards), _AHEAD):
            some = shards[first : first + _AHEAD]
            yield from zip(some, pool.map(read, some), strict=True)


def _frame(contents: Kept) -> pl.DataFrame:
    def rows(kind: str, columns: dict[str, Sequence[Any] | Numbers]) -> pl.DataFrame:
        height = len(next(iter(columns.values())))
        columns_by_name = {name: pl.Series(columns.get(name, [None] * height), dtype=_SCHEMA[name]) for name in _SCHEMA}
        return pl.DataFrame(columns_by_name | {"kind": pl.Series([kind] * height, dtype=pl.String)}, schema=_SCHEMA)

    bins = {"column": contents["bin_column"], "bin": contents["bin"], "count": contents["bin_count"]}
    return pl.concat([*(rows(kind, {"index": contents[kind]}) for kind in _POINTS), rows("bin", bins)])


def _digest(frame: pl.DataFrame, note: dict[str, Any]) -> str:
    """Return the SHA-256 of what a shard's file says."""
    digest = hashlib.sha256(canonical([note, frame["kind"].to_list()]).encode())
    for values in _arrays(frame).values():
        digest.update(values.tobytes())
    return digest.hexdigest()


def _arrays(frame: pl.DataFrame) -> dict[str, Numbers]:
    filled = frame.fill_null(0)
    return {name: filled[name].to_numpy() for name in ("index", "column", "bin", "count")}
