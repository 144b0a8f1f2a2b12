"""Bounds of forms: what is beyond them is refused with its place and the bound; what is within gives finite results."""

from __future__ import annotations

import copy
import math
from typing import Any

import polars as pl
import pytest

import energylens
from energylens.common.errors import Problem, SpecError
from energylens.inputs.bundled import bundled
from energylens.inputs.form import check
from energylens.inputs.gpu import GpuSpec
from energylens.inputs.model import ModelSpec
from energylens.inputs.plan import LoadedGpu
from energylens.inputs.workload import WorkloadSpec
from energylens.inputs.yaml import Document

GPU = Document.read(bundled("hardware")["h100-sxm"]).data
MODEL: dict[str, Any] = {
    "name": "m",
    "ranks": {"d": 64, "f": 128},
    "blocks": [{"name": "a", "kernels": {"up": "A[b,s,f] = X[b,s,d] * Wu[d,f]"}}],
}
WORKLOAD: dict[str, Any] = {"name": "w", "source": "x", "input": {"mean": 100}, "output": {"mean": 100}}


def changed(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    whole = copy.deepcopy(data)
    *above, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    part: Any = whole
    for step in above:
        part = part[step]
    part[last] = value
    return whole


def problems(form: Any, data: dict[str, Any]) -> list[Problem]:
    with pytest.raises(SpecError) as caught:
        check(form, data, None, "spec")
    return list(caught.value.problems)


def message(form: Any, data: dict[str, Any], path: str, value: Any) -> str:
    (one,) = problems(form, changed(data, path, value))
    return one.message


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("host.host_s", 1e300, "`host_s` should be less than or equal to 1000, found `1e+300`"),
        ("host.sequence_s", 1e6, "less than or equal to 1000"),
        ("memory.capacity_bytes", 1e300, "less than or equal to 100000000000000000000"),
        ("memory.reserve_bytes", 1e300, "less than or equal to 1000000000000000000"),
        ("compute.sms", 10**9, "less than or equal to 100000"),
        ("power.tdp_w", 1e-300, "greater than or equal to 1"),
        ("energy.flop_j.bf16", 1e300, "less than or equal to 0.001"),
        ("energy.link_j_per_byte", 1.0, "less than or equal to 0.001"),
        ("energy.active_w", 1e300, "less than or equal to 100000"),
        ("energy.sequence_j", 1e300, "less than or equal to 1000000"),
        ("kernels.elementwise.t0_s", 1e300, "less than or equal to 1000"),
        ("kernels.elementwise.memory_efficiency", 1e-300, "greater than or equal to 0.000001"),
        ("kernels.elementwise.compute_efficiency", 1e-300, "greater than or equal to 0.000001"),
        ("kernels.gemm.bf16.depth_0", 1e300, "less than or equal to 1000000"),
        ("kernels.attention_decode.bf16.head_dim_power", 1e3, "less than or equal to 8"),
        ("kernels.gemm.bf16.root_s_per_sqrt_byte", 1e300, "less than or equal to 1"),
        ("link.sms_to_saturate", 1e-300, "greater than or equal to 0.001"),
        ("link.net_alpha_s", 1e300, "less than or equal to 1000"),
        ("uncertainty.common", 1e300, "less than or equal to 100"),
        ("clock.max_mhz", 1e300, "less than or equal to 100000"),
    ],
)
def test_numbers_of_a_profile_have_bounds(path: str, value: Any, expected: str) -> None:
    assert expected in message(GpuSpec, GPU, path, value)


