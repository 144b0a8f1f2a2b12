"""More bandwidth, more watts, fewer tokens, narrower numbers: what never makes a result worse, and where it may.

Pairs of random points that differ in one thing. The exceptions, with their reasons: docs/physics.md, section 12.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from energylens.engine.evaluate import evaluate
from energylens.engine.expert_loads import loads
from energylens.inputs.bundled import bundled
from energylens.inputs.library import load_gpu
from energylens.inputs.plan import LoadedGpu

EXACT = 1 + 1e-9
QUICK = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
GPUS = list(bundled("hardware"))
CLOCKED = [name for name in GPUS if (load_gpu(name).spec.clock or load_gpu(name).spec).model_dump().get("voltage_mv")]
MODELS = list(bundled("models"))
ROUTED = ["gpt-oss-20b", "gpt-oss-120b", "qwen3-30b-a3b", "mixtral-8x7b", "minimax-m2.5", "deepseek-v3"]
PASS_TOKENS = 8192


def points(gpus: list[str] = GPUS, models: list[str] = MODELS) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Return lists of points, most of which can run."""
    point = st.fixed_dictionaries(
        {
            "model": st.sampled_from(models),
            "gpu": st.sampled_from(gpus),
            "tp": st.sampled_from([1, 2, 4, 8]),
            "pp": st.sampled_from([1, 1, 2, 3, 4]),
            "dp": st.sampled_from([1, 1, 2, 4]),
            "ep": st.sampled_from([1, 1, 2, 4]),
            "batch": st.integers(4, 300),
            "prompt_tokens": st.integers(1, 9000),
            "output_tokens": st.integers(2, 500),
        }
    )
    return st.lists(point, min_size=10, max_size=25)


def changed(name: str, section: str, **fields: Any) -> LoadedGpu:
    """Return a bundled GPU with other values in a section, named `NAME*`."""
    loaded = load_gpu(name)
    other = getattr(loaded.spec, section).model_copy(update=fields)
    return replace(loaded, spec=loaded.spec.model_copy(update={section: other, "name": f"{name}*"}))


