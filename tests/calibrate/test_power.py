"""Fits of kernel power on small tables made from known coefficients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from energylens.calibrate import robust
from energylens.calibrate.power import collective, fit, kernel_power, meter, transfer
from energylens.calibrate.power.report import check_bands
from energylens.common.errors import SpecError

TRUE = {"flop_bf16": 5e-13, "flop_fp8": 3e-13, "hbm": 1e-10, "active_grouped_gemm": 60.0}
TRUE |= {"active_attention_prefill": 40.0, "active_attention_decode": 80.0}
FORM = "running floor of all but GEMM"
ROWS = 300


def tables() -> dict[str, pl.DataFrame]:
    draw = np.random.default_rng(1)

    def pick(*values: int) -> list[int]:
        return [int(x) for x in draw.choice(values, ROWS)]

    common: dict[str, object] = {
        "gpu": ["h200_sxm"] * ROWS,
        "kernel_source": ["k"] * ROWS,
        "power_w": [300.0] * ROWS,
        "power_limit_w": [700.0] * ROWS,
        "latency_ms": [1.0] * ROWS,
    }
    heads: dict[str, object] = {
        "num_heads": [32] * ROWS,
        "num_key_value_heads": pick(4, 8, 32),
        "head_dim": [128] * ROWS,
    }
    heads |= {"kv_cache_dtype": ["bfloat16"] * ROWS, "window_size": [0] * ROWS}
    return {
        "gemm": pl.DataFrame(
            common
            | {"gemm_dtype": [str(x) for x in draw.choice(["bfloat16", "fp8_block"], ROWS)]}
            | {"m": list(range(1, ROWS + 1)), "n": pick(4096, 8192, 16384), "k": pick(4096, 8192, 16384)}
        ),
        "attention_prefill": pl.DataFrame(
            common | heads | {"batch_size": pick(1, 2, 4), "isl": list(range(512, 512 + 8 * ROWS, 8))}
        ),
        "attention_decode": pl.DataFrame(
            common | heads | {"batch_size": pick(16, 32, 64), "step": list(range(2048, 2048 + 8 * ROWS, 8))}
        ),
        "moe": pl.DataFrame(
            common
            | {"moe_dtype": ["bfloat16"] * ROWS, "num_tokens": list(range(64, 64 + 16 * ROWS, 16))}
            | {"hidden_size": [2048] * ROWS, "inter_size": pick(768, 1536), "topk": [8] * ROWS}
            | {"num_experts": [128] * ROWS, "moe_tp_size": [1] * ROWS, "moe_ep_size": pick(1, 2, 4)}
            | {"distribution": ["balanced"] * ROWS}
        ),
    }


def made(folder: Path) -> Path:
    """Write tables whose powers follow TRUE exactly, at times that keep them below the cap."""
    draw = np.random.default_rng(2)
    for family, table in tables().items():
        counted = kernel_power.rates(kernel_power.count(table.with_columns(latency_ms=1000.0), family))
        columns = fit.FORMS[FORM].columns(counted, family)
        joules = sum(value * columns[name] for name, value in TRUE.items() if not name.startswith("active"))
        joules = joules + fit.ON_CHIP * counted["chip_rate"].to_numpy()
        active = sum(value * columns[name] for name, value in TRUE.items() if name.startswith("active"))
        seconds = np.maximum(joules / draw.uniform(50, 400, ROWS), 3e-5)
        table.with_columns(
            latency_ms=pl.Series(seconds * 1e3), power_w=pl.Series(116 + active + joules / seconds)
        ).write_parquet(folder / f"kernel_power_{family}.parquet")
    return folder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> kernel_power.KernelPower:
    return kernel_power.load(made(tmp_path_factory.mktemp("power")))


def test_known_coefficients_come_back(loaded: kernel_power.KernelPower) -> None:
    result = fit.fit(loaded, "h200-sxm", FORM)
    assert result.coefficients == pytest.approx(TRUE, rel=0.02)
    assert result.mean_error < 1
    assert all(value == float(f"{value:.3g}") for value in result.coefficients.values())
    assert fit.fit(loaded, "h200-sxm", FORM) == result


def test_a_gpu_that_is_not_there(loaded: kernel_power.KernelPower) -> None:
    with pytest.raises(SpecError, match="no kernel power of `b200`"):
        fit.fit(loaded, "b200")


def test_a_coefficient_out_of_its_band_needs_a_reason() -> None:
    with pytest.raises(SpecError, match="`hbm` of `x` is 1e-09, outside"):
        check_bands("x", {"hbm": 1e-9}, {})
    assert check_bands("x", {"hbm": 1e-9}, {"hbm": "GDDR5"}) == {"hbm": "GDDR5"}


def test_terms_that_cannot_be_distinguished() -> None:
    entry = np.arange(1.0, 9.0)
    with pytest.raises(SpecError, match="cannot tell a from b"):
        robust.check_rank(np.column_stack([entry, 2 * entry]), ["a", "b"])
    with pytest.raises(SpecError, match="no row tells anything of b"):
        robust.check_rank(np.column_stack([entry, 0 * entry]), ["a", "b"])


def test_exclusions_are_listed(tmp_path: Path) -> None:
    made(tmp_path)
    path = tmp_path / "kernel_power_gemm.parquet"
    place = pl.int_range(pl.len())
    pl.read_parquet(path).with_columns(
        power_w=pl.when(place < 3).then(0.0).when(place < 10).then(699.0).otherwise(pl.col("power_w")),
        latency_ms=pl.when((place >= 10) & (place < 14)).then(0.01).otherwise(pl.col("latency_ms")),
        gemm_dtype=pl.when((place >= 14) & (place < 19)).then(pl.lit("int4_wo")).otherwise(pl.col("gemm_dtype")),
    ).write_parquet(path)
    listed = {str(row["reason"]): int(str(row["dropped"])) for row in kernel_power.load(tmp_path, ("gemm",)).excluded}
    assert listed["no power measured, or a time of zero"] == 3
    assert listed["dtype mixed or routing skewed: FLOPs or bytes are not known"] == 5
    assert listed["at the power cap: only bounds from below"] >= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"power_w": pl.col("power_w") * 1e3}, "three times the limit"),
        ({"power_w": pl.col("latency_ms") * 0 + 1, "latency_ms": pl.col("power_w")}, "no `power_w` reaches 10"),
        ({"latency_ms": pl.col("latency_ms") * 1e-6}, "no kernel time in milliseconds"),
        ({"power_w": pl.col("power_w") * 0}, "no row of measured power"),
        ({"m": pl.col("m").cast(pl.String)}, "column `m` holds String"),
    ],
)
def test_wrong_units_are_reported(tmp_path: Path, change: dict[str, pl.Expr], message: str) -> None:
    tables()["gemm"].with_columns(**change).write_parquet(tmp_path / "kernel_power_gemm.parquet")
    with pytest.raises(SpecError, match=message):
        kernel_power.read(tmp_path, "gemm")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r"no table `kernel_power_gemm.parquet`"):
        kernel_power.read(tmp_path, "gemm")
    path = tmp_path / "kernel_power_gemm.parquet"
    tables()["gemm"].rename({"power_w": "power"}).write_parquet(path)
    with pytest.raises(SpecError, match="has no column `power_w`"):
        kernel_power.read(tmp_path, "gemm")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SpecError, match=r"cannot read the table `.*kernel_power_gemm.parquet`: parquet"):
        kernel_power.read(tmp_path, "gemm")
    monkeypatch.delenv("ENERGYLENS_DATA", raising=False)
    with pytest.raises(SpecError, match="is not set"):
        kernel_power.load()


def test_counts_follow_the_physics_page() -> None:
    gemm = kernel_power.count(tables()["gemm"].with_columns(gemm_dtype=pl.lit("bfloat16")), "gemm").row(0, named=True)
    row = tables()["gemm"].row(0, named=True)
    assert gemm["matrix"] == 2 * row["m"] * row["n"] * row["k"]
    assert gemm["weight"] == 2 * row["n"] * row["k"]
    decode = kernel_power.count(tables()["attention_decode"], "attention_decode").row(0, named=True)
    row = tables()["attention_decode"].row(0, named=True)
    assert decode["kv"] == 2 * row["batch_size"] * row["num_key_value_heads"] * 128 * (row["step"] + 1) * 2


def test_a_meter_that_remembers() -> None:
    shown = meter.smear(np.array([100.0, 300, 300]), np.full(3, 0.5), np.array([True, False, False]))
    assert shown.tolist() == [100, 200, 250]


def test_all_reduce_comes_back(tmp_path: Path) -> None:
    elements = [2**k for k in range(20, 30)]
    rate = [4e11 * k / (k + 2**24) for k in elements]
    pl.DataFrame(
        {
            "kernel_source": "vLLM_custom_graph",
            "backend": "vllm_graph",
            "num_gpus": 2,
            "message_elements": elements,
            "latency_ms": [2e3 * n / r for n, r in zip(elements, rate, strict=True)],
            "power_w": [248 + 3e-10 * r for r in rate],
            "power_limit_w": 1000.0,
        }
    ).write_parquet(tmp_path / "kernel_power_allreduce.parquet")
    result = collective.fit(tmp_path)
    assert result["link_j_per_byte"] == pytest.approx(3e-10, rel=0.02)
    assert result["active_w"] == pytest.approx(10, abs=1.5)


def test_transfer_says_where_from(loaded: kernel_power.KernelPower) -> None:
    link = {"active_w": 10.0, "link_j_per_byte": 3.5e-10, "watts_at_full_rate": 500.0}
    lent = {"h200-sxm": transfer.profile(fit.fit(loaded, "h200-sxm"), link)}
    result = transfer.transfer("h100-sxm", lent)
    assert result["flop_j"] == lent["h200-sxm"]["flop_j"]
    assert result["sources"]["flop_j"].startswith("transferred")
    assert transfer.transfer("l40s", lent)["hbm_kv_j_per_byte"] == 2.8e-10
    with pytest.raises(SpecError, match="not fitted"):
        transfer.transfer("gb200", lent)
    with pytest.raises(SpecError, match="no rule"):
        transfer.transfer("tpu", lent)


def test_overlap_slope_and_intercept(tmp_path: Path) -> None:
    seconds = np.linspace(3e-3, 11e-3, 20)
    path = tmp_path / "overlap_energy.parquet"
    pl.DataFrame(
        {"overlap_start": [-1] * 20, "time_s": seconds, "energy_total_j": 2 * (85 * seconds + 0.6)}
    ).write_parquet(path)
    result = transfer.overlap(path)
    assert (result["static_and_communication_w"], result["dynamic_j"]) == (85.0, 0.6)
