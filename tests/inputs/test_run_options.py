"""Overlap, sequence and context parallelism, clocks and caps: what must hold, and how values are read."""

from __future__ import annotations

import itertools
import re
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from energylens.common.errors import EnergylensError, FrameError, InfeasibleError, SpaceError
from energylens.engine.evaluate import evaluate
from energylens.engine.space import Space
from energylens.inputs import axis_values, run_options
from energylens.inputs.library import load_gpu
from energylens.results.prediction import predict
from energylens.searches.exhaustive import explore
from energylens.serving.evaluate import serve
from energylens.serving.intervals import with_intervals
from energylens.serving.workload import load_workload

QUICK = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
MODELS = st.sampled_from(["llama-3.1-8b", "llama-3.1-70b", "qwen3-30b-a3b"])
GPUS = st.sampled_from(["a100-sxm-80gb", "h100-sxm", "b200"])


def rows(*points: dict[str, Any]) -> list[dict[str, Any]]:
    frame = pl.DataFrame(
        [{"tp": 4, "batch": 8, "prompt_tokens": 2048} | point for point in points], infer_schema_length=None
    )
    return list(evaluate(frame, breakdown=True).iter_rows(named=True))


@st.composite
def ways(draw: st.DrawFn) -> dict[str, Any]:
    stages = draw(st.sampled_from([None, 1, 2, 4]))
    overlapped = stages is not None and stages > 1
    return {
        "cp": draw(st.sampled_from([1, 2])),
        "overlap_stages": stages,
        "overlap_sms": draw(st.integers(1, 60)) if overlapped else 0,
        "overlap_where": draw(st.sampled_from(["prefill", "decode", "both"])) if overlapped else "prefill",
        "sequence_parallel": draw(st.booleans()),
        "sm_clock_mhz": draw(st.sampled_from([None, 1200, 1400])),
        "power_cap_w": draw(st.sampled_from([None, 250, 390])),
    }


@QUICK
@given(MODELS, GPUS, st.lists(ways(), min_size=1, max_size=6))
def test_energy_is_never_negative_and_causes_add_up(model: str, gpu: str, asked: list[dict[str, Any]]) -> None:
    for row in rows(*({"model": model, "gpu": gpu} | way for way in asked)):
        if not row["feasible"]:
            continue
        for phase in ("prefill", "decode"):
            causes = {name: row[name] for name in row if name.startswith(f"energy_{phase}_") and name.count("_") > 2}
            joules = sum(value for name, value in causes.items() if name != "energy_decode_step_j")
            assert joules == pytest.approx(row[f"energy_{phase}_j"], rel=1e-9)
            assert min(causes.values()) >= -1e-9 * row["energy_j"]
        if row["power_cap_w"]:
            assert row["power_w_per_gpu"] <= row["power_cap_w"] * (1 + 1e-9)


@QUICK
@given(MODELS, GPUS, ways())
def test_one_gpu_has_nothing_to_overlap_and_communicates_nothing(model: str, gpu: str, way: dict[str, Any]) -> None:
    (row,) = rows({"model": model, "gpu": gpu, "tp": 1} | way | {"cp": 1})
    if row["feasible"]:
        assert way["overlap_stages"] in (None, 1)
        assert not way["sequence_parallel"]
        assert row["energy_prefill_communication_j"] == row["energy_decode_communication_j"] == 0


@QUICK
@given(MODELS, GPUS, st.integers(1, 12), st.integers(1, 8000))
def test_longer_messages_never_cost_less_communication(model: str, gpu: str, batch: int, prompt: int) -> None:
    short, long, more = (
        {"model": model, "gpu": gpu, "batch": b, "prompt_tokens": p}
        for b, p in ((batch, prompt), (batch, prompt + 512), (batch + 1, prompt))
    )
    first, longer, larger = rows(short, long, more)
    if first["feasible"] and longer["feasible"]:
        assert longer["energy_prefill_communication_j"] >= first["energy_prefill_communication_j"]
    if first["feasible"] and larger["feasible"]:
        assert larger["energy_decode_communication_j"] >= first["energy_decode_communication_j"]


