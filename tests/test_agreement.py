"""The core and the slow oracle, written apart from the same page, agree to 1e-9."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import oracle
from energylens import _core
from energylens.engine.evaluate import evaluate
from energylens.inputs.builder import Model
from energylens.inputs.bundled import bundled
from energylens.inputs.gpu import GpuSpec
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.plan import LoadedGpu, Plan
from energylens.inputs.run_options import RUNNING
from random_models import models

RELATIVE = 1e-9
VALUES = (
    *("ttft_s", "tpot_s", "latency_s", "energy_j", "energy_prefill_j", "energy_decode_j", "power_w_per_gpu"),
    *("energy_per_output_token_j", "output_tokens_per_s", "memory_bytes_per_gpu", "gpus"),
    *("energy_lo_j", "energy_hi_j", "extrapolated"),
)
TIME = {"t0_s": 1e-5, "compute_efficiency": 0.6, "memory_efficiency": 0.8, "root_s_per_sqrt_byte": 2e-10, "source": "x"}


def every_term(gpu: str) -> LoadedGpu:
    """Return a bundled profile with a value for every coefficient that may be left out."""
    spec = load_gpu(gpu).spec
    data = LoadedGpu(spec).profile.sections
    tiles = [[16, 64, 0.5], [64, 64, 0.8], [128, 256, 1.0]]
    data["energy"] |= {"active_w": 31.0, "communication_w": 17.0, "sequence_j": 4e-3}
    data["host"]["stretch"] = {"gemm": 1.1, "attention": 1.3, "grouped_gemm": 0.9}
    data["host"]["sequence_s"] = 2.5e-5
    prefill = {"length_factor": 0.6, "wave_depth": 40.0, "head_dim_power": 0.4, "pad_rows": 64}
    for name, more in (("prefill", prefill), ("decode", {"sequence_head_s": 3e-8, "head_dim_power": 0.2})):
        sets = data["kernels"][f"attention_{name}"]
        data["kernels"][f"attention_{name}"] = {"bf16": sets["bf16"] | more, "fp8": TIME | {"sharpness": 1} | more}
    data["kernels"]["gemm"]["bf16"] |= {"depth_0": 170.0, "split_s": 3e-6, "tiles": tiles}
    for sets in (data["kernels"]["gemm"], data["kernels"]["grouped_gemm"]):
        if "fp8" in sets:
            sets["fp8"] |= {"quantise_bytes": 5.0, "routed_bytes": 6.0, "expert_s": 1e-7, "depth_0": 90.0}
    data["kernels"]["gemm"]["mxfp4"] = TIME | {"sharpness": 2, "tiles": tiles}
    data["kernels"]["grouped_gemm"]["int4"] = TIME | {"sharpness": 1, "tiles": tiles, "padding_rows": 24.0}
    data["kernels"]["grouped_gemm"]["bf16"] |= {"padding_rows": 16.0}
    spread = {cause: 0.02 * (index + 1) for index, cause in enumerate(_core.CAUSES)}
    data["uncertainty"] = spread | {"common": 0.05, "routed": 0.11, "narrow": 0.07, "source": "x"}
    curve = {"alpha_s": 7e-6, "root_s_per_sqrt_byte": 4e-9, "bandwidth_bytes_per_s": 2e11}
    by_gpus = {"4": curve, "8": curve | {"bandwidth_bytes_per_s": 3e11}}
    sent = {"name": "sent", "copies": "gpu", "bytes_per_element": 1.03125, "by_gpus": by_gpus, "source": "x"}
    data["collectives"]["dispatch"] = [
        sent | {"phase": "prefill"},
        sent | {"phase": "prefill", "bytes_per_element": 4.0},
    ]
    data["collectives"]["combine"] = [sent | {"phase": "decode", "copies": "expert"}, sent | {"bytes_per_element": 2.0}]
    data["link"] |= {"sms_to_saturate": 14.0, "sms_sharpness": 1.5}
    data["link"]["contention"] = {"compute": 0.2, "communication": 0.6}
    data["clock"] = {
        "max_mhz": 1410.0,
        "voltage_mv": [[900, 700.0], [1150, 720.0], [1300, 800.0], [1410, 900.0]],
        "idle_w": [[1000, 60.0], [1410, 75.0]],
        "source": "x",
    }
    data["range"] = {"batch": 40.0, "context_tokens": 2000.0, "gpus": 16.0, "source": "x"}
    data.pop("frameworks", None)
    return LoadedGpu(GpuSpec.model_validate(json.loads(json.dumps(data))))


def drawn_options(choose: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """Return a way of running, often one that can be."""
    stages, sms, where = choose(
        [(None, 0, "prefill")] * 2
        + [(1, 0, "prefill"), (2, 4, "prefill"), (4, 16, "decode"), (3, 30, "both"), (2, 9, "both")]
        + [(2, 0, "prefill"), (1, 0, "both"), (4, 200, "prefill")][choose([0, 1, 2]) :][:1]
    )
    return {
        "cp": choose([1, 1, 1, 2, 4]),
        "overlap_stages": stages,
        "overlap_sms": sms,
        "overlap_where": where,
        "sequence_parallel": choose([False, False, False, True]),
        "fused_norm": choose([False, False, False, True]),
        "sm_clock_mhz": choose([None, None, 1000, 1200, 1275, 1410]),
        "power_cap_w": choose([None, None, 200, 300, 390]),
    }


PLAIN = dict(RUNNING)


def points(seed: int, count: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    meshes = list(itertools.product([1, 2, 4, 8, 16], [1, 2, 3, 4], [1, 2, 4], [1, 2, 4, 8, 16]))
    return [
        dict(zip(("tp", "pp", "dp", "ep"), draw.choice(meshes), strict=True))
        | {
            "gpu": draw.choice(list(bundled("hardware"))),
            "batch": draw.choice([1, 3, 8, 17, 64, 200]),
            "prompt_tokens": draw.choice([1, 37, 129, 512, 1024, 9000]),
            "output_tokens": draw.choice([1, 2, 100, 256, 1023]),
            "weight_dtype": draw.choice([None, "bf16", "fp8", "nvfp4", "int4", "fp8_block", "mxfp4"]),
            "kv_dtype": draw.choice([None, "fp8", "bf16"]),
        }
        | (drawn_options(draw.choice) if draw.random() < 0.5 else PLAIN)
        for _ in range(count)
    ]


WAYS: list[dict[str, Any]] = [
    {},
    {"overlap_stages": 4, "overlap_sms": 16, "overlap_where": "both"},
    {"overlap_stages": 2, "overlap_sms": 5},
    {"cp": 2},
    {"sequence_parallel": True, "overlap_stages": 3, "overlap_sms": 12},
    {"fused_norm": True, "sm_clock_mhz": 1200},
    {"power_cap_w": 300},
    {"sm_clock_mhz": 1275, "power_cap_w": 250, "cp": 4},
]

UNCHANGING: list[dict[str, Any]] = [
    {"power_cap_w": 400},
    {"sm_clock_mhz": 1410},
    {"sm_clock_mhz": 1410, "power_cap_w": 400},
    {"sm_clock_mhz": 1410, "power_cap_w": 399},
    {"sm_clock_mhz": 1395, "power_cap_w": 400},
    {"power_cap_w": 399},
]
"""Locks and caps of an A100 at the highest clock and at the limit of the board, and just below."""


def assert_same(plan: Plan, point: dict[str, Any], row: dict[str, Any]) -> None:
    expected = oracle.predict(json.loads(plan.json), point)
    assert (row["feasible"], row["reason"]) == (expected["feasible"], expected["reason"]), point
    if not row["feasible"]:
        return
    for name in VALUES:
        assert row[name] == pytest.approx(expected[name], rel=RELATIVE), (name, point)
    steps = point["output_tokens"] - 1
    for phase, times in (("prefill", 1), ("decode", steps)):
        for cause in _core.CAUSES:
            want = expected[f"{phase}_causes"][cause] * times
            total = expected[f"energy_{phase}_j"]
            assert row[f"energy_{phase}_{cause}_j"] == pytest.approx(want, rel=RELATIVE, abs=RELATIVE * total), (
                phase,
                cause,
                point,
            )


def test_locks_and_caps_that_change_nothing() -> None:
    base = {"model": "llama-3.1-8b", "gpu": "a100-sxm-80gb", "tp": 2, "pp": 1, "dp": 1, "ep": 1, "batch": 24}
    base |= {"prompt_tokens": 700, "output_tokens": 90, "weight_dtype": None, "kv_dtype": None} | PLAIN
    asked = [base | way for way in UNCHANGING]
    plan = Plan([load_model("llama-3.1-8b")], [load_gpu("a100-sxm-80gb")])
    frame = evaluate(pl.DataFrame(asked, infer_schema_length=None), breakdown=True)
    for point, row in zip(asked, frame.iter_rows(named=True), strict=True):
        assert_same(plan, point, row)
    assert frame["extrapolated"].to_list() == [False, False, False, True, True, True]


def test_where_the_board_limit_binds(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = every_term("h100-sxm")
    gpu = LoadedGpu(gpu.spec.model_copy(update={"power": gpu.spec.power.model_copy(update={"tdp_w": 420.0})}))
    places: list[tuple[float, float]] = []

    def spied(gpu: dict[str, Any], f: float, load: oracle.clock.Load) -> float:
        held = enforced(gpu, f, load)
        places.append((f / gpu["clock"]["max_mhz"], held))
        return held

    enforced = oracle.clock.enforced
    monkeypatch.setattr(oracle.clock, "enforced", spied)
    option_sets: list[dict[str, Any]] = [{}, WAYS[1], {"pp": 2}, {"power_cap_w": 390}, {"power_cap_w": 300, "pp": 2}]
    base = {"gpu": "h100-sxm", "tp": 4, "pp": 1, "dp": 1, "ep": 1, "batch": 24, "output_tokens": 90, "kv_dtype": None}
    for model, weights in (("llama-3.1-70b", None), ("llama-3.1-8b", "fp8"), ("qwen3-30b-a3b", None)):
        points_in = [
            base
            | {"model": model, "weight_dtype": weights, "prompt_tokens": 4000, **PLAIN, "sm_clock_mhz": mhz}
            | options
            for mhz in (1000, 1200, 1380, 1410)
            for options in option_sets
        ]
        plan = Plan([load_model(model)], [gpu])
        frame = evaluate(pl.DataFrame(points_in, infer_schema_length=None), gpus=[gpu], breakdown=True)
        for point, row in zip(points_in, frame.iter_rows(named=True), strict=True):
            assert_same(plan, point, row)
    assert any(held < at for at, held in places), "no lock above the clock that the limit enforces"
    assert any(at < held < 1 for at, held in places), "no lock below it"


@pytest.mark.parametrize("model", list(bundled("models")))
def test_bundled_models(model: str) -> None:
    points_in = [{"model": model} | point for point in points(sum(map(ord, model)), 24)]
    legal = [
        {
            "model": model,
            "gpu": gpu,
            "tp": tp,
            "pp": pp,
            "dp": dp,
            "ep": ep,
            "batch": 24,
            "prompt_tokens": 700,
            "output_tokens": 90,
            "weight_dtype": None,
            "kv_dtype": None,
            **PLAIN,
            **WAYS[(turn + at) % len(WAYS)],
        }
        for turn, gpu in enumerate(("b200", "a100-sxm-80gb"))
        for at, (tp, pp, dp, ep) in enumerate(
            (
                (8, 1, 1, 1),
                (2, 1, 1, 1),
                (4, 1, 4, 16),
                (8, 1, 1, 8),
                (4, 1, 1, 1),
                (2, 3, 8, 8),
                (8, 2, 1, 1),
                (4, 2, 1, 1),
            )
        )
    ]
    points_in += legal
    frame = evaluate(pl.DataFrame(points_in, infer_schema_length=None), breakdown=True)
    for point, row in zip(points_in, frame.iter_rows(named=True), strict=True):
        plan = Plan([load_model(model)], [load_gpu(point["gpu"])])
        assert_same(plan, point, row)
    assert frame["feasible"].sum() >= 3


def routed_model(extent: int, active: int, groups: int, active_groups: int) -> Model:
    """Return a small model with experts in groups."""
    experts = {"extent": extent, "active": active, "groups": groups, "active_groups": active_groups}
    shard = {"b": "dp", "x": "ep", "m": "moe_tp", "repeat": "pp"}
    model = Model("limited", ranks={"d": 960, "x": experts, "m": 48, "v": 128}, shard=shard)
    model.block(1, name="start", kernels={"embed": "X[b,s,d] = embed(Tokens[b,s], We[v,d])"})
    kernels = {
        "router": "R[b,s,x] = X[b,s,d] * Wr[d,x]",
        "gate": "C[b,s,x] = topk(R[b,s,x])",
        "up": ["H[b,s,x,m] = X[b,s,d] * Wu[x,d,m]", "J[b,s,x,m] = gelu(H[b,s,x,m])"],
        "down": ["D[b,s,x,d] = J[b,s,x,m] * Wd[x,m,d]", "M[b,s,d] = C[b,s,x] * D[b,s,x,d]"],
        "add": "X[b,s,d] = add(X[b,s,d], M[b,s,d])",
    }
    model.block(3, name="layer", kernels=kernels)
    return model


@pytest.mark.parametrize(
    "experts", [(12, 3, 4, 2), (24, 5, 6, 2), (24, 1, 8, 7), (36, 4, 9, 3), (16, 2, 16, 3), (256, 8, 8, 4)]
)
def test_tokens_sent_to_experts_in_groups(experts: tuple[int, int, int, int]) -> None:
    model, full = routed_model(*experts), every_term("h100-sxm").spec
    for per_node in (1, 4, 6, 8):
        link = full.link.model_copy(update={"gpus_per_node": per_node})
        gpu = LoadedGpu(full.model_copy(update={"link": link}))
        points_in: list[dict[str, Any]] = [
            {
                "model": "limited",
                "gpu": "h100-sxm",
                "tp": tp,
                "pp": 1,
                "dp": ep // tp,
                "ep": ep,
                "batch": batch,
                "prompt_tokens": 70,
                "output_tokens": 9,
                "weight_dtype": None,
                "kv_dtype": None,
            }
            | PLAIN
            | WAYS[turn % 3]
            | {"routing": ("uniform", "dirichlet:0.2", "balanced")[turn % 4 % 3]}
            for turn, (ep, tp, batch) in enumerate(itertools.product((2, 3, 4, 6, 12, 16, 24), (1, 2), (24, 70)))
            if experts[0] % ep == 0 and ep % tp == 0 and ep > tp
        ]
        frame = evaluate(pl.DataFrame(points_in, infer_schema_length=None), models=[model], gpus=[gpu], breakdown=True)
        plan = Plan([model.loaded()], [gpu], routings=["uniform", "dirichlet:0.2", "balanced"])
        for point, row in zip(points_in, frame.iter_rows(named=True), strict=True):
            assert_same(plan, point, row)
        assert frame["feasible"].all()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=models(), data=st.data())
def test_random_models(model: Model, data: st.DataObject) -> None:
    loaded = every_term(data.draw(st.sampled_from(list(bundled("hardware")))))
    points_in: list[dict[str, Any]] = [
        {
            "model": "random",
            "gpu": loaded.spec.name,
            "tp": data.draw(st.sampled_from([1, 2, 3, 4, 6, 8, 16])),
            "pp": data.draw(st.integers(1, 4)),
            "dp": data.draw(st.sampled_from([1, 1, 2, 3, 4, 12])),
            "ep": data.draw(st.sampled_from([1, 1, 2, 4, 6, 8])),
            "batch": data.draw(st.integers(1, 70)),
            "prompt_tokens": data.draw(st.integers(1, 3000)),
            "output_tokens": data.draw(st.integers(1, 300)),
            "weight_dtype": data.draw(st.sampled_from([None, "fp8", "nvfp4", "int4", "mxfp4", "fp8_block"])),
            "kv_dtype": data.draw(st.sampled_from([None, "fp8"])),
        }
        | (drawn_options(lambda values: data.draw(st.sampled_from(values))) if data.draw(st.booleans()) else PLAIN)
        for _ in range(6)
    ]
    frame = evaluate(pl.DataFrame(points_in, infer_schema_length=None), models=[model], gpus=[loaded], breakdown=True)
    plan = Plan([model.loaded()], [loaded])
    for point, row in zip(points_in, frame.iter_rows(named=True), strict=True):
        assert_same(plan, point, row)
