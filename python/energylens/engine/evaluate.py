"""A frame of points in, the same frame with results out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from energylens import _core
from energylens.common.errors import EnergylensError, FrameError, Problem, did_you_mean
from energylens.common.memory import require_bytes
from energylens.common.process import check_process
from energylens.common.show import shown
from energylens.common.units import POINT_DEFAULTS, RESULTS
from energylens.engine.frame import results
from energylens.inputs import routing, run_options
from energylens.inputs.axis_lists import listed
from energylens.inputs.builder import Model
from energylens.inputs.columns import Form, Whole, Words, convert
from energylens.inputs.crossing import PointColumns
from energylens.inputs.library import load_gpu, load_model, resolved
from energylens.inputs.plan import LARGEST, MAX_BATCHED_TOKENS, LoadedGpu, LoadedModel, Plan, distinct

_CODES = ("tp", "pp", "dp", "ep")
_SIZES = ("batch", "prompt_tokens", "output_tokens")
_NAMES = ("model", "gpu", "weight_dtype", "kv_dtype")
_REQUIRED = ("model", "gpu")
_MOST_THREADS = 1024
_KNOWN = (*POINT_DEFAULTS, *run_options.RUNNING)
_TYPES: dict[str, Any] = (
    dict.fromkeys(_NAMES, pl.String)
    | dict.fromkeys(_CODES, pl.UInt32)
    | dict.fromkeys(_SIZES, pl.Float64)
    | {name: run_options.typed(name) for name in run_options.RUNNING}
)
_BYTES_A_ROW = 128
_BYTES_A_VALUE = 16
"""Of a row for its axes, and of a result for the core's array and Polars' column."""


def _format(column: str) -> Words:
    """Return what a column of number formats may hold."""

    def check(name: str) -> Problem | None:
        if name in _core.DTYPES:
            return None
        message = f"unknown data type `{shown(name)}` in column `{column}`"
        return Problem(message, hint=did_you_mean(name, _core.DTYPES), code="unknown-dtype")

    return Words(check, null=True)


POINT_FORMS: Final[dict[str, Form]] = (
    dict.fromkeys(_REQUIRED, Words())
    | {name: _format(name) for name in ("weight_dtype", "kv_dtype")}
    | dict.fromkeys(_CODES, Whole(1, 1024))
    | dict.fromkeys(_SIZES, Whole(1, LARGEST))
    | run_options.FORMS
)
"""What each column of a point may hold."""

_RESULT_NAMES = frozenset({*_core.COLUMNS, "feasible", "reason"})


def default_threads() -> int:
    """Return the number of threads used when none is given: the CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checked_threads(threads: int | None) -> int:
    """Return the number of threads to use; raise `EnergylensError` if it is not between 1 and 1,024."""
    check_process()
    if threads is None:
        return default_threads()
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= _MOST_THREADS:
        hint = "leave it out to use all CPUs"
        raise EnergylensError(
            Problem(f"threads should be 1 to {_MOST_THREADS:,}, found {shown(threads)}", hint=hint, code="threads")
        )
    return threads


