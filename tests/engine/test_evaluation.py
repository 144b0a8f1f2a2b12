"""`evaluate`: defaults, order, mistakes, the same bytes on any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import energylens
from energylens import FrameError, SpecError, _core, evaluate
from energylens.engine.result_columns import RESULTS
from energylens.inputs.axes import POINT_DEFAULTS
from energylens.results.point import read_point


def test_defaults_are_filled_in_and_rows_keep_their_order() -> None:
    frame = pl.DataFrame({"model": ["qwen3-8b", "llama-3.1-8b"], "gpu": ["b200", "h100-sxm"], "batch": [8, 4]})
    found = evaluate(frame)
    assert found.columns == [*POINT_DEFAULTS, *RESULTS, "feasible", "reason"]
    assert found["model"].to_list() == ["qwen3-8b", "llama-3.1-8b"]
    assert found["prompt_tokens"].to_list() == [1024, 1024]
    assert found["feasible"].all()


def test_every_result_field_has_the_documented_meaning() -> None:
    frame = pl.DataFrame({"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": 4, "batch": 64, "output_tokens": 256})
    row = evaluate(frame).row(0, named=True)
    assert row["gpus"] == 4
    assert row["latency_s"] == pytest.approx(row["ttft_s"] + 255 * row["tpot_s"])
    assert row["energy_j"] == pytest.approx(row["energy_prefill_j"] + row["energy_decode_j"])
    assert row["energy_decode_j"] == pytest.approx(255 * row["energy_decode_step_j"])
    assert row["energy_per_output_token_j"] == pytest.approx(row["energy_j"] / (64 * 256))
    assert row["energy_per_request_j"] == pytest.approx(row["energy_j"] / 64)
    assert row["power_w_per_gpu"] == pytest.approx(row["energy_j"] / row["latency_s"] / 4)
    assert row["output_tokens_per_s"] == pytest.approx(64 * 256 / row["latency_s"])
    assert row["output_tokens_per_s_per_gpu"] == pytest.approx(row["output_tokens_per_s"] / 4)


def test_a_measured_serving_run_is_within_a_factor_of_one_and_a_half() -> None:
    """Llama-3.1-70B, TP 4, batch 64 on H100 (ML.ENERGY leaderboard v3): 22.4 ms, 500 W, 0.80 J/token."""
    frame = {
        "model": "llama-3.1-70b",
        "gpu": "h100-sxm",
        "tp": 4,
        "batch": 64,
        "prompt_tokens": 512,
        "output_tokens": 256,
    }
    row = evaluate(pl.DataFrame(frame)).row(0, named=True)
    for name, measured in (("tpot_s", 0.0224), ("power_w_per_gpu", 500), ("energy_per_output_token_j", 0.80)):
        assert 1 / 1.5 < row[name] / measured < 1.5, name


def test_an_infeasible_row_has_a_reason_and_nulls_and_never_nan() -> None:
    frame = pl.DataFrame({"model": "llama-3.1-405b", "gpu": "h100-sxm", "tp": [1, 3, 8, 8], "pp": [1, 1, 1, 2]})
    found = evaluate(frame)
    assert found["reason"].to_list() == ["memory", "shard", "memory", "ok"]
    assert found["energy_j"].is_null().to_list() == [True, True, True, False]
    assert found["memory_bytes_per_gpu"].is_null().to_list() == [False, True, False, False]
    numeric = found.select(pl.selectors.float())
    assert not any(numeric[name].is_nan().any() or numeric[name].is_infinite().any() for name in numeric.columns)


def test_bytes_do_not_depend_on_threads_or_runs() -> None:
    draw = np.random.default_rng(0)
    count = 20_000
    frame = pl.DataFrame(
        {
            "model": draw.choice(["llama-3.1-70b", "qwen3-30b-a3b", "deepseek-v3"], count),
            "gpu": draw.choice(["h100-sxm", "b200"], count),
            "tp": draw.choice([1, 2, 4, 8], count),
            "ep": draw.choice([1, 2, 4], count),
            "batch": draw.integers(1, 257, count),
            "prompt_tokens": draw.integers(1, 8192, count),
        }
    )
    one = evaluate(frame, threads=1, breakdown=True)
    for threads in (1, 2, 7):
        again = evaluate(frame, threads=threads, breakdown=True)
        assert all(again[name].to_numpy().tobytes() == one[name].to_numpy().tobytes() for name in RESULTS)
        assert again.equals(one)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            pl.DataFrame({"model": [], "gpu": []}, schema={"model": pl.String, "gpu": pl.String}),
            "the frame has no rows",
        ),
        (pl.DataFrame({"model": ["llama-3.1-8b"], "gpu": ["b200"], "bach": [1]}), "unknown column `bach`"),
        (pl.DataFrame({"gpu": ["b200"]}), "missing column `model`"),
        (pl.DataFrame({"model": [None], "gpu": ["b200"]}), "column `model` is null in row 0"),
        (pl.DataFrame({"model": [1], "gpu": ["b200"]}), "column `model` should hold names, found Int64"),
        (
            pl.DataFrame({"model": ["llama-3.1-8b"] * 2, "gpu": "b200", "tp": [1, 0]}),
            "1 to 1,024, found 0",
        ),
        (
            pl.DataFrame({"model": ["llama-3.1-8b"] * 2, "gpu": "b200", "batch": [1.0, float("nan")]}),
            "found nan in row 1",
        ),
        (pl.DataFrame({"model": ["llama-3.1-8b"], "gpu": "b200", "batch": ["4"]}), "whole numbers, found String"),
        (pl.DataFrame({"model": ["llama-3.1-8b"], "gpu": "b200", "weight_dtype": ["fp7"]}), "unknown data type `fp7`"),
    ],
)
def test_a_faulty_frame_is_told(frame: pl.DataFrame, message: str) -> None:
    with pytest.raises(FrameError, match=message.replace("(", r"\(")):
        evaluate(frame)


def test_all_faults_of_a_frame_come_at_once() -> None:
    with pytest.raises(FrameError) as caught:
        evaluate(pl.DataFrame({"gpu": ["b200"], "tpp": [2], "batch": [-1]}))
    assert len(caught.value.problems) == 3
    assert "did you mean `tp`?" in str(caught.value)


def test_an_unknown_name_is_a_spec_error() -> None:
    with pytest.raises(SpecError, match="unknown model `llama`"):
        evaluate(pl.DataFrame({"model": ["llama"], "gpu": ["b200"]}))


def test_carried_columns_pass_through() -> None:
    frame = pl.DataFrame({"id": ["a"], "model": ["llama-3.1-8b"], "gpu": ["b200"]})
    assert evaluate(frame, carry=["id"])["id"].to_list() == ["a"]
    with pytest.raises(FrameError, match="no column `idd` to carry"):
        evaluate(frame, carry=["idd"])


def test_the_package_says_what_it_offers() -> None:
    assert set(energylens.__all__) <= set(dir(energylens))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = energylens.nothing


SPEC_AXES = ("weight_dtype", "kv_dtype", "overlap_stages", "sm_clock_mhz", "power_cap_w", "routing")
"""Axes whose value is that of the spec or the profile, where none is given."""

VARIED: dict[str, Any] = {
    "tp": [1, 2], "pp": [1, 2], "dp": [1, 2], "ep": [1, 2], "cp": [1, 2], "overlap_stages": ["own", 4],
    "overlap_sms": [0, 8], "overlap_where": ["prefill", "both"], "sequence_parallel": [False, True],
    "fused_norm": [False, True], "sm_clock_mhz": ["own", 1200], "power_cap_w": ["own", 500],
    "routing": ["own", "zipf:0.5"], "placement": ["contiguous", "balanced"], "batch": [8, 64],
    "prompt_tokens": [512, 1024], "output_tokens": [64, 256], "weight_dtype": ["own", "fp8"],
    "kv_dtype": ["own", "fp8"],
}  # fmt: skip


def written(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with the word that people read in place of nulls, where a column is all null or of texts."""
    words = [
        pl.lit("own").alias(name) if frame[name].null_count() == frame.height else pl.col(name).fill_null("own")
        for name in SPEC_AXES
        if name in frame.columns and (frame[name].dtype == pl.String or frame[name].null_count() == frame.height)
    ]
    return frame.with_columns(words)


