"""The formulas that are fitted are those the core evaluates: kernels of one model each, through both."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energylens.calibrate.device import device
from energylens.calibrate.kernels.attention import Calls, DecodeModel, PrefillModel
from energylens.calibrate.kernels.gemm import GemmModel, Products
from energylens.inputs.builder import Model
from energylens.inputs.crossing import Point
from energylens.inputs.gpu import Host
from energylens.inputs.library import load_gpu
from energylens.inputs.plan import LoadedGpu, Plan

PROFILES = ("h100-sxm", "b200", "l40s", "h100-sxm@trtllm", "b200@sglang")


def bare(name: str) -> LoadedGpu:
    spec = load_gpu(name).spec
    assert spec.energy is not None
    quiet = {"active_w": 0.0, "communication_w": 0.0, "sequence_j": 0.0}
    host = Host(host_s=0.0, source="none")
    return LoadedGpu(spec.model_copy(update={"host": host, "energy": spec.energy.model_copy(update=quiet)}))


def seconds(model: Model, gpu: LoadedGpu, phase: str, kernel: str, batch: int, prompt: int, **formats: str) -> float:
    plan = Plan([model.loaded()], [gpu], max_batched_tokens=2**31)
    reported = plan.core.explain_point(
        Point(
            weight_dtype=formats.get("weights"),
            kv_dtype=formats.get("cache"),
            batch=float(batch),
            prompt_tokens=float(prompt),
            output_tokens=2.0,
        )
    )
    (result,) = [k for k in json.loads(reported) if k["phase"] == phase and k["kernel"] == kernel]
    return float(result["kernel_s"])


def entry(value: float) -> Any:
    return np.array([float(value)])


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(PROFILES),
    form=st.sampled_from(["bf16", "fp8", "fp8_block", "nvfp4"]),
    shape=st.tuples(st.integers(1, 8000), st.integers(1, 300), st.integers(1, 300)),
)
def test_matrix_products(name: str, form: str, shape: tuple[int, int, int]) -> None:
    gpu = bare(name)
    kernels = gpu.spec.kernels
    assert kernels is not None
    default = getattr(kernels.gemm, form)
    if default is None:
        return
    m, n, k = shape[0], 64 * shape[1], 64 * shape[2]
    model = Model("one", ranks={"d": k, "f": n}).block(kernels={"product": "Y[b,s,f] = X[b,s,d] * W[d,f]"})
    fitted = GemmModel(
        Products(entry(m), entry(n), entry(k), entry(1)),
        device(gpu.spec),
        form,
        tuple((a, b) for a, b, _ in default.tiles),
    )
    values = [
        default.t0_s,
        default.memory_efficiency,
        default.root_s_per_sqrt_byte,
        default.quantise_bytes,
        default.depth_0,
        default.split_s,
    ]
    want = fitted.seconds(np.array([*values, *(share for *_, share in default.tiles)]), default.sharpness)[0]
    assert seconds(model, gpu, "decode", "product", m, 1, weights=form) == pytest.approx(want, rel=1e-9)


def attention(groups: int, queries: int, size: int) -> Model:
    ranks = {"g": groups, "r": queries, "e": size}
    model = Model("one", ranks=ranks, cache=["K", "V"], mask={"S": "causal"})
    return model.block(
        kernels={
            "make": [
                "Q[b,s,g,r,e] = rope(Z[b,s,g,r,e])",
                "K[b,s,g,e] = Z[b,s,g,r,e] * Wk[r]",
                "V[b,s,g,e] = Z[b,s,g,r,e] * Wv[r]",
            ],
            "attend": [
                "S[b,g,r,s,t] = Q[b,s,g,r,e] * K[b,t,g,e]",
                "P[b,g,r,s,t] = softmax(S[b,g,r,s,t])",
                "O[b,s,g,r,e] = P[b,g,r,s,t] * V[b,t,g,e]",
            ],
        }
    )


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(PROFILES),
    cache=st.sampled_from(["bf16", "fp8"]),
    heads=st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(1, 8), st.sampled_from([64, 128, 256])),
    batch=st.integers(1, 64),
    tokens=st.integers(2, 9000),
    phase=st.sampled_from(["prefill", "decode"]),
)
def test_attention(name: str, cache: str, heads: tuple[int, int, int], batch: int, tokens: int, phase: str) -> None:
    gpu = bare(name)
    kernels = gpu.spec.kernels
    assert kernels is not None
    default = getattr(getattr(kernels, f"attention_{phase}"), cache)
    if default is None:
        return
    groups, queries, size = heads
    calls = Calls(entry(batch), entry(groups * queries), entry(groups), entry(size), entry(tokens), entry(1))
    width = 1 if cache == "fp8" else 2
    common = [default.t0_s, default.memory_efficiency, default.root_s_per_sqrt_byte, default.compute_efficiency]
    if phase == "decode":
        values = [*common, default.sequence_head_s]
        want = DecodeModel(calls, device(gpu.spec), width).seconds(np.array(values), default.sharpness)[0]
        prompt = tokens - 1
    else:
        values = [*common, default.head_dim_power, default.length_factor, default.wave_depth]
        fitted = PrefillModel(calls, device(gpu.spec), width, "bf16", default.pad_rows)
        want = fitted.seconds(np.array(values), default.sharpness)[0]
        prompt = tokens
    result = seconds(attention(groups, queries, size), gpu, phase, "attend", batch, prompt, cache=cache)
    assert result == pytest.approx(want, rel=1e-9)
