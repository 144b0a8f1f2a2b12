"""The steady state: what must hold, and how near it is to a replay."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from energylens import _core
from energylens.common.errors import FrameError
from energylens.serving.evaluate import Role, serve, served_rates
from energylens.serving.intervals import with_intervals
from energylens.serving.replay import replay
from energylens.serving.workload import load_workload

ENGINE = {"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": 4}


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("azure-conv", ENGINE),
        ("burstgpt", {"model": "llama-3.1-8b", "gpu": "b200"}),
        ("summarization", {"model": "qwen3-30b-a3b", "gpu": "h100-sxm", "tp": 2}),
        ("reasoning", {"model": "llama-3.1-8b", "gpu": "h100-sxm"}),
    ],
)
@pytest.mark.parametrize("utilisation", [0.3, 0.6])
def test_near_a_replay_of_poisson_arrivals(name: str, engine: dict[str, object], utilisation: float) -> None:
    load = replace(load_workload(name), rates=((1.0, 1.0),), crowded=0.0)
    frame = pl.DataFrame([engine])
    rate = utilisation * serve(frame, load)["requests_per_s"][0]
    served = serve(frame, load, rate).row(0, named=True)
    judged = replay(engine, load, rate, requests=40_000)
    assert served["utilisation"] == pytest.approx(utilisation)
    assert served["tpot_s"] == pytest.approx(judged["tpot_s"], rel=0.05)
    assert served["energy_per_output_token_j"] == pytest.approx(judged["energy_per_output_token_j"], rel=0.05)
    assert served["ttft_p50_s"] == pytest.approx(judged["ttft_p50_s"], rel=0.15)


def test_capacity_is_what_a_replay_can_serve() -> None:
    frame = pl.DataFrame([ENGINE | {"max_num_seqs": 64}])
    most = serve(frame, "512:128").row(0, named=True)
    judged = replay(ENGINE | {"max_num_seqs": 64}, "512:128", 3.0 * most["requests_per_s"], requests=10_000)
    assert judged["requests_per_s"] == pytest.approx(most["requests_per_s"], rel=0.05)
    assert judged["energy_per_output_token_j"] == pytest.approx(most["energy_per_output_token_j"], rel=0.05)


def test_joules_fall_and_times_rise_with_the_load() -> None:
    frame = pl.DataFrame([ENGINE] * 2)
    rows = [serve(frame, "azure-conv", rate).row(0, named=True) for rate in (0.5, 1.0, 2.0, 4.0)]
    for name, falls in (("energy_per_output_token_j", True), ("tpot_s", False), ("power_w", False), ("ttft_s", False)):
        values = [row[name] for row in rows]
        assert values == sorted(values, reverse=falls), name


def test_rows_do_not_depend_on_their_neighbours() -> None:
    frame = pl.DataFrame(
        [ENGINE | {"replicas": n, "max_num_seqs": 256, "chunked": True} for n in (1, 2, 5)]
        + [ENGINE | {"replicas": 2, "max_num_seqs": 8, "chunked": False}]
    )
    together = serve(frame, "azure-conv", 3.0)
    for row in range(frame.height):
        alone = serve(frame[[row]], "azure-conv", 3.0)
        assert_frame_equal(together[[row]], alone, rel_tol=1e-9)


def test_prefixes_spare_reading() -> None:
    frame = pl.DataFrame([ENGINE | {"prefix_cache": on} for on in (True, False)])
    on, off = serve(frame, "mooncake-conversation", 0.2).iter_rows(named=True)
    assert on["found_share"] > 0.04
    assert off["found_share"] == 0.0
    assert on["energy_per_output_token_j"] < off["energy_per_output_token_j"]
    assert on["ttft_p50_s"] < off["ttft_p50_s"]


def test_speculation_pays_by_what_is_accepted() -> None:
    engine = ENGINE | {"max_num_seqs": 4}
    frame = pl.DataFrame(
        [engine | {"draft_tokens": n, "acceptance": a, "draft": d} for n, a, d in (
            (0, 0.5, None), (4, 0.0, None), (4, 0.9, None), (4, 0.9, "llama-3.1-8b")
        )],
        schema_overrides={"draft": pl.String},
    )  # fmt: skip
    plain, none, free, paid = serve(frame, "256:256").iter_rows(named=True)
    assert none["energy_per_output_token_j"] > plain["energy_per_output_token_j"]
    assert free["energy_per_output_token_j"] < paid["energy_per_output_token_j"] < plain["energy_per_output_token_j"]
    assert free["tpot_s"] < paid["tpot_s"] < plain["tpot_s"]
    # At a large batch verifying is no longer free: published, 4 tokens cost more at batch 128.
    wide = pl.DataFrame([ENGINE | {"max_num_seqs": 256, "draft_tokens": n, "acceptance": 0.5} for n in (0, 4)])
    plain, drafted = serve(wide, "256:256").iter_rows(named=True)
    assert drafted["energy_per_output_token_j"] > plain["energy_per_output_token_j"]


def test_roles_add_up_to_both() -> None:
    frame = pl.DataFrame([ENGINE])
    both, prefill, decode = (serve(frame, "1024:128", 1.0, role=role).row(0, named=True) for role in get_args(Role))
    assert prefill["ttft_p50_s"] < 2 * both["ttft_p50_s"]
    assert decode["tpot_s"] < both["tpot_s"]
    idle = 4 * 120 / 128
    parts = prefill["energy_per_request_j"] / 128 + decode["energy_per_output_token_j"]
    assert both["energy_per_output_token_j"] < parts < both["energy_per_output_token_j"] + 1.3 * idle


def test_overload_and_memory_are_reasons() -> None:
    frame = pl.DataFrame({"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": [1, 2, 4]})
    served = serve(frame, "azure-conv", 8.0)
    assert served["reason"].to_list() == ["memory", "overload", "ok"]
    assert served["energy_per_output_token_j"].null_count() == 2
    assert served["utilisation"][1] > 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_num_sequences": 5}, "unknown column `max_num_sequences`"),
        ({"max_num_seqs": 0}, "`max_num_seqs` should hold numbers from 1"),
        ({"acceptance": 1.5}, "`acceptance` should hold numbers from 0 to 1"),
        ({"draft_tokens": 2, "draft": "llama-3.1-405b"}, "cannot run"),
    ],
)
def test_faults_of_deployments_are_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(FrameError, match=said):
        serve(pl.DataFrame([ENGINE | change]), "1024:128")


def test_a_rate_is_above_zero() -> None:
    with pytest.raises(FrameError, match="is no rate"):
        serve(pl.DataFrame([ENGINE]), "1024:128", -1.0)


def test_what_comes_above_capacity_is_served_later() -> None:
    factors, share = np.array([0.2, 1.0, 6.0]), np.array([0.5, 0.4, 0.1])
    rate, most = np.array([1.0, 1.0, 2.0]), np.array([10.0, 2.0, 2.1])
    factors = factors / (factors @ share)
    rates = served_rates(rate, most, factors, share)
    np.testing.assert_allclose(rates @ share, rate, rtol=1e-6)
    assert (rates <= most[:, None]).all()
    np.testing.assert_allclose(rates[0], factors)


@pytest.mark.parametrize("engine", [{"dp": 4}, {"pp": 4}])
def test_a_prompt_is_read_on_one_rank_or_stage(engine: dict[str, int]) -> None:
    alone = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}
    single, many = (
        serve(pl.DataFrame([alone | parallelism]), "8000:64", 0.05).row(0, named=True) for parallelism in ({}, engine)
    )
    assert many["ttft_p50_s"] == pytest.approx(single["ttft_p50_s"], rel=0.25)
    judged = replay(alone | engine, "8000:64", 0.05, requests=500)
    assert many["ttft_p50_s"] == pytest.approx(judged["ttft_p50_s"], rel=0.05)
    assert many["energy_per_request_j"] == pytest.approx(judged["energy_per_request_j"], rel=0.05)


def test_requests_wait_for_slots() -> None:
    engine = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "max_num_seqs": 8}
    most = serve(pl.DataFrame([engine]), "500:200")["requests_per_s"][0]
    free = serve(pl.DataFrame([engine | {"max_num_seqs": 256}]), "500:200", 0.9 * most)["ttft_p90_s"][0]
    served = serve(pl.DataFrame([engine]), "500:200", 0.9 * most)["ttft_p90_s"][0]
    judged = replay(engine, "500:200", 0.9 * most, requests=50_000)["ttft_p90_s"]
    assert free < 0.1 * judged
    assert served == pytest.approx(judged, rel=0.6)


def test_a_draft_model_takes_memory() -> None:
    frame = pl.DataFrame(
        [ENGINE | {"max_num_seqs": 10_000, "token_budget": 50_000, "draft_tokens": n, "draft": d} for n, d in
         ((0, None), (3, "llama-3.1-8b"), (3, "llama-3.1-70b"))],
        schema_overrides={"draft": pl.String},
    )  # fmt: skip
    plain, small, large = serve(frame, "1024:256").iter_rows(named=True)
    assert small["slots"] < plain["slots"]
    assert large["slots"] < 0.7 * plain["slots"]


def test_what_waits_is_static() -> None:
    frame = with_intervals(serve(pl.DataFrame([ENGINE]), "512:64", 0.05), load_workload("512:64"))
    shares = [frame[f"share_{cause}"][0] for cause in _core.CAUSES]
    assert sum(shares) == pytest.approx(1.0)
    assert frame["share_static"][0] > frame["idle_share"][0] > 0.8


def test_a_request_longer_than_the_caches_needs_more_gpus() -> None:
    frame = pl.DataFrame({"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": [2, 8]})
    assert serve(frame, "90000:100")["reason"].to_list() == ["memory", "ok"]


def test_steps_of_fewer_tokens_than_requests_are_refused() -> None:
    frame = pl.DataFrame([ENGINE | {"token_budget": 128, "max_num_seqs": 256}])
    assert serve(frame, "64:64")["reason"][0] == "budget"