def evaluate(
    frame: pl.DataFrame | pl.LazyFrame,
    *,
    models: Sequence[str | Path | Model | LoadedModel] = (),
    gpus: Sequence[str | Path | LoadedGpu] = (),
    carry: Iterable[str] = (),
    breakdown: bool = False,
    max_batched_tokens: int = MAX_BATCHED_TOKENS,
    threads: int | None = None,
) -> pl.DataFrame:
    """Return the points of `frame` with their results, in the same order.

    Columns of a point: `model, gpu` (names), and with defaults `tp, pp, dp, ep` (1), `batch` (1), `prompt_tokens`
    (1024), `output_tokens` (256), `weight_dtype`, `kv_dtype` (null: the spec's own), and
    those of `energylens.inputs.run_options`:
    `cp`, `overlap_stages`, `overlap_sms`, `overlap_where`, `sequence_parallel`, `fused_norm`, `sm_clock_mhz`,
    `power_cap_w` (docs/physics.md, section 11). `models` and `gpus` add specs of
    your own to the bundled names; `carry` names columns passed through; `breakdown` adds joules by phase and cause.
    A prefill pass takes at most `max_batched_tokens` prompt tokens.

    Results, for a batch of requests that start together: `ttft_s` (until the last prompt of the batch is read),
    `tpot_s` (a decode step at mean context), `latency_s = ttft_s + (output_tokens - 1)·tpot_s`, `energy_j` of all GPUs
    and its parts `energy_prefill_j`, `energy_decode_j` (all steps), `energy_decode_step_j` (one step), then
    `energy_per_output_token_j`, `energy_per_request_j`, `power_w_per_gpu`, `output_tokens_per_s` and the same
    `_per_gpu`, `memory_bytes_per_gpu`, `gpus`, `feasible`, `reason`. Results of a point that cannot run are null. The
    bytes of the result do not depend on `threads`. Raises `FrameError` or `SpecError` with every problem found.

    Columns are converted where nothing is lost: whole numbers of any integer, float or decimal type, names as String,
    Categorical or Enum, switches as Boolean or as the texts off, on, false, true; a null is the default. Of any other
    type or value the error says the column, the row and what was there (`energylens.inputs.columns`).
    """
    check_process()
    if isinstance(frame, pl.LazyFrame):
        frame = _collected(frame)
    if not isinstance(frame, pl.DataFrame):
        hint = "wrap it: pl.DataFrame(...)"
        raise FrameError(
            Problem(f"points come as a Polars frame, not a {type(frame).__name__}", hint=hint, code="frame")
        )
    carried = _names_of(carry)
    points = _points(frame, carried)
    own_models = {item.spec.name: item for item in distinct([load_model(model) for model in listed(models)], "model")}
    own_gpus = {item.spec.name: item for item in distinct([load_gpu(gpu) for gpu in listed(gpus)], "GPU")}
    chosen_models, chosen_gpus, points = named(points, own_models, own_gpus)
    laws = routing.laws(points["routing"].unique(maintain_order=True).to_list() if "routing" in points.columns else [])
    plan = Plan(chosen_models, chosen_gpus, max_batched_tokens, laws)
    found = evaluated(plan, points, breakdown, checked_threads(threads))
    return pl.concat([frame.select(carried), found], how="horizontal")


def _collected(frame: pl.LazyFrame) -> pl.DataFrame:
    try:
        return frame.collect()
    except pl.exceptions.PolarsError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise FrameError(Problem(f"the lazy frame cannot be collected: {shown(reason)}", code="frame")) from None


def _names_of(carry: object) -> list[str]:
    names = listed(carry)
    if wrong := [name for name in names if not isinstance(name, str)]:
        hint = 'give names of columns: carry=["run"]'
        raise FrameError(Problem(f"`carry` names columns, found `{shown(wrong[0])}`", hint=hint, code="carry"))
    return [str(name) for name in names]


def named(
    points: pl.DataFrame, own_models: Mapping[str, LoadedModel], own_gpus: Mapping[str, LoadedGpu]
) -> tuple[list[LoadedModel], list[LoadedGpu], pl.DataFrame]:
    """Return the models and GPUs that points name, and the points with the names that they have in results."""
    names = {name: points[name].unique(maintain_order=True).to_list() for name in ("model", "gpu")}
    chosen_models, models = resolved(names["model"], own_models, load_model, "model")
    chosen_gpus, gpus = resolved(names["gpu"], own_gpus, load_gpu, "GPU")
    for column, renamed in (("model", models), ("gpu", gpus)):
        if any(given != name for given, name in renamed.items()):
            points = points.with_columns(pl.col(column).cast(pl.String).replace_strict(renamed))
    return chosen_models, chosen_gpus, points