def test_a_lower_clock_saves_joules_down_to_the_knee_and_costs_time() -> None:
    base = {"model": "llama-3.1-8b", "gpu": "a100-sxm-80gb", "tp": 1, "prompt_tokens": 4096}
    clocks = [1410, 1305, 1200, 1110]
    found = rows(base, *(base | {"sm_clock_mhz": mhz} for mhz in clocks))
    assert found[0]["energy_j"] == pytest.approx(found[1]["energy_j"], rel=1e-12)
    for faster, slower in itertools.pairwise(found[1:]):
        assert slower["energy_prefill_j"] < faster["energy_prefill_j"]
        assert slower["ttft_s"] > faster["ttft_s"]


@settings(deadline=None)
@given(
    st.sampled_from([("a100-sxm-80gb", 1110, 1410), ("h100-sxm", 1200, 1980), ("b200", 1200, 1965)]),
    st.sampled_from([("llama-3.1-8b", 1), ("llama-3.1-70b", 4), ("qwen3-30b-a3b", 2)]),
    st.sampled_from([None, "fp8"]),
    st.integers(1, 256),
    st.integers(1, 8192),
)
def test_a_lower_lock_above_the_knee_never_costs_more_joules_nor_less_time(
    clocked: tuple[str, int, int], model: tuple[str, int], weights: str | None, batch: int, prompt: int
) -> None:
    gpu, knee, highest = clocked
    base = {"model": model[0], "tp": model[1], "gpu": gpu, "batch": batch, "prompt_tokens": prompt, "output_tokens": 2}
    clocks = [None, *range(highest, knee - 1, -45)]
    found = rows(*(base | {"weight_dtype": weights, "sm_clock_mhz": mhz} for mhz in clocks))
    assume(found[0]["feasible"])
    for faster, slower in itertools.pairwise(found):
        for phase, seconds in (("prefill", "ttft_s"), ("decode", "tpot_s")):
            assert slower[f"energy_{phase}_j"] <= faster[f"energy_{phase}_j"] * (1 + 1e-9)
            assert slower[seconds] >= faster[seconds] * (1 - 1e-3)


def test_where_the_board_limit_binds_a_lock_above_the_clock_it_enforces_changes_nothing() -> None:
    base = {"model": "llama-3.1-70b", "gpu": "h100-sxm", "weight_dtype": "fp8", "tp": 2, "prompt_tokens": 4096}
    clocks = [None, 1950, 1890, 1575]
    free, high, near, low = rows(*(base | {"batch": 8, "sm_clock_mhz": mhz} for mhz in clocks))
    assert free["energy_prefill_j"] / free["ttft_s"] / 2 == pytest.approx(700)
    for locked in (high, near):
        assert locked["energy_prefill_j"] == pytest.approx(free["energy_prefill_j"], rel=1e-3)
        assert locked["ttft_s"] == pytest.approx(free["ttft_s"], rel=1e-3)
    assert low["ttft_s"] > free["ttft_s"] * 1.02
    assert low["energy_prefill_j"] < free["energy_prefill_j"] * 0.95


def test_a_cap_is_nearly_the_lock_of_its_watts_in_prefill() -> None:
    base = {"model": "llama-3.1-8b", "gpu": "b200", "tp": 1, "batch": 8, "prompt_tokens": 4096, "output_tokens": 2}
    (locked,) = rows(base | {"sm_clock_mhz": 1470})
    watts = locked["energy_prefill_j"] / locked["ttft_s"]
    (capped,) = rows(base | {"power_cap_w": round(watts)})
    assert capped["ttft_s"] == pytest.approx(locked["ttft_s"], rel=0.01)
    assert capped["energy_prefill_j"] == pytest.approx(locked["energy_prefill_j"], rel=0.01)


def test_a_cap_that_does_not_bind_changes_nothing_and_one_that_does_meets_it() -> None:
    base = {"model": "llama-3.1-70b", "gpu": "h100-sxm", "batch": 4}
    free, loose, tight = rows(base, base | {"power_cap_w": 700}, base | {"power_cap_w": 300})
    assert loose["energy_j"] == pytest.approx(free["energy_j"], rel=1e-12)
    assert tight["ttft_s"] > free["ttft_s"]
    assert tight["energy_prefill_j"] / tight["ttft_s"] / 4 <= 300 * (1 + 1e-9)
    assert tight["energy_prefill_j"] < free["energy_prefill_j"]


