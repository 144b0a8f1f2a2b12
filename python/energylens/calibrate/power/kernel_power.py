"""Measured kernel powers as rows of time, watts, FLOPs and bytes, counted as docs/physics.md counts them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from energylens.calibrate.kernels.sections import padding_rows
from energylens.common.errors import Problem, SpecError, did_you_mean
from energylens.common.files import is_there
from energylens.common.tables import read_table

BYTES = {"bfloat16": 2.0, "fp8": 1.0, "fp8_block": 1.0 + 4 / 16384, "nvfp4": 0.5625}
"""Bytes per element of a weight or cached value."""
ARITHMETIC = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}
"""Tensor-core arithmetic by dtype of the table."""
GPUS = {"h200_sxm": "h200-sxm", "b200_sxm": "b200"}
"""Name of the hardware spec by name of the table."""

MIN_SECONDS = 2e-5
"""Shorter kernels are timed over windows far shorter than the power meter averages (0.4 s)."""
CAP_SHARE = 0.97
"""At this share of the limit the clock has fallen: such a row says nothing about joules per FLOP."""
OUTLIER = 2.5
"""A row this factor off the median of its like (same kernel, time and traffic) is dropped."""
LIKE = 8
"""Fewer rows alike tell no outlier."""
HOST_BOUND = ("DeepGemmFp8BlockScaledMMKernel", "CutlassFp8BlockScaledMMKernel")
"""vLLM 0.24 kernels on B200 that wait 0.15 ms for the host: their mean power is mostly waiting."""
HOST_SECONDS = 1.5e-4
"""fp8_block GEMMs under vLLM 0.22 on H200 wait 75 us for the host: under twice that, the mean is part waiting."""

_SHAPE = {
    "gemm": ["gemm_dtype", "m", "n", "k"],
    "attention_prefill": [
        "batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "kv_cache_dtype", "window_size",
    ],
    "attention_decode": [
        "batch_size", "step", "num_heads", "num_key_value_heads", "head_dim", "kv_cache_dtype", "window_size",
    ],
    "moe": [
        "moe_dtype", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size",
        "distribution",
    ],
    "allreduce": ["num_gpus", "message_elements", "backend"],
}  # fmt: skip
_COMMON = ["kernel_source", "latency_ms", "power_w", "power_limit_w"]
_TEXT = {"gpu", "kernel_source", "gemm_dtype", "moe_dtype", "kv_cache_dtype", "distribution", "backend"}
FAMILIES = tuple(_SHAPE)
"""Kernel families, one file each."""
COUNTS = ["matrix", "vector", "weight", "kv", "activation", "chip", "link"]
"""Counted columns: FLOP, FLOP, then bytes."""


@dataclass
class KernelPower:
    """Rows kept (SI units), and how many were left out of each family, with the reason."""

    rows: pl.DataFrame
    excluded: list[dict[str, object]] = field(default_factory=list)


def data_folder() -> Path:
    """Return the folder `ENERGYLENS_DATA` names."""
    folder = os.environ.get("ENERGYLENS_DATA")
    if not folder:
        raise SpecError(
            Problem(
                "`ENERGYLENS_DATA` is not set", hint="set it to the folder of kernel_power_*.parquet", code="no-data"
            )
        )
    return Path(folder)


def load(folder: Path | None = None, families: tuple[str, ...] = FAMILIES[:4]) -> KernelPower:
    """Return all rows in the order measured, with rates (FLOP/s, bytes/s) and whether they are in a fit (`in_fit`)."""
    folder = folder or data_folder()
    excluded: list[dict[str, object]] = []
    parts = []
    for family in families:
        rows = rates(count(read(folder, family), family)).with_columns(in_fit=pl.lit(True))
        if family == "gemm":
            rows = rows.sort("arithmetic", maintain_order=True)  # the dtypes of GEMM were measured in separate runs
        for reason, keep in exclusions():
            drop = pl.col("in_fit") & ~keep.fill_null(False)
            counts = rows.group_by("gpu").agg(rows=pl.col("in_fit").sum(), dropped=drop.sum()).sort("gpu")
            excluded += [
                {"gpu": gpu, "family": family, "reason": reason, "of": total, "dropped": dropped}
                for gpu, total, dropped in counts.iter_rows()
                if dropped
            ]
            rows = rows.with_columns(in_fit=pl.col("in_fit") & keep.fill_null(False))
        capped = rows.filter(pl.col("in_fit")).group_by("gpu").agg(of=pl.len(), n=capped_rows().sum()).sort("gpu")
        excluded += [
            {
                "gpu": gpu,
                "family": family,
                "reason": "at the power cap: only bounds from below",
                "of": total,
                "dropped": n,
            }
            for gpu, total, n in capped.iter_rows()
        ]
        parts.append(rows)
    return KernelPower(pl.concat(parts), excluded)


def capped_rows() -> pl.Expr:
    """Return which rows read at least `CAP_SHARE` of the board limit."""
    return pl.col("watts") >= CAP_SHARE * pl.col("limit")


def rates(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with their work per second (FLOP/s by arithmetic, vector FLOP/s, bytes/s)."""
    return rows.with_columns(
        *(
            (pl.col("matrix") * (pl.col("arithmetic") == name) / pl.col("seconds")).alias(f"flop_{name}")
            for name in ("bf16", "fp8", "fp4")
        ),
        *((pl.col(name) / pl.col("seconds")).alias(f"{name}_rate") for name in COUNTS[1:]),
    )


