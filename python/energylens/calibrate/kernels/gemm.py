"""Fit of matrix products: tiles in waves, splits of the depth, memory, quantisation of the input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from energylens.calibrate.device import BYTES, Device
from energylens.calibrate.fitting import Coefficient, Flags, Index, fit, held_out, ranges, sample, score
from energylens.calibrate.kernels.formulas import Array, memory_time, smooth_max, tile_time, tile_work
from energylens.calibrate.kernels.tables import check_units, load, single_kernel

FORMS = {
    "bf16": "bfloat16", "fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4", "int8": "int8_wo", "int4": "int4_wo",
}  # fmt: skip
"""Names of the number formats in the tables."""

QUANTISED = ("fp8", "fp8_block", "nvfp4")
"""Formats whose products quantise their input first."""

TILES = ((64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128), (256, 256))
SPLITS = (1, 2, 4, 8)
NO_SPLIT = 5e-5
"""Seconds of a split from which the kernel is taken to have none."""

SHARPNESS = (2, 4, 8)

NAMES = ("t0_s", "memory_efficiency", "root_s_per_sqrt_byte", "quantise_bytes", "depth_0", "split_s")
"""Coefficients in the order of a fit; the efficiencies of the tiles follow."""


@dataclass(frozen=True)
class Products:
    """Products of M rows, N columns, depth K, measured in s."""

    rows: Array
    columns: Array
    depth: Array
    seconds: Array

    def take(self, index: Index) -> Products:
        """Return some of the products."""
        return Products(self.rows[index], self.columns[index], self.depth[index], self.seconds[index])


class GemmModel:
    """`t = t0 + P_p(t_c, t_m) + q M K/BW` of products, for one device and number format."""

    def __init__(
        self, products: Products, device: Device, form: str, tiles: tuple[tuple[int, int], ...] = TILES
    ) -> None:
        m, n, k = products.rows, products.columns, products.depth
        pairs = [(rows, columns, split) for rows, columns in tiles for split in SPLITS]
        self.work = tile_work(m, n, k, np.ones_like(m), pairs, device.sms)
        self.splits = np.array([split for _, _, split in pairs], dtype=np.float64)
        self.input = m * k
        self.size = 2 * m * k + BYTES[form] * n * k + 2 * m * n
        self.peak, self.bandwidth = device.peak(form), device.bandwidth
        self.quantised = form in QUANTISED
        self.ideal = np.maximum(2 * m * n * k / self.peak, (BYTES[form] * n * k + 2 * m * n) / self.bandwidth)

    def matrix_s(self, values: Array) -> Array:
        """Return the time on the tensor cores, in s."""
        efficiency = np.repeat(np.maximum(values[len(NAMES) :], 1e-3), len(SPLITS))
        return tile_time(self.work, efficiency, self.splits, self.peak, values[4], values[5])

    def seconds(self, values: Array, sharpness: int) -> Array:
        """Return the time of every product, in s."""
        memory = memory_time(self.size, self.bandwidth, values[1], values[2])
        quantise = values[3] * self.input / self.bandwidth if self.quantised else 0.0
        return np.asarray(values[0] + smooth_max(self.matrix_s(values), memory, sharpness) + quantise)

    def winners(self, values: Array) -> set[int]:
        """Return the tiles that are the fastest for some product."""
        efficiency = np.repeat(np.maximum(values[len(NAMES) :], 1e-3), len(SPLITS))
        seconds = (self.work[0] + values[4] * self.work[1]) / (self.peak * efficiency[:, None])
        best = (seconds + (self.splits > 1)[:, None] * values[5]).argmin(axis=0)
        return {int(pair) // len(SPLITS) for pair in np.unique(best)}


def _at(model: GemmModel, sharpness: int, values: Array) -> Array:
    return model.seconds(values, sharpness)


def _starts(tiles: int, quantised: bool) -> list[list[Coefficient]]:
    return [
        [
            Coefficient(t0),
            Coefficient(0.87, share=True),
            Coefficient(2e-10, zero=1e-12),
            Coefficient(3.0 if quantised else 1e-30, zero=1e-2),
            Coefficient(depth, zero=0.1),
            Coefficient(split, zero=1e-9),
            *[Coefficient(tile, share=True)] * tiles,
        ]
        for t0, depth, split, tile in ((2e-6, 100.0, 2e-6, 0.7), (1e-5, 200.0, 5e-6, 0.55))
    ]


def fit_gemm(directory: Path, system: str, framework: str, form: str, device: Device) -> dict[str, object]:
    """Return coefficients and held-out errors of one framework's products in one number format."""
    columns = ("m", "n", "k", "gemm_dtype", "kernel_source")
    table = load(directory, system, "gemm", framework, "gemm", columns, form, pl.col("gemm_dtype") == FORMS[form])
    rows, kernel = single_kernel(table.rows, table.path, f"`{form}` products")
    rows = rows.group_by("m", "n", "k").agg(pl.col("latency").median()).sort("n", "k", "m")
    m, n, k, latency = (rows[name].to_numpy().astype(np.float64) for name in ("m", "n", "k", "latency"))
    products = Products(m, n, k, latency * 1e-3)
    check_units(products.seconds, GemmModel(products, device, form, TILES[:1]).ideal, table.path)
    fitted = fit_products(products, device, form)
    return {**fitted, "kernel": kernel, "framework_version": table.version}


def fit_products(products: Products, device: Device, form: str, held: Flags | None = None) -> dict[str, object]:
    """Return coefficients and held-out errors of measured products; `held` says which are, a fifth of the shapes."""
    m, n, k = products.rows, products.columns, products.depth
    held = held_out(n, k) if held is None else held
    used = products.take(sample(held, m, n, k))
    model = GemmModel(used, device, form)
    best = min(
        (
            (*fit(partial(_at, model, power), used.seconds, _starts(len(TILES), model.quantised)), power)
            for power in SHARPNESS
        ),
        key=lambda candidate: candidate[0],
    )
    values, power = best[1], best[2]
    values[3] = values[3] if model.quantised else 0.0
    values[5] = values[5] if values[5] <= NO_SPLIT else 1.0
    splits = SPLITS if values[5] <= NO_SPLIT else (1,)
    tiles_used = sorted(model.winners(values))
    values = np.concatenate([values[: len(NAMES)], values[[len(NAMES) + tile for tile in tiles_used]]])
    tiles = tuple(TILES[tile] for tile in tiles_used)
    apart = products.take(np.flatnonzero(held))
    predicted = GemmModel(apart, device, form, tiles).seconds(values, power)
    serving = (apart.columns >= 1024) & (apart.depth >= 1024)
    return {
        "coefficients": {
            **{name: float(value) for name, value in zip(NAMES, values, strict=False)},
            "split_s": float(values[5]) if len(splits) > 1 else 0.0,
            "splits": list(splits),
            "sharpness": power,
            "tiles": [[*tile, float(values[len(NAMES) + i])] for i, tile in enumerate(tiles)],
        },
        "held_out": score(predicted, apart.seconds).as_dict(),
        "held_out_serving": score(predicted[serving], apart.seconds[serving]).as_dict(),
        "ranges": ranges(rows=m, columns=n, depth=k),
    }
