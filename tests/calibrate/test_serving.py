"""The serving layer: runs made from known values give these back, and faulty tables are told apart."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from energylens.calibrate.engines import fit
from energylens.calibrate.engines.cluster import fit_file
from energylens.calibrate.engines.features import runs as features
from energylens.calibrate.engines.fit import Layer
from energylens.calibrate.engines.leave_one_out import deviations
from energylens.calibrate.engines.runs import data_dir, serving_runs
from energylens.common.errors import EnergylensError
from energylens.inputs.gpu import Host
from energylens.inputs.library import load_gpu
from energylens.inputs.plan import LoadedGpu
from energylens.serving.fixed_concurrency import steady_state

TIME = {
    "host_s": 2e-3, "sequence_s": 5e-5, "gemm": 1.2, "attention": 1.1, "grouped_gemm": 1.3, "chat_input_tokens": 300.0,
}  # fmt: skip
PRICE = {
    "active_w": 1.2, "sequence_w": 0.8, "hbm_weight": 1.1,
    "hbm_kv": 1.0, "hbm_activation": 1.0, "bf16": 0.9, "narrow": 1.0,
}  # fmt: skip


def start() -> LoadedGpu:
    spec = load_gpu("h100-sxm").spec
    return LoadedGpu(spec.model_copy(update={"host": Host(host_s=1e-3, source="none")}))


def points() -> pl.DataFrame:
    models = [("llama-3.1-8b", 1, 1), ("llama-3.1-70b", 4, 1), ("qwen3-30b-a3b", 2, 2)]
    return pl.DataFrame(
        [
            {"model": name, "gpu": "h100-sxm", "weight_dtype": None, "tp": tp, "dp": 1, "ep": ep, "gpus": tp}
            | {"batch": float(batch), "input_tokens": 300.0, "output_tokens": float(out), "task": "lm-arena-chat"}
            for name, tp, ep in models
            for batch in (4, 16, 48, 128)
            for out in (200, 500, 2000)
        ],
        schema_overrides={"weight_dtype": pl.String},
    )


def made() -> pl.DataFrame:
    """Return runs as the known layer predicts them."""
    rows = points()
    reported = steady_state(rows.drop("gpus", "task"), gpus=[Layer(TIME, PRICE).applied(start())])
    return rows.hstack(reported.select("itl_s", "output_tokens_per_s", "power_w_per_gpu", "energy_per_output_token_j"))


@pytest.fixture
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_TIME_PRIOR", 1e-4)


@pytest.mark.usefixtures("_nothing_known")
def test_known_times_come_back() -> None:
    rows = made().drop("input_tokens")
    layer = fit.fit(features(rows, start()), start(), "lent", {})
    for name in ("sequence_s", "gemm", "grouped_gemm"):
        assert layer.time[name] == pytest.approx(TIME[name], rel=0.05), name
    assert layer.time["host_s"] == pytest.approx(TIME["host_s"], abs=3e-4)
    assert layer.time["chat_input_tokens"] == pytest.approx(300, rel=0.1)


@pytest.mark.usefixtures("_nothing_known")
def test_narrow_caches_and_data_parallel_ranks_are_fitted_as_they_are_predicted() -> None:
    rows = points().filter(pl.col("model") == "llama-3.1-8b")
    rows = pl.concat(
        [rows.with_columns(pl.lit(kv, dtype=pl.String).alias("kv_dtype"), pl.lit(dp).alias("dp"))
         for kv in (None, "fp8") for dp in (1, 2)]
    )  # fmt: skip
    reported = steady_state(rows.drop("gpus", "task"), gpus=[Layer(TIME, PRICE).applied(start())])
    rows = rows.hstack(reported.select("itl_s", "output_tokens_per_s", "power_w_per_gpu", "energy_per_output_token_j"))
    layer = fit.fit(features(rows, start()), start(), "lent", {"chat_input_tokens": 300.0})
    for name in ("sequence_s", "gemm", "attention"):
        assert layer.time[name] == pytest.approx(TIME[name], rel=0.05), name


def test_dense_models_tell_all_but_the_factor_of_routed_experts() -> None:
    rows = made()
    slower = pl.when(pl.col("model") == "qwen3-30b-a3b").then(1.3).otherwise(1.0)
    changed = rows.with_columns(pl.col("itl_s") * slower, pl.col("output_tokens_per_s") / slower)
    before, after = (fit.fit(features(entry, start()), start(), "lent", {}).time for entry in (rows, changed))
    assert after.pop("grouped_gemm") > 1.1 * before.pop("grouped_gemm")
    assert after == before


def test_what_is_known_is_not_fitted() -> None:
    layer = fit.fit(features(made().drop("input_tokens"), start()), start(), "lent", {"chat_input_tokens": 300.0})
    assert layer.time["chat_input_tokens"] == 300.0


def test_too_few_runs() -> None:
    with pytest.raises(EnergylensError, match="3 serving runs of `h100-sxm`; a fit needs 20"):
        fit.fit(features(made().head(3), start()), start(), "lent", {})


def as_csv(rows: pl.DataFrame, path: Path) -> Path:
    rows.select(
        "model", "tp", "ep", "batch", "input_tokens", "output_tokens",
        (pl.col("itl_s") * 1e3).alias("itl_ms"), "output_tokens_per_s", "power_w_per_gpu",
    ).write_csv(path)  # fmt: skip
    return path


def test_a_cluster_of_the_user(tmp_path: Path) -> None:
    rows = pl.concat([made(), made()])
    result = fit_file(as_csv(rows, tmp_path / "runs.csv"), "h100-sxm", "layer")
    assert result.rows == rows.height
    assert result.seen["energy_per_output_token_j"].mape_percent < 3
    assert result.how_left_out == "model"
    result.write(tmp_path / "mine.yaml")
    host = load_gpu(tmp_path / "mine.yaml").spec.host
    assert host is not None
    assert host.sequence_s == result.coefficients["sequence_s"]


def test_the_closed_form_of_one_model(tmp_path: Path) -> None:
    entry = made().filter(pl.col("model") == "llama-3.1-8b")
    wide = pl.concat([entry.with_columns(pl.lit(tp).alias("tp")) for tp in (1, 2, 4, 8, 1)])
    # A run that follows the form exactly: seconds and joules are sums of its terms.
    batch, length = pl.col("batch"), pl.col("input_tokens") + pl.col("output_tokens") / 2
    step = 1e-3 + 8e-3 / pl.col("tp") + 2e-5 * batch / pl.col("tp") + 1e-7 * batch * length / pl.col("tp")
    joules = 150 * pl.col("tp") * step + 0.5 + 0.01 * batch
    rows = wide.with_columns(
        step.alias("itl_s"), (batch / step).alias("output_tokens_per_s"),
        (joules / step / pl.col("tp")).alias("power_w_per_gpu")
    )  # fmt: skip
    result = fit_file(as_csv(rows, tmp_path / "runs.csv"), "h100-sxm", "closed")
    assert result.coefficients["step_s: 1/g"] == pytest.approx(8e-3, rel=0.01)
    assert result.coefficients["step_j: g·step"] == pytest.approx(150, rel=0.05)
    assert result.left_out["energy_per_output_token_j"].mape_percent < 1
    assert any("never vary `pp-1`" in note for note in result.notes)
    assert len([value for value in result.coefficients.values() if value]) <= 12


def test_runs_that_cannot_tell_terms_apart(tmp_path: Path) -> None:
    entry = made().filter(pl.col("model") == "llama-3.1-8b").head(1)
    same = pl.concat([entry] * 60).with_columns(pl.int_range(1, 61).cast(pl.Float64).alias("batch"))
    with pytest.raises(EnergylensError, match="cannot tell the terms"):
        fit_file(as_csv(same, tmp_path / "runs.csv"), "h100-sxm", "closed")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.head(10), "has 10 runs; a fit needs 50"),
        (lambda f: f.drop("itl_ms"), "has no column `itl_ms`"),
        (lambda f: f.drop("model"), "has no column `model`"),
        (lambda f: f.with_columns(pl.col("itl_ms") / 1e3), "column `itl_ms` should lie between|tokens/s exceed"),
        (
            lambda f: f.rename({"power_w_per_gpu": "output_tokens_per_s", "output_tokens_per_s": "power_w_per_gpu"}),
            "column `power_w_per_gpu` should lie between 20 and 2500",
        ),
        (lambda f: f.with_columns(pl.lit("x").alias("batch")), "should hold numbers"),
        (lambda f: f.with_columns(pl.lit("no-such-model").alias("model")), "unknown model `no-such-model`"),
    ],
)
def test_faulty_runs(change: object, message: str, tmp_path: Path) -> None:
    path = as_csv(pl.concat([made(), made()]), tmp_path / "runs.csv")
    change(pl.read_csv(path)).write_csv(path)  # type: ignore[operator]
    with pytest.raises(EnergylensError, match=message):
        fit_file(path, "h100-sxm", "layer")


def test_no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ENERGYLENS_DATA", raising=False)
    with pytest.raises(EnergylensError, match="no folder of measured data"):
        data_dir(None)
    with pytest.raises(EnergylensError, match="there is no"):
        serving_runs(tmp_path)
    (tmp_path / "serving_energy.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(EnergylensError, match="cannot read"):
        serving_runs(tmp_path)


def test_deviations_hold_the_share_they_should() -> None:
    import numpy as np

    draw = np.random.default_rng(3)
    whole = np.abs(draw.normal(0, 0.2, 400))
    needed = {"whole": whole, "causes": np.full(400, 0.01)}
    kinds = {"routed": (np.arange(400) % 2).astype(float), "narrow": np.zeros(400)}
    result = deviations(needed, kinds)
    assert result["narrow"] == 0.0
    held = whole <= np.sqrt(0.01**2 + result["common"] ** 2 + (result["routed"] * kinds["routed"]) ** 2)
    assert 0.84 <= held.mean() <= 0.95
