"""What a configuration's joules and seconds are made of: kernels, and operations with their share of everything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from energylens import _core
from energylens.common.errors import EnergylensError
from energylens.inputs.plan import Plan, core_problems

PHASES: Final = ("prefill", "decode")

_DYNAMIC: Final = {
    "compute": "compute_j",
    "hbm_weights": "hbm_weights_j",
    "hbm_kv": "hbm_kv_j",
    "hbm_activations": "hbm_activations_j",
    "communication": "link_j",
}
"""Causes that belong to kernels, with the column of `kernels` that has them."""


def kernels(plan: Plan, point: Mapping[str, Any]) -> pl.DataFrame:
    """Return the kernels of a configuration of a plan, one row each and phase: of one GPU, one pass and one run.

    `point` has the columns of `evaluate`. Columns: `phase, block, kernel, class, runs, kernel_s, communication_s,
    flops, hbm_bytes, peak_flops_per_s`, joules by cause, `bound`, `collectives`.
    """
    try:
        explained = plan.core.explain_point(plan.point(point))
    except _core.PlanError as error:
        raise EnergylensError(core_problems(error)) from None
    return pl.DataFrame(json.loads(explained))


def drawn_w(plan: Plan, point: Mapping[str, Any]) -> dict[str, float]:
    """Return the watts of the stage that draws the most, by phase, of a point under a cap on a GPU without clocks.

    Parameters
    ----------
    plan : Plan
        The plan of the point.
    point : Mapping
        The columns of `evaluate`, with `power_cap_w`.

    Returns
    -------
    dict
        Watts of `prefill` and of `decode`, at most the limit of the board: a cap of as many changes nothing.
    """
    return dict(zip(("prefill", "decode"), plan.core.drawn_w(plan.point(point)), strict=True))


def operations(plan: Plan, row: Mapping[str, Any]) -> pl.DataFrame:
    """Return the operations of a row of results with their joules per output token, all GPUs together, and their roofs.

    Columns: `phase`, `operation`, `class`, `seconds` (of one pass), `energy_per_output_token_j`, `flops`, `hbm_bytes`
    and `peak_flops_per_s` (of one run), `run_s`. Joules of a cause are shared out as kernels have them, static and
    waiting ones by time, so that all add up to the row's.
    """
    by_kernel = kernels(plan, row).with_columns(
        (pl.col("runs") * (pl.col("kernel_s") + pl.col("communication_s"))).alias("seconds"),
        pl.when(pl.col("block") == "step")
        .then(pl.col("kernel"))
        .otherwise(pl.col("block") + "." + pl.col("kernel"))
        .alias("operation"),
    )
    tokens = float(row["batch"]) * float(row["output_tokens"])
    parts = []
    for phase in PHASES:
        of_phase = by_kernel.filter(phase=phase)
        joules = pl.lit(0.0)
        for cause in _core.CAUSES:
            total = float(row[f"energy_{phase}_{cause}_j"]) / tokens
            weight = pl.col("runs") * pl.col(_DYNAMIC[cause]) if cause in _DYNAMIC else pl.col("seconds")
            if (whole := float(of_phase.select(weight.sum()).item())) <= 0.0:
                weight, whole = pl.col("seconds"), float(of_phase["seconds"].sum())
            joules = joules + weight * (total / whole if whole > 0.0 else 0.0)
        parts.append(
            of_phase.with_columns(joules.alias("energy_per_output_token_j"), pl.col("kernel_s").alias("run_s"))
        )
    columns = ("phase", "operation", "class", "seconds", "energy_per_output_token_j")
    return pl.concat(parts).select(*columns, "flops", "hbm_bytes", "peak_flops_per_s", "run_s")


def causes(row: Mapping[str, Any]) -> pl.DataFrame:
    """Return joules per output token by phase and cause; rows of a service have one phase, `both`.

    Pairs of prefill and decode have these and `transfer` for causes.
    """
    if f"energy_prefill_{_core.CAUSES[0]}_j" in row:
        tokens = float(row["batch"]) * float(row["output_tokens"])
        joules = [
            (phase, cause, float(row[f"energy_{phase}_{cause}_j"]) / tokens)
            for phase in PHASES
            for cause in _core.CAUSES
        ]
    elif "energy_transfer_per_request_j" in row:
        each = float(row["energy_per_output_token_j"]) / float(row["energy_per_request_j"])
        parts = (*PHASES, "transfer")
        joules = [("both", part, float(row[f"energy_{part}_per_request_j"]) * each) for part in parts]
    else:
        whole = float(row["energy_per_output_token_j"])
        joules = [("both", cause, whole * float(row[f"share_{cause}"])) for cause in _core.CAUSES]
    return pl.DataFrame(joules, schema=["phase", "cause", "energy_per_output_token_j"], orient="row")
