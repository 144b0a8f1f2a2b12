"""The account of the error, on measured runs where there are any."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import polars as pl
import pytest

from energylens.calibrate.validate import Validation, plots, validate
from energylens.cli import main
from energylens.common.errors import EnergylensError

needs_data = pytest.mark.skipif(
    "ENERGYLENS_DATA" not in os.environ, reason="ENERGYLENS_DATA is not set: no measured runs"
)


@lru_cache
def account() -> Validation:
    return validate()


@needs_data
def test_every_run_is_counted_once() -> None:
    result = account()
    assert result.runs.height + result.excluded.height == 190
    assert result.excluded["reason"].null_count() == 0
    assert result.runs.select("run_id", "gpu").is_unique().all()


@needs_data
def test_errors_are_as_committed() -> None:
    """The bundled profiles do as well as the documentation says; looser than its figures by a point."""
    table = account().table().filter(pl.col("quantity") == "energy_per_output_token_j")
    result = {(row["gpu"], row["fit"]): row["mape_percent"] for row in table.iter_rows(named=True)}
    assert result["h100-sxm", "in_sample"] <= 8.0
    assert result["h100-sxm", "left_out"] <= 8.5
    assert result["b200", "in_sample"] <= 13.7
    assert result["b200", "left_out"] <= 16.0
    ranking = account().ranking()
    assert ranking["spearman"].drop_nans().min() >= 0.95  # type: ignore[operator]
    assert all(65 <= percent <= 92 for percent in account().coverage_percent.values())


@needs_data
def test_tables_hold_every_run_in_each_cut() -> None:
    for cut in ("model", "kind", "format", "gpus", "batch_band"):
        rows = account().table(cut).filter((pl.col("fit") == "left_out") & (pl.col("quantity") == "itl_s"))["rows"]
        assert rows.sum() == account().runs.height


@needs_data
def test_plots_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("altair")
    drawn = plots(account(), tmp_path)
    assert [path.name for path in drawn] == ["predicted-against-measured.png", "error-against-batch.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_without_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("ENERGYLENS_DATA", raising=False)
    with pytest.raises(EnergylensError, match="no folder of measured data is known"):
        validate()
    assert main(["validate"]) == 2
    assert "hint: give --data DIR or set ENERGYLENS_DATA" in capsys.readouterr().err


@needs_data
def test_a_gpu_without_runs() -> None:
    with pytest.raises(EnergylensError, match="no serving runs of `a100-sxm-80gb`"):
        validate(gpus=["a100-sxm-80gb"])
