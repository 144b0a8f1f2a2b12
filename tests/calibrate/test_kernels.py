from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from energylens.calibrate import fitting
from energylens.calibrate.device import Device
from energylens.calibrate.kernels import pieces, tables
from energylens.calibrate.kernels.attention import Calls, DecodeModel, PrefillModel, fit_decode_calls, fit_prefill_calls
from energylens.calibrate.kernels.coefficients import calibrate
from energylens.calibrate.kernels.collectives import busfactor, fit_curve
from energylens.calibrate.kernels.formulas import Array, smooth_max
from energylens.calibrate.kernels.gemm import NAMES, TILES, GemmModel, Products, fit_gemm, fit_products
from energylens.calibrate.kernels.moe import Experts, MoeModel, fit_experts
from energylens.common.errors import SpecError
from energylens.inputs.library import load_gpu

GPU = Device(sms=100, peaks={"bf16": 1e15, "fp8": 2e15}, bandwidth=3e12)


def grid(*axes: list[int]) -> list[Array]:
    return [part.ravel().astype(np.float64) for part in np.meshgrid(*axes, indexing="ij")]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "SAMPLE", 600)
    monkeypatch.setattr(fitting, "STEPS", 600)


def part(result: dict[str, object], name: str) -> dict[str, float]:
    value = result[name]
    assert isinstance(value, dict)
    return value


def products(form: str) -> Products:
    wide, deep = [128, 512, 2048, 5000, 8192, 28672], [256, 1024, 4096, 8192, 14336]
    m, n, k = grid([1, 16, 100, 256, 1000, 4096, 16384], wide, deep)
    known = Products(m, n, k, np.ones_like(m))
    quantise = 4.0 if form == "fp8" else 0.0
    values = np.array([3e-6, 0.9, 0.0, quantise, 128.0, 2e-6, *[0.6] * len(TILES)])
    return Products(m, n, k, GemmModel(known, GPU, form).seconds(values, 4))


@pytest.mark.parametrize("form", ["bf16", "fp8"])
def test_gemm_coefficients_come_back(form: str) -> None:
    result = fit_products(products(form), GPU, form)
    coefficients = part(result, "coefficients")
    assert part(result, "held_out")["mape_percent"] < 2
    assert coefficients["t0_s"] == pytest.approx(3e-6, rel=0.2)
    assert coefficients["memory_efficiency"] == pytest.approx(0.9, rel=0.05)
    assert set(NAMES) < set(coefficients)
    assert (coefficients["quantise_bytes"] > 0) == (form == "fp8")


def test_the_same_rows_give_the_same_coefficients() -> None:
    assert fit_products(products("bf16"), GPU, "bf16") == fit_products(products("bf16"), GPU, "bf16")


def test_decode_and_prefill_coefficients_come_back() -> None:
    b, h, kv, hd, tokens = grid([1, 4, 16, 64, 256], [8, 32, 64], [1, 4, 8], [64, 128], [16, 256, 2048, 8192])
    calls = Calls(b, h, kv, hd, tokens, np.ones_like(b))
    times = DecodeModel(calls, GPU, 2).seconds(np.array([1e-5, 0.9, 2e-10, 0.1, 1e-8]), 2)
    result = fit_decode_calls(Calls(b, h, kv, hd, tokens, times), GPU, 2)
    assert part(result, "held_out")["mape_percent"] < 2
    assert part(result, "coefficients")["sequence_head_s"] == pytest.approx(1e-8, rel=0.2)

    values = np.array([1e-5, 0.5, 2e-10, 0.6, 0.4, 1.0, 100.0])
    times = PrefillModel(calls, GPU, 2, "bf16", 128).seconds(values, 2)
    result = fit_prefill_calls(Calls(b, h, kv, hd, tokens, times), GPU, 2, "bf16")
    assert part(result, "held_out")["mape_percent"] < 3
    assert part(result, "coefficients")["compute_efficiency"] == pytest.approx(0.6, rel=0.1)


def test_expert_coefficients_come_back() -> None:
    shape = grid([2048, 4096, 7168], [768, 2048], [4, 8], [64, 128, 256], [1, 4], [1, 8], [1, 16, 128, 1024, 8192])
    hidden, inner, active, number, tensor, groups, tokens = shape
    balanced = np.zeros_like(hidden)
    experts = Experts(hidden, inner, active, number, tensor, groups, tokens, balanced, np.ones_like(hidden))
    values = np.array([2e-5, 0.8, 1e-9, 50.0, 5e-8, 2.0, 0.2, 0.3, 0.4, 0.5])
    times = MoeModel(experts, GPU, "bf16").seconds(values, 2)
    result = fit_experts(replace(experts, seconds=times), GPU, "bf16")
    assert part(result, "held_out")["mape_percent"] < 5
    assert part(result, "coefficients")["memory_efficiency"] == pytest.approx(0.8, rel=0.1)


def test_a_collective_curve_comes_back() -> None:
    size: Array = np.array([2.0**power for power in range(9, 30)])
    seconds = 5e-6 + 3e-9 * np.sqrt(size) + busfactor("all_reduce", 8) / 4e11 * size
    (curve,), predicted = fit_curve(size, seconds, 1.75)
    assert curve == {
        "alpha_s": pytest.approx(5e-6, rel=0.02),
        "root_s_per_sqrt_byte": pytest.approx(3e-9, rel=0.02),
        "bandwidth_bytes_per_s": pytest.approx(4e11, rel=0.02),
    }
    assert predicted == pytest.approx(seconds, rel=0.02)