def pairs(
    base: list[dict[str, Any]], other: list[dict[str, Any]], gpus: list[LoadedGpu] | None = None
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the results of points and of their counterparts, where both can run."""
    frame = pl.DataFrame([*base, *other], infer_schema_length=None)
    rows = list(evaluate(frame, gpus=gpus or []).iter_rows(named=True))
    both = zip(rows[: len(base)], rows[len(base) :], strict=True)
    return [(first, second) for first, second in both if first["feasible"] and second["feasible"]]


def starred(base: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [point | {"gpu": f"{point['gpu']}*"} for point in base]


def times(second: dict[str, Any], first: dict[str, Any]) -> list[float]:
    return [second[name] / first[name] for name in ("ttft_s", "tpot_s")]


WIDER = [
    changed(name, "memory", bandwidth_bytes_per_s=1.5 * load_gpu(name).spec.memory.bandwidth_bytes_per_s)
    for name in GPUS
]
STRONGER = [changed(name, "power", tdp_w=1.5 * load_gpu(name).spec.power.tdp_w) for name in CLOCKED]


@QUICK
@given(points())
def test_more_bandwidth_is_never_slower_nor_dearer(base: list[dict[str, Any]]) -> None:
    for first, second in pairs(base, starred(base), WIDER):
        assert max(times(second, first)) <= EXACT
        assert second["energy_j"] <= first["energy_j"] * EXACT


@QUICK
@given(points(CLOCKED), st.sampled_from([900, 1100, 1400]))
def test_more_bandwidth_is_never_slower_at_a_locked_clock(base: list[dict[str, Any]], mhz: int) -> None:
    locked = [point | {"sm_clock_mhz": mhz} for point in base]
    for first, second in pairs(locked, starred(locked), WIDER):
        assert max(times(second, first)) <= EXACT


@QUICK
@given(points(CLOCKED), st.floats(0.25, 0.99))
def test_more_bandwidth_under_a_cap_is_slower_by_little_and_only_if_the_cap_is_deep(
    base: list[dict[str, Any]], share: float
) -> None:
    capped = [point | {"power_cap_w": int(share * load_gpu(point["gpu"]).spec.power.tdp_w)} for point in base]
    for first, second in pairs(capped, starred(capped), WIDER):
        assert max(times(second, first)) <= (1.05 if share < 0.75 else 1.002)


@QUICK
@given(points(CLOCKED), st.floats(0.2, 1.0), st.floats(0.2, 1.0), st.sampled_from([None, 900, 1200]))
def test_a_higher_cap_is_never_slower(base: list[dict[str, Any]], first: float, second: float, mhz: int | None) -> None:
    def capped(share: float) -> list[dict[str, Any]]:
        limit = {name: load_gpu(name).spec.power.tdp_w for name in CLOCKED}
        return [point | {"power_cap_w": int(share * limit[point["gpu"]]), "sm_clock_mhz": mhz} for point in base]

    for low, high in pairs(capped(min(first, second)), capped(max(first, second))):
        assert max(times(high, low)) <= EXACT


@QUICK
@given(points(CLOCKED), st.sampled_from([900, 1200, 1400]))
def test_the_board_limit_says_at_which_clock_kernels_were_measured(base: list[dict[str, Any]], mhz: int) -> None:
    locked = [point | {"sm_clock_mhz": mhz} for point in base]
    assert all(times(second, first) == [1.0, 1.0] for first, second in pairs(base, starred(base), STRONGER))
    for free, slowed in pairs(base, starred(locked), STRONGER):
        highest = load_gpu(free["gpu"]).spec.clock
        assert highest is not None
        assert max(times(slowed, free)) <= highest.max_mhz / mhz * EXACT
    for first, second in pairs(locked, starred(locked), STRONGER):
        assert min(times(second, first)) >= 2 - EXACT


def test_a_lock_costs_more_where_the_limit_held_the_clock_less() -> None:
    point = {"model": "llama-3.3-70b", "gpu": "h200-sxm", "dp": 8, "batch": 12, "prompt_tokens": 62, "output_tokens": 1}
    locked = point | {"sm_clock_mhz": 900}
    ((measured, stronger),) = pairs([locked], starred([locked]), STRONGER)
    assert stronger["ttft_s"] / measured["ttft_s"] == pytest.approx(1.27, abs=0.005)
    assert measured["tpot_s"] == stronger["tpot_s"]


def passes(point: dict[str, Any]) -> tuple[int, int]:
    """Return the number of prefill passes and the prompts of the fullest one."""
    held = math.ceil(point["batch"] / point["dp"])
    fullest = min(math.ceil(held / point["pp"]), max(1, PASS_TOKENS // point["prompt_tokens"]))
    return math.ceil(held / fullest), fullest


def with_one_more(point: dict[str, Any]) -> dict[str, Any]:
    return point | {"batch": point["batch"] + point["dp"]}


@QUICK
@given(points())
def test_one_more_sequence_takes_no_less_time_in_as_many_passes(base: list[dict[str, Any]]) -> None:
    for first, second in pairs(base, [with_one_more(point) for point in base]):
        assert second["tpot_s"] >= first["tpot_s"] * (2 - EXACT)
        assert second["memory_bytes_per_gpu"] >= first["memory_bytes_per_gpu"] * (2 - EXACT)
        assert second["ttft_s"] >= first["ttft_s"] * (2 - EXACT if passes(first)[0] == passes(second)[0] else 0.6)


def test_fewer_passes_are_faster_where_a_pass_takes_as_long_for_two() -> None:
    shape = {"gpu": "mi300x", "tp": 1, "pp": 3, "prompt_tokens": 8, "output_tokens": 2}
    point = {"model": "qwen3-14b", "batch": 3} | shape
    ((three, four),) = pairs([point], [point | {"batch": 4}])
    assert (passes(three | {"dp": 1}), passes(four | {"dp": 1})) == ((3, 1), (2, 2))
    assert 0.75 <= four["ttft_s"] / three["ttft_s"] < 0.85
    assert four["tpot_s"] >= three["tpot_s"]


@QUICK
@given(
    points(models=ROUTED),
    st.sampled_from(["uniform", "balanced", "dirichlet:0.1", "dirichlet:0.8", "zipf:0.8", "zipf:2"]),
)
def test_one_more_sequence_never_has_a_shorter_step_under_laws_of_choice(base: list[dict[str, Any]], law: str) -> None:
    routed = [point | {"routing": law} for point in base]
    for first, second in pairs(routed, [with_one_more(point) for point in routed]):
        assert second["tpot_s"] >= first["tpot_s"] * (2 - EXACT)


def test_measured_tables_deal_three_tokens_to_fewer_experts_than_two() -> None:
    dealt = loads("gpt-oss-120b", gpus=[8], tokens=[2, 3, 4], routings=["power_law:1.2", "uniform"])
    hits = dict(dealt.group_by("routing", maintain_order=True).agg("busiest_experts_hit").iter_rows())
    assert hits["power_law:1.2"][1] < hits["power_law:1.2"][0] < hits["power_law:1.2"][2]
    assert hits["uniform"] == sorted(hits["uniform"])
    point = {"model": "gpt-oss-120b", "gpu": "a100-sxm-80gb", "tp": 8, "ep": 8, "batch": 2, "routing": "power_law:1.2"}
    ((second, three),) = pairs([point], [point | {"batch": 3}])
    assert 0.8 < three["tpot_s"] / second["tpot_s"] < 0.95


@QUICK
@given(points(), st.integers(1, 9000))
def test_a_longer_prompt_takes_no_less_time_nor_memory_in_the_same_passes(
    base: list[dict[str, Any]], more: int
) -> None:
    for first, second in pairs(base, [point | {"prompt_tokens": point["prompt_tokens"] + more} for point in base]):
        assert second["tpot_s"] >= first["tpot_s"] * (2 - EXACT)
        if passes(first) == passes(second):
            assert second["ttft_s"] >= first["ttft_s"] * (2 - EXACT)
            assert second["memory_bytes_per_gpu"] >= first["memory_bytes_per_gpu"] * (2 - EXACT)


def test_fewer_long_prompts_fit_into_a_pass_and_need_less_memory() -> None:
    shape = {"gpu": "gb200", "tp": 16, "cp": 2, "batch": 3, "output_tokens": 1}
    frame = pl.DataFrame([{"model": "gpt-oss-20b", "prompt_tokens": tokens} | shape for tokens in (9524, 19048)])
    by_pass = [evaluate(frame, max_batched_tokens=n)["memory_bytes_per_gpu"].to_list() for n in (16384, 4096)]
    (three, first), (short, long) = by_pass
    assert first < three
    assert short < long == first


@QUICK
@given(points(models=ROUTED), st.sampled_from(["zipf:0.5", "zipf:0.8"]))
def test_balanced_experts_are_slower_by_little_and_with_many_tokens_not_at_all(
    base: list[dict[str, Any]], law: str
) -> None:
    placed = [
        point | {"ep": point["tp"] * point["dp"], "routing": law}
        for point in base
        if point["tp"] * point["dp"] in (2, 4, 8)
    ]
    if not placed:
        return
    for first, second in pairs(placed, [point | {"placement": "balanced"} for point in placed]):
        assert second["tpot_s"] <= first["tpot_s"] * 1.12
        many = first["batch"] * first["prompt_tokens"] / passes(first)[0] >= 1024
        assert second["ttft_s"] <= first["ttft_s"] * (1.01 if many else 1.06)


@pytest.mark.parametrize("model", ROUTED)
def test_balanced_experts_never_leave_more_tokens_to_the_busiest_than_chance_does(model: str) -> None:
    arguments: dict[str, Any] = {"gpus": [2, 4, 8], "tokens": [4, 64, 256, 4096], "routings": ["zipf:0.8"]}
    placed = loads(model, placements=["contiguous", "balanced"], **arguments).partition_by("placement", as_dict=True)
    tokens = {name: frame["busiest_tokens"].to_numpy() for (name,), frame in placed.items()}
    many = placed[("contiguous",)]["tokens"].to_numpy() >= 64
    assert (tokens["balanced"] <= tokens["contiguous"] * 1.03).all()
    assert (tokens["balanced"][many] <= tokens["contiguous"][many] * EXACT).all()


def level(name: str) -> LoadedGpu:
    """Return a GPU whose kernels take the coefficients of bf16 in every format."""
    kernels = load_gpu(name).spec.kernels
    assert kernels is not None
    sets = {kind: getattr(kernels, kind) for kind in ("gemm", "grouped_gemm", "attention_prefill", "attention_decode")}
    same = {
        kind: by_format.model_copy(
            update={
                form: by_format.bf16 for form in type(by_format).model_fields if getattr(by_format, form) is not None
            }
        )
        for kind, by_format in sets.items()
    }
    return changed(name, "kernels", **same)


LEVEL = [level(name) for name in GPUS]
WIDE = {"weight_dtype": "bf16", "kv_dtype": "bf16"}


@QUICK
@given(
    points(),
    st.sampled_from(
        [
            *({"weight_dtype": name} for name in ("fp8", "fp8_block", "int8", "int4", "mxfp4", "nvfp4")),
            {"kv_dtype": "fp8"},
        ]
    ),
)
def test_narrower_numbers_are_slower_by_the_coefficients_of_their_kernels_alone(
    base: list[dict[str, Any]], narrow: dict[str, str]
) -> None:
    wide = [point | WIDE for point in starred(base)]
    for first, second in pairs(wide, [point | narrow for point in wide], LEVEL):
        assert max(times(second, first)) <= EXACT
        assert second["energy_j"] <= first["energy_j"] * EXACT


@QUICK
@given(points(["a100-sxm-80gb"]))
def test_formats_without_fitted_kernels_are_never_slower(base: list[dict[str, Any]]) -> None:
    wide = [point | WIDE for point in base]
    for first, second in pairs(wide, [point | {"weight_dtype": "fp8", "kv_dtype": "fp8"} for point in wide]):
        assert max(times(second, first)) <= EXACT
