"""What may be deployed: axes, replicas, limits, the front, and why nothing does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens import _core
from energylens.common.errors import Problem, SpaceError, did_you_mean
from energylens.engine.space import Limit
from energylens.inputs import axis_values, run_options
from energylens.inputs.axis_lists import listed
from energylens.inputs.axis_text import is_whole, numbers
from energylens.inputs.batching import BATCHING
from energylens.inputs.plan import LoadedGpu
from energylens.results.nearest import nearest_row
from energylens.results.words import deployment_words
from energylens.serving.caps import binds
from energylens.serving.checks import MOST_REPLICAS
from energylens.serving.costs import CARBON, FACILITY, MONEY, Costs
from energylens.serving.evaluate import SERVED, Role, states
from energylens.serving.words import reasons_words
from energylens.serving.workload import Workload

AXES: Final[dict[str, Any]] = {
    "gpus": ("h100-sxm",),
    "tp": (1, 2, 4, 8),
    "pp": (1,),
    "dp": (1,),
    "ep": (1,),
    "weight_dtype": (None,),
    "kv_dtype": (None,),
    **{name: (default,) for name, default in run_options.RUNNING.items()},
    **{name: (default,) for name, default in BATCHING.items() if name != "replicas"},
    "token_budget": (2048, 8192),
    "replicas": (None,),
}
"""Axes of a service plan with the default values to try; replicas None: as many as the load needs."""

SHORT: Final = {"ttft": "ttft_p90_s", "tpot": "tpot_p90_s", "itl": "tpot_p90_s", "latency": "latency_s"}
"""What limits mean by short names: the 90th percentile of requests, but for `latency` the mean."""

MOST_DEPLOYMENTS: Final = 20_000
"""Deployments of one plan; each is worked out in steady state."""

_REPLICA_COUNTS: Final = 7
"""Numbers of replicas that are tried for each engine, from the mean load to twice the busiest seconds."""

NUMBERED: Final = ("tp", "pp", "dp", "ep", "max_num_seqs", "token_budget", "draft_tokens", "acceptance", "replicas")
"""Axes of a deployment that are numbers, and so may be limited as results may."""

COMPARED: Final = ("ttft_p50_s", "ttft_p90_s", "tpot_s", "tpot_p90_s", "energy_per_output_token_j")
"""Results that a plan has as in steady state, too: `steady_*`."""

PRICED: Final = (FACILITY, MONEY, CARBON, f"{CARBON}_best", f"{CARBON}_worst")
"""Results that prices and grams of carbon add."""

ANSWERED: Final = (
    *SERVED,
    *NUMBERED,
    *(f"steady_{name}" for name in COMPARED),
    "energy_per_output_token_lo_j",
    "energy_per_output_token_hi_j",
    *(f"share_{cause}" for cause in _core.CAUSES),
)
"""Columns of numbers in the answer of a service plan."""

_WITHOUT_LOSS: Final = {"draft_tokens", "acceptance", "found_share", "idle_share", "busy_share"}
"""Columns that may well be 0."""


def service_limits(
    limits: Sequence[str],
    columns: Sequence[str] = ANSWERED,
    short: Mapping[str, str] = SHORT,
    costs: Costs | None = None,
) -> list[Limit]:
    """Return limits on columns of an answer, those of `costs` among them; raise `SpaceError` with every problem."""
    limited: list[Limit] = []
    problems: list[Problem] = []
    priced = (costs or Costs()).columns()
    words = {name.removesuffix("_s"): name for name in columns if name.endswith("_s")} | dict(short)
    for text in listed(limits):
        try:
            limit = Limit.parse(text, [*columns, *(priced if costs is None else PRICED)], words)
            if limit.column in PRICED and limit.column not in priced:
                fault = f"there is no `{limit.column}` to keep `{text}`"
                raise SpaceError(Problem(fault, hint=_OPTION_OF[limit.column.removesuffix("_best")], code="limit"))
            if limit.highest < 0 or (limit.highest == 0 and limit.column not in _WITHOUT_LOSS):
                raise SpaceError(Problem(f"nothing is within `{text}`", hint="give a limit above 0", code="limit"))
            limited.append(limit)
        except SpaceError as error:
            problems += error.problems
    if problems:
        raise SpaceError(problems)
    return limited


_OPTION_OF: Final = {
    FACILITY: "it comes with any price: give --pue, --server-w-per-gpu, --gpu-hour, --kwh or --carbon",
    MONEY: "give a price: --gpu-hour or --kwh",
    CARBON: "give the grams of a kWh: --carbon",
    f"{CARBON}_worst": "give the grams of a kWh by hour: --carbon with 24 values",
}


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
    for name, default in AXES.items():
        if name == "gpus":
            continue
        raw = listed(axes.get(name, default))
        try:
            if name in _INTEGER_AXES:
                raw = [v for part in raw for v in (numbers(part, name) if isinstance(part, str) else [part])]
            elif name in run_options.RUNNING:
                raw = [v for part in raw for v in (axis_values.parse(part, name) if isinstance(part, str) else [part])]
            raw = [str(value) if isinstance(value, Path) else value for value in raw]
            # Of a range only the first wrong value is named: the others are as wrong.
            problems += itertools.islice(filter(None, (_value_problem(value, name) for value in raw)), 1)
        except SpaceError as error:
            problems += error.problems
        values[name] = list(dict.fromkeys(value for value in raw if isinstance(value, Hashable)))
        if not raw:
            problems.append(Problem(f"axis `{name}` has no value", code="empty-space"))
    size = math.prod(len(each) for each in values.values())
    if size > MOST_DEPLOYMENTS:
        hint = f"give at most {MOST_DEPLOYMENTS:,}: fewer values of its axes"
        problems.append(Problem(f"{size:,} deployments are too many for one plan", hint=hint, code="too-large"))
    if problems:
        raise SpaceError(problems)
    rows = list(itertools.product(*values.values()))
    kinds: dict[str, Any] = dict.fromkeys(_INTEGER_AXES, pl.UInt32)
    kinds |= {name: axis_values.polars_type(name) for name in run_options.RUNNING}
    kinds |= {"chunked": pl.Boolean, "prefix_cache": pl.Boolean, "acceptance": pl.Float64}
    frame = pl.DataFrame(rows, schema={name: kinds.get(name, pl.String) for name in values}, orient="row")
    unused = [name for name, default in run_options.RUNNING.items() if values[name] == [default]]
    return frame.drop(unused)


_INTEGER_AXES: Final = {
    "tp": (1, 1024), "pp": (1, 1024), "dp": (1, 1024), "ep": (1, 1024), "max_num_seqs": (1, 1_000_000),
    "token_budget": (1, 10_000_000), "draft_tokens": (0, 64), "replicas": (1, MOST_REPLICAS),
}  # fmt: skip
"""Axes that are whole numbers, from least to most."""


def _value_problem(value: object, name: str) -> Problem | None:
    """Return what is wrong with a value of an axis of deployments."""
    if name in run_options.RUNNING:
        return axis_values.problem(value, name)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in _INTEGER_AXES:
        least, most = _INTEGER_AXES[name]
        if (value is None and name == "replicas") or is_whole(value, least, most):
            return None
        fault = f"axis `{name}` needs whole numbers from {least} to {most:,}, found `{str(value)[:60]}`"
        return Problem(fault, code="axis-value")
    if name == "acceptance":
        fits, wanted = number and 0 <= value <= 1, "a number from 0 to 1"  # type: ignore[operator]
    elif name in ("chunked", "prefix_cache"):
        fits, wanted = isinstance(value, bool), "true or false"
    else:
        fits, wanted = value is None or isinstance(value, str), "a name, or none for the default"
    return None if fits else Problem(f"axis `{name}` is {wanted}, found `{str(value)[:60]}`", code="axis-value")


def replicated(
    points: pl.DataFrame, workload: Workload, rate: float | None, options: dict[str, Any], role: Role = "both"
) -> pl.DataFrame:
    """Return deployments with numbers of replicas: requested, or the fewest that carry the load and some more."""
    if rate is None:
        return points.with_columns(pl.col("replicas").fill_null(1))
    free = points.filter(pl.col("replicas").is_null())
    fixed = points.filter(pl.col("replicas").is_not_null())
    if not free.height:
        return fixed
    # An engine that is always full may draw more than a cap which one at the requested rate does not reach.
    alone = free.with_columns(replicas=pl.lit(1, dtype=pl.UInt32))
    full, _ = states(alone, workload, None, role=role, **options, caps=False)
    runs = full["feasible"].to_numpy()
    peak = max(factor for factor, _ in workload.rates)
    capacity = full["requests_per_s"].fill_null(1.0).to_numpy()
    fewest = np.maximum(1.0, np.ceil(rate / np.maximum(capacity, 1e-9)))
    parts = []
    for share in np.linspace(0.0, 1.0, _REPLICA_COUNTS):
        # From as many as carry the mean load to twice those that carry the busiest seconds.
        count = pl.Series("replicas", np.minimum(np.ceil(fewest * (2.0 * peak) ** share), MOST_REPLICAS)).cast(
            pl.UInt32
        )
        parts.append(free.with_columns(count).filter(runs))
    failed = free.filter(~runs).with_columns(pl.lit(1, dtype=pl.UInt32).alias("replicas"))
    return pl.concat([fixed, *parts, failed]).unique(maintain_order=True)


def counts(frame: pl.DataFrame) -> dict[str, int]:
    """Return how many deployments there are of each reason, the most frequent first."""
    by_reason = frame["reason"].value_counts(sort=True, name="count")
    return {str(reason): int(count) for reason, count in by_reason.iter_rows()}


def nearest(frame: pl.DataFrame, bounds: Sequence[Limit], model: str, rated: bool = True) -> Problem:
    """Return why no deployment keeps the limits: the one that exceeds them least, which limit, and by how much."""
    bounds = [limit for limit in bounds if limit.column in frame.columns]
    closest = nearest_row(frame, bounds)
    source = "" if closest.row.get("replayed") else ", in steady state"
    words = closest.words(f"{deployment_words(closest.row)}{source}")
    full = [] if rated else ["give requests a second (--rate): without a rate engines are always full"]
    axes = "relax that limit, or widen the axes (gpus, tp, replicas, weight_dtype)"
    hint = "; ".join([*full, axes, *closest.each(bounds)])
    return Problem(f"no deployment of {model} keeps {', '.join(map(str, bounds))}; {words}", hint=hint, code="limits")


def nothing_runs(
    model: str,
    workload: Workload,
    rate: float | None,
    by_reason: Mapping[str, int],
    frame: pl.DataFrame,
    step_w: NDArray[np.float64],
    gpus: Sequence[LoadedGpu],
) -> Problem:
    """Return why no deployment runs, and how near the nearest is; `step_w` as `states` gives them."""
    message = f"no deployment of {model} can serve {workload.name}" + (f" at {rate:g} requests/s" if rate else "")
    hint = f"{reasons_words(by_reason)}; give more GPUs (tp, pp), narrower formats or other replicas"
    over = frame.filter(pl.col("reason") == "overload")
    if over.height:
        least = over.sort("peak_utilisation").row(0, named=True)
        hint += f"; the nearest would run at {100.0 * least['peak_utilisation']:.0f} % of its capacity at the busiest"
    if np.isfinite(capped := np.where(frame["reason"] == "power", step_w, np.nan)).any():
        row = int(np.nanargmin(capped))
        cap = binds(frame["gpu"][row], frame["power_cap_w"][row], float(capped[row]), "a step in steady state", gpus)
        hint += f"; {cap.message}: {cap.hint}"
    return Problem(message, hint=hint, code="infeasible")
