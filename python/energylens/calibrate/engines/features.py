"""Measured serving runs as sums of kernels: seconds by class, bytes, FLOPs, of one mean step of each run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens import _core
from energylens.common.errors import EnergylensError, Problem
from energylens.inputs import routing, run_options
from energylens.inputs.crossing import Point
from energylens.inputs.gpu import Energy
from energylens.inputs.library import load_model
from energylens.inputs.plan import LoadedGpu, Plan, core_problems
from energylens.serving.fixed_concurrency import steps

Column = NDArray[np.float64]

INPUTS = (60.0, 120.0, 240.0, 480.0, 960.0)
"""Mean input lengths at which steps are worked out; between them, all sums are interpolated."""

SUMS = (
    "gemm_s", "attention_s", "grouped_gemm_s", "communication_s",
    "weight_bytes", "kv_bytes", "activation_bytes", "compute_j", "padding_j", "link_j",
)  # fmt: skip
_CLASS = {"gemm": "gemm_s", "elementwise": "gemm_s", "attention": "attention_s", "grouped_gemm": "grouped_gemm_s"}


@dataclass(frozen=True)
class Step:
    """Sums of one GPU and step, by name in `SUMS`, one value a run."""

    sums: Mapping[str, Column]

    def __getitem__(self, name: str) -> Column:
        return self.sums[name]


@dataclass(frozen=True)
class Runs:
    """Measured runs of one GPU type, and their steps by input length: with prompts beside the decoding, and without."""

    rows: pl.DataFrame
    mixed: Sequence[Step]
    alone: Sequence[Step]

    def column(self, name: str) -> Column:
        """Return a column of the runs."""
        return self.rows[name].cast(pl.Float64).to_numpy()

    def take(self, keep: NDArray[np.bool_]) -> Runs:
        """Return some of the runs."""
        some = [
            [Step({k: v[keep] for k, v in step.sums.items()}) for step in part] for part in (self.mixed, self.alone)
        ]
        return Runs(self.rows.filter(pl.Series(keep)), *some)


def between(parts: Sequence[Step], input_tokens: Column) -> Step:
    """Return sums at each run's input length, linear between those of `INPUTS`; one part alone is at it already."""
    if len(parts) == 1:
        return parts[0]
    grid = np.array(INPUTS)
    at = np.clip(input_tokens, grid[0], grid[-1])
    right = np.clip(np.searchsorted(grid, at), 1, len(grid) - 1)
    weight = (at - grid[right - 1]) / (grid[right] - grid[right - 1])
    rows = np.arange(len(at))

    def interpolated(name: str) -> Column:
        stacked = np.stack([part[name] for part in parts])
        column: Column = (1 - weight) * stacked[right - 1, rows] + weight * stacked[right, rows]
        return column

    return Step({name: interpolated(name) for name in SUMS})


def runs(rows: pl.DataFrame, gpu: LoadedGpu) -> Runs:
    """Return the runs with the sums that the profile's kernels give; its host and watts play no part.

    Where `rows` have a column `input_tokens`, only these lengths are worked out; where they have one `routing`, tokens
    choose experts by that law.
    """
    bare = _without_host(gpu)
    energy = bare.spec.energy
    if energy is None:
        raise ValueError("a profile without prices of bytes and FLOPs cannot be calibrated on serving runs")
    plans: dict[str, Plan] = {}
    laws = routing.laws(rows["routing"].to_list()) if "routing" in rows.columns else []
    mixed: list[Step] = []
    alone: list[Step] = []
    has_prompt_tokens = "input_tokens" in rows.columns
    for tokens in (None,) if has_prompt_tokens else INPUTS:
        lengths = rows if tokens is None else rows.with_columns(pl.lit(tokens).alias("input_tokens"))
        _, together, context = steps(lengths)
        batch = lengths["batch"].cast(pl.Float64).to_numpy()
        inputs, outputs = (lengths[name].cast(pl.Float64).to_numpy() for name in ("input_tokens", "output_tokens"))
        plain = inputs + outputs / 2
        for sequences, length, into in ((together, context, mixed), (batch, plain, alone)):
            sums = [
                _sums(_plan(plans, row["model"], bare, laws), row, float(n), float(t), energy)
                for row, n, t in zip(lengths.iter_rows(named=True), sequences, length, strict=True)
            ]
            into.append(Step({name: np.array([sums_of_step[name] for sums_of_step in sums]) for name in SUMS}))
    return Runs(rows, mixed, alone)


def _without_host(gpu: LoadedGpu) -> LoadedGpu:
    spec = gpu.spec
    host = spec.host.model_copy(update={"host_s": 0.0, "sequence_s": 0.0, "stretch": None}) if spec.host else None
    energy = (
        spec.energy.model_copy(update={"active_w": 0.0, "communication_w": 0.0, "sequence_j": 0.0})
        if spec.energy
        else None
    )
    return LoadedGpu(spec.model_copy(update={"host": host, "energy": energy}), gpu.document)


def _plan(plans: dict[str, Plan], model: str, gpu: LoadedGpu, laws: Sequence[str]) -> Plan:
    if model not in plans:
        plans[model] = Plan([load_model(model)], [gpu], routings=laws)
    return plans[model]


def _sums(plan: Plan, row: dict[str, Any], sequences: float, context: float, energy: Energy) -> dict[str, float]:
    degrees = [int(str(row[name])) for name in ("tp", "dp", "ep")]
    tp, dp, ep = degrees
    try:
        explained = plan.core.explain_point(
            Point(
                weight_dtype=row["weight_dtype"],
                kv_dtype=row.get("kv_dtype"),
                tp=tp,
                dp=dp,
                ep=ep,
                run_options=run_options.for_core({"routing": row.get("routing")}, plan.routings),
                batch=max(1.0, round(sequences)),
                prompt_tokens=max(1.0, round(context - 1)),
                output_tokens=2.0,
            )
        )
    except _core.PlanError as error:
        mesh = ", ".join(f"{name} {row[name]}" for name in ("tp", "dp", "ep"))
        problem = core_problems(error)[0]
        raise EnergylensError(
            Problem(f"{row['model']} with {mesh}: {problem.message}", hint=problem.hint, code=problem.code)
        ) from None
    sums = dict.fromkeys(SUMS, 0.0)
    for kernel in json.loads(explained):
        if kernel["phase"] != "decode" or kernel["class"] == "step":
            continue
        times = kernel["runs"]
        sums[_CLASS[kernel["class"]]] += times * kernel["kernel_s"]
        sums["communication_s"] += times * kernel["communication_s"]
        sums["weight_bytes"] += times * kernel["hbm_weights_j"] / energy.hbm_weight_j_per_byte
        sums["kv_bytes"] += times * kernel["hbm_kv_j"] / energy.hbm_kv_j_per_byte
        sums["activation_bytes"] += times * kernel["hbm_activations_j"] / energy.hbm_activation_j_per_byte
        sums["padding_j"] += times * kernel["padding_j"]
        sums["compute_j"] += times * (kernel["compute_j"] - kernel["padding_j"])
        sums["link_j"] += times * kernel["link_j"]
    return sums
