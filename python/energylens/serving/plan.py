"""The deployment of least energy that keeps its limits under a workload: searched in steady state, judged by replay."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import polars as pl

from energylens.common import views
from energylens.common.errors import Problem, SpaceError
from energylens.engine.space import Limit
from energylens.engine.trust import Account, account
from energylens.inputs.axis_lists import listed
from energylens.inputs.builder import Model
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.plan import Plan, distinct
from energylens.serving.checks import checked_rate
from energylens.serving.costs import CARBON, MONEY, Costs
from energylens.serving.deployments import AXES, counts, deployments, nearest, nothing_runs, replicated, service_limits
from energylens.serving.evaluate import states
from energylens.serving.fronts import cheapest, checked_groups, front, fronts, grouped_best, within
from energylens.serving.hours import hours_words
from energylens.serving.identity import answer_sha256, argument_texts
from energylens.serving.intervals import with_intervals
from energylens.serving.judge import judged_by_replay
from energylens.serving.notes import traffic_notes
from energylens.serving.words import workload_words
from energylens.serving.workload import Workload, load_workload

STEADY_TIME_TOLERANCE: Final = 1.6
"""Factor by which steady-state latencies may exceed a limit and the deployment still be replayed.

Replay decides. The steady state's P90 TTFT is off by 52 % at worst (experiments/012-steady-state), so that what it puts
more than 1.6 times beyond a limit is beyond it in replay too."""

FEW: Final = (8, 4)
"""Kinds of requests and arrival rates of the first pass over all deployments; the second takes all of them."""

_MOST_REPLAYED: Final = 16
"""Deployments that are replayed for each objective, besides the fronts: a replay takes a hundred times as long."""

_CAPPED = (
    "deployments of which a replayed step would draw more than the cap, and whose clocks are unknown: {:,}, left out"
)


@dataclass(frozen=True)
class ServicePlan:
    """The Pareto front of deployments within the limits, by energy and latency, the least energy first.

    With prices, the fronts of money and of carbon against latency too.

    Attributes
    ----------
    frame
        The columns of `serve` as a replay of the workload gives them where `replayed`, `steady_*` as the steady state
        gives them, and the 80 % interval of the joules per output token.
    tried, judged, outside
        Numbers of deployments: all, those replayed, and of these those beyond a limit.
    by_reason
        Number of deployments by the reason why they cannot run, those that can as `ok`.
    best_per
        The deployment of least energy for each value of the axes named in `best_per`; None if none were.
    arguments
        Model, workload, GPUs and rate as text, null where they were objects, so that a report can run it again.
    notes
        Sentences on how the traffic was read.
    """

    frame: pl.DataFrame
    model: str
    workload: Workload
    rate_per_s: float | None
    limits: Sequence[Limit]
    tried: int
    by_reason: Mapping[str, int]
    judged: int
    outside: int
    trust: Mapping[str, Account]
    arguments: Mapping[str, Any]
    source: str | None
    plan_sha256: str
    seconds: float = field(compare=False)
    best_per: pl.DataFrame | None = None
    notes: Sequence[str] = ()

    @property
    def best(self) -> dict[str, Any]:
        """The deployment of least energy."""
        return self.frame.row(0, named=True)

    def answer(self) -> str:
        """Return the one-line answer."""
        return views.answer(self)

    @property
    def note(self) -> dict[str, Any]:
        """What its file says about where it comes from."""
        return {
            "kind": "service",
            "answer": self.answer(),
            "model": self.model,
            "asked": dict(self.arguments),
            "workload": workload_words(self.workload, self.rate_per_s),
            "tried": self.tried,
            "limits": [str(limit) for limit in self.limits],
            "by_reason": dict(self.by_reason),
            "sources": {self.model: self.source},
            "notes": list(self.notes),
            "judged": self.judged,
            "outside_limits": self.outside,
            "trust": dict(self.trust),
        }

    @property
    def plot(self) -> views.PointCharts:
        """Its charts: `front()`, `breakdown()`."""
        charts: views.PointCharts = views.charts(self)
        return charts

    def write(self, path: str | Path) -> Path:
        """Write the deployments as Parquet with its arguments in the metadata, and return the path.

        The best of each group go to a second file: `plan.parquet` has `plan.best_per.parquet`.
        """
        from energylens.results.parquet import write_parquet

        path = Path(path)
        if self.best_per is not None:
            write_parquet(self.best_per, best_per_path(path), self.plan_sha256, self.note | {"kind": "best_per"})
        return write_parquet(self.frame, path, self.plan_sha256, self.note)


def best_per_path(path: Path) -> Path:
    """Return the path of the best of each group, next to a plan's file."""
    return path.with_name(f"{path.stem}.best_per{path.suffix}")


