"""The deployment of least energy that keeps its limits under a workload: searched in steady state, judged by replay."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from energylens import running
from energylens.builder import Model
from energylens.errors import Problem, SpaceError, did_you_mean
from energylens.library import load_gpu, load_model
from energylens.plan import LoadedGpu, Plan
from energylens.service.cost import Costs
from energylens.service.replaying import Replay, replayed
from energylens.service.serving import BATCHING, MOST_REPLICAS, SERVED, Role, caches, checked_rate, serve
from energylens.service.steps import Engines, engine_columns, engines
from energylens.service.trust import with_intervals
from energylens.service.workload import Workload, load_workload
from energylens.space import Limit, listed
from energylens.trust import Account, account
from energylens.values import numbers

if TYPE_CHECKING:
    from energylens.charts import Charts

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
_SLACK = 1.6
FEW: Final = (8, 4)
"""Kinds of requests and rates of a first look."""

_JUDGED = 16
_EACH, _MOST_EACH = 3_000, 20_000
_STAYS = 40
_MOST_OF_TRACE = 200_000


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
    for name, top in (("replicas", MOST_REPLICAS), ("draft_tokens", 64)):
        least = 1 if name == "replicas" else 0
        bad = [v for v in values[name] if v is not None and not (isinstance(v, int) and least <= v <= top)]
        if bad:
            fault = f"axis `{name}` needs whole numbers from {least} to {top:,}, found `{bad[0]}`"
            raise SpaceError(Problem(fault, code="axis-value"))
    kinds |= {"chunked": pl.Boolean, "prefix_cache": pl.Boolean, "acceptance": pl.Float64}
    frame = pl.DataFrame(rows, schema={name: kinds.get(name, pl.String) for name in values}, orient="row")
    unused = [name for name, default in running.RUNNING.items() if values[name] == [default]]
    return frame.drop(unused)


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


JUDGED: Final = (
    "running", "ttft_p50_s", "ttft_p90_s", "ttft_s", "tpot_s", "tpot_p90_s", "latency_s", "power_w", "power_w_per_gpu",
    "busy_share", "idle_share", "found_share", "energy_per_request_j", "energy_per_output_token_j",
)  # fmt: skip
"""Columns that a replay gives."""

_COMPARED = ("ttft_p50_s", "ttft_p90_s", "tpot_s", "tpot_p90_s", "energy_per_output_token_j")


def judged_by_replay(
    frame: pl.DataFrame, load: Workload, rate: float | None, own: dict[str, Any], role: Role = "both"
) -> pl.DataFrame:
    """Return deployments as a replay of the workload has them, and as in steady state: `steady_*`."""
    if rate is None:
        return frame.with_columns(replayed=pl.lit(False))
    found = engines(frame.select(engine_columns(frame)).unique(maintain_order=True), **own)
    at = found.rows_of(frame)
    room = caches(found, at, load, frame["token_budget"].cast(pl.Float64).to_numpy())
    rows = []
    for row, held, deployment in zip(at, room.tokens, frame.iter_rows(named=True), strict=True):
        if deployment["draft_tokens"] > 0:
            rows.append({name: deployment[name] for name in JUDGED} | {"replayed": False})
            continue
        told = _one_engine(found, int(row), deployment, load, rate, float(held), role)
        values = {name: told[name] for name in JUDGED}
        # Watts at the rate asked for, which a stretch of requests meets but nearly.
        values["power_w"] = told["energy_per_output_token_j"] * deployment["output_tokens_per_s"]
        values["power_w_per_gpu"] = values["power_w"] / deployment["gpus"]
        rows.append(values | {"replayed": True})
    steady = frame.select(pl.col(name).alias(f"steady_{name}") for name in _COMPARED)
    return frame.with_columns(pl.DataFrame(rows).get_columns()).hstack(steady)


def _one_engine(
    found: Engines, row: int, deployment: Mapping[str, Any], load: Workload, rate: float, held: float, role: Role
) -> Replay:
    """Return the replay of one engine of a deployment in its share of the requests, without its two ends."""
    replicas, only, rounds = int(deployment["replicas"]), 1, 1
    each = rate / replicas
    stay = float(deployment["latency_s"] or 0.0)
    number = int(np.clip(_STAYS * stay * each, _EACH, _MOST_EACH))
    if load.requests is not None:  # a trace as it is, or several times, by as many engines as need be
        whole = load.requests.height
        rounds = max(1, round(number / whole))
        only = min(replicas, max(1, -(-number * replicas // (whole * rounds))))
        number = -(-whole * rounds // replicas)
    total = number * replicas if load.requests is None else min(load.requests.height * rounds, _MOST_OF_TRACE)
    warm_s = min(2.0 * stay, 0.2 * number / each)
    return replayed(
        found, row, deployment, load, rate, total, held, role,
        only=only, warm_s=warm_s, found_share=float(deployment["found_share"] or 0.0),
    )  # fmt: skip


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
