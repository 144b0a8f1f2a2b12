"""Kernel times of one's own GPU: the forms of the published tables, fitted to rows of `energylens measure`."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
import polars as pl

from energylens.calibrate import fitting
from energylens.calibrate.device import Device, device
from energylens.calibrate.fitting import Coefficient, Flags, ranges, score
from energylens.calibrate.kernels.attention import Calls, fit_decode_calls, fit_prefill_calls
from energylens.calibrate.kernels.collectives import FEWEST as FEWEST_SIZES
from energylens.calibrate.kernels.collectives import busfactor, curves_of
from energylens.calibrate.kernels.formulas import Array
from energylens.calibrate.kernels.gemm import Products, fit_products
from energylens.calibrate.kernels.moe import SKEWS, Experts, fit_experts
from energylens.calibrate.kernels.sections import coefficient_set, padding_rows, send_recv
from energylens.inputs.gpu import GpuSpec
from energylens.measurement.cases import COLLECTIVES

FEWEST: Final = 10
"""Shapes that a fit of one class and format needs."""

SHAPES: Final = {
    "gemm": ("columns", "depth"),
    "grouped_gemm": ("experts", "active", "hidden", "inner", "tokens"),
    "attention_prefill": ("batch", "tokens", "heads", "kv_heads"),
    "attention_decode": ("batch", "tokens", "heads", "kv_heads"),
    "elementwise": ("variant", "rows", "columns"),
    "stream": ("bytes",),
    "launch": (),
}
"""What is a shape of a family: held out or fitted as a whole, with all rows of a product, both laws of routing."""

ELEMENT_BYTES: Final = {"norm": 4, "add_norm": 8, "rope": 4, "silu_mul": 6}
"""Bytes of activations of each element, as docs/physics.md counts a fused kernel (PyTorch runs several)."""

Report = Callable[[str, float, str], None]
"""Hears of a fit: what, its mean error in percent, and on what."""
Fit = dict[str, object]


def kernels(means: pl.DataFrame, spec: GpuSpec, source: str, report: Report) -> dict[str, Any]:
    """Return the sections of kernels that the rows tell, by class and format: coefficients, held-out errors."""
    gpu, fitted = device(spec), dict[str, Any]()
    families: list[tuple[str, str, Callable[[pl.DataFrame, Flags], Fit]]] = [
        ("gemm", "bf16", partial(_gemm, gpu, "bf16")),
        ("gemm", "fp8", partial(_gemm, gpu, "fp8")),
        ("grouped_gemm", "bf16", partial(_experts, gpu)),
        ("attention_prefill", "bf16", partial(_attention, gpu)),
        ("attention_decode", "bf16", partial(_attention, gpu)),
        ("elementwise", "", partial(_elementwise, gpu)),
    ]
    for family, form, fit in families:
        rows = means.filter((pl.col("family") == family) & (pl.col("dtype") == (form or "bf16"))).sort("case")
        if rows.height < FEWEST or not (held := held_out(rows)).any():
            continue
        fitted_kernel = fit(rows, held)
        what = f"{family} {form}".strip()
        error: Any = fitted_kernel["held_out"]
        report(f"s, {what}", error["mape_percent"], f"{error['rows']} of {rows.height} kernels, their shapes held out")
        made = coefficient_set(spec, fitted_kernel, source)
        if family == "grouped_gemm":
            made["padding_rows"] = padding_rows(form, spec.compute.peak_flops.fp4 is not None)
        if form:
            fitted.setdefault(family, {})[form] = made
        else:
            fitted[family] = made
    return fitted


def held_out(rows: pl.DataFrame) -> Flags:
    """Return which rows of one family are held out: those of a fifth of its shapes, one at least, by a fixed hash."""
    names = SHAPES[str(rows["family"][0])] if rows.height else ()
    shapes = [" ".join(map(str, row)) for row in rows.select(names).iter_rows()] if names else [""] * rows.height
    ordered = sorted(set(shapes), key=lambda shape: (zlib.crc32(shape.encode()), shape))
    chosen = set(ordered[: -(-len(ordered) // 5)]) if len(ordered) > 1 else set()
    return np.array([shape in chosen for shape in shapes], dtype=np.bool_)


def columns(rows: pl.DataFrame, *names: str) -> list[Array]:
    """Return columns as floats."""
    return [rows[name].to_numpy().astype(np.float64) for name in names]


def _gemm(gpu: Device, form: str, rows: pl.DataFrame, held: Flags) -> Fit:
    return fit_products(Products(*columns(rows, "rows", "columns", "depth", "seconds")), gpu, form, held)


def _attention(gpu: Device, rows: pl.DataFrame, held: Flags) -> Fit:
    calls = Calls(*columns(rows, "batch", "heads", "kv_heads", "head_dim", "tokens", "seconds"))
    if rows["family"][0] == "attention_prefill":
        return fit_prefill_calls(calls, gpu, 2, "bf16", held) | {"arithmetic": "bf16"}
    return fit_decode_calls(calls, gpu, 2, held)


def _experts(gpu: Device, rows: pl.DataFrame, held: Flags) -> Fit:
    hidden, inner, active, experts, tokens, seconds = columns(
        rows, "hidden", "inner", "active", "experts", "tokens", "seconds"
    )
    skew, ones = rows["variant"].replace_strict(SKEWS, return_dtype=pl.Float64).to_numpy(), np.ones_like(hidden)
    return fit_experts(Experts(hidden, inner, active, experts, ones, ones, tokens, skew, seconds), gpu, "bf16", held)


def element_bytes(rows: pl.DataFrame) -> Array:
    """Return the bytes of elementwise kernels."""
    each = rows["variant"].replace_strict(ELEMENT_BYTES, return_dtype=pl.Float64).to_numpy()
    number, wide = columns(rows, "rows", "columns")
    return np.asarray(each * number * wide)


def _elementwise(gpu: Device, rows: pl.DataFrame, held: Flags) -> Fit:
    size, (seconds,) = element_bytes(rows), columns(rows, "seconds")

    def predicted(values: Array, size: Array = size) -> Array:
        return np.asarray(values[0] + size / (gpu.bandwidth * values[1]))

    starts = [[Coefficient(t0), Coefficient(share, share=True)] for t0, share in ((4e-6, 0.7), (1e-5, 0.3))]
    _, values = fitting.fit(partial(predicted, size=size[~held]), seconds[~held], starts)
    return {
        "coefficients": {"t0_s": float(values[0]), "memory_efficiency": float(values[1]), "sharpness": 4},
        "held_out": score(predicted(values, size[held]), seconds[held]).as_dict(),
        "ranges": ranges(bytes=size),
    }


def collectives(means: pl.DataFrame, source: str, report: Report) -> dict[str, Any] | None:
    """Return curves of all collectives by number of GPUs, or None where one of them was not measured enough."""
    by_operation: dict[str, Any] = {}
    plain = means.filter((pl.col("family") == "collective") & (pl.col("sms") == 0)).sort("bytes")
    for operation in COLLECTIVES:
        rows_of_operation = plain.filter(pl.col("variant") == operation)
        measured = {
            int(number): (rows["bytes"].to_numpy().astype(np.float64), rows["seconds"].to_numpy())
            for (number,), rows in rows_of_operation.group_by(["gpus"], maintain_order=True)
            if rows.height >= FEWEST_SIZES
        }
        if 2 not in measured:
            return None
        made = curves_of("nccl", measured, partial(busfactor, operation))
        error: Any = made[0]["held_out"]
        report(f"s, {operation}", error["mape_percent"], "sizes held out in turn")
        fit = {"data": "sizes held out in turn"} | {name: error[name] for name in ("rows", "mape_percent")}
        by_operation[operation] = [
            {"name": curve["name"], "by_gpus": curve["by_gpus"], "source": source, "fit": fit} for curve in made
        ]
    return by_operation | {"send_recv": send_recv(by_operation["all_to_all"])}


def saturating_sms(means: pl.DataFrame) -> float | None:
    """Return the SMs from which an all-reduce of a large message gets no faster: `t(c)/t = max(1, n/c)`."""
    rows = means.filter((pl.col("family") == "collective") & (pl.col("variant") == "all_reduce"))
    limited = rows.filter(pl.col("sms") > 0)
    if not limited.height:
        return None
    free = rows.filter(
        (pl.col("sms") == 0) & (pl.col("bytes") == limited["bytes"][0]) & (pl.col("gpus") == limited["gpus"][0])
    )
    if not free.height:
        return None
    slower = limited["seconds"].to_numpy() / float(free["seconds"][0])
    times_slower = (slower * limited["sms"].to_numpy())[slower > 1.05]
    return float(np.median(times_slower)) if len(times_slower) else None


def source_of(gpu: Mapping[str, Any]) -> str:
    """Return where the numbers come from."""
    return f"measured by `energylens measure`: {gpu['name']}, PyTorch {gpu['torch']}, driver {gpu['driver']}"