def test_protocols_become_pieces() -> None:
    size: Array = np.array([2.0**power for power in range(9, 30)])
    small = size <= 2**18
    seconds = np.where(small, 4e-6 + size / 8e10, 2e-5 + size / 4e11)
    result = pieces.fit(size, seconds)
    assert len(result.cuts) == 1
    assert 2**18 < result.cuts[0] < 2**19
    assert result.seconds(size) == pytest.approx(seconds, rel=1e-6)
    curves, _ = fit_curve(size, seconds, 1.0)
    assert [curve.get("max_bytes") for curve in curves] == [None, pytest.approx(result.cuts[0], rel=0.01)]


def test_a_spike_is_not_fitted() -> None:
    assert pieces.smooth(np.array([5.0, 9.0, 6.0, 7.0])).tolist() == [5.0, 6.0, 6.0, 7.0]


def test_smooth_max_reaches_both_ends() -> None:
    result = smooth_max(np.array([1.0, 0.0, 0.0]), np.array([1.0, 2.0, 0.0]), 2)
    assert result == pytest.approx([np.sqrt(2), 2.0, 0.0])


def table(folder: Path, latency: float, version: str = "1.0.0", **columns: object) -> Path:
    m, n, k = grid([1, 64, 1024, 8192], [1024, 4096, 8192], [1024, 4096, 8192, 16384, 32768])
    rows = pl.DataFrame({"m": m, "n": n, "k": k, "latency": latency * m * n * k})
    rows = rows.with_columns(gemm_dtype=pl.lit("bfloat16"), kernel_source=pl.lit("x"))
    rows = pl.concat([rows, rows.with_columns(m=pl.col("m") + 1)]).drop([c for c in columns if columns[c] is None])
    path = folder / "some" / "gemm" / "vllm" / version / "gemm_perf.parquet"
    path.parent.mkdir(parents=True)
    rows.write_parquet(path)
    return path


MILLISECONDS = 2e3 / 1e15 / 0.6


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_another_unit_is_refused(tmp_path: Path, factor: float) -> None:
    table(tmp_path, factor * MILLISECONDS)
    with pytest.raises(SpecError, match="not milliseconds of this GPU"):
        fit_gemm(tmp_path, "some", "vllm", "bf16", GPU)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    table(tmp_path, MILLISECONDS, n=None)
    with pytest.raises(SpecError, match="lacks the column `n`"):
        fit_gemm(tmp_path, "some", "vllm", "bf16", GPU)


def test_a_truncated_file_is_reported(tmp_path: Path) -> None:
    path = table(tmp_path, MILLISECONDS)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(SpecError, match="cannot be read"):
        fit_gemm(tmp_path, "some", "vllm", "bf16", GPU)


def test_latencies_have_to_be_positive(tmp_path: Path) -> None:
    table(tmp_path, 0.0)
    with pytest.raises(SpecError, match="not all positive"):
        fit_gemm(tmp_path, "some", "vllm", "bf16", GPU)


def test_a_version_with_a_trap_is_left_out(tmp_path: Path) -> None:
    table(tmp_path, MILLISECONDS, version="0.24.0")
    with pytest.raises(SpecError, match="host overhead"):
        fit_gemm(tmp_path, "some", "vllm", "fp8_block", GPU)
    table(tmp_path, MILLISECONDS, version="0.19.0")
    assert tables.load(tmp_path, "some", "gemm", "vllm", "gemm", ("m",), "fp8_block").version == "0.19.0"


def test_the_newest_version_is_taken(tmp_path: Path) -> None:
    for name in ("1.3.0rc9", "1.3.0rc20", "1.2.0"):
        table(tmp_path, MILLISECONDS, version=name)
    assert tables.versions(tmp_path, "some", "gemm", "vllm", "gemm") == ["1.3.0rc20", "1.3.0rc9", "1.2.0"]
    table(tmp_path, MILLISECONDS, version="1.3.0")
    assert tables.versions(tmp_path, "some", "gemm", "vllm", "gemm")[0] == "1.3.0"


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(SpecError, match=r"energylens\[calibrate\]"):
        tables.home()
    with pytest.raises(SpecError, match="no measured tables"):
        tables.home(tmp_path)


def test_an_unknown_gpu_is_reported(tmp_path: Path) -> None:
    table(tmp_path, MILLISECONDS)
    with pytest.raises(SpecError, match="no measured tables of `h100_sxm`"):
        calibrate(load_gpu("h100-sxm").spec, tmp_path)


def test_what_has_no_table_is_listed(tmp_path: Path) -> None:
    table(tmp_path, MILLISECONDS)
    result = calibrate(load_gpu("h100-sxm").spec, tmp_path, system="some", frameworks=("vllm",))
    left_out = result["left_out"]
    assert isinstance(left_out, list)
    assert any("vllm attention_prefill bf16" in line for line in left_out)
    frameworks = result["frameworks"]
    assert isinstance(frameworks, dict)
    assert set(frameworks["vllm"]["gemm"]) == {"bf16"}
