"""Parquet files: the same frame back, metadata, and nothing half-written."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from energylens import EnergylensError, explore, read_parquet
from energylens.common import memory, written
from energylens.common.files import is_file
from energylens.common.parquet_file import remove_temporaries, replace_file, write_files
from energylens.results.parquet import write_parquet


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
def test_a_read_only_folder_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(EnergylensError, match="cannot write"):
        write_parquet(pl.DataFrame({"a": [1]}), tmp_path / "a.parquet", "0")


def test_a_folder_that_cannot_be_made_is_reported_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnergylensError, match="cannot write"):
        write_parquet(pl.DataFrame({"a": [1]}), tmp_path / "file" / "a.parquet", "0")
    (tmp_path / "taken.parquet").mkdir()
    with pytest.raises(EnergylensError, match="cannot write"):
        write_parquet(pl.DataFrame({"a": [1]}), tmp_path / "taken.parquet", "0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.parquet"]


def test_what_is_not_parquet_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(EnergylensError, match="cannot read"):
        read_parquet(tmp_path / "a.parquet")
    with pytest.raises(EnergylensError, match="cannot read"):
        read_parquet(tmp_path / "b.parquet")


@pytest.mark.parametrize("name", ["x" * 255, "x" * 240 + ".parquet", "é" * 127, "a b;c#1[2]*.parquet", ".hidden"])
def test_a_legal_name_of_any_length_is_written_and_read(name: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1]})
    path = write_parquet(frame, tmp_path / name, "0")
    assert read_parquet(path)[0].equals(frame)
    assert [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["x" * 256, "a\0b", "x/" * 3000 + "a"])
def test_a_name_that_cannot_be_is_reported(name: str, tmp_path: Path) -> None:
    with pytest.raises(EnergylensError, match="cannot write"):
        write_parquet(pl.DataFrame({"a": [1]}), f"{tmp_path}/{name}", "0")
    with pytest.raises(EnergylensError, match="cannot read"):
        read_parquet(f"{tmp_path}/{name}")
    assert not list(tmp_path.iterdir())
    assert not is_file(Path(f"{tmp_path}/{name}"))


def test_files_that_belong_together_are_written_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"before")
    with pytest.raises(EnergylensError, match=r"cannot write .*c/d") as caught:
        (tmp_path / "c").write_bytes(b"a file")
        write_files([(tmp_path / "a", b"1"), (tmp_path / "b", b"2"), (tmp_path / "c" / "d", b"3")])
    assert caught.value.problems[0].hint == "nothing was written"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"before", "c": b"a file"}


def test_a_front_whose_neighbours_cannot_be_written_leaves_none_of_them(tmp_path: Path) -> None:
    result = explore(models="llama-3.1-8b", gpus="h100-sxm", tp=1, batch=[1, 8], top=1, distributions=["energy_j"])
    (tmp_path / "front.top.parquet").mkdir()
    with pytest.raises(EnergylensError, match=r"front.top.parquet`: it is a folder"):
        result.write(tmp_path / "front.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["front.top.parquet"]
    with pytest.raises(EnergylensError, match="name too long"):
        result.write(tmp_path / ("x" * 240 + ".parquet"))
    assert [path.name for path in tmp_path.iterdir()] == ["front.top.parquet"]


def test_what_was_written_is_said_truly(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    replace_file(tmp_path / "before", b"")
    assert written.so_far() == "nothing was written"
    with written.recorded():
        assert written.so_far() == "nothing was written"
        write_files([(tmp_path / "a", b"1"), (tmp_path / "b", b"2")])
        replace_file(tmp_path / "a", b"3")
        assert written.so_far() == f"written before that: `{tmp_path}/a`, `{tmp_path}/b`"
        with pytest.raises(EnergylensError) as caught:
            write_files([(tmp_path / "c", b"4")])
        assert caught.value.problems[0].hint == written.so_far()
        for name in "defg":
            replace_file(tmp_path / name, b"")
        assert written.so_far().endswith(" and 3 more")
    assert written.so_far() == "nothing was written"


def test_a_temporary_that_is_no_file_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".x.energylens-tmp")
    (tmp_path / ".y.energylens-tmp").mkdir()
    (tmp_path / ".z.energylens-tmp").write_text("")
    assert remove_temporaries(tmp_path) == 1


def test_a_file_that_would_not_fit_into_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 4_000_000
    frame = pl.DataFrame(
        {"a": pl.Series([0.0]).new_from_index(0, rows), "b": pl.Series(["x" * 1000]).new_from_index(0, rows)}
    )
    frame.write_parquet(tmp_path / "large.parquet")
    assert (tmp_path / "large.parquet").stat().st_size < 500_000
    monkeypatch.setenv(memory.VARIABLE, "100MB")
    monkeypatch.setattr(pl, "read_parquet", lambda *_args, **_options: pytest.fail("it was read"))
    with pytest.raises(memory.MemoryBudgetError, match=r"large.parquet` with 4,000,000 rows would need 14\d MB"):
        read_parquet(tmp_path / "large.parquet")


def test_lists_are_counted_by_their_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pl.DataFrame({"a": [[1] * 10_000_000]}).write_parquet(tmp_path / "list.parquet")
    monkeypatch.setenv(memory.VARIABLE, "100MB")
    with pytest.raises(memory.MemoryBudgetError, match="with 1 rows would need 120 MB"):
        read_parquet(tmp_path / "list.parquet")
