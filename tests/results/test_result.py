"""A result's file says everything itself."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import energylens
from energylens.common.errors import EnergylensError
from energylens.results.sensitivity import changes


@pytest.fixture
def result() -> energylens.Result:
    return energylens.explore(
        models="qwen3-30b-a3b",
        gpus=["h100-sxm", "rtx-4090"],
        ep=[1, 2],
        routing="zipf:0.5",
        placement=["contiguous", "balanced"],
        sequence_parallel=[False, True],
        top=3,
        limits=["tpot<=50ms"],
    )


def test_a_result_is_read_back_whole(result: energylens.Result, tmp_path: Path) -> None:
    read = energylens.Result.read(result.write(tmp_path / "front.parquet"))
    assert read.answer() == result.answer()
    assert read.frame.equals(result.frame)
    assert read.top is not None
    assert result.top is not None
    assert read.top.equals(result.top)
    assert read.note == result.note
    assert read.space.axes == result.space.axes
    assert read.space.plan.sha256 == result.space.plan.sha256
    assert read.space.trust["rtx-4090"]["trust"] == "modelled"
    row = result.frame.row(0, named=True)
    assert changes(read.space, row).equals(changes(result.space, row))


def test_the_library_is_not_requested(
    result: energylens.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = result.write(tmp_path / "front.parquet")
    monkeypatch.setattr("energylens.inputs.library.bundled", lambda kind: {})
    assert energylens.Result.read(path).answer() == result.answer()


def test_neighbours_of_another_run_are_left_alone(result: energylens.Result, tmp_path: Path) -> None:
    result.write(tmp_path / "front.parquet")
    other = energylens.explore(models="llama-3.1-8b", gpus="h100-sxm", tp=1, batch=[1, 2])
    other.write(tmp_path / "front.parquet")
    assert energylens.Result.read(tmp_path / "front.parquet").top is None


def test_a_sweep_s_front_is_a_result(tmp_path: Path) -> None:
    job = {"name": "small", "space": {"models": "llama-3.1-8b", "gpus": "h100-sxm", "tp": [1, 2], "batch": [1, 8, 64]}}
    energylens.sweep(job, tmp_path / "out")
    read = energylens.Result.read(tmp_path / "out" / "front.parquet")
    explored = energylens.explore(models="llama-3.1-8b", gpus="h100-sxm", tp=[1, 2], batch=[1, 8, 64])
    assert read.frame.equals(explored.frame)
    assert read.space.trust["h100-sxm"]["errors"] == explored.space.trust["h100-sxm"]["errors"]


def test_other_files_are_reported(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(EnergylensError, match="says nothing of a front"):
        energylens.Result.read(tmp_path / "a.parquet")
