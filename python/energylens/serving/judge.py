"""Deployments replayed: replay decides which of the candidates that steady state proposes keep their limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import polars as pl

from energylens.serving.caps import CapBinds
from energylens.serving.deployments import COMPARED
from energylens.serving.evaluate import Role, caches
from energylens.serving.replay import Replay, replayed
from energylens.serving.step_table import Engines, engine_columns, engines
from energylens.serving.workload import Workload

JUDGED: Final = (
    "running", "ttft_p50_s", "ttft_p90_s", "ttft_s", "tpot_s", "tpot_p90_s", "latency_s", "power_w", "power_w_per_gpu",
    "busy_share", "idle_share", "found_share", "energy_per_request_j", "energy_per_output_token_j",
)  # fmt: skip
"""Columns that a replay gives."""

_LEAST_REQUESTS, _MOST_REQUESTS = 3_000, 20_000
"""Requests that an engine replays: of 3,000, 300 lie beyond the 90th percentile, 21 more or less four times in five;
more where requests take long."""

_LATENCIES = 40
"""Latencies of a request that a replay lasts at least, so that its two ends matter little."""

_MOST_OF_TRACE = 200_000
"""Requests of a trace that are replayed, over all of its repetitions."""


def judged_by_replay(
    frame: pl.DataFrame, workload: Workload, rate: float | None, options: dict[str, Any], role: Role = "both"
) -> pl.DataFrame:
    """Return deployments as a replay of the workload has them, and as in steady state: `steady_*`.

    Those of which a replayed step draws more than a cap whose effect is not known are left out. Raises
    `CapBinds` if that leaves none.
    """
    if rate is None:
        return frame.with_columns(replayed=pl.lit(False))
    runnable = engines(frame.select(engine_columns(frame)).unique(maintain_order=True), **options)
    at = runnable.rows_of(frame)
    room = caches(runnable, at, workload, frame["token_budget"].cast(pl.Float64).to_numpy())
    rows, capped = [], []
    runs_uncapped = np.ones(frame.height, dtype=np.bool_)
    for at_row, (row, held, deployment) in enumerate(zip(at, room.tokens, frame.iter_rows(named=True), strict=True)):
        if deployment["draft_tokens"] > 0:
            rows.append({name: deployment[name] for name in JUDGED} | {"replayed": False})
            continue
        try:
            measured = _single_engine(runnable, int(row), deployment, workload, rate, float(held), role)
        except CapBinds as error:
            capped.append(error)
            runs_uncapped[at_row] = False
            continue
        values = {name: measured[name] for name in JUDGED}
        # Watts at the requested rate, which a sample of requests has only nearly.
        values["power_w"] = measured["energy_per_output_token_j"] * deployment["output_tokens_per_s"]
        values["power_w_per_gpu"] = values["power_w"] / deployment["gpus"]
        rows.append(values | {"replayed": True})
    if not rows:
        raise min(capped, key=lambda error: error.lowest_w)
    frame = frame.filter(pl.Series(runs_uncapped))
    steady = frame.select(pl.col(name).alias(f"steady_{name}") for name in COMPARED)
    return frame.with_columns(pl.DataFrame(rows).get_columns()).hstack(steady)


def _single_engine(
    runnable: Engines, row: int, deployment: Mapping[str, Any], workload: Workload, rate: float, held: float, role: Role
) -> Replay:
    """Return the replay of one engine of a deployment in its share of the requests, without its two ends."""
    replicas, only, rounds = int(deployment["replicas"]), 1, 1
    each = rate / replicas
    stay = float(deployment["latency_s"] or 0.0)
    number = int(np.clip(_LATENCIES * stay * each, _LEAST_REQUESTS, _MOST_REQUESTS))
    if workload.requests is not None:  # a trace as it is, or several times, by as many engines as need be
        trace_requests = workload.requests.height
        rounds = max(1, round(number / trace_requests))
        only = min(replicas, max(1, -(-number * replicas // (trace_requests * rounds))))
        number = -(-trace_requests * rounds // replicas)
    total = number * replicas if workload.requests is None else min(workload.requests.height * rounds, _MOST_OF_TRACE)
    warm_s = min(2.0 * stay, 0.2 * number / each)
    return replayed(
        runnable, row, deployment, workload, rate, total, held, role,
        only=only, warm_s=warm_s, prefix_hit_share=float(deployment["found_share"] or 0.0),
    )  # fmt: skip
