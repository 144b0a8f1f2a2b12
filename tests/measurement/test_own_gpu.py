"""From measured rows to a profile that predicts what was measured: measure, calibrate, predict, validate."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from energylens import predict
from energylens.calibrate import fitting, own_gpu
from energylens.cli import main
from energylens.errors import EnergylensError
from energylens.library import load_gpu
from energylens.measurement.end_to_end import end_to_end
from energylens.measurement.harness import measure
from energylens.measurement.runs import Runs
from measurement.conftest import CLOCKS_MHZ
from measurement.simulated import ENERGY, IDLE, STATIC_W, VOLTS


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "STEPS", 600)


@pytest.fixture(scope="module")
def runs(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "runs.parquet"
    measure(path, clocks_mhz=CLOCKS_MHZ, replay=recording)
    return path


@pytest.fixture(scope="module")
def mine(runs: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "STEPS", 600)
        found = own_gpu.calibrate(runs)
    found.file.rename("mine")
    return found.file.write(runs.parent / "mine.yaml")


def test_prices_come_back(mine: Path) -> None:
    energy = load_gpu(mine).spec.energy
    assert energy is not None
    assert energy.static_w == pytest.approx(STATIC_W, rel=0.01)
    assert energy.active_w == pytest.approx(60, rel=0.05)
    assert energy.flop_j.bf16 == pytest.approx(5e-13, rel=0.02)
    assert energy.flop_j.fp8 == pytest.approx(3e-13, rel=0.03)
    for name in ("hbm_weight_j_per_byte", "hbm_kv_j_per_byte", "hbm_activation_j_per_byte", "link_j_per_byte"):
        assert getattr(energy, name) == pytest.approx(ENERGY[name], rel=0.04), name
    assert energy.communication_w == pytest.approx(20, rel=0.1)
    assert "energy counter" in energy.source


def test_voltage_and_idle_power_by_clock_come_back(mine: Path) -> None:
    clock = load_gpu(mine).spec.clock
    assert clock is not None and clock.voltage_mv and clock.idle_w
    for (mhz, millivolts), (same, watts) in zip(clock.voltage_mv, clock.idle_w, strict=True):
        assert mhz == same
        # The bundled table has 1,013 mV at the highest clock; rows tell ratios.
        assert millivolts == pytest.approx(1013 * VOLTS[int(mhz)], rel=0.01)
        assert watts == pytest.approx(STATIC_W * IDLE[int(mhz)], rel=0.01)
    assert predict("llama-3.1-8b", gpu=mine, sm_clock_mhz=1350).values["feasible"]


def test_the_transformer_is_predicted_better_after_than_before(runs: Path, mine: Path) -> None:
    found = end_to_end(Runs.read(runs), ["h200-sxm", str(mine)])
    for phase in ("prefill", "decode"):
        for quantity in ("seconds", "joules"):
            after = found.errors("mine", phase, quantity)
            assert after.mape_percent < 2
            assert after.mape_percent < found.errors("h200-sxm", phase, quantity).mape_percent
    assert "no host" not in found.text()


def test_no_row_of_the_transformer_is_in_a_fit(runs: Path, mine: Path) -> None:
    without = Runs.read(runs)
    path = runs.parent / "without.parquet"
    kept = without.rows.filter(pl.col("family") != "model")
    Runs(kept, without.gpu, without.suite, without.input, {}).write(path)
    assert own_gpu.calibrate(path).file.sections == own_gpu.calibrate(runs).file.sections


def test_a_measured_profile_says_so(mine: Path) -> None:
    found = predict("llama-3.1-8b", gpu=mine, batch=8)
    assert found.trust == "measured"
    assert not found.values["extrapolated"]
    assert found.values["energy_lo_j"] < found.values["energy_j"] < found.values["energy_hi_j"]
    spec = load_gpu(mine).spec
    assert spec.kernels is not None and spec.kernels.gemm.nvfp4 is None
    assert spec.kernels.gemm.int8 is not None or spec.kernels.gemm.fp8_block is not None
    assert spec.kernels.gemm.bf16.source.startswith("measured by `energylens measure`: Simulated H200")
    assert spec.collectives is not None
    assert spec.frameworks is None


def test_joules_alone_go_into_a_profile_that_keeps_its_kernels_and_its_serving_layer(runs: Path) -> None:
    before = load_gpu("h200-sxm").spec
    found = own_gpu.calibrate(runs, "h200-sxm", ["energy"]).file.loaded().spec
    assert (found.kernels, found.host, found.collectives) == (before.kernels, before.host, before.collectives)
    assert found.uncertainty == before.uncertainty
    assert found.energy is not None and before.energy is not None and before.energy.prior is not None
    assert found.energy.flop_j.bf16 == pytest.approx(5e-13, rel=0.02)
    assert found.energy.sequence_j == before.energy.sequence_j
    factor = before.energy.active_w / before.energy.prior["active_w"]
    assert found.energy.active_w == pytest.approx(60 * factor, rel=0.05)


def test_a_data_sheet_becomes_a_profile(runs: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.yaml"
    sheet.write_text(
        "name: sheet\nsource: data sheet\n"
        "memory: {capacity_bytes: 151e9, bandwidth_bytes_per_s: 4.8e12, technology: HBM3e}\n"
        "compute: {sms: 132, peak_flops: {bf16: 989e12, fp8: 1979e12, vector: 67e12}}\n"
        "power: {tdp_w: 1000}\nlink: {kind: nvlink4, bandwidth_bytes_per_s: 450e9}\n",
        encoding="utf-8",
    )
    found = own_gpu.calibrate(runs, str(sheet))
    assert set(found.parts) == set(own_gpu.PARTS)
    loaded = found.file.loaded()
    assert loaded.trust == "measured"
    assert loaded.spec.clock is not None
    assert loaded.spec.link.sms_to_saturate == pytest.approx(16, rel=0.1)


def test_what_is_not_measured_is_told(runs: Path, tmp_path: Path) -> None:
    all_rows = Runs.read(runs)
    few = tmp_path / "few.parquet"
    Runs(all_rows.rows.head(8), all_rows.gpu, "quick", "", {}).write(few)
    for part in ("kernels", "collectives"):
        with pytest.raises(EnergylensError, match=f"not tell enough for `{part}`"):
            own_gpu.calibrate(few, parts=[part])
    with pytest.raises(EnergylensError, match="too little is measured"):
        own_gpu.calibrate(few, parts=["energy"])
    with pytest.raises(EnergylensError, match="unknown part `kernel`"):
        own_gpu.calibrate(few, parts=["kernel"])
    other = dict(all_rows.gpu) | {"name": "Voodoo 2"}
    Runs(all_rows.rows, other, "quick", "", {}).write(few)
    with pytest.raises(EnergylensError, match="no bundled profile of `Voodoo 2`"):
        own_gpu.calibrate(few)
    with pytest.raises(EnergylensError, match="no row of the transformer"):
        end_to_end(Runs(all_rows.rows.head(2), other, "quick", "", {}), ["h200-sxm"])


def test_suspect_rows_are_in_no_fit(runs: Path, tmp_path: Path) -> None:
    all_rows = Runs.read(runs)
    doubled = all_rows.rows.with_columns(
        pl.when(pl.col("repeat") == 1).then(2 * pl.col("power_w")).otherwise(pl.col("power_w")).alias("power_w"),
        pl.when(pl.col("repeat") == 1).then(pl.lit("heat")).alias("suspect"),
    )
    path = tmp_path / "suspect.parquet"
    Runs(doubled, all_rows.gpu, "quick", "", {}).write(path)
    found = own_gpu.calibrate(path, parts=["energy"]).file.sections["energy"]
    assert found["flop_j"]["bf16"] == pytest.approx(5e-13, rel=0.02)


def test_the_whole_way_by_command(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["measure", "--replay", str(recording), "-o", "runs.parquet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpu"] == "Simulated H200"
    assert main(["calibrate", "runs.parquet", "-o", "mine.yaml"]) == 0
    assert "wrote mine.yaml" in capsys.readouterr().err
    assert main(["predict", "llama-3.1-8b", "--gpu", "mine.yaml", "--batch", "8"]) == 0
    assert "mine is measured" in capsys.readouterr().out
    assert main(["validate", "runs.parquet", "--gpu", "h200-sxm,mine.yaml", "--json", "-o", "rows.parquet"]) == 0
    told = json.loads(capsys.readouterr().out)
    worst = max(one["mape_percent"] for one in told["errors"] if one["gpu"] == "mine")
    assert worst < 2
    assert pl.read_parquet("rows.parquet").height == len(told["rows"])