@pytest.mark.parametrize("gpu", ["a100-sxm-80gb", "h100-sxm", "b200"])
def test_a_cap_at_the_limit_and_a_lock_at_the_highest_clock_repeat_intervals_too(gpu: str) -> None:
    spec = load_gpu(gpu).spec
    assert spec.clock is not None
    limit, highest = int(spec.power.tdp_w), int(spec.clock.max_mhz)
    base = {"model": "llama-3.1-8b", "gpu": gpu, "tp": 2}
    plain, *same, below, lower, both, lowest = rows(
        base,
        base | {"power_cap_w": limit},
        base | {"sm_clock_mhz": highest},
        base | {"sm_clock_mhz": highest, "power_cap_w": limit},
        base | {"power_cap_w": limit - 1},
        base | {"sm_clock_mhz": highest - 15},
        base | {"sm_clock_mhz": highest, "power_cap_w": limit - 1},
        base | {"sm_clock_mhz": highest - 15, "power_cap_w": limit},
    )
    assert not plain["extrapolated"]
    for row in same:
        assert row["extrapolated"] == plain["extrapolated"]
        for name in ("energy_j", "energy_lo_j", "energy_hi_j"):
            assert row[name] == pytest.approx(plain[name], rel=1e-12)
    assert same[0]["power_cap_w"] == limit
    assert same[1]["sm_clock_mhz"] == highest
    assert all(row["extrapolated"] for row in (below, lower, both, lowest))
    points = pl.DataFrame(
        [base, base | {"power_cap_w": limit}, base | {"power_cap_w": limit - 1}], infer_schema_length=None
    )
    served = with_intervals(serve(points, "chat", 1.0), load_workload("chat"))
    assert served["extrapolated"].to_list() == [False, False, True]


UNCLOCKED = ["l40s", "mi300x", "rtx-4090"]


@QUICK
@given(MODELS, st.sampled_from(UNCLOCKED), st.integers(1, 64), st.integers(1, 4096), st.integers(100, 450))
def test_a_cap_without_clock_tables_repeats_the_plain_result_or_cannot_be(
    model: str, gpu: str, batch: int, prompt: int, watts: int
) -> None:
    limit = int(load_gpu(gpu).spec.power.tdp_w)
    base = {"model": model, "gpu": gpu, "batch": batch, "prompt_tokens": prompt, "weight_dtype": "int4"}
    caps = [None, watts, limit, limit + 1]
    plain, capped, loose, beyond = (
        row | {"power_cap_w": 0} for row in rows(*(base | {"power_cap_w": w} for w in caps))
    )
    assert loose == plain
    assert beyond["reason"] == ("power" if plain["reason"] in ("ok", "memory", "batch") else plain["reason"])
    assert capped == plain or (capped["reason"] == "power" and watts != limit)


def test_the_lowest_cap_that_does_not_bind_is_named_and_does_not_bind() -> None:
    shape: dict[str, Any] = {"model": "llama-3.1-8b", "gpu": "rtx-4090", "weight_dtype": "int4"}
    with pytest.raises(InfeasibleError) as caught:
        predict(**shape | {"power_cap_w": 200})
    (problem,) = caught.value.problems
    drawn = re.search(r"would draw ([0-9.]+) W in prefill, and its profile has no table of clocks", problem.message)
    named = re.match(r"a cap of (\d+) W or more does not bind here", problem.hint or "")
    assert drawn and named and problem.code == "power"
    lowest = int(named[1])
    assert lowest - 1 < float(drawn[1]) <= lowest
    plain, met = predict(**shape), predict(**shape | {"power_cap_w": lowest})
    assert met.values == plain.values
    assert met.causes == plain.causes
    with pytest.raises(InfeasibleError, match=f"a power cap of {lowest - 1} W binds"):
        predict(**shape | {"power_cap_w": lowest - 1})


