"""Fit of fused mixture-of-experts kernels with balanced routing: two grouped products and an activation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from energylens.calibrate.device import BYTES, Device
from energylens.calibrate.fitting import Coefficient, Index, fit, held_out, ranges, sample, score
from energylens.calibrate.formulas import Array, memory_time, smooth_max, tile_time, tile_work
from energylens.calibrate.tables import check_units, load, one_kernel

FORMS = {
    "bf16": "bfloat16", "fp8": "fp8", "fp8_block": "fp8_block", "mxfp4": "w4a16_mxfp4", "nvfp4": "nvfp4",
    "int4": "int4_wo",
}  # fmt: skip
"""Names of the number formats in the tables; mxfp4 and int4 multiply in bf16."""

NOT_GATED = ((2688, 1856), (1024, 2688), (2048, 5120), (8192, 5120), (3584, 3072))
"""(hidden, expert) sizes of the tables whose experts are two matrices or another activation."""

BALANCED = ("balanced", "uniform")

TILES = ((16, 128), (32, 128), (64, 128), (128, 128))
SHARPNESS = (1, 2, 4, 8)
MOST_GROUPS = 8
"""Widest expert parallelism that is fitted."""

KEYS = (
    "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size", "num_tokens",
)  # fmt: skip
NAMES = ("t0_s", "memory_efficiency", "root_s_per_sqrt_byte", "depth_0", "expert_s", "routed_bytes")
"""Coefficients in the order of a fit; the efficiencies of the tiles follow."""


@dataclass(frozen=True)
class Experts:
    """Fused kernels: hidden and expert size, experts a token, experts, tensor and expert groups, tokens, s."""

    hidden: Array
    inner: Array
    active: Array
    experts: Array
    tensor: Array
    groups: Array
    tokens: Array
    seconds: Array

    def take(self, index: Index) -> Experts:
        """Return some of the kernels."""
        return Experts(**{name: part[index] for name, part in vars(self).items()})


class MoeModel:
    """`t = t0 + P_p(sum of both products' tiles, t_m) + c E + q T k H/BW` for balanced rows."""

    def __init__(self, found: Experts, device: Device, form: str) -> None:
        local = found.experts / found.groups
        rows = found.tokens * found.active / found.groups
        self.hit = np.minimum(local, np.maximum(1, rows))
        each = np.maximum(1, rows / self.hit)
        inner = found.inner / found.tensor
        pairs = [(m, n, 1) for m, n in TILES]
        self.up = tile_work(each, 2 * inner, found.hidden, self.hit, pairs, device.sms)
        self.down = tile_work(each, found.hidden, inner, self.hit, pairs, device.sms)
        weights = 3 * self.hit * found.hidden * inner * BYTES[form]
        self.size = weights + 4 * found.tokens * found.hidden
        self.routed = found.tokens * found.active * found.hidden
        self.splits = np.ones(len(pairs))
        self.peak, self.bandwidth = device.peak(form), device.bandwidth
        self.ideal = np.maximum(6 * self.hit * each * found.hidden * inner / self.peak, weights / self.bandwidth)

    def seconds(self, values: Array, sharpness: int) -> Array:
        """Return the time of every kernel, in s."""
        efficiency = np.maximum(values[len(NAMES) :], 1e-3)
        matrix = sum(
            tile_time(work, efficiency, self.splits, self.peak, values[3], 0.0) for work in (self.up, self.down)
        )
        memory = memory_time(self.size, self.bandwidth, values[1], values[2])
        busy = smooth_max(np.asarray(matrix), memory, sharpness)
        return np.asarray(values[0] + busy + values[4] * self.hit + values[5] * self.routed / self.bandwidth)

    def winners(self, values: Array) -> set[int]:
        """Return the tiles that are the fastest for some product."""
        efficiency = np.maximum(values[len(NAMES) :], 1e-3)[:, None]
        best = [((work[0] + values[3] * work[1]) / efficiency).argmin(axis=0) for work in (self.up, self.down)]
        return {int(tile) for tile in np.unique(np.concatenate(best))}


def _at(model: MoeModel, sharpness: int, values: Array) -> Array:
    return model.seconds(values, sharpness)


def fit_moe(directory: Path, system: str, framework: str, form: str, device: Device) -> dict[str, object]:
    """Return coefficients and held-out errors of one framework's fused kernel in one number format."""
    columns = (*KEYS, "moe_dtype", "distribution", "kernel_source")
    where = (
        (pl.col("moe_dtype") == FORMS[form])
        & pl.col("distribution").is_in(BALANCED)
        & ~pl.col("kernel_source").str.contains("nongated|situ|min_latency")
    )
    for hidden, inner in NOT_GATED:
        where &= (pl.col("hidden_size") != hidden) | (pl.col("inter_size") != inner)
    table = load(directory, system, "moe", framework, "moe", columns, form, where)
    rows, kernel = one_kernel(table.rows, table.path, f"`{form}` experts")
    rows = rows.group_by(*KEYS).agg(pl.col("latency").median()).sort(*KEYS)
    parts = [rows[name].to_numpy().astype(np.float64) for name in (*KEYS, "latency")]
    hide, inside, active, number, tensor, groups, tokens, latency = parts
    experts = Experts(hide, inside, active, number, tensor, groups, tokens, latency * 1e-3)
    check_units(experts.seconds, MoeModel(experts, device, form).ideal, table.path)
    return {**fit_experts(experts, device, form), "kernel": kernel, "framework_version": table.version}


def fit_experts(experts: Experts, device: Device, form: str) -> dict[str, object]:
    """Return coefficients and held-out errors of measured fused kernels, fitted up to `MOST_GROUPS` expert groups."""
    shape = (experts.hidden, experts.inner, experts.active, experts.experts, experts.tensor, experts.groups)
    held = held_out(*shape)
    narrow = experts.groups <= MOST_GROUPS
    used = experts.take(sample(held | ~narrow, *shape, experts.tokens))
    model = MoeModel(used, device, form)
    starts = [
        [
            Coefficient(t0, zero=1e-8),
            Coefficient(0.9, share=True),
            Coefficient(8e-10, zero=1e-12),
            Coefficient(50.0, zero=0.1),
            Coefficient(4e-8, zero=1e-10),
            Coefficient(2.0, zero=1e-2),
            *[Coefficient(tile, share=True) for tile in tiles],
        ]
        for t0, tiles in ((3e-5, (0.3, 0.4, 0.5, 0.6)), (1e-5, (0.2, 0.3, 0.4, 0.5)))
    ]
    best = min(
        ((*fit(partial(_at, model, power), used.seconds, starts), power) for power in SHARPNESS),
        key=lambda found: found[0],
    )
    values, power = best[1], best[2]
    apart = experts.take(np.flatnonzero(held))
    predicted = MoeModel(apart, device, form).seconds(values, power)
    near = apart.groups <= MOST_GROUPS
    tiles = [[*TILES[i], float(values[len(NAMES) + i])] for i in sorted(model.winners(values))]
    return {
        "coefficients": {
            **{name: float(value) for name, value in zip(NAMES, values, strict=False)},
            "sharpness": power,
            "tiles": tiles,
        },
        "held_out": score(predicted[near], apart.seconds[near]).as_dict(),
        "held_out_all_groups": score(predicted, apart.seconds).as_dict(),
        "ranges": ranges(
            hidden=experts.hidden, inner=experts.inner, active=experts.active, experts=experts.experts,
            tokens=experts.tokens, tensor=experts.tensor, groups=experts.groups[narrow],
        ),
    }  # fmt: skip
