"""Joules per FLOP and byte of one's own GPU, and watts by clock, fitted to rows of `energylens measure`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from energylens.calibrate import robust
from energylens.calibrate.own_gpu.kernels import columns, held_out
from energylens.calibrate.power import kernel_power
from energylens.calibrate.power.fit import ON_CHIP, VECTOR
from energylens.calibrate.power.report import summary
from energylens.calibrate.profile_file import significant
from energylens.calibrate.robust import Array
from energylens.common.errors import EnergylensError, Problem
from energylens.inputs.gpu import GpuSpec
from energylens.measurement.kernels import MOST_TURNS
from energylens.measurement.runs import GO_ON

TERMS: Final = ("active", "flop_bf16", "flop_fp8", "weight_rate", "kv_rate", "activation_rate")
"""What watts above the floor are made of: running at all, FLOP/s by arithmetic, bytes/s by kind."""

FEWEST: Final = 20
FEWEST_COLLECTIVES: Final = 6
NOMINAL_MV: Final = 1000.0
"""Voltage at the highest clock where the profile has no table: results depend on ratios alone."""

_AS: Final = {
    "gemm": ("gemm", {"m": "rows", "n": "columns", "k": "depth"}),
    "attention_prefill": (
        "attention_prefill",
        {"batch_size": "batch", "isl": "tokens", "num_heads": "heads", "num_key_value_heads": "kv_heads"},
    ),
    "attention_decode": (
        "attention_decode",
        {"batch_size": "batch", "num_heads": "heads", "num_key_value_heads": "kv_heads"},
    ),
    "grouped_gemm": (
        "moe",
        {"num_tokens": "tokens", "hidden_size": "hidden", "inter_size": "inner", "topk": "active",
         "num_experts": "experts"},
    ),
}  # fmt: skip
"""Families of published tables, with their names of our sizes."""

_TABLE_DTYPES: Final = {"bf16": "bfloat16", "fp8": "fp8"}
_MOVED: Final = {"norm": 4.0, "add_norm": 10.0, "rope": 24.0, "silu_mul": 10.0}
"""Bytes of an element that PyTorch reads and writes, one kernel after the other (counted operation by operation)."""
_BETWEEN: Final = {"norm": 0.0, "add_norm": 2.0, "rope": 8.0, "silu_mul": 2.0}
"""Bytes of an element in each tensor that one of these kernels leaves to the next: the cache holds what is smaller."""
_VECTOR_FLOPS: Final = {"norm": 4.0, "add_norm": 5.0, "rope": 3.0, "silu_mul": 6.0}
"""FLOPs of an element, as docs/physics.md counts them."""


def work(means: pl.DataFrame, spec: GpuSpec, l2_bytes: float = 0.0) -> pl.DataFrame:
    """Return the rows whose work is known, with FLOPs and bytes a second as docs/physics.md counts them.

    Elementwise kernels count the bytes that PyTorch moves, which does not fuse them; those of which inputs, or what is
    between their kernels, stay in the L2 cache are left out. `held` says whether their shape is held out. Experts are
    taken to be padded as on Hopper, on Blackwell as there.
    """
    table_name = "b200_sxm" if spec.compute.peak_flops.fp4 is not None else "h200_sxm"
    parts = []
    for family, (named, sizes) in _AS.items():
        rows = means.filter(pl.col("family") == family)
        dtype = pl.col("dtype").replace_strict(_TABLE_DTYPES)
        shown = rows.with_columns(
            *(pl.col(column).alias(name) for name, column in sizes.items()),
            *(dtype.alias(name) for name in ("gemm_dtype", "moe_dtype", "kv_cache_dtype")),
            *(pl.lit(1).alias(name) for name in ("moe_tp_size", "moe_ep_size")),
            pl.lit(0).alias("window_size"),
            (pl.col("tokens") - 1).alias("step"),
            pl.col("variant").alias("distribution"),
            pl.lit(table_name).alias("gpu"),
            pl.col("case").alias("kernel_source"),
            (1e3 * pl.col("seconds")).alias("latency_ms"),
            pl.col("limit_w").alias("power_limit_w"),
        )
        counted = kernel_power.count(shown, named).with_columns(family=pl.lit(family), throttle=rows["throttle"])
        counted = counted.with_columns(held=pl.Series(held_out(rows), dtype=pl.Boolean))
        if family == "gemm":  # an fp8 product of the suites reads its input in fp8
            read = pl.Series(rows["rows"] * rows["depth"], dtype=pl.Float64)
            fp8 = pl.col("arithmetic") == "fp8"
            counted = counted.with_columns(pl.when(fp8).then(pl.col("activation") - read).otherwise("activation"))
        parts.append(counted.filter(pl.col("usable")))
    for family in ("stream", "elementwise", "launch"):
        rows = means.filter(pl.col("family") == family)
        if family == "elementwise":
            size = pl.col("rows") * pl.col("columns")
            between = pl.col("variant").replace_strict(_BETWEEN, return_dtype=pl.Float64) * size
            cold = 2 * MOST_TURNS * size >= 2 * l2_bytes
            rows = rows.filter(cold & ((pl.col("variant") == "norm") | (between >= 2 * l2_bytes)))
        parts.append(_counted(rows, family).select(parts[0].columns))
    return kernel_power.rates(pl.concat(parts))


def _counted(rows: pl.DataFrame, family: str) -> pl.DataFrame:
    zero = np.zeros(rows.height)
    counts: dict[str, Array] = dict.fromkeys(kernel_power.COUNTS, zero)
    if family == "stream":
        (size,) = columns(rows, "bytes")
        weights = (rows["variant"] == "weights").to_numpy()
        counts |= {"weight": np.where(weights, size, 0.0), "kv": np.where(weights, 0.0, 2 * size)}
        counts |= {"vector": np.where(weights, size / 4, 0.0)}
    elif family == "elementwise":
        number, wide = columns(rows, "rows", "columns")
        each = rows["variant"].replace_strict(_VECTOR_FLOPS, return_dtype=pl.Float64).to_numpy()
        moved = rows["variant"].replace_strict(_MOVED, return_dtype=pl.Float64).to_numpy()
        counts |= {"activation": moved * number * wide, "vector": each * number * wide}
    return rows.select(
        pl.lit("").alias("gpu"),
        "family",
        pl.lit("bf16").alias("arithmetic"),
        pl.col("case").alias("kernel"),
        "seconds",
        pl.col("power_w").alias("watts"),
        pl.col("limit_w").alias("limit"),
        pl.lit("").alias("shape"),
        pl.lit(True).alias("usable"),
        "throttle",
        pl.Series("held", held_out(rows), dtype=pl.Boolean),
    ).with_columns(pl.Series(name, values, dtype=pl.Float64) for name, values in counts.items())


@dataclass(frozen=True)
class Prices:
    """Fitted watts, J/FLOP and J/B, the floor below them, and errors of rows held out by family."""

    static_w: float
    floor: str
    values: dict[str, float]
    errors: list[dict[str, Any]]
    miss: float
    """Relative error of watts within which 80 % of the rows held out lie."""


def fit(means: pl.DataFrame, spec: GpuSpec, l2_bytes: float) -> Prices:
    """Return `P - static = active_w + Σ flop_j·FLOP/s + Σ hbm_j·bytes/s`, fitted to rows at the free clock.

    The floor is the GPU that waits with its clock up; on-chip bytes keep their published price; rows at the board limit
    bound from below. Raises `EnergylensError` where too few kernels, or no floor, were measured.
    """
    idle = means.filter(pl.col("family") == "idle")
    floors: dict[str, float] = dict(idle.select("variant", "power_w").iter_rows())
    rows = work(means, spec, l2_bytes)
    if not floors or rows.height < FEWEST:
        what = f"{rows.height} kernels" if floors else "no idle floor"
        message = f"too little is measured for prices of energy: {what}"
        raise EnergylensError(Problem(message, hint=GO_ON, code="too-few-runs"))
    kind = "waiting" if "waiting" in floors else "deep"
    static = floors[kind]
    names, terms = _terms(rows)
    watts, capped = rows["watts"].to_numpy(), rows["throttle"].str.contains("power").to_numpy()
    offset = static + ON_CHIP * rows["chip_rate"].to_numpy()
    test = rows["held"].to_numpy()
    family = rows["family"].to_numpy()
    weight = np.array([1.0 / (family == family_name).sum() for family_name in family]) * len(family)
    keep = np.flatnonzero(~test)
    robust.check_rank(terms[keep] / watts[keep, None], names)
    solution = robust.fit(terms[keep], watts[keep], offset[keep], weight[keep], capped[keep])
    values = {name: significant(float(value)) for name, value in zip(names, solution, strict=True)}
    shown = np.minimum(terms @ np.array(list(values.values())) + offset, rows["limit"].to_numpy())
    relative = 100 * (shown / watts - 1)
    apart = test & ~capped
    table = [
        {"family": str(family_name), "n": int(pick.sum())} | summary(relative[pick])
        for family_name in sorted(set(family))
        if (pick := apart & (family == family_name)).any()
    ]
    miss = float(np.quantile(np.abs(relative[apart]), 0.8)) / 100 if apart.any() else 0.3
    return Prices(static, kind, values, table, miss)


def _terms(rows: pl.DataFrame) -> tuple[list[str], Array]:
    columns_by_term = {"active": np.ones(rows.height)} | {name: rows[name].to_numpy() for name in TERMS[1:]}
    columns_by_term["flop_bf16"] = columns_by_term["flop_bf16"] + VECTOR * rows["vector_rate"].to_numpy()
    names = [name for name in TERMS if columns_by_term[name].any()]
    return names, np.column_stack([columns_by_term[name] for name in names])


def collective_watts(means: pl.DataFrame, static_w: float) -> dict[str, float] | None:
    """Return `communication_w` and `link_j_per_byte` of `P - static = W + J/B · message/t`, or None."""
    rows = means.filter((pl.col("family") == "collective") & (pl.col("sms") == 0) & (pl.col("variant") == "all_reduce"))
    if rows.height < FEWEST_COLLECTIVES:
        return None
    watts, (size, seconds) = rows["power_w"].to_numpy(), columns(rows, "bytes", "seconds")
    terms = np.column_stack([np.ones(rows.height), size / seconds])
    floor, even = np.full(rows.height, static_w), np.ones(rows.height)
    solution = robust.fit(terms, watts, floor, even, np.zeros(rows.height, dtype=bool))
    return {"communication_w": significant(float(solution[0])), "link_j_per_byte": significant(float(solution[1]))}


@dataclass(frozen=True)
class Clocks:
    """Idle watts and voltage by SM clock: rows of [MHz, value]."""

    idle_w: list[list[float]]
    voltage_mv: list[list[float]]
    seen_mhz: float
    """The highest clock that was measured."""


def clocks(means: pl.DataFrame, prices: Prices, spec: GpuSpec, max_mhz: float) -> Clocks | None:
    """Return tables by clock from rows at locked clocks, or None where they do not tell enough.

    The joules of a matrix product that switching takes go with the square of the voltage (docs/physics.md, section 11):
    `v² = ((P - static)·t - bytes) / (flop_j·FLOP + active_w·f/f_max·t)`. Clocks are those that were seen, so a product
    that the board limit held down stands at its real clock. Above the highest of them the profile's own tables go on;
    without such a table it has to be the highest clock of the GPU.
    """
    locked = means.filter(pl.col("sm_clock_lock_mhz").is_not_null())
    idle = locked.filter((pl.col("family") == "idle") & (pl.col("variant") == prices.floor))
    floors = _curve(sorted(zip(*columns(idle, "sm_clock_lock_mhz", "power_w"), strict=True)))
    volts = _voltages(locked, floors, prices, max_mhz)
    if len(floors) < 2 or len(volts) < 2:
        return None
    before = spec.clock
    if before is None or before.voltage_mv is None or before.idle_w is None:
        reached = min(floors[-1][0], volts[-1][0]) >= 0.97 * max_mhz
        return Clocks(floors, _scaled(volts, NOMINAL_MV), floors[-1][0]) if reached else None
    seen = min(floors[-1][0], volts[-1][0])
    above = [list(row) for row in before.voltage_mv if row[0] > volts[-1][0]]
    volts = _scaled(volts, _at(before.voltage_mv, volts[-1][0])) + above
    share = floors[-1][1] / _at(before.idle_w, floors[-1][0])
    more = [[clock, significant(share * watts, 4)] for clock, watts in before.idle_w if clock > floors[-1][0]]
    return Clocks(floors + more, volts, seen)


def _voltages(locked: pl.DataFrame, floors: list[list[float]], prices: Prices, max_mhz: float) -> list[list[float]]:
    """Return rows of [MHz, relative voltage] of the largest product, of one below the limit at all clocks if any is."""
    products = locked.filter((pl.col("family") == "gemm") & (pl.col("dtype") == "bf16"))
    if not products.height or len(floors) < 2:
        return []
    flop = 2.0 * pl.col("rows").cast(pl.Float64) * pl.col("columns") * pl.col("depth")
    capped = pl.col("throttle").str.contains("power").any().over("case")
    product = products.with_columns(flop=flop, capped=capped).sort("capped", "flop", descending=[False, True])
    product = product.filter(pl.col("case") == product["case"][0]).sort("sm_clock_mhz")
    m, n, k, work, t, watts, clock, lock = columns(
        product, "rows", "columns", "depth", "flop", "seconds", "power_w", "sm_clock_mhz", "sm_clock_lock_mhz"
    )
    values = prices.values
    memory = values.get("weight_rate", 0.0) * 2 * n * k + values.get("activation_rate", 0.0) * 2 * m * (n + k)
    switching = (watts - np.interp(lock, *np.array(floors).T)) * t - memory
    expected = values["flop_bf16"] * work + values["active"] * clock / max_mhz * t
    if (switching <= 0).any():
        return []
    return _curve(list(zip(clock, np.maximum.accumulate(np.sqrt(switching / expected)), strict=True)))


def _at(table: Sequence[Sequence[float]], clock: float) -> float:
    clocks_mhz, values = (np.array(part, dtype=float) for part in zip(*table, strict=True))
    return float(np.interp(clock, clocks_mhz, values))


def _scaled(volts: list[list[float]], top: float) -> list[list[float]]:
    """Return relative voltages as mV, the last of them `top`."""
    return [[clock, significant(top * value / volts[-1][1], 4)] for clock, value in volts]


def _curve(points: list[tuple[float, float]]) -> list[list[float]]:
    """Return rows of [MHz, value] with rising clocks."""
    knots: list[list[float]] = []
    for clock, value in points:
        if not knots or round(clock) > knots[-1][0]:
            knots.append([float(round(clock)), significant(float(value), 4)])
    return knots
