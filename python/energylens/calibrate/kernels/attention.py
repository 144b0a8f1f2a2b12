"""Fits of prefill and decode attention, by data type of the KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from energylens.calibrate.device import Device
from energylens.calibrate.fitting import Coefficient, Flags, Index, fit, held_out, ranges, sample, score
from energylens.calibrate.kernels.formulas import Array, memory_time, prefill_work, smooth_max
from energylens.calibrate.kernels.tables import Table, check_units, load, single_kernel

SHARPNESS = (1, 2, 4, 8)
PADS = (1, 64, 128)
"""Rows to which a causal prefill pads its blocks; 1 pads nothing."""

KEYS = ("batch_size", "num_heads", "num_key_value_heads", "head_dim")
DTYPES = {"bf16": "bfloat16", "fp8": "fp8"}
LARGE = 2**28
"""Bytes of KV cache from which decode is a matter of bandwidth."""

DECODE = ("t0_s", "memory_efficiency", "root_s_per_sqrt_byte", "compute_efficiency", "sequence_head_s")
PREFILL = (
    "t0_s", "memory_efficiency", "root_s_per_sqrt_byte", "compute_efficiency", "head_dim_power", "length_factor",
    "wave_depth",
)  # fmt: skip


@dataclass(frozen=True)
class Calls:
    """Attention calls: sequences, heads, KV heads, head size, tokens (new ones in prefill, cached in decode), s."""

    batch: Array
    heads: Array
    kv_heads: Array
    head_dim: Array
    tokens: Array
    seconds: Array

    def take(self, index: Index) -> Calls:
        """Return some of the calls."""
        return Calls(**{name: part[index] for name, part in vars(self).items()})

    def held(self) -> Flags:
        """Return which calls are held out, by all but their tokens."""
        return held_out(self.batch, self.heads, self.kv_heads, self.head_dim)

    def ranges(self) -> dict[str, list[float]]:
        """Return the least and largest value of every shape."""
        return ranges(
            batch=self.batch, heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim, tokens=self.tokens
        )


class DecodeModel:
    """`t = t0 + P_p(FLOPs/(peak e) + c b kv_heads, t_m)` of one new token a sequence."""

    def __init__(self, calls: Calls, device: Device, kv_bytes: int) -> None:
        queries = calls.batch * calls.heads * calls.head_dim
        self.cache = 2 * calls.batch * calls.tokens * calls.kv_heads * calls.head_dim * kv_bytes
        self.size = self.cache + 4 * queries
        self.items = calls.batch * calls.kv_heads
        self.matrix = 4 * queries * calls.tokens / device.peaks["bf16"]
        self.bandwidth = device.bandwidth
        self.ideal = self.cache / device.bandwidth

    def seconds(self, values: Array, sharpness: int) -> Array:
        """Return the time of every call, in s."""
        memory = memory_time(self.size, self.bandwidth, values[1], values[2])
        return np.asarray(values[0] + smooth_max(self.matrix / values[3] + values[4] * self.items, memory, sharpness))


class PrefillModel:
    """`t = t0 + P_p((padded FLOPs + a item + c wave)/(peak e (hd/128)^g), t_m)` of causal attention without a cache."""

    def __init__(self, calls: Calls, device: Device, kv_bytes: int, arithmetic: str, pad: int) -> None:
        b, h, hd, s = calls.batch, calls.heads, calls.head_dim, calls.tokens
        work = prefill_work(b, h, hd, s, pad, device.sms)
        peak = device.peak(arithmetic)
        self.work, self.item, self.wave = (part / peak for part in work)
        self.size = 4 * b * s * h * hd + 2 * kv_bytes * b * s * calls.kv_heads * hd
        self.head = calls.head_dim / 128
        self.bandwidth = device.bandwidth
        self.ideal = 4 * b * h * hd * s * (s + 1) / 2 / peak

    def seconds(self, values: Array, sharpness: int) -> Array:
        """Return the time of every call, in s."""
        efficiency = values[3] * self.head ** values[4]
        matrix = (self.work + values[5] * self.item + values[6] * self.wave) / efficiency
        memory = memory_time(self.size, self.bandwidth, values[1], values[2])
        return np.asarray(values[0] + smooth_max(matrix, memory, sharpness))


def _at(model: DecodeModel | PrefillModel, sharpness: int, values: Array) -> Array:
    return model.seconds(values, sharpness)


def _where(kv_dtype: str) -> pl.Expr:
    return (pl.col("kv_cache_dtype") == DTYPES[kv_dtype]) & (pl.col("window_size") == 0)


def _select(table: Table, kv_dtype: str) -> tuple[pl.DataFrame, str, str]:
    """Return the unwindowed rows of the main kernel, its name and arithmetic: bf16, or fp8 where nearly all is fp8."""
    plain, fast = (table.rows.filter(pl.col("attn_dtype") == DTYPES[dtype]) for dtype in ("bf16", "fp8"))
    most = [int(part.group_by("kernel_source").len()["len"].max() or 0) for part in (plain, fast)]  # type: ignore[arg-type]
    arithmetic = "bf16" if 2 * most[0] >= most[1] else "fp8"
    rows, kernel = single_kernel(
        plain if arithmetic == "bf16" else fast, table.path, f"attention with a `{kv_dtype}` cache"
    )
    return rows, kernel, arithmetic


def _calls(rows: pl.DataFrame, length: str, more: int) -> Calls:
    rows = rows.group_by(*KEYS, length).agg(pl.col("latency").median()).sort(*KEYS, length)
    b, h, kv, hd, tokens, latency = (rows[name].to_numpy().astype(np.float64) for name in rows.columns)
    return Calls(b, h, kv, hd, tokens + more, latency * 1e-3)


def fit_decode(directory: Path, system: str, framework: str, kv_dtype: str, device: Device) -> dict[str, object]:
    """Return coefficients and held-out errors of decode attention."""
    columns = (*KEYS, "step", "window_size", "attn_dtype", "kv_cache_dtype", "kernel_source")
    table = load(directory, system, "attention", framework, "generation_attention", columns, kv_dtype, _where(kv_dtype))
    rows, kernel, _ = _select(table, kv_dtype)
    calls = _calls(rows, "step", 1)
    kv_bytes = 1 if kv_dtype == "fp8" else 2
    check_units(calls.seconds, DecodeModel(calls, device, kv_bytes).ideal, table.path)
    return {**fit_decode_calls(calls, device, kv_bytes), "kernel": kernel, "framework_version": table.version}


def fit_decode_calls(calls: Calls, device: Device, kv_bytes: int, held: Flags | None = None) -> dict[str, object]:
    """Return coefficients and held-out errors of measured decode calls."""
    held = calls.held() if held is None else held
    used = calls.take(sample(held, calls.batch, calls.heads, calls.kv_heads, calls.head_dim, calls.tokens))
    model = DecodeModel(used, device, kv_bytes)
    starts = [
        [
            Coefficient(1e-5),
            Coefficient(0.93, share=True),
            Coefficient(root, zero=1e-12),
            Coefficient(compute, share=True),
            Coefficient(item, zero=1e-12),
        ]
        for root, compute, item in ((3e-10, 0.2, 1e-8), (1e-9, 0.05, 1e-9))
    ]
    best = min(
        ((*fit(partial(_at, model, power), used.seconds, starts), power) for power in SHARPNESS),
        key=lambda candidate: candidate[0],
    )
    apart = calls.take(np.flatnonzero(held))
    measured = DecodeModel(apart, device, kv_bytes)
    predicted = measured.seconds(best[1], best[2])
    large = measured.cache > LARGE
    serving = (apart.tokens >= 256) & (apart.tokens <= 16384) & (apart.batch <= 1024)
    return {
        "coefficients": {**dict(zip(DECODE, map(float, best[1]), strict=True)), "sharpness": best[2]},
        "held_out": score(predicted, apart.seconds).as_dict(),
        "held_out_large": score(predicted[large], apart.seconds[large]).as_dict(),
        "held_out_serving": score(predicted[serving], apart.seconds[serving]).as_dict(),
        "ranges": calls.ranges(),
    }


def fit_prefill(directory: Path, system: str, framework: str, kv_dtype: str, device: Device) -> dict[str, object]:
    """Return coefficients and held-out errors of prefill attention."""
    columns = (*KEYS, "isl", "window_size", "attn_dtype", "kv_cache_dtype", "kernel_source")
    table = load(directory, system, "attention", framework, "context_attention", columns, kv_dtype, _where(kv_dtype))
    rows, kernel, arithmetic = _select(table, kv_dtype)
    calls = _calls(rows, "isl", 0)
    kv_bytes = 1 if kv_dtype == "fp8" else 2
    check_units(calls.seconds, PrefillModel(calls, device, kv_bytes, arithmetic, 1).ideal, table.path)
    fitted = fit_prefill_calls(calls, device, kv_bytes, arithmetic)
    return {**fitted, "arithmetic": arithmetic, "kernel": kernel, "framework_version": table.version}


def fit_prefill_calls(
    calls: Calls, device: Device, kv_bytes: int, arithmetic: str, held: Flags | None = None
) -> dict[str, object]:
    """Return coefficients and held-out errors of measured prefill calls."""
    held = calls.held() if held is None else held
    used = calls.take(sample(held, calls.batch, calls.heads, calls.kv_heads, calls.head_dim, calls.tokens))
    start = [
        Coefficient(1e-5),
        Coefficient(0.5, share=True),
        Coefficient(3e-10, zero=1e-12),
        Coefficient(0.6, share=True),
        Coefficient(0.4 if np.ptp(calls.head_dim) else 1e-9, zero=1e-3),
        Coefficient(0.7, zero=1e-3),
        Coefficient(50.0, zero=0.1),
    ]
    fits: list[tuple[float, Array, int, int]] = []
    for pad in PADS:
        model = PrefillModel(used, device, kv_bytes, arithmetic, pad)
        for power in (2, 4):
            fits.append((*fit(partial(_at, model, power), used.seconds, [start]), power, pad))
    _, values, power, pad = min(fits, key=lambda candidate: candidate[0])
    values[4] = values[4] if np.ptp(calls.head_dim) else 0.0
    apart = calls.take(np.flatnonzero(held))
    predicted = PrefillModel(apart, device, kv_bytes, arithmetic, pad).seconds(values, power)
    serving = (apart.tokens >= 512) & (apart.head_dim == 128)
    return {
        "coefficients": {**dict(zip(PREFILL, map(float, values), strict=True)), "sharpness": power, "pad_rows": pad},
        "held_out": score(predicted, apart.seconds).as_dict(),
        "held_out_serving": score(predicted[serving], apart.seconds[serving]).as_dict(),
        "ranges": calls.ranges(),
    }