def typed(points: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return points that have every axis as a frame of the types that `evaluated` takes."""
    return pl.DataFrame(
        [{name: point[name] for name in _KNOWN} for point in points], schema={name: _TYPES[name] for name in _KNOWN}
    )


def evaluated(plan: Plan, points: pl.DataFrame, breakdown: bool, threads: int) -> pl.DataFrame:
    """Return checked points of a plan's models and GPUs with their results."""
    check_process()
    dtypes: list[str | None] = [None, *_core.DTYPES]

    def codes(column: str, names: Sequence[str | None]) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
        known = [name for name in names if name is not None]
        offset = len(names) - len(known)
        if points[column].null_count() == points.height or len(names) == 1:
            return np.zeros(points.height, dtype=np.uint32)
        code = points[column].replace_strict(known, range(offset, len(names)), default=0, return_dtype=pl.UInt32)
        return code.to_numpy()

    wanted = _core.COLUMNS if breakdown else RESULTS
    require_bytes(
        points.height * (_BYTES_A_ROW + _BYTES_A_VALUE * len(wanted)),
        f"{points.height:,} points with {len(wanted)} result columns",
        "evaluate fewer rows at a time",
    )
    options, option = run_options.columns_for_core(points, plan.routings)
    arrays = {name: points[name].to_numpy() for name in (*_CODES, *_SIZES)}
    columns = plan.core.evaluate(
        PointColumns(
            dtypes=dtypes,
            run_options=options,
            run_option=option,
            model=codes("model", plan.model_names),
            gpu=codes("gpu", plan.gpu_names),
            weight_dtype=codes("weight_dtype", dtypes),
            kv_dtype=codes("kv_dtype", dtypes),
            **arrays,
        ),
        wanted,
        threads,
    )
    shown = points.with_columns(pl.col(name).cast(pl.UInt32) for name in _SIZES)
    return pl.concat([shown, results(columns, breakdown)], how="horizontal")


def _points(frame: pl.DataFrame, carried: list[str]) -> pl.DataFrame:
    """Return the columns of points, each of the type that the core takes; raise `FrameError` with every problem."""
    problems: list[Problem] = []
    if frame.height == 0:
        problems.append(Problem("the frame has no rows", hint="give at least one point", code="no-rows"))
    for name in carried:
        if name in _KNOWN or name in _RESULT_NAMES or carried.count(name) > 1:
            problems.append(Problem(f"cannot carry `{name}`: the result has a column of that name", code="carry"))
        elif name not in frame.columns:
            hint = did_you_mean(name, frame.columns)
            problems.append(Problem(f"no column `{name}` to carry", hint=hint, code="carry"))
    for name in frame.columns:
        if name not in _KNOWN and name not in carried:
            hint = did_you_mean(name, _KNOWN) or "pass it in `carry` to keep it"
            problems.append(Problem(f"unknown column `{shown(name)}`", hint=hint, code="unknown-column"))
    problems += [
        Problem(f"missing column `{name}`", hint="`model` and `gpu` have no default", code="missing-column")
        for name in _REQUIRED
        if name not in frame.columns
    ]
    points, faults = point_columns(frame)
    problems += faults
    if problems:
        raise FrameError(problems)
    return points


def point_columns(frame: pl.DataFrame) -> tuple[pl.DataFrame, list[Problem]]:
    """Return the columns of points of a frame, typed as `evaluated` takes them, and what is wrong with them.

    Columns of a point that the frame lacks have their defaults, but for the ways of running, which it may lack; other
    columns are left out. Which types of a column are taken says `energylens.inputs.columns`.
    """
    columns: dict[str, pl.Series] = {}
    problems: list[Problem] = []
    for name in (name for name in _KNOWN if name in frame.columns):
        column, faults = convert(frame[name], POINT_FORMS[name])
        problems += faults
        columns[name] = column
    if problems:
        return frame.clear(), problems
    names = [*POINT_DEFAULTS, *(name for name in run_options.RUNNING if name in columns)]
    points = pl.DataFrame(columns).with_columns(
        pl.lit(default, dtype=_TYPES[name]).alias(name)
        for name, default in POINT_DEFAULTS.items()
        if name not in columns
    )
    return points.select(pl.col(name).cast(_TYPES[name]) for name in names), []
