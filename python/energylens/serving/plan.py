"""The deployment of least energy that keeps its limits under a workload: searched in steady state, judged by replay."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from energylens.common.errors import Problem, SpaceError
from energylens.engine.space import Limit
from energylens.engine.trust import Account, account
from energylens.inputs.axis_lists import listed
from energylens.inputs.builder import Model
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.plan import Plan, distinct
from energylens.serving.costs import CARBON, MONEY, Costs
from energylens.serving.deployments import (
    AXES,
    cheapest,
    checked_groups,
    counts,
    deployments,
    front,
    fronts,
    grouped_best,
    nearest,
    nothing_runs,
    replicated,
    service_limits,
    within,
)
from energylens.serving.evaluate import checked_rate, states
from energylens.serving.intervals import with_intervals
from energylens.serving.judge import judged_by_replay
from energylens.serving.notes import hours_words, traffic_notes
from energylens.serving.workload import Workload, load_workload

if TYPE_CHECKING:
    from energylens.reports.charts import Charts

_SLACK = 1.6
FEW: Final = (8, 4)
"""Kinds of requests and rates of a first look."""

_JUDGED = 16
_CAPPED = (
    "deployments of which a replayed step would draw more than the cap, and whose clocks are unknown: {:,}, left out"
)


@dataclass(frozen=True)
class ServicePlan:
    """Deployments that keep the limits and that nothing beats in energy and latency, the least energy first.

    Where prices are given, also those that nothing beats in money or carbon and latency. `frame` has the columns of
    `serve` as a replay of the workload gives them (`replayed`), `steady_*` as steady state does, and an interval of the
    joules per token. `tried` counts deployments; `outside` those that run but exceed a limit. `best_per`, if axes were
    named, is the deployment of least energy for each of their values. `notes` are sentences on how traffic was read.
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
    asked: Mapping[str, Any]
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
        from energylens.reports.text.service import plan_sentence

        return plan_sentence(self)

    @property
    def note(self) -> dict[str, Any]:
        """What its file says about where it comes from."""
        from energylens.reports.text.service import workload_words

        told: dict[str, Any] = {
            "kind": "service",
            "answer": self.answer(),
            "model": self.model,
            "asked": dict(self.asked),
        }
        told |= {"workload": workload_words(self.workload, self.rate_per_s), "tried": self.tried}
        told |= {"limits": [str(limit) for limit in self.limits], "by_reason": dict(self.by_reason)}
        told |= {"sources": {self.model: self.source}, "notes": list(self.notes)}
        return told | {"judged": self.judged, "outside_limits": self.outside, "trust": dict(self.trust)}

    @property
    def plot(self) -> Charts:
        """Its charts: `front()`, `breakdown()`."""
        from energylens.reports.charts import Charts
        from energylens.reports.subject import of_service

        return Charts(of_service(self.frame, self.note, self.plan_sha256))

    def write(self, path: str | Path) -> Path:
        """Write the deployments as Parquet with what was asked in the metadata, and return the path.

        The best of each group go beside them: `plan.parquet` has `plan.best_per.parquet`.
        """
        from energylens.common.parquet_file import write_parquet

        path = Path(path)
        if self.best_per is not None:
            write_parquet(self.best_per, best_per_path(path), self.plan_sha256, self.note | {"kind": "best_per"})
        return write_parquet(self.frame, path, self.plan_sha256, self.note)