def test_where_the_board_limit_holds_a_stage_only_that_limit_does_not_bind() -> None:
    shape: dict[str, Any] = {
        "model": "llama-3.1-8b",
        "gpu": "l40s",
        "tp": 1,
        "batch": 4,
        "prompt_tokens": 4096,
        "output_tokens": 2,
    }
    with pytest.raises(InfeasibleError, match=r"would draw 350\.0 W in prefill") as caught:
        predict(**shape | {"power_cap_w": 349})
    assert caught.value.problems[0].hint == "a cap of 350 W or more does not bind here"
    assert predict(**shape | {"power_cap_w": 350}).values == predict(**shape).values


@pytest.mark.parametrize("method", ["lists", "ranges"])
def test_a_space_counts_caps_that_bind_point_by_point(method: str) -> None:
    axes: dict[str, Any] = {"power_cap_w": [None, 150, 250, 330, 350], "tp": [1, 2], "batch": [1, 16, 300]}
    lengths: dict[str, Any] = {"prompt_tokens": [16, 512, 8192], "output_tokens": [1, 2, 256]}
    if method == "ranges":
        lengths = {"prompt_tokens": list(range(64, 4097, 64)), "output_tokens": list(range(2, 300, 3))}
    found = explore(models="llama-3.1-8b", gpus="l40s", limits=["tpot <= 0.1"], **axes, **lengths)
    points = [
        dict(zip((*axes, *lengths), one, strict=True)) for one in itertools.product(*axes.values(), *lengths.values())
    ]
    each = evaluate(
        pl.DataFrame([{"model": "llama-3.1-8b", "gpu": "l40s"} | one for one in points], infer_schema_length=None)
    )
    counted = {str(reason): n for reason, n in each["reason"].value_counts().iter_rows()}
    assert {reason: n for reason, n in found.by_reason.items() if n} == counted
    assert counted["power"] > 0
    kept = each.filter(pl.col("feasible") & (pl.col("tpot_s") <= 0.1))
    assert found.outside_limits == counted["ok"] - kept.height
    assert found.frame["energy_per_output_token_j"].min() == kept["energy_per_output_token_j"].min()


def test_a_service_runs_under_a_cap_that_no_step_meets() -> None:
    deployments = pl.DataFrame({"model": ["llama-3.1-8b"] * 3, "gpu": ["l40s"] * 3, "power_cap_w": [None, 300, 350]})
    served = serve(deployments, "1024:256", 1.0)
    assert served["reason"].to_list() == ["ok", "power", "ok"]
    free, _, loose = (row | {"power_cap_w": None} for row in served.iter_rows(named=True))
    assert loose == free


def test_sequence_parallelism_saves_traffic_and_context_parallelism_cache() -> None:
    base = {"model": "llama-3.1-70b", "gpu": "h100-sxm"}
    plain, sequence, context = rows(base, base | {"sequence_parallel": True}, base | {"cp": 2})
    assert sequence["energy_prefill_hbm_activations_j"] < plain["energy_prefill_hbm_activations_j"]
    assert (plain["gpus"], context["gpus"]) == (4, 8)
    assert context["memory_bytes_per_gpu"] < plain["memory_bytes_per_gpu"]
    assert context["ttft_s"] < plain["ttft_s"]


def test_predict_says_which_limit_binds() -> None:
    found = predict("llama-3.1-70b", gpu="h100-sxm", tp=4, batch=4, prompt_tokens=4096, power_cap_w=300)
    assert next(iter(found.limits["prefill"])) == "compute"
    assert next(iter(found.limits["decode"])) == "hbm"
    assert found.limits["prefill"]["cap"] > 0


@pytest.mark.parametrize("asked", [{"power_cap_w": 300}, {"sm_clock_mhz": 1200}, {"power_cap_w": 690}])
@pytest.mark.parametrize("lock", [{}, {"sm_clock_mhz": 1200}])
def test_what_decides_the_time_adds_up_to_it(asked: dict[str, int], lock: dict[str, int]) -> None:
    shape = {"batch": 8, "prompt_tokens": 4096, "pp": 1, "tp": 1} | asked | lock
    found = predict("llama-3.1-8b", gpu="b200", **shape)
    assert sum(found.limits["prefill"].values()) == pytest.approx(found.values["ttft_s"], rel=1e-9)
    assert sum(found.limits["decode"].values()) == pytest.approx(found.values["tpot_s"], rel=1e-9)
    loose = shape.get("power_cap_w") != 300 and "sm_clock_mhz" in shape
    assert ("cap" in found.limits["prefill"]) == (not loose)