@pytest.mark.parametrize("axis", VARIED)
def test_the_axes_of_a_result_are_points_again(axis: str) -> None:
    model = "qwen3-30b-a3b"
    space: dict[str, Any] = {"models": model, "gpus": "h100-sxm", "tp": 2, "batch": 8, "output_tokens": 64}
    space |= {axis: VARIED[axis]}
    if axis.startswith("overlap"):
        space |= {"overlap_stages": VARIED["overlap_stages"], "overlap_sms": [0, 8]}
    found = energylens.explore(**space, top=50, best_per=["routing"] if axis == "routing" else [])
    for frame in (found.frame, found.top):
        assert frame is not None
        assert frame.height
        axes = [name for name in frame.columns if name in _core.AXES]
        assert axis in axes
        for points in (frame.select(axes), written(frame.select(axes))):
            again = evaluate(points)
            results = [name for name in frame.columns if name in again.columns and name not in axes]
            assert "energy_per_output_token_j" in results
            assert again.select(*axes, *results).equals(frame.select(*axes, *results))


@pytest.mark.parametrize("axis", SPEC_AXES)
def test_the_word_for_the_value_of_the_spec_is_null(axis: str) -> None:
    point: dict[str, Any] = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}
    plain = evaluate(pl.DataFrame(point)).row(0, named=True)
    for column in (pl.Series(axis, ["own"]), pl.Series(axis, ["own"], dtype=pl.Categorical)):
        row = evaluate(pl.DataFrame(point).with_columns(column)).row(0, named=True)
        assert row[axis] is None
        assert {name: value for name, value in row.items() if name in plain} == plain
    named: dict[str, Any] = point | {axis: "own"}
    assert energylens.predict(**named).values == energylens.predict(**point).values
    assert read_point(named).row == read_point(point).row
    space: dict[str, Any] = {"models": "llama-3.1-8b", "gpus": "h100-sxm", "tp": 1, "batch": 8, axis: ["own"]}
    explored = energylens.explore(**space)
    assert explored.frame.height == 1


def test_the_word_is_none_where_there_is_no_value_of_a_spec() -> None:
    point = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}
    for axis in ("tp", "batch", "overlap_sms", "placement"):
        with pytest.raises(FrameError, match=axis if axis != "placement" else "own"):
            evaluate(pl.DataFrame(point | {axis: "own"}))
    with pytest.raises(FrameError, match="`power_cap_w` should hold whole numbers"):
        evaluate(pl.DataFrame({**point, "power_cap_w": ["own", "300"]}))
