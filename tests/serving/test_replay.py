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
ONE = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}

requests_of = st.lists(st.tuples(st.floats(0.0, 0.4), st.integers(1, 300), st.integers(1, 40)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=60)
@given(requests_of, st.integers(1, 12), st.integers(4, 200), st.integers(350, 1200), st.booleans())
def test_agrees_with_the_oracle(
    rows: list[tuple[float, int, int]], most: int, budget: int, cache: int, chunked: bool
) -> None:
    arrivals = np.cumsum([gap for gap, _, _ in rows])
    prompts, outputs = (np.array([row[i] for row in rows], dtype=np.uint32) for i in (1, 2))
    engine = ENGINE | {"most_running": most, "token_budget": budget, "cache_tokens": cache, "chunked": chunked}
    told = _core.replay(GRID, engine, arrivals, prompts, outputs, [], [])
    asked = [Request(float(t), int(i), int(o)) for t, i, o in zip(arrivals, prompts, outputs, strict=True)]
    slow = batched(
        GRID, asked, most_running=most, token_budget=budget, cache_tokens=cache, chunked=chunked, idle_w=50.0
    )
    counts = (told["steps"], told["preempted"], told["refused"])
    assert counts == (slow.steps, slow.preempted, slow.refused)
    assert told["energy_idle_j"] == pytest.approx(slow.idle_j, rel=1e-9, abs=1e-9)
    assert told["energy_j"] == pytest.approx(slow.energy_j + slow.idle_j, rel=1e-9)
    for name in ("first_s", "done_s"):
        expected = [np.nan if (value := getattr(one, name)) is None else value for one in asked]
        np.testing.assert_allclose(told[name], expected, rtol=1e-9, equal_nan=True)


def test_faulty_grids_and_requests_are_refused() -> None:
    engine = ENGINE
    one = (np.zeros(1), np.ones(1, dtype=np.uint32), np.ones(1, dtype=np.uint32))
    faults: tuple[dict[str, Any], ...] = ({"tokens": [2.0, 1.0, 3.0, 4.0]}, {"base_s": [1.0]}, {"sequences": []})
    for fault in faults:
        with pytest.raises(_core.PlanError):
            _core.replay(GRID | fault, engine, *one, [], [])
    with pytest.raises(_core.PlanError):
        _core.replay(GRID, engine, one[0], one[1], np.zeros(1, dtype=np.uint32), [], [])
    with pytest.raises(_core.PlanError):
        _core.replay(GRID, engine, *one, [1, 2], [0, 5])
    with pytest.raises(_core.PlanError):
        _core.replay(GRID, engine, *one, [4_000_000_000], [0, 1])
    for fault in ({"most_running": 0}, {"prefix_hit_share": 2.0}, {"lanes": 0}):
        with pytest.raises(_core.PlanError):
            _core.replay(GRID, engine | fault, *one, [], [])
    for times in ([np.nan, 1.0], [2.0, 1.0]):
        two = np.ones(2, dtype=np.uint32)
        with pytest.raises(_core.PlanError):
            _core.replay(GRID, engine, np.array(times), two, two, [], [])


def test_sums_add_up() -> None:
    told = replay({**ONE, "replicas": 3}, "256:32", 20.0, requests=999)
    rows = told.requests
    assert rows.height == told["requests"] == 999
    assert (rows["latency_s"] >= rows["ttft_s"]).all()
    assert (rows["ttft_s"] > 0).all()
    assert told["energy_per_output_token_j"] == pytest.approx(told["energy_per_request_j"] / 32)
    assert told["power_w"] * told["span_s"] == pytest.approx(told["energy_per_request_j"] * 999)
    assert told["energy_idle_j"] < told["power_w"] * told["span_s"]
    assert 0 < told["busy_share"] <= 1


def test_more_load_costs_fewer_joules_a_token_and_more_watts() -> None:
    found = [replay(ONE, "512:64", rate, requests=3000) for rate in (1.0, 4.0, 16.0)]
    joules = [told["energy_per_output_token_j"] for told in found]
    watts = [told["power_w"] for told in found]
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
    found = {n: replay({**ONE, "replicas": n}, load)["found_share"] for n in (1, 2)}
    # Seven families: only the first request of each reads everything (but the shared first block).
    assert found[1] == pytest.approx((6 * 1 + 63 * 5) * 512 / (70 * 2600))
    assert found[2] == pytest.approx(found[1], rel=0.02)
    assert replay({**ONE, "prefix_cache": False}, load)["found_share"] == 0


def test_what_cannot_be_replayed_is_told() -> None:
    with pytest.raises(InfeasibleError, match="cannot run"):
        replay({"model": "llama-3.1-405b", "gpu": "h100-sxm"}, "128:8", 1.0)
    with pytest.raises(EnergylensError, match="no rate of arrival"):
        replay(ONE, constant(128, 8))
    with pytest.raises(FrameError, match="speculation"):
        replay({**ONE, "draft_tokens": 3}, "128:8", 1.0)
    with pytest.raises(EnergylensError, match="takes 1 to"):
        replay(ONE, "128:8", 1.0, requests=0)
