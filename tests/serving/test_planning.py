"""Plans of services: limits kept in the replay, nearest misses, pools, costs."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import pytest

from energylens.common.errors import FrameError, SpaceError
from energylens.inputs.batching import BATCHING
from energylens.serving.costs import Costs
from energylens.serving.plan import serve_plan
from energylens.serving.pools import serve_pools
from energylens.serving.replay import replay

AXES: dict[str, Any] = {"gpus": "h100-sxm", "tp": [1, 2], "token_budget": 8192}


def test_the_best_keeps_its_limits_request_by_request() -> None:
    plan = serve_plan("llama-3.1-8b", "azure-conv", limits=["ttft<=0.5s", "tpot<=30ms"], **AXES)
    best = plan.best
    assert best["replayed"]
    assert best["ttft_p90_s"] <= 0.5
    assert best["tpot_p90_s"] <= 0.03
    joules = plan.frame["energy_per_output_token_j"].to_list()
    assert joules == sorted(joules)
    assert (plan.frame["latency_s"].diff().drop_nulls() < 0).all()
    assert (
        best["energy_per_output_token_lo_j"] < best["energy_per_output_token_j"] < best["energy_per_output_token_hi_j"]
    )
    deployment = {name: best[name] for name in ("model", "gpu", "tp", *BATCHING)}
    # A replay ten times as long keeps the limits too.
    again = replay(deployment, "azure-conv", plan.rate_per_s, requests=30_000 * best["replicas"])
    assert again["ttft_p90_s"] == pytest.approx(best["ttft_p90_s"], rel=0.1)
    assert again["tpot_p90_s"] == pytest.approx(best["tpot_p90_s"], rel=0.1)
    assert again["energy_per_output_token_j"] == pytest.approx(best["energy_per_output_token_j"], rel=0.02)


def test_the_best_has_the_fewest_joules_of_all_that_keep_the_limits() -> None:
    plan = serve_plan("llama-3.1-8b", "512:128", rate_per_s=30.0, limits=["tpot<=20ms"], **AXES)
    for tp in (1, 2):
        for replicas in range(1, 7):
            deployment = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "tp": tp, "replicas": replicas}
            replayed = replay(deployment, "512:128", 30.0, requests=3000)
            if replayed["tpot_p90_s"] <= 0.02 and replayed["ttft_p90_s"] < 5:
                assert replayed["energy_per_output_token_j"] > 0.97 * plan.best["energy_per_output_token_j"]


def test_without_a_rate_engines_are_full() -> None:
    plan = serve_plan("llama-3.1-8b", "1024:256", gpus="b200", tp=1, weight_dtype=[None, "fp8"])
    assert plan.best["weight_dtype"] == "fp8"
    assert plan.best["utilisation"] == pytest.approx(1.0)
    assert not plan.best["replayed"]


def test_an_slo_nothing_meets_names_the_nearest() -> None:
    with pytest.raises(SpaceError) as raised:
        serve_plan("llama-3.1-8b", "azure-conv", limits=["ttft<=1ms", "tpot<=30ms"], **AXES)
    text = raised.value.render()
    assert "no deployment of llama-3.1-8b keeps ttft_p90_s <= 0.001, tpot_p90_s <= 0.03; nearest: ttft_p90_s" in text
    assert "% beyond its limit" in text
    assert "tpot_p90_s <= 0.03 alone: " in text


def test_a_load_beyond_every_deployment_is_an_error() -> None:
    with pytest.raises(SpaceError, match="can serve azure-conv at 5000 requests/s") as raised:
        serve_plan("llama-3.1-8b", "azure-conv", rate_per_s=5000.0, replicas=[1, 2], **AXES)
    assert "cannot serve all that arrives" in raised.value.render()
    with pytest.raises(SpaceError, match="do not fit into memory"):
        serve_plan("llama-3.1-405b", "azure-conv", **AXES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tpp": [1]}, "unknown axis `tpp`"),
        ({"tp": []}, "axis `tp` has no value"),
        ({"sm_clock_mhz": ["fast"]}, "fast"),
        ({"tp": list(range(1, 200)), "max_num_seqs": list(range(1, 200))}, "are too many for one plan"),
        ({"limits": ["ttfft<=1s"]}, "unknown limit `ttfft`"),
        ({"limits": ["tpot<=1parsec", "gpus<=many"]}, "parsec"),
    ],
)
def test_faults_are_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        serve_plan("llama-3.1-8b", "azure-conv", **{**AXES, **change})


def test_pools_add_up() -> None:
    side: dict[str, Any] = {"gpus": "h100-sxm", "tp": [1, 2]}
    plan = serve_pools("llama-3.1-8b", "azure-conv", prefill=side, decode=side, limits=["ttft<=1s", "tpot<=50ms"])
    best = plan.best
    parts = sum(best[f"energy_{part}_per_request_j"] for part in ("prefill", "decode", "transfer"))
    assert best["energy_per_request_j"] == pytest.approx(parts)
    assert best["gpus"] == best["prefill_gpus"] + best["decode_gpus"]
    assert best["ttft_p90_s"] == pytest.approx(best["prefill_ttft_p90_s"] + best["transfer_s"])
    assert best["ttft_p90_s"] <= 1.0
    assert best["tpot_p90_s"] <= 0.05
    assert best["prefill_replayed"]
    assert best["decode_replayed"]
    joules = plan.frame["energy_per_output_token_j"].to_list()
    assert joules == sorted(joules)


def test_pools_need_the_same_cache_format_and_a_rate() -> None:
    side: dict[str, Any] = {"gpus": "h100-sxm", "tp": 1}
    with pytest.raises(SpaceError, match="share a cache format"):
        serve_pools("llama-3.1-8b", "azure-conv", prefill=side, decode=side | {"kv_dtype": "fp8"})
    with pytest.raises(FrameError, match="no rate of arrival"):
        serve_pools("llama-3.1-8b", "64:64", prefill=side, decode=side)


def test_costs_are_those_of_joules_and_hours() -> None:
    frame = pl.DataFrame(
        {
            "gpu": ["a", "b"],
            "gpus": [2, 4],
            "energy_per_output_token_j": [0.5, 1.0],
            "output_tokens_per_s": [1000.0, 500.0],
        }
    )
    priced = Costs(
        {"a": 3.6, "b": 1.8}, kwh=0.1, pue=1.25, carbon_g_per_kwh=[100.0] * 12 + [300.0] * 12, server_w_per_gpu=100
    ).added(frame)
    facility = [1.25 * (0.5 + 0.2), 1.25 * (1.0 + 0.8)]
    assert priced["energy_facility_per_output_token_j"].to_list() == pytest.approx(facility)
    money = [
        2 * 3.6 / 3600 / 1000 * 1e6 + facility[0] / 3.6 * 0.1,
        4 * 1.8 / 3600 / 500 * 1e6 + facility[1] / 3.6 * 0.1,
    ]
    assert priced["cost_per_million_output_tokens"].to_list() == pytest.approx(money)
    assert priced["carbon_g_per_million_output_tokens"].to_list() == pytest.approx([f / 3.6 * 200 for f in facility])
    assert priced["carbon_g_per_million_output_tokens_worst"].to_list() == pytest.approx(
        [f / 3.6 * 300 for f in facility]
    )
    assert Costs().added(frame).equals(frame)


@pytest.mark.parametrize(
    ("prices", "said"),
    [
        ({"pue": 0.9}, "`pue` is a number from 1 to 100, found 0.9"),
        ({"pue": 100.1}, "`pue` is a number from 1 to 100, found 100.1"),
        ({"kwh": -1.0}, "`kwh` is a number from 0 to 1,000,000, found -1.0"),
        ({"kwh": 1e308}, "`kwh` is a number from 0 to 1,000,000, found 1e\\+308"),
        ({"kwh": "2"}, "`kwh` is a number from 0 to 1,000,000, found 2"),
        ({"carbon_g_per_kwh": [1.0, 2.0]}, "has 2 values"),
        ({"carbon_g_per_kwh": 1e7}, "`carbon_g_per_kwh` is a number from 0 to 1,000,000, found 10000000.0"),
        ({"server_w_per_gpu": float("inf")}, "`server_w_per_gpu` is a number from 0 to 1,000,000, found inf"),
        ({"gpu_hour": {"a": float("nan")}}, "`gpu_hour` is a number from 0 to 1,000,000, found nan"),
        ({"gpu_hour": {"a": 1.0, "b": 2e6}}, "`gpu_hour` is a number from 0 to 1,000,000, found 2000000.0"),
    ],
)
def test_faulty_costs_are_named(prices: dict[str, Any], said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        Costs(**prices)


def test_the_largest_costs_stay_finite_and_all_that_are_beyond_are_named() -> None:
    most = {"gpu_hour": 1e6, "kwh": 1e6, "pue": 100.0, "carbon_g_per_kwh": 1e6, "server_w_per_gpu": 1e6}
    frame = pl.DataFrame(
        {"gpu": ["a"], "gpus": [64], "energy_per_output_token_j": [1e6], "output_tokens_per_s": [1e-6]}
    )
    priced = Costs(**most).added(frame)
    added = [name for name in priced.columns if name not in frame.columns]
    assert len(added) == 3
    assert all(0 < priced[name][0] < math.inf for name in added)
    with pytest.raises(SpaceError) as caught:
        Costs(**{name: value * 1.01 for name, value in most.items()})
    assert [problem.code for problem in caught.value.problems] == ["cost"] * 5
    assert all("`" + name + "`" in str(caught.value) for name in most)


def test_a_missing_price_is_named() -> None:
    frame = pl.DataFrame({"gpu": ["a"], "gpus": [2], "energy_per_output_token_j": [0.5], "output_tokens_per_s": [1e3]})
    with pytest.raises(SpaceError, match="no price of a GPU-hour for a"):
        Costs({"b": 1.0}).added(frame)