def test_lists_of_a_profile_have_bounds() -> None:
    clocks = [[n + 1, 700] for n in range(1001)]
    assert "at most 1,000 items, found 1,001" in message(GpuSpec, GPU, "clock.voltage_mv", clocks)
    for value in (math.inf, 1e300, 10**400):
        text = message(GpuSpec, GPU, "clock.voltage_mv", [[500, 700], [1980, value]])
        assert text.endswith("with rising clocks, none above 100,000")
    tiles = [[64, 64]] * 1001
    assert "at most 1,000 items, found 1,001" in message(GpuSpec, GPU, "kernels.gemm.bf16.tiles", tiles)
    curve = {"alpha_s": 1e-6, "bandwidth_bytes_per_s": 1e11}
    for name in ("1", "²", "9" * 90, "-2", "two", "2.0"):
        text = message(GpuSpec, GPU, "collectives.send_recv.0.by_gpus", {name: curve})
        assert text.startswith("`by_gpus` is keyed by a number of GPUs of at least 2, found `")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("ranks.d", 10**12, "`extent` should be less than or equal to 4294967295, found `1000000000000`"),
        ("ranks.d", 2**32, "`extent` should be less than or equal to 4294967295"),
        ("ranks.x", {"extent": 70_000, "active": 8}, "a routed rank has at most 65,536 values, found 70,000"),
        ("ranks.x", {"extent": 8, "active": 70_000}, "`active` should be less than or equal to 65536"),
        ("blocks.0.repeat", 10**12, "`repeat` should be less than or equal to 100000"),
        ("mask", {"S": {"window": 2**33}}, "`window` should be less than or equal to 4294967295"),
        ("parameters", 1e300, "`parameters` should be less than or equal to 1000000000000000000"),
        ("blocks.0.kernels.up", ["x"] * 1001, "`equations` should have at most 1,000 items, found 1,001"),
        ("blocks.0.kernels.up", "x" * 2001, "an equation has at most 2,000 characters, found 2,001"),
        ("blocks.0.kernels", {f"k{n}": "x" for n in range(1001)}, "`kernels` should have at most 1,000 items"),
        ("blocks", MODEL["blocks"] * 1001, "`blocks` should have at most 1,000 items, found 1,001"),
        ("name", "n" * 201, "a model's name has at most 200 characters, found 201"),
    ],
)
def test_sizes_of_a_model_have_bounds(path: str, value: Any, expected: str) -> None:
    assert expected in message(ModelSpec, MODEL, path, value)


def test_equations_of_a_model_are_counted_together() -> None:
    block = {"name": "a", "kernels": {f"k{n}": ["x"] * 100 for n in range(51)}}
    assert "a model has at most 10,000 equations, found 10,200" in message(ModelSpec, MODEL, "blocks", [block] * 2)


def test_the_builder_has_the_bounds_of_a_file() -> None:
    with pytest.raises(SpecError, match="should be less than or equal to 4294967295"):
        energylens.Model("m", ranks={"d": 10**12}).loaded()
    with pytest.raises(SpecError, match="a whole number of 1,329 bits"):
        energylens.Model("m", ranks={"d": 10**400}).loaded()
    with pytest.raises(SpecError, match="should be less than or equal to 100000"):
        energylens.Model("m", ranks={"d": 4}).block(10**12, kernels={"k": "X[b,s,d] = X[b,s,d]"}).loaded()


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("input.sd", 1e302, "`sd` should be less than or equal to 10000000, found `1e+302`"),
        ("input.mean", 2.0**33, "`mean` should be less than or equal to 10000000"),
        ("output.longest", 2**33, "`longest` should be less than or equal to 10000000"),
        ("rate_per_s", 1e300, "`rate_per_s` should be less than or equal to 1000000000"),
        ("rate_per_s", 1e-320, "`rate_per_s` should be greater than or equal to 0.000000001"),
        ("rates", [[1.0, 1.0]] * 10_001, "`rates` should have at most 10,000 items, found 10,001"),
        ("rates", [[1e300, 1.0]], "should be less than or equal to 1000000000000000"),
        ("crowd", {"share": 0.1, "others": 1e300}, "`others` should be less than or equal to 1000000"),
        ("prefix", {"found": [[1e300, 0.5]]}, "should be less than or equal to 1000000000000000"),
        ("prefix", {"found": [[1e3, 0.5]], "block_tokens": 2**33}, "should be less than or equal to 10000000"),
    ],
)
def test_numbers_of_a_workload_have_bounds(path: str, value: Any, expected: str) -> None:
    assert expected in message(WorkloadSpec, WORKLOAD, path, value)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([[2**33, 10, 1]], "should be less than or equal to 10000000"),
        ([[10, 2**33, 1]], "should be less than or equal to 10000000"),
        ([[10, 10, 1e-320]], "`kinds.0.2` should be greater than or equal to 0.000000001"),
        ([[10, 10, 1e300]], "should be less than or equal to 1000000000"),
        ([[10, 10, 1.0]] * 10_001, "`kinds` should have at most 10,000 items, found 10,001"),
        ([[10, 10, math.nan]], "should be a finite number"),
    ],
)
def test_kinds_of_requests_have_bounds(kinds: Any, expected: str) -> None:
    assert expected in message(WorkloadSpec, {"name": "w", "source": "x"}, "kinds", kinds)


