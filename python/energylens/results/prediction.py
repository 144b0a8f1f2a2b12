"""One configuration: its results, where the joules go, and how far to trust them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from energylens import _core
from energylens.common import views
from energylens.common.errors import InfeasibleError, Problem
from energylens.common.process import check_process
from energylens.engine.evaluate import evaluate
from energylens.engine.result_columns import RESULTS
from energylens.engine.trust import Account, account
from energylens.inputs import routing, run_options
from energylens.inputs.axes import POINT_DEFAULTS
from energylens.inputs.builder import Model
from energylens.inputs.columns import frame_of
from energylens.inputs.crossing import Point
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.plan import MAX_BATCHED_TOKENS, LoadedGpu, LoadedModel, Plan
from energylens.results.breakdown import drawn_w, kernels


@dataclass(frozen=True)
class Prediction:
    """Results of one configuration; `predict` makes it, and printing it shows all of it.

    Parameters
    ----------
    point
        The configuration: the columns of a point.
    values
        Results by column (`energy_per_output_token_j`, `ttft_s`, `tpot_s`, ...), `feasible` and `reason`.
    causes
        Joules of the batch by phase (`prefill`, all steps of `decode`) and cause.
    kernels
        A row for each kernel and phase, of one GPU: seconds, joules, FLOPs and bytes.
    account
        How far the GPU's profile is trusted, and why.
    plan_sha256
        Name of the model and GPU that it was predicted with.
    """

    point: dict[str, Any]
    values: dict[str, Any]
    causes: dict[str, dict[str, float]]
    kernels: pl.DataFrame
    account: Account
    plan_sha256: str

    def answer(self) -> str:
        """Return the one-line answer."""
        return views.answer(self)

    def __str__(self) -> str:
        return views.text(self)

    @property
    def trust(self) -> str:
        """How far the GPU's numbers are trusted."""
        return str(self.account["trust"])

    @property
    def limits(self) -> dict[str, dict[str, float]]:
        """Seconds by phase (one decode step), summed over passes and stages, and what decides them, the most first.

        `compute`, `hbm` and `launch` are seconds of kernels bound by these (`compute` less what a lock does not cost
        where the board limit held the clock anyway), `link` exposed communication, `host` the wait for the host, `cap`
        what a power cap adds.
        """
        limits: dict[str, dict[str, float]] = {}
        for phase in ("prefill", "decode"):
            seconds = dict.fromkeys(("compute", "hbm", "launch", "link", "host", "cap"), 0.0)
            for row in self.kernels.filter(phase=phase).iter_rows(named=True):
                seconds[row["bound"]] += row["runs"] * row["kernel_s"]
                seconds["link"] += row["runs"] * row["communication_s"]
            ordered = sorted(seconds.items(), key=lambda item: -item[1])
            limits[phase] = {name: value for name, value in ordered if value > 0}
        return limits

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, for `--json`."""
        return {
            **self.point,
            **self.values,
            "energy_by_cause_j": self.causes,
            "seconds_by_limit": self.limits,
            "kernels": self.kernels.to_dicts(),
            "trust": self.trust,
            "plan_sha256": self.plan_sha256,
        }


def predict(
    model: str | Path | Model,
    gpu: str | Path = "h100-sxm",
    *,
    max_batched_tokens: int = MAX_BATCHED_TOKENS,
    **point: Any,
) -> Prediction:
    """Return the time and energy of one configuration.

    Parameters
    ----------
    model
        A bundled name, a path to a spec, or a `Model`.
    gpu
        A bundled name, `gpu@framework`, or a path to a profile.
    max_batched_tokens
        Prompt tokens of one prefill pass.
    **point
        The other columns of a point, as in `evaluate`: `tp`, `batch` (sequences that start together),
        `prompt_tokens`, `output_tokens`, `weight_dtype`, `sm_clock_mhz`, ...

    Returns
    -------
    Prediction
        Results, joules by cause, kernels.

    Raises
    ------
    InfeasibleError
        If it cannot run, say for lack of memory; with what would help.
    SpecError, FrameError
        If the model, the GPU or a field is faulty; with every problem.

    Examples
    --------
    >>> prediction = predict("llama-3.1-8b", "h100-sxm", batch=8)
    >>> prediction.values["gpus"], prediction.values["feasible"]
    (1, True)

    Notes
    -----
    `latency_s = ttft_s + (output_tokens - 1) * tpot_s`; docs/physics.md has the equations behind both.
    """
    check_process()
    loaded_model, loaded_gpu = load_model(model), load_gpu(gpu)
    row = {"model": loaded_model.spec.name, "gpu": loaded_gpu.spec.name} | point
    frame = frame_of(row)

    def values_of(points: pl.DataFrame) -> dict[str, Any]:
        options: dict[str, Any] = {"max_batched_tokens": max_batched_tokens, "breakdown": True, "threads": 1}
        return evaluate(points, models=[loaded_model], gpus=[loaded_gpu], **options).row(0, named=True)

    columns = values_of(frame)
    plan = Plan([loaded_model], [loaded_gpu], max_batched_tokens, routing.laws([columns.get("routing")]))
    chosen = {name: columns[name] for name in (*POINT_DEFAULTS, *run_options.RUNNING) if name in columns}
    if not columns["feasible"]:
        raise InfeasibleError(why_not(plan, columns))
    causes = {
        phase: {cause: columns[f"energy_{phase}_{cause}_j"] for cause in _core.CAUSES}
        for phase in ("prefill", "decode")
    }
    values = {name: columns[name] for name in (*RESULTS, "feasible", "reason")}
    return Prediction(chosen, values, causes, kernels(plan, columns), account(loaded_gpu), plan.sha256)


def engine_problem(model: LoadedModel, gpu: LoadedGpu, engine: Mapping[str, Any]) -> Problem | None:
    """Return why an engine cannot be split or run as its columns say, whatever its load; None if it can.

    Parameters
    ----------
    model, gpu
        What it serves, and on what.
    engine
        Columns of `evaluate`; those left out have their defaults, others do not matter.
    """
    columns: dict[str, Any] = (
        POINT_DEFAULTS | run_options.RUNNING | dict(engine) | {"model": model.spec.name, "gpu": gpu.spec.name}
    )
    plan = Plan([model], [gpu], MAX_BATCHED_TOKENS, routing.laws([columns["routing"]]))
    degrees = {name: columns[name] for name in ("tp", "pp", "dp", "ep")}
    infeasible = plan.core.why_not(Point(**degrees, run_options=run_options.for_core(columns, plan.routings)))
    return None if infeasible is None else why_not(plan, columns | {"reason": infeasible.reason})


def why_not(plan: Plan, row: dict[str, Any]) -> Problem:
    """Return why the only point of a plan of one model and GPU cannot run, and what would help."""
    match row["reason"]:
        case "memory":
            capacity = plan.gpus[0].spec.memory.capacity_bytes
            least = {"batch": row["dp"], "prompt_tokens": 1, "output_tokens": 1}
            names = [*POINT_DEFAULTS, *(name for name in run_options.RUNNING if name in row)]
            smallest = pl.DataFrame([{name: row[name] for name in names} | least], infer_schema_length=1)
            settings: dict[str, Any] = {"models": plan.models, "gpus": plan.gpus, "threads": 1}
            fits_without_load = evaluate(smallest, **settings)["feasible"][0]
            need = row["memory_bytes_per_gpu"]
            message = f"{row['model']} needs {need / 1e9:.1f} GB on each GPU, {row['gpu']} has {capacity / 1e9:.1f} GB"
            if fits_without_load:
                hint = "use a smaller batch, a narrower kv_dtype or weight_dtype, or more GPUs (tp, pp)"
            else:
                hint = "the weights alone do not fit: use more GPUs (tp, pp) or a narrower weight_dtype"
            return Problem(message, hint=hint, code="memory")
        case "batch":
            message = f"batch {row['batch']} is below dp {row['dp']}: some data-parallel ranks would have no sequence"
            return Problem(message, hint=f"use a batch of at least {row['dp']}", code="batch")
        case "overflow":
            message = f"{row['model']} on {row['gpu']} has seconds or joules beyond what can be calculated with"
            hint = "a profile has numbers of the wrong size: `energylens gpus NAME` prints them all"
            return Problem(message, hint=hint, code="overflow")
        case reason:
            infeasible = plan.core.why_not(plan.point(row))
            if infeasible is None and reason == "power":
                return _cap_binds(plan, row)
            if infeasible is None:
                return Problem(f"this configuration cannot run ({reason})", code=str(reason))
            message, hint, rank = infeasible.message, infeasible.hint, infeasible.rank
            if message.startswith("fused norm,") and row.get("sequence_parallel"):
                message = (
                    "`fused_norm` and `sequence_parallel` exclude each other: sequence parallelism leaves no "
                    "all-reduce that a norm could be fused into"
                )
                hint = "leave one of them out"
            document = plan.models[0].document
            place = document.place(["ranks", rank, "extent"]) if document and rank else None
            return Problem(message, place, hint or None, str(reason))


def _cap_binds(plan: Plan, row: dict[str, Any]) -> Problem:
    """Return that a cap binds on a GPU of which nobody knows what it would do, and the lowest cap that does not."""
    watts = drawn_w(plan, row)
    phase = max(watts, key=lambda name: watts[name])
    tdp_w = plan.gpus[0].profile.tdp_w
    lowest = min(math.ceil(watts[phase] * (1 - 1e-9)), math.floor(tdp_w))
    message = (
        f"a power cap of {row['power_cap_w']} W binds: {row['gpu']} would draw {watts[phase]:.1f} W in {phase}, "
        "and its profile has no table of clocks that says how far it slows down"
    )
    hint = f"a cap of {lowest} W or more does not bind here"
    return Problem(message, hint=hint, code="power")
