"""Tables that people name: read in one way, refused with one reason, their size known before they are read."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import polars as pl
import pytest

from energylens.common.errors import EnergylensError, SpecError
from energylens.common.memory import MemoryBudgetError
from energylens.common.parquet import parquet_sizes
from energylens.common.tables import read_table

ROWS = pl.DataFrame({"a": [1, 2, 3], "b": ["x", "y", None]})


def reason(path: Path, **options: str) -> str:
    with pytest.raises(SpecError) as caught:
        read_table(path, "trace", **options)  # type: ignore[arg-type]
    return str(caught.value.problems[0].message)


def test_each_kind_of_table_is_read(tmp_path: Path) -> None:
    ROWS.write_csv(tmp_path / "a.CSV")
    ROWS.write_parquet(tmp_path / "a.parquet")
    ROWS.write_ndjson(tmp_path / "a.jsonl")
    ROWS.write_csv(tmp_path / "counts.txt")
    for name in ("a.CSV", "a.parquet", "a.jsonl"):
        assert read_table(tmp_path / name).equals(ROWS)
    assert read_table(tmp_path / "counts.txt", kind="csv").equals(ROWS)


def test_only_columns_that_are_there_are_read(tmp_path: Path) -> None:
    ROWS.write_csv(tmp_path / "a.csv")
    ROWS.write_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        assert read_table(tmp_path / name, columns=["b", "z"]).equals(ROWS.select("b"))


def test_types_follow_from_all_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a\n" + "1\n" * 500 + "1.5\n")
    assert read_table(file)["a"].dtype == pl.Float64


def test_a_name_with_a_pattern_in_it_is_a_name(tmp_path: Path) -> None:
    for name in ("a[1]*.csv", "a[1]*.parquet"):
        (ROWS.write_csv if name.endswith("csv") else ROWS.write_parquet)(tmp_path / name)
        assert read_table(tmp_path / name).equals(ROWS)


def test_footer_counts_values_before_they_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pl.DataFrame({"rows": [[1] * 5000], "n": [7]}).write_parquet(file)
    sizes = parquet_sizes(file)
    assert sizes is not None
    assert (sizes.rows, sizes.values) == (1, {"rows": 5000, "n": 1})
    assert sizes.plain_bytes["rows"] >= 40_000


@pytest.mark.parametrize("nested", [False, True])
def test_a_small_file_of_many_values_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    file, count = tmp_path / "a.parquet", 6_000_000
    column = pl.repeat(1, count, dtype=pl.Int64, eager=True).alias("a")
    (column.implode() if nested else column).to_frame().write_parquet(file)
    assert file.stat().st_size < 30_000
    monkeypatch.setenv("ENERGYLENS_MEMORY", "70MB")
    with pytest.raises(MemoryBudgetError) as caught:
        read_table(file, "trace")
    rows = "1 rows" if nested else "6,000,000 rows"
    assert f"the trace `{file}` with {rows} would need" in str(caught.value)
    monkeypatch.setenv("ENERGYLENS_MEMORY", "4GB")
    assert read_table(file, "trace").height == (1 if nested else count)


def test_a_long_text_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENERGYLENS_MEMORY", "64MB")
    for name in ("a.csv", "a.jsonl"):
        file = tmp_path / name
        with file.open("wb") as stream:
            stream.truncate(12_000_000)
        with pytest.raises(MemoryBudgetError, match="would need 72 MB of memory, and the budget is 64 MB"):
            read_table(file)


def test_what_is_no_table_has_one_reason(tmp_path: Path) -> None:
    assert "no such file" in reason(tmp_path / "gone.csv")
    assert "it is a folder" in reason(tmp_path)
    os.mkfifo(tmp_path / "fifo.csv")
    assert "FIFO" in reason(tmp_path / "fifo.csv")
    file = tmp_path / "a.csv"
    for data, expected in (
        (b"", "is empty"),
        (gzip.compress(b"a\n1\n"), "is compressed (gzip)"),
        (b"," * 6000 + b"\n", "more than 5,000 columns"),
        ("a\n1\n".encode("utf-16"), "is UTF-16 text"),
        (b"a\n\xff\n", "cannot read the trace"),
    ):
        file.write_bytes(data)
        assert expected in reason(file)
    file = tmp_path / "a.jsonl"
    for data in (b"[1, 2]\n", b'{"a": ' + b"[" * 9000 + b"]" * 9000 + b"}\n", b'{"a": 1\n'):
        file.write_bytes(data)
        assert "cannot read the trace" in reason(file)
    file = tmp_path / "a.xlsx"
    file.write_bytes(b"")
    assert "cannot tell what kind of table" in reason(file)


def test_a_damaged_parquet_file_has_one_reason(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    ROWS.write_parquet(file)
    whole = file.read_bytes()
    for cut in range(0, len(whole), 7):
        for data in (whole[:cut], whole[:cut] + b"\xff" * 4 + whole[cut + 4 :]):
            file.write_bytes(data)
            try:
                read_table(file, "trace")
            except EnergylensError as error:
                assert len(str(error.problems[0].message)) < 1000


def test_code_of_the_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read_table(tmp_path / "a.xyz", code="unreadable")
    assert caught.value.problems[0].code == "unreadable"
