"""Tables that people name, read in one way: CSV, Parquet or lines of JSON, their size checked before they are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl

from energylens.common.errors import EnergylensError, Problem, SpecError
from energylens.common.files import input_file, printable
from energylens.common.memory import require_bytes
from energylens.common.parquet import parquet_sizes

KINDS: Final = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
}
"""Kind of a table by the end of its name."""

MOST_COLUMNS: Final = 5_000
"""Most columns of a table: the widest that this package writes or reads has some 150."""

_COPIES: Final = 2.0
"""Copies of a table that its checks and conversions hold at once."""

_TEXT_FACTOR: Final = {"csv": 6.0, "json": 6.0}
"""Bytes in memory for each byte of text, at most: the two bytes `1,` become a number of eight."""

_VIEW_BYTES: Final = 24
"""Bytes of a value whose size is not fixed (a text, a part of a list), besides what it holds."""

_PACKED: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "Zstandard", b"PK\x03\x04": "ZIP", b"BZh": "bzip2"}


def read_table(
    path: str | Path,
    what: str = "table",
    *,
    columns: Sequence[str] | None = None,
    kind: str | None = None,
    code: str = "unreadable",
    error: type[EnergylensError] = SpecError,
    infer_rows: int | None = None,
    hint: str | None = None,
) -> pl.DataFrame:
    """Return a table as a frame; raise `error` with one clear reason if it cannot be read.

    Parameters
    ----------
    path
        What a person named.
    what
        What it is to be, for messages: "trace", "file of counts".
    columns
        Columns to read, of those that are there; all, if left out.
    kind
        "csv", "parquet" or "json" (a JSON object a line); by the end of the name, if left out.
    code
        Code of the error for a file that is no such table.
    error
        Class of the exception.
    infer_rows
        Rows of a CSV or of lines of JSON that types of columns are inferred from; all, if left out.
    hint
        What to do about a file that cannot be read.

    Raises
    ------
    MemoryBudgetError
        If the table would need more memory than the budget allows (`energylens.common.memory`): known from the size
        of a text and from the footer of a Parquet file, before any value is read.
    """
    path = input_file(path, what, error=error)
    shown = f"the {what} `{printable(str(path))}`"
    kind = kind or KINDS.get(path.suffix.lower())
    if kind is None:
        endings = f"a table's name ends in {', '.join(KINDS)}"
        raise error(Problem(f"cannot tell what kind of table {shown} is", hint=endings, code=code))
    try:
        if kind == "parquet":
            return _parquet(path, shown, columns)
        return _text(path, shown, kind, columns, infer_rows, code, error)
    except pl.exceptions.NoDataError:
        raise error(Problem(f"{shown} is empty", code=code)) from None
    except (OSError, ValueError, OverflowError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as fault:
        if isinstance(fault, EnergylensError):
            raise
        raise error(Problem(f"cannot read {shown}: {reason_of(fault)}", hint=hint, code=code)) from None


def require_table(path: Path, shown: str, columns: Sequence[str] | None = None) -> None:
    """Raise `MemoryBudgetError` if a Parquet file would need more memory than the budget allows.

    Parameters
    ----------
    path
        A regular file.
    shown
        The file in words, as the start of the message: "the trace `a.parquet`".
    columns
        Columns that are to be read; all, if left out.
    """
    schema = pl.scan_parquet(path, glob=False).collect_schema()
    sizes = parquet_sizes(path)
    rows = sizes.rows if sizes else int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())
    needed = 0.0
    for name in schema if columns is None else [name for name in columns if name in schema]:
        values = max(rows, sizes.values.get(name, 0)) if sizes else rows
        needed += values * _width(schema[name]) + (sizes.plain_bytes.get(name, 0) if sizes else 0)
    hint = "give a shorter one, or fewer columns"
    require_bytes(needed * _COPIES, f"{shown} with {rows:,} rows", hint)


def reason_of(fault: BaseException) -> str:
    """Return the reason of an error of Polars or of the system, on one short line."""
    text = getattr(fault, "strerror", None) or next(iter(str(fault).splitlines()), "") or type(fault).__name__
    return printable(text, 300)


def _parquet(path: Path, shown: str, columns: Sequence[str] | None) -> pl.DataFrame:
    require_table(path, shown, columns)
    table = pl.scan_parquet(path, glob=False)
    if columns is not None:
        names = table.collect_schema().names()
        table = table.select(name for name in columns if name in names)
    return table.collect()


def _text(
    path: Path,
    shown: str,
    kind: str,
    columns: Sequence[str] | None,
    infer_rows: int | None,
    code: str,
    error: type[EnergylensError],
) -> pl.DataFrame:
    with path.open("rb") as file:
        head = file.read(2**20)
    for magic, name in _PACKED.items():
        if head.startswith(magic):
            hint = "unpack it first, so that its size is known before it is read"
            raise error(Problem(f"{shown} is compressed ({name})", hint=hint, code=code))
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise error(Problem(f"{shown} is UTF-16 text", hint="save it as UTF-8", code=code))
    first = head.partition(b"\n")[0]
    if first.count(b"," if kind == "csv" else b'":') > MOST_COLUMNS:
        raise error(Problem(f"{shown} has more than {MOST_COLUMNS:,} columns", code=code))
    require_bytes(path.stat().st_size * _TEXT_FACTOR[kind], shown, "give a shorter one")
    if kind == "csv":
        table = pl.read_csv(path, infer_schema_length=infer_rows, glob=False)
    else:
        table = pl.read_ndjson(path, infer_schema_length=infer_rows)
    return table if columns is None else table.select(name for name in columns if name in table.columns)


def _width(dtype: pl.DataType) -> float:
    """Return the bytes of a value in memory, nested ones counted by the values that the footer counts."""
    if isinstance(dtype, (pl.List, pl.Array)):
        return _VIEW_BYTES + _width(dtype.inner)  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        return sum(_width(field.dtype) for field in dtype.fields) or 1.0  # type: ignore[arg-type, misc]
    if dtype.is_numeric() or dtype.is_temporal() or dtype == pl.Boolean:
        return _FIXED.get(dtype.base_type(), 8)
    return _VIEW_BYTES


_FIXED: Final = {
    pl.Boolean: 1, pl.Int8: 1, pl.UInt8: 1, pl.Int16: 2, pl.UInt16: 2, pl.Int32: 4, pl.UInt32: 4, pl.Float32: 4,
    pl.Int64: 8, pl.UInt64: 8, pl.Float64: 8, pl.Int128: 16, pl.Decimal: 16, pl.Date: 4,
}  # fmt: skip
