"""What single changes of a configuration cost or save: each lever moved by itself, all else as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from energylens.engine.evaluate import evaluated, typed
from energylens.engine.space import Space
from energylens.inputs import run_options
from energylens.inputs.axes import POINT_DEFAULTS
from energylens.inputs.plan import Plan

_WIDE: Final = frozenset({"bf16", "fp16"})
_CLOCKS: Final = (0.9, 0.8, 0.7, 0.6)
_CAP: Final = 0.8
_STAGES: Final = {"overlap_stages": 4, "overlap_sms": 16, "overlap_where": "both"}
_MOST_TP, _LARGEST_BATCH = 16, 8192


def changes(space: Space, row: Mapping[str, Any], threads: int = 1) -> pl.DataFrame:
    """Return what each single change of a row of results would save, in joules per output token, the most first.

    Changes: tensor, pipeline and expert parallelism and the batch halved or doubled, the other GPUs of the space,
    fp8 weights and cache, locked clocks, a power cap, overlap, sequence parallelism, fused norms. Columns: `lever`,
    `change` (in words), `saved_j`, `saved_share`, `latency_share` (change of the latency), `keeps` (whether the limits
    of the space are kept), `extrapolated`. Changes that cannot run are left out.
    """
    moved = _alternatives(space.plan, row)
    base = {name: row[name] for name in POINT_DEFAULTS} | {
        name: row.get(name, default) for name, default in run_options.RUNNING.items()
    }
    points = typed([base, *({**base, **change} for _, _, change in moved)])
    results = evaluated(space.plan, points, False, threads)
    now = results.row(0, named=True)
    within = pl.all_horizontal(pl.lit(True), *(pl.col(c).is_between(low, high) for c, low, high in space.bounds))
    energy, latency = now["energy_per_output_token_j"], now["latency_s"]
    rows = results[1:].select(
        pl.Series("lever", [lever for lever, _, _ in moved], dtype=pl.String),
        pl.Series("change", [words for _, words, _ in moved], dtype=pl.String),
        (energy - pl.col("energy_per_output_token_j")).alias("saved_j"),
        (1.0 - pl.col("energy_per_output_token_j") / energy).alias("saved_share"),
        (pl.col("latency_s") / latency - 1.0).alias("latency_share"),
        within.alias("keeps"),
        "extrapolated",
        "feasible",
    )
    return (
        rows.filter(pl.col("feasible") & (pl.col("saved_share").abs() > 1e-9))
        .drop("feasible")
        .sort("saved_j", descending=True)
    )


def _alternatives(plan: Plan, row: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return single changes: lever, words, columns."""
    alternatives: list[tuple[str, str, dict[str, Any]]] = []
    model, gpu = plan.described("models", row["model"]), plan.described("gpus", row["gpu"])
    routed = any(rank["active"] for rank in model["ranks"].values())
    for axis, top in (("tp", _MOST_TP), ("pp", 16), ("ep", 64), ("batch", _LARGEST_BATCH)):
        now = int(row[axis])
        if axis == "ep" and not routed:
            continue
        for other in {max(1, now // 2), now * 2} - {now}:
            if other <= top:
                alternatives.append((axis, f"{axis} {other:,}", {axis: other}))
    for axis, what in (("weight_dtype", "weights"), ("kv_dtype", "KV")):
        default = model["dtypes"].get({"weights": "weights", "KV": "cache"}[what], "bf16")
        if row[axis] is None and default in _WIDE:
            alternatives.append((axis, f"fp8 {what}", {axis: "fp8"}))
        elif row[axis] is not None:
            alternatives.append((axis, f"{default} {what}", {axis: None}))
    if gpu.get("clock") and row.get("sm_clock_mhz") is None:
        for share in _CLOCKS:
            mhz = round(gpu["clock"]["max_mhz"] * share / 15) * 15
            alternatives.append(("sm_clock_mhz", f"SM clock {mhz:,} MHz", {"sm_clock_mhz": mhz}))
    elif row.get("sm_clock_mhz") is not None:
        alternatives.append(("sm_clock_mhz", "no locked clock", {"sm_clock_mhz": None}))
    if row.get("power_cap_w") is not None:
        alternatives.append(("power_cap_w", "no cap", {"power_cap_w": None}))
    else:
        watts = round(_CAP * gpu["power"]["tdp_w"])
        alternatives.append(("power_cap_w", f"cap {watts:,} W", {"power_cap_w": watts}))
    if row["gpus"] > 1:
        if row.get("overlap_stages") is None:
            alternatives.append(("overlap", "overlap 4 x 16 SMs", dict(_STAGES)))
        for axis, what in (("sequence_parallel", "sequence parallel"), ("fused_norm", "fused norms")):
            on = bool(row.get(axis, False))
            alternatives.append((axis, f"no {what}" if on else what, {axis: not on}))
    alternatives += [("gpu", f"on {name}", {"gpu": name}) for name in plan.gpu_names if name != row["gpu"]]
    return alternatives