@pytest.mark.parametrize(
    ("point", "reason", "words"),
    [
        ({"overlap_stages": 4}, "overlap", "use 2 or more stages with 1 to 131 SMs"),
        ({"overlap_stages": 4, "overlap_sms": 8, "tp": 1}, "overlap", "nothing that overlap could hide"),
        ({"sequence_parallel": True, "tp": 1}, "shard", "nothing is reduced over tp 1"),
        ({"fused_norm": True, "tp": 1}, "shard", "no norm directly follows"),
        ({"overlap_where": "decode"}, "overlap", "say in how many stages"),
        ({"gpu": "mi300x", "power_cap_w": 400}, "power", "no table of clocks"),
        ({"sm_clock_mhz": 2100}, "clock", "510 to 1980 MHz"),
        ({"power_cap_w": 70, "sm_clock_mhz": 1200}, "power", "use 78 to 700 W: 78 W is the lowest cap at 1200 MHz"),
        ({"power_cap_w": 701}, "power", "use 121 to 700 W"),
        ({"gpu": "l40s", "power_cap_w": 10}, "power", "use 71 to 350 W"),
        ({"power_cap_w": 100}, "power", "121 W is the lowest cap at its highest clock, 1980 MHz"),
    ],
)
def test_what_cannot_be_is_told(point: dict[str, Any], reason: str, words: str) -> None:
    asked: dict[str, Any] = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "tp": 2} | point
    with pytest.raises(InfeasibleError) as caught:
        predict(**asked)
    assert caught.value.problems[0].code == reason
    assert words in caught.value.render()


def test_values_are_read_as_text_and_checked() -> None:
    assert axis_values.parse("default,1:3", "overlap_stages") == [None, 1, 2, 3]
    assert axis_values.parse("off,on", "sequence_parallel") == [False, True]
    assert axis_values.parse("both", "overlap_where") == ["both"]
    with pytest.raises(SpaceError, match="`overlap_where` is no phase: `prefil`"):
        _ = Space("llama-3.1-8b", "h100-sxm", overlap_where="prefil").json
    with pytest.raises(SpaceError, match="axis `power_cap_w` needs whole numbers"):
        _ = Space("llama-3.1-8b", "h100-sxm", power_cap_w=[float("nan"), float("inf")]).json
    with pytest.raises(SpaceError, match="axis `sm_clock_mhz` needs whole numbers from 1"):
        _ = Space("llama-3.1-8b", "h100-sxm", sm_clock_mhz=[0]).json
    with pytest.raises(FrameError, match="`fused_norm` is on or off"):
        evaluate(pl.DataFrame({"model": ["llama-3.1-8b"], "gpu": ["h100-sxm"], "fused_norm": ["yes"]}))


def test_an_explored_space_shows_the_axes_that_were_asked_for() -> None:
    asked: dict[str, Any] = {"overlap_stages": [1, 4], "overlap_sms": [0, 8, 16], "sm_clock_mhz": [None, 1200]}
    found = explore(models="llama-3.1-70b", gpus="a100-sxm-80gb", tp=[4, 8], batch=[8, 64], prompt_tokens=4096, **asked)
    assert found.by_reason["overlap"] == 2 * 2 * 2 * 3
    assert {"overlap_stages", "overlap_sms", "sm_clock_mhz"} <= set(found.frame.columns)
    assert "cp" not in found.frame.columns
    again = evaluate(found.frame.select(name for name in found.frame.columns[: found.frame.columns.index("gpus")]))
    assert again["energy_j"].to_list() == found.frame["energy_j"].to_list()
    plain = explore(models="llama-3.1-70b", gpus="a100-sxm-80gb", tp=[4, 8])
    assert not set(run_options.RUNNING) & set(plain.frame.columns)


def test_errors_of_a_way_come_all_at_once() -> None:
    with pytest.raises(EnergylensError) as caught:
        _ = Space("llama-3.1-8b", "h100-sxm", power_cap_w=[-5], overlap_where="never", sequence_parallel=[3]).json
    assert len(caught.value.problems) == 3