def largest(data: Any) -> Any:
    """Return data with every number of seconds, joules, watts and padding at the bound of its field."""
    bounds = {
        "t0_s": 1000.0, "split_s": 1000.0, "expert_s": 1000.0, "host_s": 1000.0, "sequence_s": 1000.0,
        "alpha_s": 1000.0, "net_alpha_s": 1000.0, "sequence_head_s": 1000.0, "root_s_per_sqrt_byte": 1.0,
        "depth_0": 1e6, "quantise_bytes": 1e6, "routed_bytes": 1e6, "padding_rows": 1e6, "length_factor": 1e6,
        "wave_depth": 1e6, "head_dim_power": 8.0, "pad_rows": 1_000_000, "memory_efficiency": 1e-6,
        "compute_efficiency": 1e-6, "sequence_j": 1e6, "active_w": 1e5, "on_chip_j_per_byte": 1e-3,
        "hbm_weight_j_per_byte": 1e-3, "hbm_kv_j_per_byte": 1e-3, "hbm_activation_j_per_byte": 1e-3,
        "link_j_per_byte": 1e-3, "tdp_w": 1e5, "capacity_bytes": 1e20, "bandwidth_bytes_per_s": 1e6,
        "net_bandwidth_bytes_per_s": 1e6, "bf16": 1e6, "fp8": 1e6, "fp4": 1e6, "vector": 1e6,
    }  # fmt: skip
    if isinstance(data, dict):
        return {
            name: bounds[name] if name in bounds and isinstance(part, (int, float)) else largest(part)
            for name, part in data.items()
        } | ({"flop_j": dict.fromkeys(data["flop_j"], 1e-3)} if "flop_j" in data else {})
    return [largest(part) for part in data] if isinstance(data, list) else data


@pytest.mark.parametrize("name", ["h100-sxm", "b200", "rtx-4090"])
def test_a_profile_at_its_bounds_gives_finite_results(name: str) -> None:
    data = largest(Document.read(bundled("hardware")[name]).data) | {"name": "g"}
    gpu = LoadedGpu(check(GpuSpec, data, None, name))
    sizes = {"tp": 8, "batch": 4096, "prompt_tokens": 2**20, "output_tokens": 2**20}
    points = [
        {"model": "llama-3.1-405b", "pp": 2, "dp": 1, "ep": 1},
        {"model": "deepseek-v3", "pp": 1, "dp": 1, "ep": 8},
    ]
    frame = energylens.evaluate(
        pl.DataFrame([one | sizes | {"gpu": "g"} for one in points]),
        models=["llama-3.1-405b", "deepseek-v3"],
        gpus=[gpu],
        breakdown=True,
    )
    assert frame["feasible"].all()
    numbers = frame.select(pl.col(pl.Float64))
    assert all(numbers[column].is_finite().all() for column in numbers.columns)
    assert (frame["latency_s"] > 1e9).all()
