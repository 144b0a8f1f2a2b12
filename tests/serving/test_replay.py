"""Replays: the core against a slow oracle, and what must always hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energylens import _core
from energylens.common.errors import EnergylensError, FrameError, InfeasibleError
from energylens.serving.replay import replay
from energylens.serving.workload import constant, load_workload
from oracle.batching import Request, batched

GRID: dict[str, Any] = {
    "tokens": [1.0, 8.0, 64.0, 256.0],
    "base_s": [0.01, 0.011, 0.02, 0.07],
    "base_j": [1.0, 1.2, 2.5, 9.0],
    "sequences": [1.0, 4.0, 16.0],
    "contexts": [1.0, 100.0, 1000.0],
    "decode_s": [0.0, 0.001, 0.01, 0.0, 0.003, 0.03, 0.001, 0.01, 0.1],
    "decode_j": [0.0, 0.1, 1.0, 0.0, 0.3, 3.0, 0.1, 1.0, 9.0],
    "sample_s": 1e-4,
    "sample_j": 0.01,
    "lengths": [0.0, 64.0, 512.0],
    "attend_s": [0.0, 1e-5, 1e-4],
    "attend_j": [0.0, 1e-3, 1e-2],
}
ENGINE: dict[str, Any] = {
    "most_running": 4,
    "token_budget": 64,
    "cache_tokens": 1000,
    "chunked": True,
    "reads": True,
    "block_tokens": 512,
    "prefix_hit_share": 0.0,
    "lanes": 1,
    "idle_w": 50.0,
    "warm_s": 0.0,
}
DEPLOYMENT = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}

requests_of = st.lists(st.tuples(st.floats(0.0, 0.4), st.integers(1, 300), st.integers(1, 40)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=60)
@given(requests_of, st.integers(1, 12), st.integers(4, 200), st.integers(350, 1200), st.booleans())
def test_agrees_with_the_oracle(
    rows: list[tuple[float, int, int]], most: int, budget: int, cache: int, chunked: bool
) -> None:
    arrivals = np.cumsum([gap for gap, _, _ in rows])
    prompts, outputs = (np.array([row[i] for row in rows], dtype=np.uint32) for i in (1, 2))
    engine = ENGINE | {"most_running": most, "token_budget": budget, "cache_tokens": cache, "chunked": chunked}
    simulated = _core.replay(GRID, engine, arrivals, prompts, outputs, [], [])
    requests = [Request(float(t), int(i), int(o)) for t, i, o in zip(arrivals, prompts, outputs, strict=True)]
    slow = batched(
        GRID, requests, most_running=most, token_budget=budget, cache_tokens=cache, chunked=chunked, idle_w=50.0
    )
    counts = (simulated["steps"], simulated["preempted"], simulated["refused"])
    assert counts == (slow.steps, slow.preempted, slow.refused)
    assert simulated["energy_idle_j"] == pytest.approx(slow.idle_j, rel=1e-9, abs=1e-9)
    assert simulated["energy_j"] == pytest.approx(slow.energy_j + slow.idle_j, rel=1e-9)
    for name in ("first_s", "done_s"):
        expected = [np.nan if (value := getattr(request, name)) is None else value for request in requests]
        np.testing.assert_allclose(simulated[name], expected, rtol=1e-9, equal_nan=True)


def test_faulty_grids_and_requests_are_refused() -> None:
    engine = ENGINE
    single_request = (np.zeros(1), np.ones(1, dtype=np.uint32), np.ones(1, dtype=np.uint32))
    faults: tuple[dict[str, Any], ...] = ({"tokens": [2.0, 1.0, 3.0, 4.0]}, {"base_s": [1.0]}, {"sequences": []})
    for fault in faults:
        with pytest.raises(_core.PlanError):
            _core.replay(GRID | fault, engine, *single_request, [], [])
    with pytest.raises(_core.PlanError):
        _core.replay(GRID, engine, single_request[0], single_request[1], np.zeros(1, dtype=np.uint32), [], [])
    with pytest.raises(_core.PlanError):
        _core.replay(GRID, engine, *single_request, [1, 2], [0, 5])
    with pytest.raises(_core.PlanError):
        _core.replay(GRID, engine, *single_request, [4_000_000_000], [0, 1])
    for fault in ({"most_running": 0}, {"prefix_hit_share": 2.0}, {"lanes": 0}):
        with pytest.raises(_core.PlanError):
            _core.replay(GRID, engine | fault, *single_request, [], [])
    for times in ([np.nan, 1.0], [2.0, 1.0]):
        two = np.ones(2, dtype=np.uint32)
        with pytest.raises(_core.PlanError):
            _core.replay(GRID, engine, np.array(times), two, two, [], [])


def test_sums_add_up() -> None:
    replayed = replay({**DEPLOYMENT, "replicas": 3}, "256:32", 20.0, requests=999)
    rows = replayed.requests
    assert rows.height == replayed["requests"] == 999
    assert (rows["latency_s"] >= rows["ttft_s"]).all()
    assert (rows["ttft_s"] > 0).all()
    assert replayed["energy_per_output_token_j"] == pytest.approx(replayed["energy_per_request_j"] / 32)
    assert replayed["power_w"] * replayed["span_s"] == pytest.approx(replayed["energy_per_request_j"] * 999)
    assert replayed["energy_idle_j"] < replayed["power_w"] * replayed["span_s"]
    assert 0 < replayed["busy_share"] <= 1


def test_more_load_costs_fewer_joules_a_token_and_more_watts() -> None:
    replayed = [replay(DEPLOYMENT, "512:64", rate, requests=3000) for rate in (1.0, 4.0, 16.0)]
    joules = [outcome["energy_per_output_token_j"] for outcome in replayed]
    watts = [outcome["power_w"] for outcome in replayed]
    assert joules == sorted(joules, reverse=True)
    assert watts == sorted(watts)


def test_replicas_share_prefixes_by_going_where_they_are(tmp_path: Any) -> None:
    blocks = [[0, *range(10 * (i % 7) + 1, 10 * (i % 7) + 5)] for i in range(70)]
    frame = pl.DataFrame(
        {"arrival_s": np.arange(70.0), "input_tokens": [2600] * 70, "output_tokens": [4] * 70, "hash_ids": blocks}
    )
    path = tmp_path / "trace.parquet"
    frame.write_parquet(path)
    load = load_workload(path)
    replayed = {n: replay({**DEPLOYMENT, "replicas": n}, load)["found_share"] for n in (1, 2)}
    # Seven families: only the first request of each reads everything (but the shared first block).
    assert replayed[1] == pytest.approx((6 * 1 + 63 * 5) * 512 / (70 * 2600))
    assert replayed[2] == pytest.approx(replayed[1], rel=0.02)
    assert replay({**DEPLOYMENT, "prefix_cache": False}, load)["found_share"] == 0


def test_what_cannot_be_replayed_is_an_error() -> None:
    with pytest.raises(InfeasibleError, match="cannot run"):
        replay({"model": "llama-3.1-405b", "gpu": "h100-sxm"}, "128:8", 1.0)
    with pytest.raises(EnergylensError, match="no rate of arrival"):
        replay(DEPLOYMENT, constant(128, 8))
    with pytest.raises(FrameError, match="speculation"):
        replay({**DEPLOYMENT, "draft_tokens": 3}, "128:8", 1.0)
    with pytest.raises(EnergylensError, match="takes 1 to"):
        replay(DEPLOYMENT, "128:8", 1.0, requests=0)
