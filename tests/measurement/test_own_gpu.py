"""From measured rows to a profile that predicts what was measured: measure, calibrate, predict, validate."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from energylens import predict
from energylens.calibrate import fitting
from energylens.calibrate.engines import cluster as own_runs_fit
from energylens.calibrate.own_gpu import kernels, power, profile
from energylens.calibrate.profile_file import ProfileFile
from energylens.cli import main
from energylens.common.errors import EnergylensError
from energylens.inputs.library import load_gpu
from energylens.measurement.end_to_end import end_to_end
from energylens.measurement.harness import measure
from energylens.measurement.runs import Runs
from energylens.serving.fixed_concurrency import steady_state
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
        result = profile.calibrate(runs, "h200-sxm")
    result.file.rename("mine")
    return result.file.write(runs.parent / "mine.yaml")


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
    result = end_to_end(Runs.read(runs), ["h200-sxm", str(mine)])
    for phase in ("prefill", "decode"):
        for quantity in ("seconds", "joules"):
            after = result.errors("mine", phase, quantity)
            assert after.mape_percent < 2
            assert after.mape_percent < result.errors("h200-sxm", phase, quantity).mape_percent
    with pytest.raises(EnergylensError, match="two profiles are called `mine`"):
        end_to_end(Runs.read(runs), [str(mine), str(mine)])


def test_no_row_of_the_transformer_is_in_a_fit(runs: Path, mine: Path) -> None:
    without = Runs.read(runs)
    path = runs.parent / "without.parquet"
    retained = without.rows.filter(pl.col("family") != "model")
    Runs(retained, without.gpu, without.suite, without.input, {}).write(path)
    result = profile.calibrate(path, "h200-sxm").file
    assert result.sections == profile.calibrate(runs, "h200-sxm").file.sections


def test_a_measured_profile_says_so(mine: Path) -> None:
    result = predict("llama-3.1-8b", gpu=mine, batch=8)
    assert result.trust == "measured"
    assert not result.values["extrapolated"]
    assert load_gpu(mine).spec.uncertainty.hbm_kv == 0  # type: ignore[union-attr]
    assert result.values["energy_lo_j"] < result.values["energy_j"] < result.values["energy_hi_j"]
    spec = load_gpu(mine).spec
    assert spec.kernels is not None and spec.kernels.gemm.nvfp4 is None
    assert spec.kernels.gemm.int8 is not None or spec.kernels.gemm.fp8_block is not None
    assert spec.kernels.gemm.bf16.source.startswith("measured by `energylens measure`: Simulated H200")
    assert spec.collectives is not None
    assert spec.frameworks is None


def test_joules_alone_go_into_a_profile_that_keeps_its_kernels_and_its_serving_layer(runs: Path) -> None:
    before = load_gpu("h200-sxm").spec
    result = profile.calibrate(runs, "h200-sxm", ["energy"]).file.loaded().spec
    assert (result.kernels, result.host, result.collectives) == (before.kernels, before.host, before.collectives)
    assert result.uncertainty == before.uncertainty
    assert result.energy is not None and before.energy is not None and before.energy.prior is not None
    assert result.energy.flop_j.bf16 == pytest.approx(5e-13, rel=0.02)
    assert result.energy.sequence_j == before.energy.sequence_j
    factor = before.energy.active_w / before.energy.prior["active_w"]
    assert result.energy.active_w == pytest.approx(60 * factor, rel=0.05)


def test_a_data_sheet_becomes_a_profile(runs: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.yaml"
    sheet.write_text(SHEET, encoding="utf-8")
    result = profile.calibrate(runs, str(sheet))
    assert set(result.parts) == set(profile.PARTS)
    loaded = result.file.loaded()
    assert loaded.trust == "measured"
    assert loaded.spec.clock is not None
    assert loaded.spec.link.sms_to_saturate == pytest.approx(16, rel=0.1)


def test_what_was_not_measured_is_as_before_and_says_so(runs: Path, tmp_path: Path) -> None:
    whole = Runs.read(runs)
    path = tmp_path / "part.parquet"
    Runs(whole.rows.filter(pl.col("family").is_in(["gemm", "idle"])), whole.gpu, "quick", "", {}).write(path)
    before, result = load_gpu("h200-sxm").spec, profile.calibrate(path, "h200-sxm")
    after = result.file.loaded().spec
    assert result.parts == ["kernels", "energy", "clock"]
    assert after.trust == before.trust == "calibrated"
    assert after.energy is not None and before.energy is not None and after.uncertainty is not None
    assert after.energy.hbm_kv_j_per_byte == before.energy.hbm_kv_j_per_byte
    assert "not measured, as before: hbm_kv_j_per_byte" in after.energy.source
    assert "link_j_per_byte" in after.energy.source
    assert after.uncertainty.hbm_kv > 0 and after.uncertainty.compute == 0
    assert after.range is not None and before.range is not None and after.range.gpus == before.range.gpus
    assert result.notes[0].startswith("not measured, as before: grouped_gemm")


def test_rows_that_are_missing_leave_what_was_known(runs: Path, tmp_path: Path) -> None:
    whole = Runs.read(runs)
    path = tmp_path / "part.parquet"
    pair = (pl.col("family") != "gemm") | ((pl.col("columns") == 2048) & (pl.col("depth") == 2048))
    two = (pl.col("variant") != "all_to_all") | (pl.col("gpus") != 2)
    Runs(whole.rows.filter(pair & two.fill_null(True)), whole.gpu, "quick", "", {}).write(path)
    result, before = profile.calibrate(path, "h200-sxm"), load_gpu("h200-sxm").spec
    after = result.file.loaded().spec
    assert "collectives" not in result.parts and after.collectives == before.collectives
    assert after.kernels is not None and before.kernels is not None
    assert after.kernels.gemm == before.kernels.gemm


def test_a_floor_above_the_kernels_is_reported(runs: Path, tmp_path: Path) -> None:
    whole = Runs.read(runs)
    path = tmp_path / "odd.parquet"
    odd = pl.when(pl.col("family") == "idle").then(1e3).otherwise(pl.col("power_w")).alias("power_w")
    Runs(whole.rows.with_columns(odd), whole.gpu, "quick", "", {}).write(path)
    assert "waiting took 1000 W, more than" in profile.calibrate(path, "h200-sxm", ["energy"]).text()


def test_clocks_above_those_measured_keep_the_tables_of_before(runs: Path, tmp_path: Path) -> None:
    whole = Runs.read(runs)
    path = tmp_path / "low.parquet"
    low = whole.rows.filter(pl.col("sm_clock_lock_mhz").is_null() | (pl.col("sm_clock_lock_mhz") < 1500))
    Runs(low, whole.gpu, "quick", "", {}).write(path)
    clock, before = profile.calibrate(path, "h200-sxm", ["clock"]).file.loaded().spec.clock, load_gpu("h200-sxm").spec
    assert clock is not None and clock.voltage_mv and clock.idle_w and before.clock and before.clock.voltage_mv
    assert clock.voltage_mv[-3:] == before.clock.voltage_mv[-3:]
    assert clock.max_mhz == before.clock.max_mhz
    assert [row[0] for row in clock.voltage_mv[:2]] == [1050, 1350]
    assert clock.idle_w[-1][1] > clock.idle_w[0][1]
    assert "above 1350 MHz as before" in clock.source
    sheet = tmp_path / "sheet.yaml"
    sheet.write_text(SHEET, encoding="utf-8")
    with pytest.raises(EnergylensError, match="not tell enough for `clock`"):
        profile.calibrate(path, str(sheet), ["clock"])


@pytest.mark.parametrize(
    ("name", "stem"),
    [("NVIDIA H200", "h200-sxm"), ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"), ("NVIDIA L40S", "l40s"),
     ("NVIDIA GH200 480GB", None), ("NVIDIA H200 NVL", None), ("NVIDIA GeForce RTX 4090 Laptop GPU", None)],
)  # fmt: skip
def test_only_the_very_gpu_takes_a_bundled_profile(name: str, stem: str | None) -> None:
    runs = Runs(pl.DataFrame(), {"name": name}, "quick", "", {})
    if stem is None:
        with pytest.raises(EnergylensError, match="no bundled profile"):
            profile.base_of(runs, None)
    else:
        assert profile.base_of(runs, None).stem == stem


def test_work_is_counted_as_by_hand(runs: Path) -> None:
    rows = power.work(Runs.read(runs).means, load_gpu("h200-sxm").spec)

    def of(case: str) -> dict[str, float]:
        row = rows.filter(pl.col("kernel") == case).row(0, named=True)
        counted = ("matrix", "vector", "weight", "kv", "activation", "chip")
        return {name: row[name] for name in counted if row[name]}

    m, n, k = 256, 4096, 14336
    plain = of(f"gemm bf16 rows={m} columns={n} depth={k}")
    assert plain == {"matrix": 2 * m * n * k, "weight": 2 * n * k, "activation": 2 * m * k + 2 * m * n}
    narrow = of("gemm fp8 rows=16 columns=4096 depth=14336")
    assert narrow == {"matrix": 2 * 16 * n * k, "weight": n * k, "activation": 16 * k + 2 * 16 * n}
    assert of("stream kv bf16 bytes=67108864") == {"kv": 2 * 2**26}
    decode = of("attention_decode bf16 batch=8 tokens=2048 heads=32 kv_heads=8 head_dim=128")
    assert decode["kv"] == 2 * 8 * 2048 * 8 * 128 * 2
    assert decode["matrix"] == 4 * 8 * 32 * 2048 * 128
    silu = of("elementwise silu_mul bf16 rows=1024 columns=14336")
    assert silu == {"vector": 6 * 1024 * 14336, "activation": 10 * 1024 * 14336}
    experts = of("grouped_gemm balanced bf16 tokens=4096 hidden=4096 inner=8192 experts=8 active=2")
    assert experts["weight"] == 8 * 3 * 4096 * 8192 * 2
    assert experts["matrix"] == 6 * (4096 * 2 + 8 * 32) * 4096 * 8192


def test_shapes_are_held_out_whole(runs: Path) -> None:
    means = Runs.read(runs).means
    for family, names in kernels.SHAPES.items():
        rows = means.filter((pl.col("family") == family) & pl.col("sm_clock_lock_mhz").is_null())
        rows = rows.with_columns(held=pl.Series(kernels.held_out(rows)))
        if names:
            assert rows.group_by(names).agg(pl.col("held").n_unique())["held"].max() == 1
            assert 0 < rows["held"].sum() <= 0.45 * rows.height


def test_an_entry_with_blank_lines_and_comments_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "sheet.yaml"
    clock = "clock:\n  max_mhz: 1980\n\n# as found\n  source: me\n\n# the rest\n"
    path.write_text(SHEET.replace("power:", clock + "power:"), encoding="utf-8")
    file = ProfileFile(path)
    file.head(clock={"max_mhz": 1500, "source": "you"})
    assert "as found" not in file.text and "# the rest\npower:" in file.text
    assert file.loaded().spec.clock.max_mhz == 1500  # type: ignore[union-attr]


def test_a_profile_fitted_to_the_users_runs_keeps_its_serving_layer(runs: Path, tmp_path: Path) -> None:
    fitted = tmp_path / "fitted.yaml"
    own_runs_fit.fit_file(own_runs(tmp_path), "h200-sxm", "layer").write(fitted)
    before = load_gpu(fitted).spec.energy
    assert before is not None and before.prior is not None
    result = profile.calibrate(runs, str(fitted), ["energy"]).file.loaded().spec.energy
    assert result is not None
    assert result.active_w == pytest.approx(60 * before.active_w / before.prior["active_w"], rel=0.05)
    assert result.sequence_j == before.sequence_j


def own_runs(folder: Path) -> Path:
    """Return a file of runs as the bundled profile predicts them."""
    sizes = [(b, i, o) for b in (2, 8, 24, 64) for i, o in ((200, 300), (800, 400), (2000, 200), (400, 900))]
    requested = pl.DataFrame(
        {"model": [m for m in ("llama-3.1-8b", "qwen3-14b", "qwen3-32b", "qwen3-8b") for _ in sizes],
         "gpu": "h200-sxm",
         "batch": [float(b) for _ in range(4) for b, _, _ in sizes],
         "input_tokens": [float(i) for _ in range(4) for _, i, _ in sizes],
         "output_tokens": [float(o) for _ in range(4) for _, _, o in sizes]}
    )  # fmt: skip
    reported = steady_state(requested)
    rows = requested.drop("gpu").with_columns(
        itl_ms=1e3 * reported["itl_s"],
        output_tokens_per_s=reported["output_tokens_per_s"],
        power_w_per_gpu=reported["power_w_per_gpu"],
    )
    rows.write_csv(folder / "own.csv")
    return folder / "own.csv"


SHEET = """\
name: sheet
source: data sheet
memory: {capacity_bytes: 151e9, bandwidth_bytes_per_s: 4.8e12, technology: HBM3e}
compute: {sms: 132, peak_flops: {bf16: 989e12, fp8: 1979e12, vector: 67e12}}
power: {tdp_w: 1000}
link: {kind: nvlink4, bandwidth_bytes_per_s: 450e9}
"""


def test_what_is_not_measured_is_reported(runs: Path, tmp_path: Path) -> None:
    all_rows = Runs.read(runs)
    few = tmp_path / "few.parquet"
    Runs(all_rows.rows.head(8), all_rows.gpu, "quick", "", {}).write(few)
    for part in ("kernels", "collectives"):
        with pytest.raises(EnergylensError, match=f"not tell enough for `{part}`"):
            profile.calibrate(few, "h200-sxm", [part])
    with pytest.raises(EnergylensError, match="too little is measured"):
        profile.calibrate(few, "h200-sxm", ["energy"])
    with pytest.raises(EnergylensError, match="unknown part `kernel`"):
        profile.calibrate(few, "h200-sxm", ["kernel"])
    other = dict(all_rows.gpu) | {"name": "Voodoo 2"}
    Runs(all_rows.rows, other, "quick", "", {}).write(few)
    with pytest.raises(EnergylensError, match="no bundled profile of `Voodoo 2`"):
        profile.calibrate(few)
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
    result = profile.calibrate(path, "h200-sxm", ["energy"]).file.sections["energy"]
    assert result["flop_j"]["bf16"] == pytest.approx(5e-13, rel=0.02)


def test_the_whole_path_by_command(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["measure", "--replay", str(recording), "-o", "runs.parquet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpu"] == "Simulated H200"
    assert main(["calibrate", "-o", "mine.yaml", "runs.parquet", "--gpu", "h200-sxm"]) == 0
    assert "wrote mine.yaml" in capsys.readouterr().err
    assert main(["predict", "llama-3.1-8b", "--gpu", "mine.yaml", "--batch", "8"]) == 0
    assert "mine is measured" in capsys.readouterr().out
    assert main(["validate", "runs.parquet", "--gpu", "h200-sxm,mine.yaml", "--json", "-o", "rows.parquet"]) == 0
    reported = json.loads(capsys.readouterr().out)
    worst = max(entry["mape_percent"] for entry in reported["errors"] if entry["gpu"] == "mine")
    assert worst < 2
    assert pl.read_parquet("rows.parquet").height == len(reported["rows"])
