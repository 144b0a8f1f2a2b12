"""Which deployments to keep: within limits, on fronts, cheapest, best of each group."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from energylens.common.errors import Problem, SpaceError, did_you_mean
from energylens.engine.space import Limit
from energylens.inputs import run_options

_EACH_GROUP = 4
"""Deployments of each group that are replayed, of least joules in steady state."""

_MOST_GROUPS = 64
"""Groups of which the best is answered: each has its deployments replayed."""


def within(frame: pl.DataFrame, bounds: Sequence[Limit], slack: float = 1.0) -> pl.DataFrame:
    """Return the deployments that keep the limits on columns that they have, those of times by a factor."""
    for limit in bounds:
        if limit.column not in frame.columns:  # intervals and steady state come with the replay
            continue
        factor = slack if limit.column.startswith(("ttft", "tpot", "latency")) else 1.0
        inside = pl.col(limit.column).is_between(limit.lowest / factor, limit.highest * factor)
        # Requests of one token have no time per token to keep a limit.
        frame = frame.filter(inside.fill_null(limit.column.startswith("tpot")))
    return frame


def front(frame: pl.DataFrame, time: str = "latency_s", cost: str = "energy_per_output_token_j") -> pl.DataFrame:
    """Return the Pareto front of deployments by joules and a time, the least joules first."""
    ordered = frame.sort(cost, time, maintain_order=True)
    before = pl.col(time).cum_min().shift(1, fill_value=float("inf"))
    return ordered.filter(pl.col(time) < before)


def fronts(frame: pl.DataFrame, costs: Sequence[str]) -> pl.DataFrame:
    """Return the Pareto fronts of deployments by a time and joules, and by that time and each of the costs, together.

    Those of least joules first.
    """
    if not costs:
        return front(frame)
    rows = frame.with_row_index("front_row")
    several = pl.concat([front(rows, cost=cost) for cost in ("energy_per_output_token_j", *costs)])
    unique = several.unique("front_row", keep="first", maintain_order=True)
    return unique.sort("energy_per_output_token_j", "latency_s", maintain_order=True).drop("front_row")


def cheapest(frame: pl.DataFrame, costs: Sequence[str], most: int, per: Sequence[str] = ()) -> list[pl.DataFrame]:
    """Return the deployments of least joules and of least of each cost, so many of each, and of each group."""
    parts = [frame.sort("energy_per_output_token_j").head(most)]
    parts += [frame.sort(cost, "energy_per_output_token_j", maintain_order=True).head(most) for cost in costs]
    if per:
        groups = frame.sort("energy_per_output_token_j", maintain_order=True)
        parts.append(groups.filter(pl.int_range(pl.len()).over(list(per)) < _EACH_GROUP))
    return parts


def grouped_best(frame: pl.DataFrame, per: Sequence[str]) -> pl.DataFrame:
    """Return the deployment of least joules for each combination of values of axes, in the order of the joules."""
    return frame.sort("energy_per_output_token_j", "latency_s", maintain_order=True).unique(
        list(per), keep="first", maintain_order=True
    )


def checked_groups(names: Sequence[str], points: pl.DataFrame) -> list[str]:
    """Return the axes of which each value's best is answered; raise `SpaceError` with every problem."""
    names = [names] if isinstance(names, str) else list(names)
    known = [name for name in points.columns if name not in ("model", "acceptance")]
    words = {"gpus": "gpu", "GPU": "gpu"}
    names = list(dict.fromkeys(words.get(name, name) for name in names))
    allowed = [*known, *run_options.RUNNING]
    problems = [
        Problem(f"unknown axis `{name}` in `best_per`", hint=did_you_mean(str(name), allowed), code="keep")
        for name in names
        if name not in allowed
    ]
    if problems:
        raise SpaceError(problems)
    names = [name for name in names if name in points.columns]
    if names and (groups := points.select(names).n_unique()) > _MOST_GROUPS:
        fault = f"`best_per` would keep the best of {groups:,} groups"
        raise SpaceError(
            Problem(fault, hint=f"keep those of at most {_MOST_GROUPS}: fewer axes or values", code="keep")
        )
    return names
