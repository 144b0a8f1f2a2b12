"""Caps on GPUs whose clocks nobody knows: held against the steps that there are, not against those that could be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from energylens.cli import main
from energylens.common.errors import EnergylensError, SpaceError
from energylens.engine.evaluate import evaluate
from energylens.inputs.library import load_gpu
from energylens.serving.advice.levers import advise_levers
from energylens.serving.evaluate import serve
from energylens.serving.plan import serve_plan
from energylens.serving.pools import serve_pools
from energylens.serving.replay import replay
from energylens.serving.step_table import engines

CARD: dict[str, Any] = {"gpus": "rtx-4090", "weight_dtype": "int4", "tp": 1}
ROW: dict[str, Any] = {"model": "llama-3.1-8b", "gpu": "rtx-4090", "weight_dtype": "int4"}


def lowest(error: EnergylensError) -> int:
    """Return the cap of which a hint says that it does not bind."""
    words = str(error).split("a cap of ")[1].split(" W or more does not bind here")
    return int(words[0])


def test_a_cap_that_no_step_reaches_changes_nothing_of_a_plan() -> None:
    free = serve_plan("llama-3.1-8b", "chat", rate_per_s=2.0, **CARD)
    capped = serve_plan("llama-3.1-8b", "chat", rate_per_s=2.0, power_cap_w=440, **CARD)
    assert capped.best["power_w_per_gpu"] < 300
    assert capped.frame["power_cap_w"].to_list() == [440] * capped.frame.height
    assert capped.frame.drop("power_cap_w").equals(free.frame)
    assert (capped.tried, capped.by_reason, capped.notes) == (free.tried, free.by_reason, free.notes)


@pytest.mark.parametrize(
    "more", [{}, {"pp": 2}, {"dp": 2}, {"gpu": "mi300x", "weight_dtype": None}, {"chunked": False}]
)
def test_a_cap_that_no_step_reaches_changes_nothing_of_a_replay(more: dict[str, Any]) -> None:
    row = ROW | more
    tdp_w = math.floor(load_gpu(row["gpu"]).profile.tdp_w)
    free = replay(row, "chat", 2.0, requests=500)
    capped = replay(row | {"power_cap_w": tdp_w - 10}, "chat", 2.0, requests=500)
    assert capped.values == free.values
    assert capped.requests.equals(free.requests)


def test_the_lowest_cap_that_a_replay_names_is_the_lowest() -> None:
    for workload, rate in (("chat", 2.0), ("1024:128", 1.0), ("16384:64", 0.05)):
        with pytest.raises(EnergylensError) as caught:
            replay(ROW | {"power_cap_w": 260}, workload, rate, requests=300)
        problem = caught.value.problems[0]
        least = lowest(caught.value)
        assert problem.code == "power"
        assert problem.message.startswith(
            f"a power cap of 260 W binds: rtx-4090 would draw {least} W in a step of this"
        )
        assert str(problem.hint).endswith("tables of clocks have a100-sxm-80gb, b200, gb200, h100-sxm, h200-sxm")
        free = replay(ROW, workload, rate, requests=300)
        assert replay(ROW | {"power_cap_w": least}, workload, rate, requests=300).values == free.values
        with pytest.raises(EnergylensError) as again:
            replay(ROW | {"power_cap_w": least - 1}, workload, rate, requests=300)
        assert lowest(again.value) == least


@pytest.mark.parametrize("prompt", [128, 1024, 8192])
def test_requests_that_run_alone_draw_the_watts_of_their_steps(prompt: int) -> None:
    """Minutes lie between requests: steps read one prompt, or decode one sequence."""
    with pytest.raises(EnergylensError) as caught:
        replay(ROW | {"power_cap_w": 100, "token_budget": 16384}, f"{prompt}:32", 0.001, requests=50)
    points = pl.DataFrame([ROW | {"prompt_tokens": prompt, "output_tokens": n} for n in (2, 32)])
    evaluated = evaluate(points)
    phases = (("energy_prefill_j", "ttft_s"), ("energy_decode_step_j", "tpot_s"))
    watts = max(float((evaluated[joules] / evaluated[seconds]).to_numpy().max()) for joules, seconds in phases)
    assert watts <= lowest(caught.value) <= 1.02 * watts + 1


def test_steady_state_holds_a_cap_against_its_steps() -> None:
    points = pl.DataFrame([ROW | {"max_num_seqs": n, "power_cap_w": 400} for n in (1, 4, 16, 32)])
    served = serve(points, "1024:128")
    free = serve(points.drop("power_cap_w"), "1024:128")
    decode = pl.DataFrame([ROW | {"batch": n, "prompt_tokens": 1087, "output_tokens": 2} for n in (1, 4, 16, 32)])
    alone = evaluate(decode)
    watts = (alone["energy_decode_step_j"] / alone["tpot_s"]).to_list()
    assert [w > 400 for w in watts] == [False, False, False, True]
    assert served["reason"].to_list() == ["ok", "ok", "ok", "power"]
    assert served[:3].drop("power_cap_w").equals(free[:3])
    assert served["energy_per_output_token_j"][3] is None


def test_a_stage_that_draws_the_most_counts() -> None:
    points = pl.DataFrame([ROW | {"pp": pp, "power_cap_w": 300} for pp in (1, 2)])
    runnable = engines(points)
    assert runnable.drawn is not None
    assert runnable.drawn.cap_w.tolist() == [300, 300]
    for row, pp in enumerate((1, 2)):
        for batch, context, at, line in ((64, 512, 11, 2), (32, 1024, 9, 3)):
            cap = runnable.drawn.decode_w[row][at, line]
            point = ROW | {"pp": pp, "batch": batch, "prompt_tokens": context, "output_tokens": 2}
            caps = [point | {"power_cap_w": math.floor(cap)}, point | {"power_cap_w": math.ceil(cap)}]
            assert evaluate(pl.DataFrame(caps))["reason"].to_list() == ["power", "ok"]
    mean = runnable.steps.base_j / runnable.steps.base_s / runnable.steps.gpus[:, None]
    assert (runnable.drawn.base_w[1] > 1.01 * mean[1]).any()
    np.testing.assert_allclose(runnable.drawn.base_w[0], mean[0])


def test_engines_that_draw_too_much_are_left_for_more_of_them() -> None:
    """At 400 W one engine would be too much, two that share the load are not."""
    plan = serve_plan("llama-3.1-8b", "chat", rate_per_s=2.0, power_cap_w=400, **CARD)
    assert plan.best["replicas"] > serve_plan("llama-3.1-8b", "chat", rate_per_s=2.0, **CARD).best["replicas"] == 1
    assert any("a replayed step would draw more than the cap" in note for note in plan.notes)


def test_a_plan_under_a_cap_that_always_binds_says_by_how_much() -> None:
    with pytest.raises(EnergylensError) as caught:
        serve_plan("llama-3.1-8b", "chat", rate_per_s=2.0, power_cap_w=200, **CARD)
    text = str(caught.value)
    assert "a power cap of 200 W binds: rtx-4090 would draw 3" in text
    assert 300 < lowest(caught.value) < 450
    assert "tables of clocks have a100-sxm-80gb, b200" in text
    with pytest.raises(SpaceError, match="outside the GPU's range"):
        serve_plan("llama-3.1-8b", "chat", rate_per_s=2.0, power_cap_w=60, **CARD)


def test_pools_levers_and_drafts_hold_caps_alike() -> None:
    side = CARD | {"replicas": None}
    pools = [
        serve_pools("llama-3.1-8b", "512:64", prefill=side | cap, decode=side | cap, rate_per_s=2.0).frame
        for cap in ({}, {"power_cap_w": 440})
    ]
    assert pools[1].drop("prefill_power_cap_w", "decode_power_cap_w").equals(pools[0])
    levers = advise_levers(
        "llama-3.1-8b", "512:64", gpu="rtx-4090", rate_per_s=1.0, weight_dtype="int4", power_cap_w=440
    )
    free = advise_levers("llama-3.1-8b", "512:64", gpu="rtx-4090", rate_per_s=1.0, weight_dtype="int4")
    assert levers.now["energy_per_output_token_j"] == free.now["energy_per_output_token_j"]
    with pytest.raises(EnergylensError, match="a power cap of 200 W binds"):
        advise_levers("llama-3.1-8b", "512:64", gpu="rtx-4090", rate_per_s=1.0, weight_dtype="int4", power_cap_w=200)
    drafted = ROW | {"draft": "llama-3.1-8b", "draft_tokens": 3, "max_num_seqs": 4, "tp": 2}
    frames = [serve(pl.DataFrame([drafted | cap]), "512:64") for cap in ({}, {"power_cap_w": 440})]
    assert frames[0]["reason"].to_list() == ["ok"]
    assert frames[1].drop("power_cap_w").equals(frames[0])


def test_the_command_line_says_the_lowest_cap(capsys: Any) -> None:
    argv = [
        "replay",
        "llama-3.1-8b",
        "--gpu",
        "rtx-4090",
        "--weight-dtype",
        "int4",
        "--workload",
        "1024:64",
        "--rate",
        "1",
    ]
    assert main([*argv, "--requests", "200", "--power-cap-w", "250"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: a power cap of 250 W binds: rtx-4090 would draw 3")
    assert "\nhint: a cap of 3" in err
    assert main([*argv, "--requests", "200", "--power-cap-w", "440"]) == 0
