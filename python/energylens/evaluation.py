"""A frame of points in, the same frame with results out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from energylens import _core, routing, running
from energylens.builder import Model
from energylens.errors import EnergylensError, FrameError, Problem, did_you_mean
from energylens.frame import results
from energylens.library import load_gpu, load_model, resolved
from energylens.plan import LARGEST, MAX_BATCHED_TOKENS, LoadedGpu, LoadedModel, Plan, distinct
from energylens.space import listed
from energylens.units import POINT_DEFAULTS, RESULTS

_CODES = ("tp", "pp", "dp", "ep")
_SIZES = ("batch", "prompt_tokens", "output_tokens")
_NAMES = ("model", "gpu", "weight_dtype", "kv_dtype")
_REQUIRED = ("model", "gpu")
_MOST_THREADS = 1024
_KNOWN = (*POINT_DEFAULTS, *running.RUNNING)
_TYPES: dict[str, Any] = (
    dict.fromkeys(_NAMES, pl.String)
    | dict.fromkeys(_CODES, pl.UInt32)
    | dict.fromkeys(_SIZES, pl.Float64)
    | {name: running.typed(name) for name in running.RUNNING}
)
_RESULT_NAMES = frozenset({*_core.COLUMNS, "feasible", "reason"})


def default_threads() -> int:
    """Return the number of threads used when none is given: the CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checked_threads(threads: int | None) -> int:
    """Return the number of threads to use; raise `EnergylensError` if it is not between 1 and 1,024."""
    if threads is None:
        return default_threads()
    if not isinstance(threads, int) or not 1 <= threads <= _MOST_THREADS:
        hint = "leave it out to use all CPUs"
        raise EnergylensError(
            Problem(f"threads should be 1 to {_MOST_THREADS:,}, found {threads}", hint=hint, code="threads")
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
    (1024), `output_tokens` (256), `weight_dtype`, `kv_dtype` (null: the spec's own), and those of `energylens.running`:
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
    """
    frame = frame.collect() if isinstance(frame, pl.LazyFrame) else frame
    if not isinstance(frame, pl.DataFrame):
        hint = "wrap it: pl.DataFrame(...)"
        raise FrameError(
            Problem(f"points come as a Polars frame, not a {type(frame).__name__}", hint=hint, code="frame")
        )
    carried = [carry] if isinstance(carry, str) else list(carry)
    points = _points(frame, carried)
    own_models = {item.spec.name: item for item in distinct([load_model(model) for model in listed(models)], "model")}
    own_gpus = {item.spec.name: item for item in distinct([load_gpu(gpu) for gpu in listed(gpus)], "GPU")}
    chosen_models, chosen_gpus, points = named(points, own_models, own_gpus)
    laws = routing.laws(points["routing"].unique(maintain_order=True).to_list() if "routing" in points.columns else [])
    plan = Plan(chosen_models, chosen_gpus, max_batched_tokens, laws)
    found = evaluated(plan, points, breakdown, checked_threads(threads))
    return pl.concat([frame.select(carried), found], how="horizontal")


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
    dtypes: list[str | None] = [None, *_core.DTYPES]

    def codes(column: str, names: Sequence[str | None]) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
        known = [name for name in names if name is not None]
        offset = len(names) - len(known)
        if points[column].null_count() == points.height or len(names) == 1:
            return np.zeros(points.height, dtype=np.uint32)
        code = points[column].replace_strict(known, range(offset, len(names)), default=0, return_dtype=pl.UInt32)
        return code.to_numpy()

    ways, way = running.ways(points, plan.routings)
    columns = plan.core.evaluate(
        dtypes,
        codes("model", plan.model_names),
        codes("gpu", plan.gpu_names),
        codes("weight_dtype", dtypes),
        codes("kv_dtype", dtypes),
        points["tp"].to_numpy(),
        points["pp"].to_numpy(),
        points["dp"].to_numpy(),
        points["ep"].to_numpy(),
        ways,
        way,
        points["batch"].to_numpy(),
        points["prompt_tokens"].to_numpy(),
        points["output_tokens"].to_numpy(),
        _core.COLUMNS if breakdown else RESULTS,
        threads,
    )
    shown = points.with_columns(pl.col(name).cast(pl.UInt32) for name in _SIZES)
    return pl.concat([shown, results(columns, breakdown)], how="horizontal")


def _points(frame: pl.DataFrame, carried: list[str]) -> pl.DataFrame:
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
            problems.append(Problem(f"unknown column `{name}`", hint=hint, code="unknown-column"))
    problems += [
        Problem(f"missing column `{name}`", hint="`model` and `gpu` have no default", code="missing-column")
        for name in _REQUIRED
        if name not in frame.columns
    ]
    given = [name for name in running.RUNNING if name in frame.columns]
    present = frame.with_columns(
        pl.lit(default, dtype=pl.String if default is None else None).alias(name)
        for name, default in POINT_DEFAULTS.items()
        if name not in frame.columns
    ).select(*POINT_DEFAULTS, *given)
    known = {name: running.RUNNING[name] for name in given if running.RUNNING[name] is not None}
    present = present.with_columns(pl.col(name).fill_null(default) for name, default in known.items())
    for name in _NAMES:
        problems += _bad_names(present, name, frame.columns)
    for name in (*_CODES, *_SIZES):
        problems += _bad_numbers(present, name)
    problems += running.problems(present)
    if problems:
        raise FrameError(problems)
    return present.with_columns(pl.col(name).cast(_TYPES[name]) for name in present.columns)


def _bad_names(points: pl.DataFrame, name: str, given: Sequence[str]) -> list[Problem]:
    column = points[name]
    if column.dtype not in (pl.String, pl.Null) and not isinstance(column.dtype, (pl.Categorical, pl.Enum)):
        return [Problem(f"column `{name}` should hold names, found {column.dtype}", code="column-type")]
    if name in _REQUIRED and name in given and column.null_count():
        row = int(column.is_null().arg_max() or 0)
        return [Problem(f"column `{name}` is null in row {row}", code="null")]
    if name in _REQUIRED or column.null_count() == len(column):
        return []
    unknown = [value for value in column.cast(pl.String).unique().drop_nulls().to_list() if value not in _core.DTYPES]
    return [
        Problem(f"unknown data type `{v}` in column `{name}`", hint=did_you_mean(v, _core.DTYPES), code="unknown-dtype")
        for v in unknown
    ]


def _bad_numbers(points: pl.DataFrame, name: str) -> list[Problem]:
    column = points[name]
    if not column.dtype.is_numeric():
        return [Problem(f"column `{name}` should hold whole numbers, found {column.dtype}", code="column-type")]
    top = 1024 if name in _CODES else LARGEST
    if column.dtype.is_integer() and len(column) and not column.null_count():
        least, most = column.min(), column.max()
        if isinstance(least, int) and isinstance(most, int) and least >= 1 and most <= top:
            return []
    value = column.cast(pl.Float64)
    bad = ~((value >= 1) & (value <= top) & (value == value.floor())).fill_null(False)
    if not bad.any():
        return []
    row = int(bad.arg_max() or 0)
    found = column[row]
    if len(column) == 1:
        return [Problem(f"`{name}` should be a whole number from 1 to {top:,}, found {found}", code="column-value")]
    message = f"column `{name}` should hold whole numbers from 1 to {top:,}, found {found} in row {row}"
    return [Problem(message, hint=f"{int(bad.sum())} of {len(bad)} rows are wrong", code="column-value")]
