"""What may be deployed: axes, replicas, limits, the front, and why nothing does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from energylens import running
from energylens.errors import Problem, SpaceError, did_you_mean
from energylens.plan import LoadedGpu
from energylens.service.serving import BATCHING, MOST_REPLICAS, SERVED, Role, serve
from energylens.service.workload import Workload
from energylens.space import Limit, listed
from energylens.values import numbers

AXES: Final[dict[str, Any]] = {
    "gpus": ("h100-sxm",),
    "tp": (1, 2, 4, 8),
    "pp": (1,),
    "dp": (1,),
    "ep": (1,),
    "weight_dtype": (None,),
    "kv_dtype": (None,),
    **{name: (default,) for name, default in running.RUNNING.items()},
    **{name: (default,) for name, default in BATCHING.items() if name != "replicas"},
    "token_budget": (2048, 8192),
    "replicas": (None,),
}
"""Axes of a service plan with the values tried if none are given; replicas None: as many as the load asks for."""


SHORT: Final = {"ttft": "ttft_p90_s", "tpot": "tpot_p90_s", "itl": "tpot_p90_s", "latency": "latency_s"}
"""What limits mean by short names: the 90th percentile of requests, but for `latency` the mean."""


MOST_DEPLOYMENTS = 20_000


_REPLICAS = 7


def service_limits(limits: Sequence[str]) -> list[Limit]:
    """Return limits on columns of `serve`; raise `SpaceError` with every problem."""
    found: list[Limit] = []
    problems: list[Problem] = []
    for text in listed(limits):
        try:
            limit = Limit.parse(text, SERVED, {name.removesuffix("_s"): name for name in SERVED} | SHORT)
            if limit.highest <= 0:
                raise SpaceError(Problem(f"nothing is within `{text}`", hint="give a limit above 0", code="limit"))
            found.append(limit)
        except SpaceError as error:
            problems += error.problems
    if problems:
        raise SpaceError(problems)
    return found


def deployments(model: str, gpus: Sequence[LoadedGpu], axes: Mapping[str, Any]) -> pl.DataFrame:
    """Return every deployment of the axes, without replicas that are left to the load; raise `SpaceError`."""
    problems = [
        Problem(f"unknown axis `{name}`", hint=did_you_mean(name, AXES), code="unknown-axis")
        for name in axes
        if name not in AXES
    ]
    if not gpus:
        problems.append(Problem("axis `gpus` has no value", code="empty-space"))
    values: dict[str, list[Any]] = {"model": [model], "gpu": [gpu.spec.name for gpu in gpus]}
    whole = {"tp", "pp", "dp", "ep", "max_num_seqs", "token_budget", "draft_tokens", "replicas"}
    for name, default in AXES.items():
        if name == "gpus":
            continue
        raw = listed(axes.get(name, default))
        try:
            if name in whole:
                raw = [v for part in raw for v in (numbers(part, name) if isinstance(part, str) else [part])]
            elif name in running.RUNNING:
                raw = [v for part in raw for v in (running.values(part, name) if isinstance(part, str) else [part])]
                problems += filter(None, (running.problem(value, name) for value in raw))
        except SpaceError as error:
            problems += error.problems
        values[name] = list(dict.fromkeys(raw))
        if not values[name]:
            problems.append(Problem(f"axis `{name}` has no value", code="empty-space"))
    size = int(np.prod([len(own) for own in values.values()]))
    if size > MOST_DEPLOYMENTS:
        hint = f"give at most {MOST_DEPLOYMENTS:,}: fewer values of its axes"
        problems.append(Problem(f"{size:,} deployments are too many for one plan", hint=hint, code="too-large"))
    if problems:
        raise SpaceError(problems)
    rows = list(itertools.product(*values.values()))
    kinds: dict[str, Any] = dict.fromkeys(whole, pl.UInt32)
    kinds |= {name: running.typed(name) for name in running.RUNNING}
    if problems := [wrong for name in _MOST if (wrong := _out_of_range(name, values[name]))]:
        raise SpaceError(problems)
    kinds |= {"chunked": pl.Boolean, "prefix_cache": pl.Boolean, "acceptance": pl.Float64}
    frame = pl.DataFrame(rows, schema={name: kinds.get(name, pl.String) for name in values}, orient="row")
    unused = [name for name, default in running.RUNNING.items() if values[name] == [default]]
    return frame.drop(unused)


_MOST: Final = {
    **dict.fromkeys(("tp", "pp", "dp", "ep"), 1024),
    "max_num_seqs": 1_000_000,
    "token_budget": 10_000_000,
    "draft_tokens": 64,
    "replicas": MOST_REPLICAS,
}


def _out_of_range(name: str, values: Sequence[Any]) -> Problem | None:
    """Return what is wrong with the values of an axis of whole numbers, if something is."""
    least, top = (0 if name == "draft_tokens" else 1), _MOST[name]
    for value in values:
        whole = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        free = value is None and name == "replicas"
        if not free and not (whole and least <= value <= top and value == int(value)):
            fault = f"axis `{name}` needs whole numbers from {least} to {top:,}, found `{value}`"
            return Problem(fault, code="axis-value")
    return None


def replicated(
    points: pl.DataFrame, load: Workload, rate: float | None, own: dict[str, Any], role: Role = "both"
) -> pl.DataFrame:
    """Return deployments with numbers of replicas: as asked, or the fewest that carry the load and some more."""
    if rate is None:
        return points.with_columns(pl.col("replicas").fill_null(1))
    free = points.filter(pl.col("replicas").is_null())
    asked = points.filter(pl.col("replicas").is_not_null())
    if not free.height:
        return asked
    most = serve(free.with_columns(replicas=pl.lit(1, dtype=pl.UInt32)), load, None, role=role, **own)
    runs = most["feasible"].to_numpy()
    peak = max(factor for factor, _ in load.rates)
    capacity = most["requests_per_s"].fill_null(1.0).to_numpy()
    fewest = np.maximum(1.0, np.ceil(rate / np.maximum(capacity, 1e-9)))
    parts = []
    for share in np.linspace(0.0, 1.0, _REPLICAS):
        # From as many as carry the mean load to twice those that carry the busiest seconds.
        count = pl.Series("replicas", np.minimum(np.ceil(fewest * (2.0 * peak) ** share), MOST_REPLICAS)).cast(
            pl.UInt32
        )
        parts.append(free.with_columns(count).filter(runs))
    failed = free.filter(~runs).with_columns(pl.lit(1, dtype=pl.UInt32).alias("replicas"))
    return pl.concat([asked, *parts, failed]).unique(maintain_order=True)


def counts(told: pl.DataFrame) -> dict[str, int]:
    """Return how many deployments there are of each reason, the most frequent first."""
    found = told["reason"].value_counts(sort=True, name="count")
    return {str(reason): int(count) for reason, count in found.iter_rows()}


def within(frame: pl.DataFrame, bounds: Sequence[Limit], slack: float = 1.0) -> pl.DataFrame:
    """Return the deployments that keep the limits, those of times by a factor."""
    for limit in bounds:
        more = slack if limit.column.startswith(("ttft", "tpot", "latency")) else 1.0
        kept = pl.col(limit.column).is_between(limit.lowest / more, limit.highest * more)
        # Requests of one token have no time per token to keep a limit.
        frame = frame.filter(kept.fill_null(limit.column.startswith("tpot")))
    return frame


def front(frame: pl.DataFrame, time: str = "latency_s", cost: str = "energy_per_output_token_j") -> pl.DataFrame:
    """Return the deployments that nothing beats in joules and in a time, the least joules first."""
    ordered = frame.sort(cost, time, maintain_order=True)
    before = pl.col(time).cum_min().shift(1, fill_value=float("inf"))
    return ordered.filter(pl.col(time) < before)


def nearest(frame: pl.DataFrame, bounds: Sequence[Limit], model: str, rated: bool = True) -> Problem:
    """Return why no deployment keeps the limits: the one that exceeds them least, which limit, and by how much."""
    from energylens.report.service import deployment_words

    excess = []
    for limit in bounds:
        told = pl.col(limit.column)
        over = told / limit.highest if np.isfinite(limit.highest) else limit.lowest / told
        excess.append(frame.select(over.alias(str(limit)))[str(limit)].fill_null(np.inf).to_numpy())
    table = np.array(excess)
    row = int(table.max(axis=0).argmin())
    worst = int(table[:, row].argmax())
    limit, point = bounds[worst], frame.row(row, named=True)
    value = float(point[limit.column])
    each = [f"{bounds[i]} alone: {_closest(table[i])}" for i in range(len(bounds))] if len(bounds) > 1 else []
    message = (
        f"no deployment of {model} keeps {', '.join(map(str, bounds))}; nearest: {limit.column} {value:.3g} "
        f"({100.0 * (table[worst, row] - 1.0):+.0f} % beyond its limit"
        f"{'' if point.get('replayed') else ', in steady state'}) on {deployment_words(point)}"
    )
    full = [] if rated else ["give requests a second (--rate): without a rate engines are always full"]
    hint = "; ".join([*full, "relax that limit, or widen the axes (gpus, tp, replicas, weight_dtype)", *each])
    return Problem(message, hint=hint, code="limits")


def _closest(excess: Any) -> str:
    kept = int((excess <= 1.0).sum())
    return f"{kept:,} keep it" if kept else f"at least {100.0 * (excess.min() - 1.0):.0f} % beyond it"


def nothing_runs(
    model: str, load: Workload, rate: float | None, counted: Mapping[str, int], told: pl.DataFrame
) -> Problem:
    """Return why no deployment runs, and how near the nearest is."""
    from energylens.report.service import reasons_words

    message = f"no deployment of {model} can serve {load.name}" + (f" at {rate:g} requests/s" if rate else "")
    hint = f"{reasons_words(counted)}; give more GPUs (tp, pp), narrower formats or other replicas"
    over = told.filter(pl.col("reason") == "overload")
    if over.height:
        least = over.sort("peak_utilisation").row(0, named=True)
        hint += f"; the nearest would run at {100.0 * least['peak_utilisation']:.0f} % of its capacity at the busiest"
    return Problem(message, hint=hint, code="infeasible")
