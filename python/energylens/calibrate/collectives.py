"""Fits of collectives inside a node: `alpha + root sqrt(S) + busfactor S/bandwidth`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from energylens.calibrate.fitting import Coefficient, fit, rounded, score
from energylens.calibrate.formulas import Array, collective_time
from energylens.calibrate.tables import Table, check_units, fault, load

OPERATIONS = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "all_to_all": "alltoall",
}
"""Names of the operations in the NCCL tables."""

ELEMENT = 2
"""Bytes of one element of a message."""

CUSTOM_MOST = 8 * 2**20
"""Bytes up to which a framework's own all-reduce is fitted and used."""

SMALL = 128 * 2**10
"""Bytes up to which the all-to-all takes a protocol of its own."""

FEWEST = 8
FOLDS = 5

Found = dict[str, object]
Curve = dict[str, float]


def busfactor(operation: str, gpus: int) -> float:
    """Return the share of a message that crosses the link of one GPU."""
    return (2 if operation == "all_reduce" else 1) * (gpus - 1) / gpus


def _fit(size: Array, seconds: Array, factor: float) -> Array:
    """Return alpha, root and slope of one curve."""
    starts = [[Coefficient(6e-6), Coefficient(root, zero=1e-11), Coefficient(factor / 3e11)] for root in (4e-9, 1e-10)]
    _, values = fit(lambda x: collective_time(size, x[0], x[1], x[2]), seconds, starts)
    return values


def fit_curve(size: Array, seconds: Array, factor: float) -> tuple[Curve, Array]:
    """Return the curve of one operation over one number of GPUs, and its times at sizes held out in turn, in s."""
    fold = np.arange(len(size)) % FOLDS
    predicted = np.empty_like(seconds)
    for part in range(FOLDS):
        values = _fit(size[fold != part], seconds[fold != part], factor)
        predicted[fold == part] = collective_time(size[fold == part], values[0], values[1], values[2])
    values = _fit(size, seconds, factor)
    found = {
        "alpha_s": float(values[0]),
        "root_s_per_sqrt_byte": float(values[1]),
        "bandwidth_bytes_per_s": rounded(float(factor / values[2])),
    }
    return found, predicted


def _curves(rows: pl.DataFrame, operation: str, table: Table, link: float) -> Found:
    curves: dict[str, Curve] = {}
    times: list[Array] = []
    for gpus in sorted(rows["num_gpus"].unique().to_list()):
        part = rows.filter(pl.col("num_gpus") == gpus)
        part = part.group_by("message_size").agg(pl.col("latency").median()).sort("message_size")
        size = part["message_size"].to_numpy().astype(np.float64) * ELEMENT
        seconds = part["latency"].to_numpy().astype(np.float64) * 1e-3
        if len(size) < FEWEST or gpus < 2:
            continue
        if size.max() >= 2**26:
            check_units(seconds, busfactor(operation, gpus) * size / (2.5 * link), table.path)
        curves[str(gpus)], predicted = fit_curve(size, seconds, busfactor(operation, gpus))
        times.append(np.stack([predicted, seconds]))
    if not curves:
        raise fault(f"no rows of `{operation}` over two or more GPUs", table.path)
    predicted, seconds = np.concatenate(times, axis=1)
    return {
        "by_gpus": curves,
        "held_out": score(predicted, seconds).as_dict(),
        "framework_version": table.version,
    }


def fit_nccl(directory: Path, system: str, operation: str, link: float) -> list[Found]:
    """Return the NCCL curves of one operation by number of GPUs; `link` in bytes/s.

    The all-to-all has a second one for small messages, which another protocol carries.
    """
    columns = ("op_name", "nccl_dtype", "num_gpus", "message_size")
    table = load(directory, system, "comm", "nccl", "nccl", columns)
    rows = table.rows.filter((pl.col("op_name") == OPERATIONS[operation]) & (pl.col("nccl_dtype") == "half"))
    if operation != "all_to_all":
        return [{"name": "nccl", "max_bytes": None, **_curves(rows, operation, table, link)}]
    small = pl.col("message_size") * ELEMENT <= SMALL
    return [
        {"name": "nccl", "max_bytes": None, **_curves(rows.filter(~small), operation, table, link)},
        {"name": "nccl-small", "max_bytes": SMALL, **_curves(rows.filter(small), operation, table, link)},
    ]


def fit_custom(directory: Path, system: str, framework: str, link: float) -> list[Found]:
    """Return the curves of a framework's own all-reduce by number of GPUs, in a CUDA graph where that is told apart."""
    columns = ("kernel_source", "num_gpus", "message_size")
    table = load(directory, system, "comm", framework, "custom_allreduce", columns)
    within = pl.col("message_size") * ELEMENT <= CUSTOM_MOST
    rows = table.rows.filter(~pl.col("kernel_source").str.contains("eager") & within)
    return [{"name": "custom", "max_bytes": CUSTOM_MOST, **_curves(rows, "all_reduce", table, link)}]
