"""Joules per FLOP and byte of one's own GPU, and watts by clock, fitted to rows of `energylens measure`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from energylens.calibrate import kernel_power, robust
from energylens.calibrate.measured_kernels import columns, element_bytes
from energylens.calibrate.power import ON_CHIP, VECTOR
from energylens.calibrate.profile import significant
from energylens.calibrate.report import summary
from energylens.calibrate.robust import Array
from energylens.errors import EnergylensError, Problem
from energylens.spec.gpu import GpuSpec

TERMS: Final = ("active", "flop_bf16", "flop_fp8", "weight_rate", "kv_rate", "activation_rate")
"""What watts above the floor are made of: running at all, FLOP/s by arithmetic, bytes/s by kind."""

HELD_OUT: Final = 5
"""Every fifth shape is in no fit."""
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
_VECTOR_FLOPS: Final = {"norm": 4.0, "add_norm": 5.0, "rope": 3.0, "silu_mul": 6.0}
"""FLOPs of an element, as docs/physics.md counts them."""


def work(means: pl.DataFrame, spec: GpuSpec) -> pl.DataFrame:
    """Return the rows whose work is known, with FLOPs and bytes a second as docs/physics.md counts them."""
    table_name = "b200_sxm" if spec.compute.peak_flops.fp4 is not None else "h200_sxm"
    parts = []
    for family, (named, sizes) in _AS.items():
        rows = means.filter(pl.col("family") == family)
        dtype = pl.col("dtype").replace_strict(_TABLE_DTYPES)
        shown = rows.with_columns(
            *(pl.col(own).alias(name) for name, own in sizes.items()),
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
        parts.append(counted.filter(pl.col("usable")))
    for family in ("stream", "elementwise", "launch"):
        rows = means.filter(pl.col("family") == family)
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
        counts |= {"activation": element_bytes(rows), "vector": each * number * wide}
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


def fit(means: pl.DataFrame, spec: GpuSpec) -> Prices:
    """Return `P - static = active_w + Σ flop_j·FLOP/s + Σ hbm_j·bytes/s`, fitted to rows at the free clock.

    The floor is the GPU that waits with its clock up; on-chip bytes keep their published price; rows at the board limit
    bound from below. Raises `EnergylensError` where too few kernels, or no floor, were measured.
    """
    idle = means.filter(pl.col("family") == "idle")
    floors: dict[str, float] = dict(idle.select("variant", "power_w").iter_rows())
    rows = work(means, spec)
    if not floors or rows.height < FEWEST:
        what = f"{rows.height} kernels" if floors else "no idle floor"
        hint = "run `energylens measure` to its end: the same command goes on"
        raise EnergylensError(
            Problem(f"too little is measured for prices of energy: {what}", hint=hint, code="too-few-runs")
        )
    kind = "waiting" if "waiting" in floors else "deep"
    static = floors[kind]
    names, terms = _terms(rows)
    watts, capped = rows["watts"].to_numpy(), rows["throttle"].str.contains("power").to_numpy()
    offset = static + ON_CHIP * rows["chip_rate"].to_numpy()
    test = np.array([zlib.crc32(case.encode()) % HELD_OUT == 0 for case in rows["kernel"]])
    family = rows["family"].to_numpy()
    weight = np.array([1.0 / (family == one).sum() for one in family]) * len(family)
    keep = np.flatnonzero(~test)
    robust.check_rank(terms[keep] / watts[keep, None], names)
    found = robust.fit(terms[keep], watts[keep], offset[keep], weight[keep], capped[keep])
    values = {name: significant(float(value)) for name, value in zip(names, found, strict=True)}
    shown = np.minimum(terms @ np.array(list(values.values())) + offset, rows["limit"].to_numpy())
    relative = 100 * (shown / watts - 1)
    apart = test & ~capped
    table = [
        {"family": str(one), "n": int(pick.sum())} | summary(relative[pick])
        for one in sorted(set(family))
        if (pick := apart & (family == one)).any()
    ]
    miss = float(np.quantile(np.abs(relative[apart]), 0.8)) / 100 if apart.any() else 0.3
    return Prices(static, kind, values, table, miss)


def _terms(rows: pl.DataFrame) -> tuple[list[str], Array]:
    found = {"active": np.ones(rows.height)} | {name: rows[name].to_numpy() for name in TERMS[1:]}
    found["flop_bf16"] = found["flop_bf16"] + VECTOR * rows["vector_rate"].to_numpy()
    names = [name for name in TERMS if found[name].any()]
    return names, np.column_stack([found[name] for name in names])


def collective_watts(means: pl.DataFrame, static_w: float) -> dict[str, float] | None:
    """Return `communication_w` and `link_j_per_byte` of `P - static = W + J/B · message/t`, or None."""
    rows = means.filter((pl.col("family") == "collective") & (pl.col("sms") == 0) & (pl.col("variant") == "all_reduce"))
    if rows.height < FEWEST_COLLECTIVES:
        return None
    watts, (size, seconds) = rows["power_w"].to_numpy(), columns(rows, "bytes", "seconds")
    terms = np.column_stack([np.ones(rows.height), size / seconds])
    floor, even = np.full(rows.height, static_w), np.ones(rows.height)
    found = robust.fit(terms, watts, floor, even, np.zeros(rows.height, dtype=bool))
    return {"communication_w": significant(float(found[0])), "link_j_per_byte": significant(float(found[1]))}


def clock_tables(means: pl.DataFrame, prices: Prices, spec: GpuSpec) -> dict[str, Any] | None:
    """Return `idle_w` and `voltage_mv` by SM clock from rows at locked clocks, or None where there are too few.

    Joules of a large matrix product less those of its bytes go with the square of the voltage (docs/physics.md,
    section 11): `V(f) = V(f0) √(E(f)/E(f0))`. Clocks are those that were seen, so a product that the board limit held
    down stands at its real clock.
    """
    locked = means.filter(pl.col("sm_clock_lock_mhz").is_not_null())
    idle = locked.filter((pl.col("family") == "idle") & (pl.col("variant") == prices.floor))
    if idle.height < 2:
        return None
    floors = sorted(zip(*columns(idle, "sm_clock_lock_mhz", "power_w"), strict=True))
    known: dict[float, float] = dict(floors)
    products = locked.filter((pl.col("family") == "gemm") & (pl.col("dtype") == "bf16"))
    if not products.height:
        return None
    largest = products.with_columns(flop=pl.col("rows") * pl.col("columns") * pl.col("depth"))
    largest = largest.filter(pl.col("flop") == pl.col("flop").max())
    largest = largest.filter(pl.col("case") == largest["case"][0]).sort("sm_clock_mhz")
    m, n, k, seconds, watts, clock, lock = columns(
        largest, "rows", "columns", "depth", "seconds", "power_w", "sm_clock_mhz", "sm_clock_lock_mhz"
    )
    static = np.array([known.get(one, prices.static_w) for one in lock])
    memory = prices.values["weight_rate"] * 2 * n * k + prices.values.get("activation_rate", 0.0) * 2 * m * (n + k)
    switching = (watts - static) * seconds - memory
    if len(clock) < 2 or (switching <= 0).any():
        return None
    ratio = np.maximum.accumulate(np.sqrt(switching / switching[-1]))
    table = spec.clock.voltage_mv if spec.clock and spec.clock.voltage_mv else None
    top = NOMINAL_MV
    if table:
        clocks, volts = (np.array(part, dtype=float) for part in zip(*table, strict=True))
        top = float(np.interp(clock[-1], clocks, volts))
    return {"voltage_mv": _curve(list(zip(clock, top * ratio, strict=True))), "idle_w": _curve(floors)}


def _curve(points: list[tuple[float, float]]) -> list[list[float]]:
    """Return rows of [MHz, value] with rising clocks."""
    found: list[list[float]] = []
    for clock, value in points:
        if not found or round(clock) > found[-1][0]:
            found.append([float(round(clock)), significant(float(value), 4)])
    return found
