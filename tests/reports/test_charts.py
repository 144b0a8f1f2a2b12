"""Charts: what they draw is what the result holds, and they can be saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import energylens
from energylens.common.errors import EnergylensError
from energylens.engine.result_columns import ENERGY
from energylens.reports.charts import Charts, save_chart
from energylens.reports.subject import of_result, read_subject

vl_convert = pytest.importorskip("vl_convert")


@pytest.fixture(scope="module")
def result() -> energylens.Result:
    return energylens.explore(
        models=["llama-3.1-8b", "qwen3-30b-a3b"],
        gpus=["h100-sxm", "b200"],
        tp=[1, 2],
        weight_dtype=[None, "fp8"],
        prompt_tokens=[256, 2048],
        output_tokens=[64, 512],
        best_per=["prompt_tokens", "output_tokens"],
        limits=["tpot<=50ms"],
    )


def values(spec: Any, named: Any = None) -> list[list[dict[str, Any]]]:
    named = named or spec.get("datasets", {})
    data = spec.get("data")
    own = [] if data is None else [data["values"] if "values" in data else named[data["name"]]]
    return own + [rows for layer in spec.get("layer", ()) for rows in values(layer, named)]


@pytest.mark.parametrize("name", ["front", "breakdown", "operations", "roofline", "changes", "sweet_spots"])
def test_every_chart_is_drawn(result: energylens.Result, name: str, tmp_path: Path) -> None:
    chart = getattr(result.plot, name)()
    assert all(values(chart.to_dict()))
    assert save_chart(chart, tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in save_chart(chart, tmp_path / "c.svg").read_text(encoding="utf-8")


def test_the_front_has_every_point_within_its_interval(result: energylens.Result) -> None:
    rows = values(result.plot.front().to_dict())[0]
    kept = result.frame.unique([ENERGY, "latency_s"])
    assert len(rows) == kept.height
    assert all(row["low"] < row[ENERGY] < row["high"] for row in rows)
    by_row = {row["row"]: row for row in rows}
    for at, row in enumerate(result.frame.iter_rows(named=True)):
        if at in by_row:
            assert by_row[at][ENERGY] == row[ENERGY]


def test_shares_of_a_point_sum_to_one(result: energylens.Result) -> None:
    rows = pl.DataFrame(values(result.plot.breakdown().to_dict())[0])
    assert rows.group_by("point").agg(pl.col("share").sum())["share"].to_list() == pytest.approx([1.0] * 3)


def test_no_operation_is_above_its_roof(result: energylens.Result) -> None:
    subject = of_result(result)
    told = subject.operations
    assert told is not None
    gpu = subject.frame["gpu"][0]
    bandwidth = energylens.gpus().filter(gpu=gpu)["bandwidth_bytes_per_s"][0]
    busy = told.filter((pl.col("flops") > 0) & (pl.col("run_s") > 0))
    roof = pl.min_horizontal("peak_flops_per_s", pl.col("flops") / pl.col("hbm_bytes") * bandwidth)
    assert busy.select((pl.col("flops") / pl.col("run_s") <= 1.001 * roof).all()).item()


def test_sweet_spots_need_the_best_of_each(result: energylens.Result) -> None:
    plain = energylens.explore(models="llama-3.1-8b", gpus="h100-sxm", tp=1, batch=[1, 8])
    with pytest.raises(EnergylensError, match="best of each pair of lengths"):
        plain.plot.sweet_spots()


def test_a_service_plan_and_pairs_have_charts(tmp_path: Path) -> None:
    plan = energylens.serve_plan("llama-3.1-8b", "1024:128", rate_per_s=2.0, gpus="h100-sxm", tp=[1, 2])
    assert values(plan.plot.front().to_dict())[0]
    read = Charts(read_subject(plan.write(tmp_path / "plan.parquet")))
    assert read.front().to_dict() == plan.plot.front().to_dict()
    with pytest.raises(EnergylensError, match="operations are known of fronts only"):
        read.roofline()
    split = energylens.split(
        "llama-3.1-8b", prefill={"gpus": "b200", "tp": 1}, decode={"gpus": "h100-sxm", "tp": [1, 2], "batch": [8, 16]}
    )
    pairs = Charts(read_subject(split.write(tmp_path / "pairs.parquet")))
    assert "low" not in values(pairs.front().to_dict())[0][0]  # pairs have no interval
    shares = pl.DataFrame(values(pairs.breakdown().to_dict())[0])
    assert set(shares["cause"]) == {"prefill", "decode", "transfer"}
    assert shares.group_by("point").agg(pl.col("share").sum())["share"].to_list() == pytest.approx(
        [1.0] * shares["point"].n_unique()
    )


def test_a_chart_has_a_kind(result: energylens.Result, tmp_path: Path) -> None:
    with pytest.raises(EnergylensError, match=r"not written as `\.gif`"):
        save_chart(result.plot.front(), tmp_path / "c.gif")
    assert not list(tmp_path.iterdir())
