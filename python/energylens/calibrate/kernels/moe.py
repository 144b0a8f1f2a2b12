"""Fit of fused mixture-of-experts kernels, balanced and skewed: two grouped products and an activation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from energylens import _core
from energylens.calibrate.device import BYTES, Device
from energylens.calibrate.fitting import Coefficient, Flags, Index, fit, held_out, ranges, sample, score
from energylens.calibrate.kernels.formulas import Array, memory_time, smooth_max, tile_time
from energylens.calibrate.kernels.tables import check_units, load, single_kernel

FORMS = {
    "bf16": "bfloat16", "fp8": "fp8", "fp8_block": "fp8_block", "mxfp4": "w4a16_mxfp4", "nvfp4": "nvfp4",
    "int4": "int4_wo",
}  # fmt: skip
"""Names of the number formats in the tables; mxfp4 and int4 multiply in bf16."""

NOT_GATED = ((2688, 1856), (1024, 2688), (2048, 5120), (8192, 5120), (3584, 3072))
"""(hidden, expert) sizes of the tables whose experts are two matrices or another activation."""

SKEWS = {"balanced": 0.0, "uniform": 0.0, "power_law_1.01": 1.01, "power_law_1.2": 1.2}
"""Exponents of the power laws by which the tables deal tokens to experts; 0 deals all experts as many."""

TILES = ((16, 128), (32, 128), (64, 128), (128, 128))
SHARPNESS = (1, 2, 4, 8)
MOST_GROUPS = 64
"""Widest expert parallelism that is fitted."""

KEYS = (
    "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size", "num_tokens",
)  # fmt: skip
NAMES = ("t0_s", "memory_efficiency", "root_s_per_sqrt_byte", "depth_0", "expert_s", "routed_bytes")
"""Coefficients in the order of a fit; the efficiencies of the tiles follow."""


@dataclass(frozen=True)
class Experts:
    """Fused kernels: hidden and expert size, experts a token, experts, tensor and expert groups, tokens, skew, s."""

    hidden: Array
    inner: Array
    active: Array
    experts: Array
    tensor: Array
    groups: Array
    tokens: Array
    skew: Array
    seconds: Array

    def take(self, index: Index) -> Experts:
        """Return some of the kernels."""
        return Experts(**{name: part[index] for name, part in vars(self).items()})


def loads(experts: Experts) -> tuple[Array, Array]:
    """Return experts hit on the busiest GPU, and tiles there by rows of a tile (`TILES`), of every kernel."""
    hits, tiles = np.empty(len(experts.tokens)), np.empty((len(TILES), len(experts.tokens)))
    which = np.stack([experts.skew, experts.experts, experts.active, experts.groups])
    places = [_core.TILE_ROWS.index(rows) for rows, _ in TILES]
    kinds, kind = np.unique(which, axis=1, return_inverse=True)
    for turn, (skew, number, active, groups) in enumerate(kinds.T):
        law = json.dumps({"law": "power_law", "value": skew} if skew else {"law": "balanced"})
        mine = np.flatnonzero(kind.ravel() == turn)
        _, hit, _, tile = _core.routing_loads(
            law, int(number), int(active), int(groups), 0, experts.tokens[mine].tolist()
        )
        hits[mine] = hit
        tiles[:, mine] = np.array(tile)[places]
    return hits, tiles


class MoeModel:
    """`t = t0 + P_p(sum of both products' tiles, t_m) + c E + q T k H/BW` on the busiest GPU."""

    def __init__(self, experts: Experts, device: Device, form: str) -> None:
        inner = experts.inner / experts.tensor
        self.hit, tiles = loads(experts)
        self.up, self.down = (
            self._work(tiles, columns, depth, device.sms)
            for columns, depth in ((2 * inner, experts.hidden), (experts.hidden, inner))
        )
        weights = 3 * self.hit * experts.hidden * inner * BYTES[form]
        self.size = weights + 4 * experts.tokens * experts.hidden
        self.routed = experts.tokens * experts.active * experts.hidden
        self.splits = np.ones(len(TILES))
        self.peak, self.bandwidth = device.peak(form), device.bandwidth
        mean = 6 * experts.tokens * experts.active / experts.groups * experts.hidden * inner
        self.ideal = np.maximum(mean / self.peak, weights / self.bandwidth)

    @staticmethod
    def _work(tiles: Array, columns: Array, depth: Array, sms: int) -> tuple[Array, Array]:
        rows, wide = (np.array(part, dtype=np.float64)[:, None] for part in zip(*TILES, strict=True))
        each = np.ceil(np.ceil(tiles * np.ceil(columns / wide)) / sms) * 2 * rows * wide * sms
        return each * depth, each

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


SLOWER = 1.3
"""Times as long as on fewer GPUs, of the same experts and tokens, beyond which a kernel was measured wrongly."""


def sound(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows without the series of a width at which the balanced kernel is slower than on fewer GPUs.

    A GPU that holds fewer experts has less to do: where the tables say otherwise (up to 15 times), the framework chose
    an unfit kernel when it was measured. The rule looks at measured times alone.
    """
    shape = [name for name in KEYS if name not in ("moe_ep_size", "moe_tp_size", "num_tokens")]
    flat = rows.filter(skew=0.0).with_columns(width=pl.col("moe_ep_size") * pl.col("moe_tp_size"))
    wrong = None
    for fixed, wide in (("moe_tp_size", "moe_ep_size"), ("moe_ep_size", "moe_tp_size")):
        flagged = flat.sort(wide).with_columns(
            least=pl.col("latency").cum_min().shift(1).over(*shape, fixed, "num_tokens", order_by=wide)
        )
        flagged = flagged.filter(pl.col("latency") > SLOWER * pl.col("least")).select(
            *shape, "moe_tp_size", "moe_ep_size"
        )
        wrong = flagged if wrong is None else pl.concat([wrong, flagged])
    assert wrong is not None
    return rows.join(wrong.unique(), on=[*shape, "moe_tp_size", "moe_ep_size"], how="anti")


