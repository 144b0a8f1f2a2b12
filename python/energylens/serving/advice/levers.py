"""What to change first: the joules that each single change of a deployment would save, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from energylens import _core
from energylens.common.errors import Problem, SpaceError
from energylens.engine.space import Limit
from energylens.inputs.batching import BATCHING
from energylens.inputs.builder import Model
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.plan import LoadedGpu, LoadedModel
from energylens.results.prediction import engine_problem
from energylens.serving.caps import binds
from energylens.serving.checks import checked_rate
from energylens.serving.deployments import deployments, replicated, service_limits
from energylens.serving.evaluate import states
from energylens.serving.fixed_concurrency import UNMEASURED, Z_80
from energylens.serving.fronts import within
from energylens.serving.intervals import with_intervals
from energylens.serving.judge import judged_by_replay
from energylens.serving.notes import traffic_notes
from energylens.serving.workload import Workload, load_workload

_MOST_TP = 16


@dataclass(frozen=True)
class Levers:
    """Single changes of a deployment, the largest saving first.

    `frame`: `lever`, `change` (in words), `saved_j` per output token with its 80 % interval `saved_lo_j`, `saved_hi_j`,
    `saved_share`, `keeps` (whether the limits are kept), and the columns of `serve`. `now` is the deployment as it is,
    `notes` say how traffic was read.
    """

    frame: pl.DataFrame
    now: dict[str, Any]
    limits: Sequence[Limit]
    notes: Sequence[str] = ()


def advise_levers(
    model: str | Path | Model | LoadedModel,
    workload: str | Path | Workload,
    *,
    gpu: str | Path | LoadedGpu = "h100-sxm",
    rate_per_s: float | None = None,
    limits: Sequence[str] = (),
    other_gpus: Sequence[str | Path | LoadedGpu] = (),
    threads: int | None = None,
    **deployment: Any,
) -> Levers:
    """Return what each single change of a deployment would save, in joules per output token.

    Parameters
    ----------
    model
        Bundled name, path, or loaded spec.
    workload
        What `load_workload` takes.
    gpu
        GPU of the deployment as it is.
    rate_per_s
        Requests a second of all replicas together; the workload's default, if None.
    limits
        Texts such as `tpot<=50ms`; changes that exceed one are marked, not dropped.
    other_gpus
        GPUs to compare with.
    threads
        Threads of the core; all CPUs of the process, if None.
    **deployment
        Columns of the deployment as it is: `tp`, `replicas`, `token_budget`, ...

    Returns
    -------
    Levers
        `frame` has a row a change, the largest saving first: tensor parallelism halved or doubled and other GPUs (with
        as many replicas as the load then needs), replicas one less or more, weights and cache in fp8, locked clocks,
        step budgets, prefix cache, whole prompts, n-gram speculation.

    Raises
    ------
    SpecError, FrameError
        With every problem of specs, workload and rate.
    SpaceError
        With every problem of the columns, or if the deployment cannot serve the load.

    Examples
    --------
    >>> levers = advise_levers("llama-3.1-8b", "1024:256", rate_per_s=2.0)
    >>> levers.frame["saved_j"].is_sorted(descending=True)
    True

    Notes
    -----
    Errors of a cause of joules are taken to be the same before and after on one GPU, so that the 80 % interval of a
    saving is `1.28·√(Σ (σ_c·ΔE_c)² + σ²·ΔE²)`; between GPUs they are independent; a number format that only one side
    has adds its error.
    """
    loaded, profile, workload = load_model(model), load_gpu(gpu), load_workload(workload)
    others = [load_gpu(other) for other in other_gpus]
    gpus = [profile, *(other for other in others if other.spec.name != profile.spec.name)]
    rate = checked_rate(workload, rate_per_s)
    bounds = service_limits(limits)
    options: dict[str, Any] = {"models": [loaded], "gpus": gpus, "threads": threads}
    base = _single_deployment(loaded, profile, deployment)
    row = base.row(0, named=True)
    changes = _changes(row, profile, gpus, loaded, bool(workload.prefix_hits))
    variants = pl.concat(
        [_changed(base, {}), *(_changed(base, change) for _, _, change in changes)], how="diagonal_relaxed"
    ).with_row_index("lever_row")
    unsized = variants.filter(pl.col("replicas").is_null())
    parts = [variants.filter(pl.col("replicas").is_not_null())]
    if unsized.height:
        parts += [_sized(group, workload, rate, bounds, options) for group in unsized.partition_by("lever_row")]
    sized = pl.concat(parts, how="diagonal_relaxed").sort("lever_row")
    order = sized["lever_row"].to_list()
    served, step_w = states(sized.drop("lever_row", "reason", strict=False), workload, rate, **options)
    if not served["feasible"][0]:
        raise SpaceError(_cannot_serve(served, float(step_w[0]), workload, loaded, profile, row, gpus))
    feasible = np.flatnonzero(served["feasible"].to_numpy())
    judged = judged_by_replay(served[feasible].with_columns(pl.Series("lever_row", feasible)), workload, rate, options)
    places, judged = judged["lever_row"].to_numpy(), judged.drop("lever_row")
    if places[0] != 0:
        judged_by_replay(served[:1], workload, rate, options)  # which says why it cannot run as it is
    judged = with_intervals(judged, workload, models=[loaded], gpus=gpus)
    names = [("now", "as it is"), *((lever, words) for lever, words, _ in changes)]
    now = judged.row(0, named=True)
    steady_now = now | {"energy_per_output_token_j": float(served["energy_per_output_token_j"][0])}
    inside = set(within(judged.with_row_index("at"), bounds)["at"].to_list())
    rows = []
    for at, (place, after) in enumerate(zip(places, judged.iter_rows(named=True), strict=True)):
        # What is not replayed is compared with the deployment in steady state, too.
        before = now if after["replayed"] == now["replayed"] else steady_now
        saved = _saved(before, after, loaded, gpus)
        if at > 0 and abs(saved[0]) >= 1e-9 * now["energy_per_output_token_j"]:
            lever, words = names[order[place]]
            rows.append(_lever_row(lever, words, saved, now, after, at in inside))
    frame = pl.DataFrame(rows, infer_schema_length=None) if rows else pl.DataFrame(schema=_EMPTY)
    frame = frame.sort("saved_j", descending=True)
    return Levers(frame, now | {"keeps": 0 in inside}, bounds, tuple(traffic_notes(workload, rate)))


_EMPTY: Final = {
    "lever": pl.String,
    "change": pl.String,
    "saved_j": pl.Float64,
    "saved_share": pl.Float64,
    "keeps": pl.Boolean,
}
"""Columns where no change saves or costs anything."""


def _single_deployment(loaded: LoadedModel, profile: LoadedGpu, deployment: Mapping[str, Any]) -> pl.DataFrame:
    """Return a deployment as a frame of one row; raise `SpaceError` if it is several."""
    defaults = {"tp": 1, "replicas": 1, "token_budget": BATCHING["token_budget"]}
    base = deployments(loaded.spec.name, [profile], defaults | dict(deployment))
    if base["replicas"].null_count():
        raise SpaceError(
            Problem("`replicas` of a deployment are a number", hint="give how many engines run", code="axis-value")
        )
    if base.height != 1:
        raise SpaceError(
            Problem("one deployment is asked about", hint="give one value of each axis", code="axis-value")
        )
    return base


def _cannot_serve(
    served: pl.DataFrame,
    step_w: float,
    workload: Workload,
    loaded: LoadedModel,
    profile: LoadedGpu,
    row: Mapping[str, Any],
    gpus: Sequence[LoadedGpu],
) -> Problem:
    """Return why the deployment as it is, the first row, cannot serve its load."""
    reason = str(served["reason"][0])
    if reason == "power" and np.isfinite(step_w):
        return binds(row["gpu"], float(served["power_cap_w"][0]), step_w, "a step in steady state", gpus)
    if (problem := engine_problem(loaded, profile, row)) is not None:
        return problem
    hint = "give it more replicas, or a lower rate" if reason == "overload" else "`energylens predict` says more"
    return Problem(f"the deployment cannot serve {workload.name} ({reason})", hint=hint, code=reason)


def _lever_row(
    lever: str,
    words: str,
    saved: tuple[float, float, float],
    now: Mapping[str, Any],
    after: Mapping[str, Any],
    keeps: bool,
) -> dict[str, Any]:
    """Return a row of the answer: a change, what it saves, and the deployment after it."""
    if after["replicas"] != now["replicas"] and lever != "replicas":
        words += f", {after['replicas']} engine{'s' if after['replicas'] > 1 else ''}"
    return {
        "lever": lever,
        "change": words,
        "saved_j": saved[0],
        "saved_lo_j": saved[1],
        "saved_hi_j": saved[2],
        "saved_share": saved[0] / now["energy_per_output_token_j"],
        "keeps": keeps,
        **after,
    }


def _changes(
    row: Mapping[str, Any], profile: LoadedGpu, gpus: Sequence[LoadedGpu], loaded: LoadedModel, prefixes: bool
) -> list[tuple[str, str, dict[str, Any]]]:
    """Return single changes: lever, words, columns; replicas None: as many as the load then needs."""
    changes: list[tuple[str, str, dict[str, Any]]] = []
    tp, replicas = int(row["tp"]), int(row["replicas"])
    for other in (tp // 2, tp * 2):
        if 1 <= other <= _MOST_TP:
            changes.append(("tp", f"tp {other}", {"tp": other, "replicas": None}))
    for other in (replicas - 1, replicas + 1):
        if other >= 1:
            changes.append(("replicas", f"{other} engine{'s' if other > 1 else ''}", {"replicas": other}))
    dtypes = loaded.spec.canonical()["dtypes"]
    if row["weight_dtype"] is None and dtypes.get("weights") in {"bf16", "fp16"}:
        changes.append(("weight_dtype", "fp8 weights", {"weight_dtype": "fp8"}))
    if row["kv_dtype"] is None and dtypes.get("cache", "bf16") in {"bf16", "fp16"}:
        changes.append(("kv_dtype", "fp8 KV", {"kv_dtype": "fp8"}))
    clock = profile.spec.clock
    if clock is not None and row.get("sm_clock_mhz") is None:
        for share in (0.9, 0.8, 0.7, 0.6):
            mhz = round(clock.max_mhz * share / 15) * 15
            changes.append(("sm_clock_mhz", f"SM clock {mhz:,} MHz", {"sm_clock_mhz": mhz}))
    budgets = {2048, 8192, 16384} - {int(row["token_budget"])}
    changes += [("token_budget", f"{size:,} tokens a step", {"token_budget": size}) for size in sorted(budgets)]
    changes.append(
        ("chunked", "whole prompts" if row["chunked"] else "prompts in parts", {"chunked": not row["chunked"]})
    )
    if prefixes:
        cache = "no prefix cache" if row["prefix_cache"] else "a prefix cache"
        changes.append(("prefix_cache", cache, {"prefix_cache": not row["prefix_cache"]}))
    if row["draft_tokens"] == 0:
        words = f"3 draft tokens from n-grams, each accepted with {row['acceptance']:g}"
        changes.append(("draft_tokens", words, {"draft_tokens": 3}))
    else:
        changes.append(("draft_tokens", "no speculation", {"draft_tokens": 0}))
    for gpu in gpus[1:]:
        changes.append(("gpu", f"on {gpu.spec.name}", {"gpu": gpu.spec.name, "replicas": None}))
    return changes


def _changed(base: pl.DataFrame, change: Mapping[str, Any]) -> pl.DataFrame:
    kinds = {"sm_clock_mhz": pl.UInt32}
    return base.with_columns(
        pl.lit(value, dtype=base.schema.get(name) or kinds.get(name)).alias(name) for name, value in change.items()
    )


def _sized(
    lever_rows: pl.DataFrame, workload: Workload, rate: float | None, bounds: Sequence[Limit], options: dict[str, Any]
) -> pl.DataFrame:
    """Return a deployment with the fewest replicas that carry the load and, if any do, keep the limits."""
    number = lever_rows["lever_row"][0]
    sized = replicated(lever_rows.drop("lever_row"), workload, rate, options).sort("replicas")
    served = states(sized, workload, rate, **options)[0]
    sized = sized.with_columns(pl.lit(number, dtype=pl.UInt32).alias("lever_row"))
    inside = within(served.with_row_index("at").filter(pl.col("feasible")), bounds)["at"].to_list()
    runs = served.with_row_index("at").filter(pl.col("feasible"))["at"].to_list()
    return sized[[(inside or runs or [0])[0]]]


def _saved(
    now: Mapping[str, Any], then: Mapping[str, Any], loaded: LoadedModel, gpus: Sequence[LoadedGpu]
) -> tuple[float, float, float]:
    """Return the joules per token saved, and the 80 % interval of that."""
    before, after = _causes(now), _causes(then)
    saved = sum(before.values()) - sum(after.values())
    routed = any(rank.active is not None for rank in loaded.spec.ranks.values())
    sides = [_deviations(next(gpu for gpu in gpus if gpu.spec.name == row["gpu"]), routed) for row in (now, then)]
    if now["gpu"] == then["gpu"]:
        causes, common, narrow = sides[0]
        variance = sum((causes[cause] * (before[cause] - after[cause])) ** 2 for cause in _core.CAUSES)
        variance += common**2 * saved**2
        if now["weight_dtype"] != then["weight_dtype"]:
            busy = [
                sum(causes_of.values()) * (1.0 - row["idle_share"]) for causes_of, row in ((before, now), (after, then))
            ]
            variance += (narrow * (busy[0] if now["weight_dtype"] else busy[1])) ** 2
    else:
        variance = 0.0
        for row, (causes, common, narrow) in ((before, sides[0]), (after, sides[1])):
            causes_of = narrow if (now if row is before else then)["weight_dtype"] else 0.0
            variance += sum((causes[cause] * row[cause]) ** 2 for cause in _core.CAUSES)
            variance += (common**2 + causes_of**2) * sum(row.values()) ** 2
    half = Z_80 * float(np.sqrt(variance)) * (2.0 if now["extrapolated"] or then["extrapolated"] else 1.0)
    return saved, saved - half, saved + half


def _causes(row: Mapping[str, Any]) -> dict[str, float]:
    """Return joules per output token by cause; what engines draw while they wait is static."""
    energy = float(row["energy_per_output_token_j"])
    return {cause: energy * float(row[f"share_{cause}"]) for cause in _core.CAUSES}


def _deviations(gpu: LoadedGpu, routed: bool) -> tuple[dict[str, float], float, float]:
    """Return relative deviations of each cause, of all joules, and of narrow formats."""
    uncertainty = gpu.profile.sections.get("uncertainty")
    if not uncertainty:
        return dict(UNMEASURED), 0.2 * (2**0.5 if routed else 1.0), 0.2
    common = np.hypot(float(uncertainty.get("common", 0.0)), float(uncertainty.get("routed", 0.0)) if routed else 0.0)
    return (
        {cause: float(uncertainty[cause]) for cause in _core.CAUSES},
        float(common),
        float(uncertainty.get("narrow", 0.0)),
    )
