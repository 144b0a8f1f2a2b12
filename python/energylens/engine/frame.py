"""From arrays of the core to a Polars frame of results."""

from __future__ import annotations

from typing import Any

import polars as pl
from numpy.typing import NDArray

from energylens import _core
from energylens.engine.result_columns import RESULTS

REASON = pl.Enum(_core.REASONS)
ALWAYS_KNOWN = frozenset({"memory_bytes_per_gpu", "gpus"})


def breakdown_columns() -> list[str]:
    """Return the columns of joules by phase and cause, in the core's order."""
    return [name for name in _core.COLUMNS if name not in RESULTS]


def results(columns: dict[str, NDArray[Any]], breakdown: bool) -> pl.DataFrame:
    """Return result columns; those of a point that cannot run are null, `reason` says why.

    A point that only lacks memory keeps `memory_bytes_per_gpu` and `gpus`.
    """
    runs = columns["reason"] == 0
    wanted = [*RESULTS, *(breakdown_columns() if breakdown else [])]
    frame = pl.DataFrame({name: columns[name] for name in wanted} | {"reason": columns["reason"]})
    feasible = pl.col("reason") == 0
    known = [pl.col(name) for name in wanted]
    if not runs.all():
        sized = feasible | (pl.col("reason") == _core.REASONS.index("memory"))
        known = [pl.when(sized if name in ALWAYS_KNOWN else feasible).then(pl.col(name)).alias(name) for name in wanted]
    return frame.select(
        *known,
        feasible.alias("feasible"),
        pl.col("reason").cast(pl.UInt8).map_batches(_names, return_dtype=REASON).alias("reason"),
    ).with_columns(pl.col("gpus").cast(pl.UInt32), pl.col("extrapolated").cast(pl.Boolean))


def _names(codes: pl.Series) -> pl.Series:
    return codes.cat.to(REASON)