def serve_plan(
    model: str | Path | Model,
    workload: str | Path | Workload,
    *,
    rate_per_s: float | None = None,
    limits: Sequence[str] = (),
    costs: Costs | None = None,
    best_per: Sequence[str] = (),
    threads: int | None = None,
    **axes: Any,
) -> ServicePlan:
    """Return the deployments of least energy that keep their limits under a workload.

    Every deployment is taken in steady state; those of least energy and the fronts are replayed request by request, and
    what exceeds a limit there is dropped.

    Parameters
    ----------
    model
        Bundled name, path, or `Model`.
    workload
        What `load_workload` takes: a bundled name, lengths such as `1024:256`, a workload file, a trace, a `Workload`.
    rate_per_s
        Requests a second of all replicas together; the workload's default, if None. Where there is neither, engines are
        always full and nothing is replayed.
    limits
        Texts such as `ttft<=1s` and `tpot<=50ms` (90th percentile of requests), `ttft_p50<=300ms`, `gpus<=16`,
        `cost_per_million_output_tokens<=0.5`: any column of numbers of the answer.
    costs
        Prices and grid. They add money and carbon, and make them objectives besides joules.
    best_per
        Axes (`gpu`, `tp`) of which the best deployment of each value is answered, too.
    threads
        Threads of the core; all CPUs of the process, if None.
    **axes
        Values, lists or texts such as `1:8` of the axes in `AXES`: `gpus`, mesh, formats, clocks, `max_num_seqs`,
        `token_budget`, `prefix_cache`, speculation, `replicas` (as many as the load needs, if None).

    Returns
    -------
    ServicePlan
        Its `best` is the deployment of least joules per output token; `frame` holds the fronts.

    Raises
    ------
    SpecError
        With every problem of the model, the workload and the GPUs.
    SpaceError
        With every problem of axes and limits; with the nearest deployment where none keeps the limits.

    Examples
    --------
    >>> plan = serve_plan("llama-3.1-8b", "1024:256", gpus="h100-sxm", rate_per_s=2, limits=["tpot<=50ms"])
    >>> plan.best["gpus"], plan.best["tpot_p90_s"] <= 0.05
    (1, True)
    """
    started = time.perf_counter()
    gpu_names = listed(axes.pop("gpus", AXES["gpus"]))
    arguments = argument_texts(model, workload, gpu_names, rate_per_s)
    workload = load_workload(workload)
    rate = checked_rate(workload, rate_per_s)
    costs = costs or Costs()
    bounds = service_limits(limits, costs=costs)
    if rate is None and any(limit.column.startswith("steady_") for limit in bounds):
        hint = "limit the column without steady_, or give a rate"
        raise SpaceError(Problem("without a rate nothing is replayed: there is no `steady_*`", hint=hint, code="limit"))
    loaded = load_model(model)
    gpus = distinct([load_gpu(gpu) for gpu in gpu_names], "GPU")
    points = deployments(loaded.spec.name, gpus, axes)
    groups = checked_groups(best_per, points)
    options: dict[str, Any] = {"models": [loaded], "gpus": gpus, "threads": threads}
    candidates, tried, by_reason = _candidates(points, workload, rate, bounds, costs, groups, options)
    steady, step_w = states(candidates, workload, rate, **options)
    if not steady["feasible"].any():
        raise SpaceError(nothing_runs(loaded.spec.name, workload, rate, counts(steady), steady, step_w, gpus))
    runs = steady.filter(pl.col("feasible"))
    judged = judged_by_replay(runs, workload, rate, options)
    capped = runs.height - judged.height
    judged = costs.added(with_intervals(judged, workload, models=[loaded], gpus=gpus), workload.hours)
    inside = within(judged, bounds)
    if not inside.height:
        raise SpaceError(nearest(judged, bounds, loaded.spec.name, rate is not None))
    notes = traffic_notes(workload, rate)
    notes += [_CAPPED.format(capped)] if capped else []
    notes += [hours_words(workload.hours, workload.clock)] if costs.by_hour else []
    best_of_groups = grouped_best(inside, groups) if groups else None
    notes += _lacking(points, best_of_groups, groups) if best_of_groups is not None else []
    specs_sha256 = Plan([loaded], gpus).sha256
    others: list[Any] = [points.to_dicts(), asdict(costs), *([groups] if groups else [])]
    others += [list(workload.hours)] if costs.by_hour and workload.hours else []
    return ServicePlan(
        frame=fronts(inside, _objectives(costs)),
        model=loaded.spec.name,
        workload=workload,
        rate_per_s=rate,
        limits=bounds,
        tried=tried,
        by_reason=by_reason,
        judged=judged.height,
        outside=judged.height - inside.height,
        trust={gpu.spec.name: account(gpu) for gpu in gpus},
        arguments=arguments | {"plan_sha256": specs_sha256},
        source=loaded.spec.source,
        plan_sha256=answer_sha256(specs_sha256, workload, rate, limits, others),
        seconds=time.perf_counter() - started,
        best_per=best_of_groups,
        notes=tuple(notes),
    )