@dataclass(frozen=True)
class Measured:
    """Sound rows of one framework's fused kernel in one number format, and all of them."""

    experts: Experts
    every: Experts
    kernel: str
    framework_version: str
    path: Path


def measured(directory: Path, system: str, framework: str, form: str) -> Measured:
    """Return the rows of a fused kernel that a fit may use."""
    columns = (*KEYS, "moe_dtype", "distribution", "kernel_source")
    where = (
        (pl.col("moe_dtype") == FORMS[form])
        & pl.col("distribution").is_in(list(SKEWS))
        & ~pl.col("kernel_source").str.contains("nongated|situ|min_latency")
    )
    for hidden, inner in NOT_GATED:
        where &= (pl.col("hidden_size") != hidden) | (pl.col("inter_size") != inner)
    table = load(directory, system, "moe", framework, "moe", columns, form, where)
    rows, kernel = single_kernel(table.rows, table.path, f"`{form}` experts")
    rows = rows.with_columns(skew=pl.col("distribution").replace_strict(SKEWS, return_dtype=pl.Float64))
    rows = rows.group_by(*KEYS, "skew").agg(pl.col("latency").median()).sort(*KEYS, "skew")
    retained = sound(rows).sort(*KEYS, "skew")
    return Measured(_experts(retained), _experts(rows), kernel, table.version, table.path)


def _experts(rows: pl.DataFrame) -> Experts:
    parts = {
        field: rows[name].to_numpy().astype(np.float64)
        for field, name in zip(Experts.__dataclass_fields__, (*KEYS, "skew", "latency"), strict=True)
    }
    return Experts(**parts | {"seconds": 1e-3 * parts["seconds"]})


def fit_moe(directory: Path, system: str, framework: str, form: str, device: Device) -> dict[str, object]:
    """Return coefficients and held-out errors of one framework's fused kernel in one number format."""
    table = measured(directory, system, framework, form)
    check_units(table.experts.seconds, MoeModel(table.experts, device, form).ideal, table.path)
    return {
        **fit_experts(table.experts, device, form),
        "unsound": len(table.every.seconds) - len(table.experts.seconds),
        "rows": len(table.every.seconds),
        "kernel": table.kernel,
        "framework_version": table.framework_version,
    }


def held_out_of(experts: Experts) -> Experts:
    """Return the kernels whose shapes no fit sees."""
    shape = (experts.hidden, experts.inner, experts.active, experts.experts, experts.tensor, experts.groups)
    return experts.take(np.flatnonzero(held_out(*shape) & (experts.groups <= MOST_GROUPS)))


def ratios(experts: Experts, predicted: Array) -> list[dict[str, float]]:
    """Return measured and predicted mean ratios of skewed to balanced kernels, by skew, groups and tokens."""
    keys = ["hidden", "inner", "active", "experts", "tensor", "groups", "tokens"]
    frame = pl.DataFrame(
        {name: getattr(experts, name) for name in [*keys, "skew", "seconds"]} | {"predicted": predicted}
    )
    both = frame.filter(pl.col("skew") > 0).join(frame.filter(skew=0), on=keys, suffix="_flat")
    band = pl.when(pl.col("tokens") <= 64).then(64).when(pl.col("tokens") < 2048).then(2047).otherwise(16384)
    bands = both.group_by("skew", "groups", band.alias("tokens_up_to")).agg(
        rows=pl.len(),
        measured=(pl.col("seconds") / pl.col("seconds_flat")).mean(),
        predicted=(pl.col("predicted") / pl.col("predicted_flat")).mean(),
    )
    return bands.sort("skew", "groups", "tokens_up_to").to_dicts()


def fit_experts(experts: Experts, device: Device, form: str, held: Flags | None = None) -> dict[str, object]:
    """Return coefficients and held-out errors of measured fused kernels, fitted up to `MOST_GROUPS` expert groups."""
    shape = (experts.hidden, experts.inner, experts.active, experts.experts, experts.tensor, experts.groups)
    held = held_out(*shape) if held is None else held
    narrow = experts.groups <= MOST_GROUPS
    used = experts.take(sample(held | ~narrow, *shape, experts.tokens, experts.skew))
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
        key=lambda candidate: candidate[0],
    )
    values, power = best[1], best[2]
    apart = experts.take(np.flatnonzero(held))
    predicted = MoeModel(apart, device, form).seconds(values, power)
    near = apart.groups <= MOST_GROUPS
    by_skew = {
        name: score(predicted[here], apart.seconds[here]).as_dict()
        for name, skew in SKEWS.items()
        if name != "uniform" and (here := near & (apart.skew == skew)).any()
    }
    tiles = [[*TILES[i], float(values[len(NAMES) + i])] for i in sorted(model.winners(values))]
    return {
        "coefficients": {
            **{name: float(value) for name, value in zip(NAMES, values, strict=False)},
            "sharpness": power,
            "tiles": tiles,
        },
        "held_out": score(predicted[near], apart.seconds[near]).as_dict(),
        "held_out_all_groups": score(predicted, apart.seconds).as_dict(),
        "held_out_by_skew": by_skew,
        "ratios": ratios(apart, predicted),
        "ranges": ranges(
            hidden=experts.hidden, inner=experts.inner, active=experts.active, experts=experts.experts,
            tokens=experts.tokens, tensor=experts.tensor, groups=experts.groups[narrow],
        ),
    }  # fmt: skip