def exclusions() -> list[tuple[str, pl.Expr]]:
    """Return the reasons to leave a row out of a fit, each with what keeps it; each is counted after those before."""
    c = pl.col
    traffic = c("weight_rate") + c("kv_rate") + c("activation_rate")
    flops = c("flop_bf16") + c("flop_fp8") + c("flop_fp4")
    sized = ((c("seconds"), 1e-6), (traffic, 1e10), (flops, 1e11))
    like = [c(name) for name in ("gpu", "family", "kernel", "arithmetic", "in_fit")]
    like += [(value.clip(lower_bound=low).log(2) * 2).round() for value, low in sized]
    median = c("watts").median().over(like)
    factor = pl.max_horizontal(c("watts") / median, median / c("watts"))
    slow = (c("gpu") == "h200-sxm") & (c("family") == "gemm") & (c("arithmetic") == "fp8")
    host = ((c("gpu") == "b200") & c("kernel").is_in(HOST_BOUND)) | (slow & (c("seconds") < HOST_SECONDS))
    return [
        ("no power measured, or a time of zero", (c("watts") > 0) & (c("seconds") > 0)),
        ("dtype mixed or routing skewed: FLOPs or bytes are not known", c("usable")),
        ("the kernel waits for the host (fp8_block GEMM under vLLM)", ~host),
        (f"shorter than {MIN_SECONDS * 1e6:g} us", c("seconds") >= MIN_SECONDS),
        (
            f"more than {OUTLIER:g} times off the median of {LIKE} or more like it",
            (factor <= OUTLIER) | (pl.len().over(like) < LIKE),
        ),
    ]


def read(folder: Path, family: str) -> pl.DataFrame:
    """Return one family's table, its columns and units checked (ms and W as in the file)."""
    path = folder / f"kernel_power_{family}.parquet"
    if not is_there(path):
        raise SpecError(
            Problem(
                f"no table `{path.name}`",
                where=str(folder),
                hint="is the folder right? give it with --data or ENERGYLENS_DATA",
                code="no-data",
            )
        )
    table = read_table(path, "table", kind="parquet", hint="truncated? copy it again")
    wanted = _SHAPE[family] + _COMMON + ([] if family == "allreduce" else ["gpu"])
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise SpecError(
            [
                Problem(
                    f"`{path.name}` has no column `{name}`",
                    where=str(path),
                    hint=did_you_mean(name, table.columns),
                    code="missing-column",
                )
                for name in missing
            ]
        )
    text = [name for name in wanted if (table.schema[name] == pl.String) != (name in _TEXT)]
    if text:
        raise SpecError(
            [
                Problem(
                    f"column `{name}` holds {table.schema[name]}, not what it should",
                    where=str(path),
                    code="column-type",
                )
                for name in text
            ]
        )
    _check_units(table, path)
    return table.select(wanted) if "gpu" in table.columns else table.select(wanted).with_columns(gpu=pl.lit("b200_sxm"))


def _check_units(table: pl.DataFrame, path: Path) -> None:
    measured = table.filter(pl.col("power_w") > 0)
    watts, limit, ms = (measured[name].median() for name in ("power_w", "power_limit_w", "latency_ms"))
    if not isinstance(watts, float | int) or not isinstance(limit, float | int) or not isinstance(ms, float | int):
        raise SpecError(Problem(f"`{path.name}` has no row of measured power", where=str(path), code="no-data"))
    problems = []
    if watts > 3 * limit:
        problems.append(
            f"median `power_w` {watts:g} is above three times the limit, {limit:g} W: milliwatts, or swapped?"
        )
    highest = measured["power_w"].max()
    if isinstance(highest, float | int) and highest < 10:
        problems.append(f"no `power_w` reaches 10 (highest {highest:g}): kilowatts, or swapped with `latency_ms`?")
    if not 50 <= limit <= 5000:
        problems.append(f"median `power_limit_w` {limit:g} is no board limit in watts")
    if not 1e-3 <= ms <= 1e3:
        problems.append(f"median `latency_ms` {ms:g} is no kernel time in milliseconds: seconds or microseconds?")
    if problems:
        raise SpecError([Problem(text, where=str(path), code="calibrate") for text in problems])