def _objectives(costs: Costs) -> list[str]:
    """Return the columns besides joules that a plan keeps the least of."""
    return [name for name in (MONEY, CARBON) if name in costs.columns()]


def _candidates(
    points: pl.DataFrame,
    workload: Workload,
    rate: float | None,
    bounds: Sequence[Limit],
    costs: Costs,
    groups: Sequence[str],
    run_options: dict[str, Any],
) -> tuple[pl.DataFrame, int, dict[str, int]]:
    """Return the deployments to replay, how many were tried, and how many there are of each reason.

    The tail of a latency is what the steady state knows least (see `STEADY_TIME_TOLERANCE`): besides the best within
    the limits, the best of those nearly within them are replayed, since they may keep them.
    """
    model = str(points["model"][0])
    coarse = workload.fewer(*FEW)
    sized = replicated(points, coarse, rate, run_options)
    steady, step_w = states(sized, coarse, rate, **run_options)
    by_reason = counts(steady)
    if not steady["feasible"].any():
        raise SpaceError(nothing_runs(model, workload, rate, by_reason, steady, step_w, run_options["gpus"]))
    feasible = costs.added(steady.filter(pl.col("feasible")), workload.hours)
    inside = within(feasible, bounds)
    nearly_inside = within(feasible, bounds, STEADY_TIME_TOLERANCE if rate is not None else 1.0)
    if not nearly_inside.height:
        raise SpaceError(nearest(feasible, bounds, model, rate is not None))
    objectives = _objectives(costs)
    least = [part for frame in (inside, nearly_inside) for part in cheapest(frame, objectives, _MOST_REPLAYED, groups)]
    by_group = [front(part) for part in inside.partition_by(groups)] if groups and inside.height else []
    chosen = pl.concat([fronts(inside, objectives), *least, *by_group])
    return chosen.select(points.columns).unique(maintain_order=True), steady.height, by_reason


def _lacking(points: pl.DataFrame, by_group: pl.DataFrame, groups: Sequence[str]) -> list[str]:
    """Return which groups have no deployment that keeps the limits, in words."""
    answered = set(by_group.select(groups).iter_rows())
    lacking = [row for row in points.select(groups).unique(maintain_order=True).iter_rows() if row not in answered]
    if "replicas" in groups:  # None stands for as many as the load needs: no value of it can lack
        return []
    words = [", ".join(f"{name} {value}" for name, value in zip(groups, row, strict=True)) for row in lacking]
    return [f"no deployment serves the load within the limits: {'; '.join(words)}"] if words else []