def best_per_path(path: Path) -> Path:
    """Return the file of the best of each group beside a plan's."""
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

    `axes` as in `AXES` (values, lists, or text such as `1:8`): GPUs, mesh, formats, clocks, `max_num_seqs`,
    `token_budget`,
    `prefix_cache`, speculation, `replicas`. `rate_per_s` is the load of all replicas (the workload's own if not given;
    without any, engines are always full). `limits` are strings such as `ttft<=1s` (P90 of requests), `tpot<=50ms`
    (P90),
    `ttft_p50<=300ms`, `gpus<=16`, `cost_per_million_output_tokens<=0.5`: any column of numbers of the answer. `costs`
    add money and carbon, and make them objectives beside joules. `best_per` names axes (`gpu`, `tp`) of which the best
    deployment of each value is answered, too. Every deployment is taken in steady state; those of least energy and the
    fronts are replayed request by request, and what does not keep the limits there is dropped. Raises `SpecError`, or
    `SpaceError` with the nearest deployment where nothing keeps the limits.
    """
    started = time.perf_counter()
    load = load_workload(workload)
    rate = checked_rate(load, rate_per_s)
    costs = costs or Costs()
    bounds = service_limits(limits, costs=costs)
    if rate is None and any(limit.column.startswith("steady_") for limit in bounds):
        hint = "limit the column without steady_, or give a rate"
        raise SpaceError(Problem("without a rate nothing is replayed: there is no `steady_*`", hint=hint, code="limit"))
    loaded = load_model(model)
    given = listed(axes.pop("gpus", AXES["gpus"]))
    given_gpus = distinct([load_gpu(gpu) for gpu in given], "GPU")
    points = deployments(loaded.spec.name, given_gpus, axes)
    groups = checked_groups(best_per, points)
    own: dict[str, Any] = {"models": [loaded], "gpus": given_gpus, "threads": threads}
    candidates, told, counted = _candidates(points, load, rate, bounds, costs, groups, own)
    exact, step_w = states(candidates, load, rate, **own)
    if not exact["feasible"].any():
        raise SpaceError(nothing_runs(loaded.spec.name, load, rate, counts(exact), exact, step_w, given_gpus))
    runs = exact.filter(pl.col("feasible"))
    judged = judged_by_replay(runs, load, rate, own)
    capped = runs.height - judged.height
    judged = costs.added(with_intervals(judged, load, models=[loaded], gpus=given_gpus), load.hours)
    sound = within(judged, bounds)
    if not sound.height:
        raise SpaceError(nearest(judged, bounds, loaded.spec.name, rate is not None))
    notes = traffic_notes(load, rate)
    notes += [_CAPPED.format(capped)] if capped else []
    notes += [hours_words(load.hours, load.clock)] if costs.by_hour else []
    by_group = grouped_best(sound, groups) if groups else None
    notes += _lacking(points, by_group, groups) if by_group is not None else []
    trust = {gpu.spec.name: account(gpu) for gpu in given_gpus}
    specs = Plan([loaded], given_gpus).sha256
    others: list[Any] = [points.to_dicts(), asdict(costs), *([groups] if groups else [])]
    others += [list(load.hours)] if costs.by_hour and load.hours else []
    return ServicePlan(
        frame=fronts(sound, _objectives(costs)),
        model=loaded.spec.name,
        workload=load,
        rate_per_s=rate,
        limits=bounds,
        tried=told.height,
        by_reason=counted,
        judged=judged.height,
        outside=judged.height - sound.height,
        trust=trust,
        asked=named(model, workload, given, rate_per_s) | {"plan_sha256": specs},
        source=loaded.spec.source,
        plan_sha256=question(specs, load, rate, limits, others),
        seconds=time.perf_counter() - started,
        best_per=by_group,
        notes=tuple(notes),
    )


def _objectives(costs: Costs) -> list[str]:
    """Return the columns besides joules that a plan keeps the least of."""
    return [name for name in (MONEY, CARBON) if name in costs.columns()]


def _candidates(
    points: pl.DataFrame,
    load: Workload,
    rate: float | None,
    bounds: Sequence[Limit],
    costs: Costs,
    groups: Sequence[str],
    run_options: dict[str, Any],
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
    """Return the deployments to replay, all as in steady state, and how many there are of each reason."""
    model = str(points["model"][0])
    first = load.fewer(*FEW)
    some = replicated(points, first, rate, run_options)
    steady, step_w = states(some, first, rate, **run_options)
    by_reason = counts(steady)
    if not steady["feasible"].any():
        raise SpaceError(nothing_runs(model, load, rate, by_reason, steady, step_w, run_options["gpus"]))
    feasible = costs.added(steady.filter(pl.col("feasible")), load.hours)
    inside, near = within(feasible, bounds), within(feasible, bounds, _SLACK if rate is not None else 1.0)
    if not near.height:
        raise SpaceError(nearest(feasible, bounds, model, rate is not None))
    objectives = _objectives(costs)
    least = [part for frame in (inside, near) for part in cheapest(frame, objectives, _JUDGED, groups)]
    apart = [front(part) for part in inside.partition_by(groups)] if groups and inside.height else []
    short = pl.concat([fronts(inside, objectives), *least, *apart])
    return short.select(points.columns).unique(maintain_order=True), steady, by_reason


def _lacking(points: pl.DataFrame, by_group: pl.DataFrame, groups: Sequence[str]) -> list[str]:
    """Return which groups have no deployment that keeps the limits, in words."""
    there = set(by_group.select(groups).iter_rows())
    lacking = [row for row in points.select(groups).unique(maintain_order=True).iter_rows() if row not in there]
    if "replicas" in groups:  # as many as the load asks for
        return []
    words = [", ".join(f"{name} {value}" for name, value in zip(groups, row, strict=True)) for row in lacking]
    return [f"no deployment serves the load within the limits: {'; '.join(words)}"] if words else []


def question(plan_sha256: str, load: Workload, rate_per_s: float | None, limits: Sequence[str], others: Any) -> str:
    """Return the SHA-256 of all that an answer depends on: specs, traffic, limits, and what was tried."""
    kinds = load.kinds if load.requests is None else load.requests
    traffic = [load.name, _rows_sha256(kinds), list(load.rates), list(load.found), load.crowded, load.crowd]
    if "blocks" in kinds.columns:
        traffic.append(load.block_tokens)
    said = [plan_sha256, traffic, rate_per_s, [str(limit) for limit in listed(limits)], others]
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()


def _rows_sha256(rows: pl.DataFrame) -> str:
    """Return the SHA-256 of requests as CSV, lists of blocks written with `;` between."""
    lists = [name for name, kind in rows.schema.items() if isinstance(kind, pl.List)]
    text = rows.with_columns(pl.col(name).cast(pl.List(pl.String)).list.join(";") for name in lists).write_csv()
    return hashlib.sha256(text.encode()).hexdigest()


def named(model: Any, workload: Any, gpus: Sequence[Any], rate_per_s: float | None) -> dict[str, Any]:
    """Return what a question names by a text, so that a report can ask further; null for what was given otherwise."""

    def text(given: Any) -> str | None:
        return str(given) if isinstance(given, (str, Path)) else None

    told = {"model": text(model), "workload": text(workload), "gpus": [text(gpu) for gpu in gpus]}
    return told | {"rate_per_s": rate_per_s}