def count(table: pl.DataFrame, family: str) -> pl.DataFrame:
    """Return the rows with seconds, watts, FLOPs and bytes per GPU, `usable` false where they cannot be counted."""
    c, zero = pl.col, pl.lit(0.0)
    counts: dict[str, pl.Expr] = dict.fromkeys(COUNTS, zero)
    usable, arithmetic = pl.lit(True), pl.lit("bf16")
    if family == "gemm":
        dtype, m, n, k = c("gemm_dtype"), c("m").cast(float), c("n").cast(float), c("k").cast(float)
        usable, arithmetic = dtype.is_in(list(BYTES)), _named(dtype, ARITHMETIC)
        counts |= {"matrix": 2 * m * n * k, "weight": n * k * _width(dtype), "activation": 2 * m * (n + k)}
    elif family.startswith("attention"):
        prefill = family == "attention_prefill"
        b, h, g, e = (c(x).cast(float) for x in ("batch_size", "num_heads", "num_key_value_heads", "head_dim"))
        s, t = (c("isl"), c("isl")) if prefill else (pl.lit(1), c("step") + 1)
        w = pl.when(c("window_size") > 0).then(c("window_size")).otherwise(t)
        inside = t.clip(upper_bound=w).cast(float)
        # A causal token sees (t+1)/2 on average, with a window w·(t - (w-1)/2)/t.
        seen = inside * (t - (inside - 1) / 2) / t if prefill else inside
        scores = b * h * s * seen
        counts |= {
            "matrix": 4 * scores * e,
            "vector": 5 * scores,
            "kv": 2 * b * g * e * (t if prefill else inside) * _width(c("kv_cache_dtype")),
            "activation": 4 * b * h * s * e,
            "chip": 8 * scores,
        }
        usable = c("kv_cache_dtype").is_in(list(BYTES))
    elif family == "moe":
        x, k, d = (c(name).cast(float) for name in ("num_experts", "topk", "hidden_size"))
        ep, f = c("moe_ep_size"), c("inter_size") / c("moe_tp_size")
        rows = c("num_tokens") * k
        hit = pl.min_horizontal(rows, x) / ep
        # Balanced routing alone says which experts a rank holds: all of them, or one a row.
        usable = c("moe_dtype").is_in(list(BYTES)) & (c("distribution") == "balanced") & ((rows >= x) | (ep == 1))
        arithmetic = _named(c("moe_dtype"), ARITHMETIC)
        blackwell, narrow = c("gpu") == "b200_sxm", c("moe_dtype").str.starts_with("fp8")
        padding = (
            pl.when(blackwell).then(padding_rows("bf16", True))
            .when(narrow).then(padding_rows("fp8", False))
            .otherwise(padding_rows("bf16", False))
        )  # fmt: skip
        counts |= {
            "matrix": 6 * (rows / ep + padding * hit) * d * f,
            "vector": 8 * rows / ep * f,
            "weight": hit * 3 * d * f * _width(c("moe_dtype")),
            "activation": 4 * rows / ep * d + 4 * rows / ep * f,
        }
    else:
        counts |= {"link": 2 * c("message_elements")}
    return table.select(
        _named(c("gpu"), GPUS).alias("gpu"),
        pl.lit(family).alias("family"),
        arithmetic.fill_null("none").alias("arithmetic"),
        c("kernel_source").alias("kernel"),
        (c("latency_ms") * 1e-3).alias("seconds"),
        c("power_w").alias("watts"),
        c("power_limit_w").cast(float).alias("limit"),
        *(value.cast(float).fill_null(0.0).alias(name) for name, value in counts.items()),
        pl.concat_str(pl.lit(family), *_SHAPE[family], separator=" ").alias("shape"),
        usable.alias("usable"),
    )


def _named(column: pl.Expr, names: dict[str, str]) -> pl.Expr:
    return column.replace_strict(list(names), list(names.values()), default=None, return_dtype=pl.String)


def _width(column: pl.Expr) -> pl.Expr:
    return column.replace_strict(list(BYTES), list(BYTES.values()), default=None, return_dtype=pl.Float64)
