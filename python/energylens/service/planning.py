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

from energylens.builder import Model
from energylens.errors import SpaceError
from energylens.library import load_gpu, load_model
from energylens.plan import Plan
from energylens.service.cost import Costs
from energylens.service.deployments import (
    AXES,
    counts,
    deployments,
    front,
    nearest,
    nothing_runs,
    replicated,
    service_limits,
    within,
)
from energylens.service.intervals import with_intervals
from energylens.service.judging import judged_by_replay
from energylens.service.serving import checked_rate, serve
from energylens.service.workload import Workload, load_workload
from energylens.space import Limit, listed
from energylens.trust import Account, account

if TYPE_CHECKING:
    from energylens.charts import Charts

_SLACK = 1.6
FEW: Final = (8, 4)
"""Kinds of requests and rates of a first look."""

_JUDGED = 16


@dataclass(frozen=True)
class ServicePlan:
    """Deployments that keep the limits and that nothing beats in energy and latency, the least energy first.

    `frame` has the columns of `serve` as a replay of the workload gives them (`replayed`), `steady_*` as steady state
    does, and an interval of the joules per token. `tried` counts deployments; `outside` those that run but exceed a
    limit.
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

    @property
    def best(self) -> dict[str, Any]:
        """The deployment of least energy."""
        return self.frame.row(0, named=True)

    def answer(self) -> str:
        """Return the one-line answer."""
        from energylens.report.service import plan_sentence

        return plan_sentence(self)

    @property
    def note(self) -> dict[str, Any]:
        """What its file says about where it comes from."""
        from energylens.report.service import workload_words

        told: dict[str, Any] = {
            "kind": "service",
            "answer": self.answer(),
            "model": self.model,
            "asked": dict(self.asked),
        }
        told |= {"workload": workload_words(self.workload, self.rate_per_s), "tried": self.tried}
        told |= {"limits": [str(limit) for limit in self.limits], "by_reason": dict(self.by_reason)}
        told |= {"sources": {self.model: self.source}}
        return told | {"judged": self.judged, "outside_limits": self.outside, "trust": dict(self.trust)}

    @property
    def plot(self) -> Charts:
        """Its charts: `front()`, `breakdown()`."""
        from energylens.charts import Charts
        from energylens.subject import of_service

        return Charts(of_service(self.frame, self.note, self.plan_sha256))

    def write(self, path: str | Path) -> Path:
        """Write the deployments as Parquet with what was asked in the metadata, and return the path."""
        from energylens.store import write_parquet

        return write_parquet(self.frame, path, self.plan_sha256, self.note)


def serve_plan(
    model: str | Path | Model,
    workload: str | Path | Workload,
    *,
    rate_per_s: float | None = None,
    limits: Sequence[str] = (),
    costs: Costs | None = None,
    threads: int | None = None,
    **axes: Any,
) -> ServicePlan:
    """Return the deployments of least energy that keep their limits under a workload.

    `axes` as in `AXES` (values, lists, or text such as `1:8`): GPUs, mesh, formats, clocks, `max_num_seqs`,
    `token_budget`,
    `prefix_cache`, speculation, `replicas`. `rate_per_s` is the load of all replicas (the workload's own if not given;
    without any, engines are always full). `limits` are strings such as `ttft<=1s` (P90 of requests), `tpot<=50ms`
    (P90),
    `ttft_p50<=300ms`, `gpus<=16`. Every deployment is taken in steady state; those of least energy and the front are
    replayed request by request, and what does not keep the limits there is dropped. Raises `SpecError`, or `SpaceError`
    with the nearest deployment where nothing keeps the limits.
    """
    started = time.perf_counter()
    load = load_workload(workload)
    rate = checked_rate(load, rate_per_s)
    bounds = service_limits(limits)
    loaded = load_model(model)
    given = listed(axes.pop("gpus", AXES["gpus"]))
    given_gpus = [load_gpu(gpu) for gpu in given]
    points = deployments(loaded.spec.name, given_gpus, axes)
    own: dict[str, Any] = {"models": [loaded], "gpus": given_gpus, "threads": threads}
    first = load.fewer(*FEW)
    some = replicated(points, first, rate, own)
    told = serve(some, first, rate, **own)
    counted = counts(told)
    kept = told.filter(pl.col("feasible"))
    if not kept.height:
        raise SpaceError(nothing_runs(loaded.spec.name, load, rate, counted, told))
    inside, near = within(kept, bounds), within(kept, bounds, _SLACK if rate is not None else 1.0)
    if not near.height:
        raise SpaceError(nearest(kept, bounds, loaded.spec.name, rate is not None))
    least = [frame.sort("energy_per_output_token_j").head(_JUDGED) for frame in (inside, near)]
    short = pl.concat([front(inside), *least]).select(points.columns).unique(maintain_order=True)
    exact = serve(short, load, rate, **own)
    if not exact["feasible"].any():
        raise SpaceError(nothing_runs(loaded.spec.name, load, rate, counts(exact), exact))
    judged = judged_by_replay(exact.filter(pl.col("feasible")), load, rate, own)
    sound = within(judged, bounds)
    if not sound.height:
        raise SpaceError(nearest(judged, bounds, loaded.spec.name, rate is not None))
    best = with_intervals(front(sound), load, models=[loaded], gpus=given_gpus)
    best = (costs or Costs()).added(best)
    outside = judged.height - sound.height
    trust = {gpu.spec.name: account(gpu) for gpu in given_gpus}
    specs = Plan([loaded], given_gpus).sha256
    return ServicePlan(
        frame=best,
        model=loaded.spec.name,
        workload=load,
        rate_per_s=rate,
        limits=bounds,
        tried=told.height,
        by_reason=counted,
        judged=judged.height,
        outside=outside,
        trust=trust,
        asked=named(model, workload, given, rate_per_s) | {"plan_sha256": specs},
        source=loaded.spec.source,
        plan_sha256=question(specs, load, rate, limits, [points.to_dicts(), asdict(costs or Costs())]),
        seconds=time.perf_counter() - started,
    )


def question(plan_sha256: str, load: Workload, rate_per_s: float | None, limits: Sequence[str], others: Any) -> str:
    """Return the SHA-256 of all that an answer depends on: specs, traffic, limits, and what was tried."""
    kinds = load.kinds if load.requests is None else load.requests
    rows = hashlib.sha256(kinds.write_csv().encode()).hexdigest()
    traffic = [load.name, rows, list(load.rates), list(load.found), load.crowded, load.crowd]
    said = [plan_sha256, traffic, rate_per_s, [str(limit) for limit in listed(limits)], others]
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()


def named(model: Any, workload: Any, gpus: Sequence[Any], rate_per_s: float | None) -> dict[str, Any]:
    """Return what a question names by a text, so that a report can ask further; null for what was given otherwise."""

    def text(given: Any) -> str | None:
        return str(given) if isinstance(given, (str, Path)) else None

    told = {"model": text(model), "workload": text(workload), "gpus": [text(gpu) for gpu in gpus]}
    return told | {"rate_per_s": rate_per_s}
