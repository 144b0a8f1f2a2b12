"""Prefill and decode in separate pools: engines, replicas, GPUs and clocks of each, caches sent between them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from energylens.common import views
from energylens.common.errors import Problem, SpaceError
from energylens.engine.space import Limit
from energylens.engine.trust import Account, account
from energylens.inputs.axis_lists import listed
from energylens.inputs.builder import Model
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.plan import LoadedModel, Plan, distinct
from energylens.serving.checks import checked_rate
from energylens.serving.deployments import (
    COMPARED,
    NUMBERED,
    counts,
    deployments,
    nearest,
    nothing_runs,
    replicated,
    service_limits,
)
from energylens.serving.evaluate import SERVED, Role, states
from energylens.serving.fronts import front, within
from energylens.serving.identity import answer_sha256
from energylens.serving.judge import judged_by_replay
from energylens.serving.notes import traffic_notes
from energylens.serving.plan import FEW
from energylens.serving.words import workload_words
from energylens.serving.workload import Workload, load_workload

_SIDE_HIDDEN: Final = ("net", "alpha_s", "byte_j", "cache_bytes")
"""Columns of a pool that only serve to send caches."""

POOLED: Final = (
    "gpus",
    "ttft_p50_s",
    "ttft_p90_s",
    "tpot_s",
    "tpot_p90_s",
    "latency_s",
    "power_w",
    "energy_per_request_j",
    "energy_per_output_token_j",
    "transfer_s",
    *(f"energy_{part}_per_request_j" for part in ("prefill", "decode", "transfer")),
    *(f"{side}_{name}" for side in ("prefill", "decode") for name in (*SERVED, *NUMBERED)),
    *(f"{side}_steady_{name}" for side in ("prefill", "decode") for name in COMPARED),
)
"""Columns of numbers of a pair, which limits may bound."""

_MOST_CANDIDATES = 60
"""Deployments of a pool that are replayed, shared out over its cache formats and GPUs."""


@dataclass(frozen=True)
class PoolPlan:
    """The Pareto front, by energy and latency, of pairs of a prefill and a decode pool within the limits.

    Columns `prefill_*` and `decode_*` are the two pools (`_replicas` engines each), `energy_*_per_request_j` their
    joules and those of sending the cache, `transfer_s` the time that takes, added to TTFT.
    """

    frame: pl.DataFrame
    model: str
    workload: Workload
    rate_per_s: float
    limits: Sequence[Limit]
    trust: Mapping[str, Account]
    plan_sha256: str
    seconds: float = field(compare=False)
    notes: Sequence[str] = ()

    @property
    def best(self) -> dict[str, Any]:
        """The pair of least energy."""
        return self.frame.row(0, named=True)

    def answer(self) -> str:
        """Return the one-line answer."""
        return views.answer(self)

    @property
    def note(self) -> dict[str, Any]:
        """What its file says about where it comes from."""
        note = {"kind": "pairs", "answer": self.answer(), "model": self.model, "trust": dict(self.trust)}
        note |= {"limits": [str(limit) for limit in self.limits], "notes": list(self.notes)}
        return note | {"workload": workload_words(self.workload, self.rate_per_s)}

    def write(self, path: str | Path) -> Path:
        """Write the pairs as Parquet with its arguments in the metadata, and return the path."""
        from energylens.results.parquet import write_parquet

        return write_parquet(self.frame, path, self.plan_sha256, self.note)


def serve_pools(
    model: str | Path | Model,
    workload: str | Path | Workload,
    *,
    prefill: Mapping[str, Any],
    decode: Mapping[str, Any],
    rate_per_s: float | None = None,
    limits: Sequence[str] = (),
    threads: int | None = None,
) -> PoolPlan:
    """Return the pairs of a prefill and a decode pool of least energy under a workload.

    Each pool is taken in steady state at the rate of the workload, and its best deployments are replayed.

    Parameters
    ----------
    model
        Bundled name, path, or `Model`.
    workload
        What `load_workload` takes.
    prefill, decode
        Axes of each pool, as `serve_plan` takes them; `replicas` as many as the load needs, if not given.
    rate_per_s
        Requests a second; the workload's default, if None.
    limits
        Texts such as `ttft<=1s` and `tpot<=50ms` on columns of the answer.
    threads
        Threads of the core; all CPUs of the process, if None.

    Returns
    -------
    PoolPlan
        The Pareto front of pairs by energy and latency, the least energy first.

    Raises
    ------
    SpecError
        With every problem of model, workload and GPUs.
    SpaceError
        With every problem of axes and limits; with the nearest pair where none keeps the limits.

    Examples
    --------
    >>> side = {"gpus": "h100-sxm", "tp": 1}
    >>> plan = serve_pools("llama-3.1-8b", "1024:256", prefill=side, decode=side, rate_per_s=4)
    >>> plan.best["gpus"]
    2

    Notes
    -----
    `E = E_prefill + E_decode + E_transfer` a request. TTFT is that of the prefill pool and the transfer of the cache of
    K bytes, `alpha_net + K/min(n_p·net_p, n_d·net_d)`, at `link_j_per_byte/2` a byte on either side.
    """
    started = time.perf_counter()
    workload = load_workload(workload)
    rate = checked_rate(workload, rate_per_s, needed=True)
    assert rate is not None
    if workload.output_tokens <= 1:
        fault, hint = "requests of one output token leave nothing to decode", "use serve-plan"
        raise SpaceError(Problem(fault, hint=hint, code="workload"))
    bounds = service_limits(limits, POOLED)
    loaded = load_model(model)
    roles: tuple[tuple[Role, Mapping[str, Any]], ...] = (("prefill", prefill), ("decode", decode))
    sides = [_side(loaded, role, axes, workload, rate, threads) for role, axes in roles]
    cache_dtype = loaded.spec.canonical()["dtypes"].get("cache", "bf16")
    formats = [pl.col(f"{side}_kv_dtype").fill_null(cache_dtype) for side in ("prefill", "decode")]
    pairs = sides[0].join(sides[1], how="cross").filter(formats[0] == formats[1])
    if not pairs.height:
        hint = "give both pools the same kv_dtype"
        raise SpaceError(Problem("no prefill and decode pool share a cache format", hint=hint, code="split"))
    pairs = _together(pairs, workload, rate)
    inside = within(pairs, bounds)
    if not inside.height:
        raise SpaceError(nearest(pairs, bounds, loaded.spec.name))
    hidden = [f"{side}_{name}" for side in ("prefill", "decode") for name in _SIDE_HIDDEN]
    best = front(inside).drop(hidden)
    gpus = [load_gpu(gpu) for axes in (prefill, decode) for gpu in listed(axes.get("gpus", "h100-sxm"))]
    trust = {gpu.spec.name: account(gpu) for gpu in gpus}
    specs = Plan([loaded], distinct(gpus, "GPU")).sha256
    sha256 = answer_sha256(specs, workload, rate, limits, [dict(prefill), dict(decode)])
    spent, notes = time.perf_counter() - started, tuple(traffic_notes(workload, rate))
    return PoolPlan(best, loaded.spec.name, workload, rate, bounds, trust, sha256, spent, notes)


def _together(pairs: pl.DataFrame, workload: Workload, rate: float) -> pl.DataFrame:
    slowest = pl.min_horizontal("prefill_net", "decode_net")
    transfer = pl.max_horizontal("prefill_alpha_s", "decode_alpha_s") + pl.col("prefill_cache_bytes") / slowest
    sent = pl.col("prefill_cache_bytes") * (pl.col("prefill_byte_j") + pl.col("decode_byte_j")) / 2.0
    joined = pairs.with_columns(transfer_s=transfer, energy_transfer_per_request_j=sent).with_columns(
        ttft_p50_s=pl.col("prefill_ttft_p50_s") + pl.col("transfer_s"),
        ttft_p90_s=pl.col("prefill_ttft_p90_s") + pl.col("transfer_s"),
        tpot_s=pl.col("decode_tpot_s"),
        tpot_p90_s=pl.col("decode_tpot_p90_s"),
        gpus=pl.col("prefill_gpus") + pl.col("decode_gpus"),
        power_w=pl.col("prefill_power_w") + pl.col("decode_power_w"),
        energy_prefill_per_request_j=pl.col("prefill_power_w") / rate,
        energy_decode_per_request_j=pl.col("decode_power_w") / rate,
    )
    parts = [pl.col(f"energy_{part}_per_request_j") for part in ("prefill", "decode", "transfer")]
    latency = pl.col("prefill_ttft_s") + pl.col("transfer_s") + (workload.output_tokens - 1.0) * pl.col("tpot_s")
    joined = joined.with_columns(energy_per_request_j=pl.sum_horizontal(parts), latency_s=latency)
    return joined.with_columns(energy_per_output_token_j=pl.col("energy_per_request_j") / workload.output_tokens)


def _side(
    loaded: LoadedModel, role: Role, axes: Mapping[str, Any], workload: Workload, rate: float, threads: int | None
) -> pl.DataFrame:
    """Return the Pareto front of one pool by energy and its part of the latency, columns prefixed by the role."""
    side_axes = dict(axes)
    gpus = [load_gpu(gpu) for gpu in listed(side_axes.pop("gpus", "h100-sxm"))]
    points = deployments(loaded.spec.name, gpus, side_axes)
    options: dict[str, Any] = {"models": [loaded], "gpus": gpus, "threads": threads}
    few = workload.fewer(*FEW)
    sized = replicated(points, few, rate, options, role)
    steady, step_w = states(sized, few, rate, role=role, **options)
    feasible = steady.filter(pl.col("feasible"))
    if not feasible.height:
        raise SpaceError(
            nothing_runs(f"{loaded.spec.name} ({role})", workload, rate, counts(steady), steady, step_w, gpus)
        )
    time_of = "ttft_p90_s" if role == "prefill" else "tpot_p90_s"
    parts = feasible.partition_by("kv_dtype", "gpu")
    most = max(4, _MOST_CANDIDATES // len(parts))
    short = pl.concat([front(part, time_of, "energy_per_request_j").head(most) for part in parts])
    exact, step_w = states(short.select(sized.columns), workload, rate, role=role, **options)
    if not exact["feasible"].any():
        raise SpaceError(
            nothing_runs(f"{loaded.spec.name} ({role})", workload, rate, counts(exact), exact, step_w, gpus)
        )
    exact = exact.filter(pl.col("feasible"))
    side_workload = workload.first_tokens() if role == "prefill" else workload
    exact = judged_by_replay(exact, side_workload, rate, options, role)
    plan = Plan([loaded], gpus)
    links = {gpu.spec.name: gpu.profile.sections for gpu in gpus}
    cache = {dtype: plan.core.cache_bytes(0, dtype, workload.prompt_tokens) for dtype in exact["kv_dtype"].unique()}
    names = exact["gpu"].to_list()
    # One request's cache lies on one data-parallel rank.
    each = (exact["gpus"] / exact["replicas"] / exact["dp"]).to_numpy()
    exact = exact.with_columns(
        pl.Series("net", np.array([float(links[name]["link"]["net_bandwidth_bytes_per_s"]) for name in names]) * each),
        pl.Series("alpha_s", [float(links[name]["link"]["net_alpha_s"]) for name in names]),
        pl.Series("byte_j", [float(links[name]["energy"]["link_j_per_byte"]) for name in names]),
        pl.Series("cache_bytes", [float(cache[dtype]) for dtype in exact["kv_dtype"].to_list()]),
    )
    return exact.drop("model", "feasible", "reason").rename(lambda name: f"{role}_{name}")
