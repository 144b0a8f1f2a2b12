"""Checks of deployments, as rows of a frame, and of arrival rates."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from energylens.common.errors import FrameError, Problem, did_you_mean
from energylens.inputs.axis_values import FORMS
from energylens.inputs.batching import BATCHING
from energylens.inputs.columns import Form, Words, convert
from energylens.serving.step_table import ENGINE
from energylens.serving.workload import Workload

_LEAST_RATE, _MOST_RATE = 1e-4, 1e6

MOST_REPLICAS: Final = 10_000
"""Engines of one deployment."""

_TYPED: Final[dict[str, Form]] = {name: FORMS[name] for name in ENGINE if name in FORMS} | {"draft": Words(null=True)}


_ODD: Final = (pl.Categorical, pl.Enum, pl.Decimal, pl.Int128)
"""Types of columns that are converted; others are taken as they are."""


def checked(points: pl.DataFrame) -> pl.DataFrame:
    """Return deployments with all their columns; raise `FrameError` with every problem."""
    if not isinstance(points, pl.DataFrame):
        fault = f"deployments come as a Polars frame, not a {type(points).__name__}"
        raise FrameError(Problem(fault, hint="wrap it: pl.DataFrame(...)", code="frame"))
    problems = [
        Problem(f"unknown column `{name}`", hint=did_you_mean(name, [*ENGINE, *BATCHING]), code="unknown-column")
        for name in points.columns
        if name not in ENGINE and name not in BATCHING
    ]
    problems += [
        Problem(f"missing column `{name}`", hint="`model` and `gpu` have no default", code="missing-column")
        for name in ("model", "gpu")
        if name not in points.columns
    ]
    problems += [
        Problem(f"column `{name}` should hold true or false, found {points[name].dtype}", code="column-type")
        for name in ("chunked", "prefix_cache")
        if name in points.columns and points[name].dtype != pl.Boolean
    ]
    for name in (name for name in points.columns if name in _TYPED):
        column, faults = convert(points[name], _TYPED[name])
        problems += faults
        if not faults and points[name].dtype in _ODD:
            points = points.with_columns(column)
    if not points.height:
        problems.append(Problem("the frame has no rows", hint="give at least one deployment", code="no-rows"))
    if problems:
        raise FrameError(problems)
    frame = points.with_columns(
        pl.lit(default, dtype=pl.String if default is None else None).alias(name)
        for name, default in BATCHING.items()
        if name not in points.columns
    ).with_columns(
        pl.lit(1, dtype=pl.UInt32).alias(name) for name in ("tp", "pp", "dp", "ep") if name not in points.columns
    )
    for name, least, most in (
        ("max_num_seqs", 1, 1_000_000),
        ("token_budget", 1, 10_000_000),
        ("draft_tokens", 0, 64),
        ("acceptance", 0, 1),
        ("replicas", 1, MOST_REPLICAS),
    ):
        column = frame[name]
        fits = column.is_between(least, most).fill_null(False) if column.dtype.is_numeric() else None
        if fits is None or not fits.all():
            row = 0 if fits is None else int((~fits).arg_max() or 0)
            fault = f"column `{name}` should hold numbers from {least} to {most:,}, found `{str(column[row])[:60]}`"
            problems.append(Problem(fault, where=f"row {row + 1}", code="column-value"))
    if problems:
        raise FrameError(problems)
    return frame


def checked_rate(workload: Workload, rate_per_s: float | None, needed: bool = False) -> float | None:
    """Return requests a second: `rate_per_s`, else the workload's default; raise `FrameError` if that is no rate."""
    rate = workload.rate_per_s if rate_per_s is None else rate_per_s
    if rate is None and needed:
        fault = f"workload `{workload.name}` has no rate of arrival"
        if workload.requests is not None and workload.requests["arrival_s"].null_count() == 0:
            fault = f"requests of `{workload.name}` all arrive at one moment: it has no rate"
        raise FrameError(Problem(fault, hint="give requests a second: --rate 5", code="rate"))
    number = isinstance(rate, (int, float, np.number)) and not isinstance(rate, bool)
    if rate is not None and not (number and _LEAST_RATE <= rate <= _MOST_RATE):
        hint = f"give requests a second, from {_LEAST_RATE:g} to {_MOST_RATE:,.0f}"
        shown = f"{float(rate):g}" if number else f"`{str(rate)[:60]}`"
        raise FrameError(Problem(f"{shown} is no rate of arrival", hint=hint, code="rate"))
    return None if rate is None else float(rate)
