"""Parquet files: the same frame back, metadata, and nothing half-written."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from energylens import EnergylensError, explore, read_parquet
from energylens.store import write_parquet


def test_a_front_reads_back_as_the_same_frame_with_its_metadata(tmp_path: Path) -> None:
    result = explore(models="llama-3.1-8b", gpus="h100-sxm", batch=[1, 8, 64])
    path = result.write(tmp_path / "deep" / "front.parquet")
    frame, metadata = read_parquet(path)
    assert frame.equals(result.frame)
    assert frame.schema == result.frame.schema
    assert metadata["plan_sha256"] == result.plan_sha256
    assert metadata["units"]["energy_j"] == "J"
    assert metadata["units"]["tpot_s"] == "s"
    assert metadata["units"]["energy_decode_waiting_j"] == "J"
    assert metadata["note"]["points"] == 12
    assert metadata["version"]


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    one = explore(models="llama-3.1-8b", gpus="h100-sxm", threads=1).write(tmp_path / "one.parquet")
    two = explore(models="llama-3.1-8b", gpus="h100-sxm", threads=2).write(tmp_path / "two.parquet")
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(EnergylensError, match="cannot write"):
        write_parquet(pl.DataFrame({"a": [1]}), tmp_path / "a.parquet", "0")


def test_a_folder_that_cannot_be_made_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnergylensError, match="cannot write"):
        write_parquet(pl.DataFrame({"a": [1]}), tmp_path / "file" / "a.parquet", "0")
    (tmp_path / "taken.parquet").mkdir()
    with pytest.raises(EnergylensError, match="cannot write"):
        write_parquet(pl.DataFrame({"a": [1]}), tmp_path / "taken.parquet", "0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.parquet"]


def test_what_is_not_parquet_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(EnergylensError, match="cannot read"):
        read_parquet(tmp_path / "a.parquet")
    with pytest.raises(EnergylensError, match="cannot read"):
        read_parquet(tmp_path / "b.parquet")
