"""What a Parquet file says of its size before any of its data is read: rows, and bytes once it is in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from energylens.common.files import is_file
from energylens.common.footer import MAGIC, footer_place, read_footer
from energylens.common.memory import require_bytes

_MOST_FOOTER: Final = 64 * 2**20
"""Largest footer that is read; that of a result has 50 kB."""
_MOST_TABLE_FOOTER: Final = 8 * 2**20
"""Largest footer of a table that is read for the sizes of its columns: that of some 50,000 column chunks."""
_WIDTHS: Final = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8, 6: 16, 7: 16}
"""Bytes in memory of a value by physical type: boolean, int32, int64, int96, float, double, texts, fixed texts."""
_TEXTS: Final = (6, 7)
_COPIES: Final = 1.5
"""How often a frame is held at the most while it is read: decoded pages beside the columns made of them."""


_ROWS, _GROUPS, _CHUNKS, _CHUNK, _PATH, _VALUES, _PLAIN_BYTES = 3, 4, 1, 3, 3, 5, 6
"""Numbers of the fields `num_rows`, `row_groups`, `columns`, `meta_data`, `path_in_schema`, `num_values`,
`total_uncompressed_size`."""


@dataclass(frozen=True)
class ParquetSize:
    """Rows of a file, and bytes of its columns in memory."""

    rows: int
    nbytes: int


@dataclass(frozen=True)
class ColumnSizes:
    """Rows of a file, and for each of its columns the values and their bytes before compression."""

    rows: int
    values: dict[str, int]
    plain_bytes: dict[str, int]


def is_parquet(path: object) -> bool:
    """Return whether a path names a regular file that begins as Parquet does, whatever its suffix."""
    if not is_file(str(path)):
        return False
    try:
        with Path(str(path)).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def require_parquet(file: BinaryIO, name: str) -> ParquetSize:
    """Return the size of a Parquet file; raise `ValueError` if it is damaged, `MemoryBudgetError` if it is too large.

    Only the footer is read, the format's `FileMetaData`; the file's own sizes are added up, and of encoded columns
    (a value may stand for millions) what they take once they are decoded.
    """
    size = parquet_size(file)
    file.seek(0)
    require_bytes(size.nbytes * _COPIES, f"`{name}` with {size.rows:,} rows", "take a part of it")
    return size


def parquet_size(file: BinaryIO) -> ParquetSize:
    """Return the size of a Parquet file by its footer; raise `ValueError` if it is not whole."""
    start, end = _place(file)
    try:
        return _size(read_footer(file, start, end), end + 8)
    except (IndexError, TypeError, AttributeError):
        raise ValueError("its footer is damaged") from None


def data_sha256(file: BinaryIO, texts: Iterable[str]) -> str:
    """Return the SHA-256 of some texts and of a Parquet file's data, all that is before its footer."""
    left, _ = _place(file)
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    file.seek(0)
    while left > 0 and (part := file.read(min(left, 1 << 20))):
        digest.update(part)
        left -= len(part)
    file.seek(0)
    return digest.hexdigest()


def data_bytes(file: BinaryIO) -> int:
    """Return how many bytes of a Parquet file are before its footer; raise `ValueError` if it is not whole."""
    return _place(file)[0]


def parquet_sizes(path: Path) -> ColumnSizes | None:
    """Return what a file's footer says of each column; None if it is none, damaged, or too long.

    Polars tells the rows of a file, not the values of its lists, and a file of a megabyte can hold 10^8 of either.
    """
    try:
        with path.open("rb") as file:
            return _column_sizes(read_footer(file, *footer_place(file, _MOST_TABLE_FOOTER)))
    except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError):
        return None


def _place(file: BinaryIO) -> tuple[int, int]:
    """Return where the footer begins and ends; raise `ValueError` if the file is not whole."""
    length = file.seek(0, 2)
    file.seek(0)
    if length < 12 or file.read(len(MAGIC)) != MAGIC:
        raise ValueError("it does not begin as Parquet does")
    start, end = footer_place(file, _MOST_FOOTER)
    if start < len(MAGIC):
        raise ValueError("its footer is damaged")
    return start, end


def _size(metadata: dict[int, Any], length: int) -> ParquetSize:
    """Return the size that a `FileMetaData` tells: field 3 has the rows, 4 the groups of rows."""
    rows, total = metadata.get(3, 0), 0
    groups = metadata.get(4, [])
    if not isinstance(rows, int) or rows < 0 or sum(group.get(3, 0) for group in groups) != rows:
        raise ValueError("its footer is damaged: its rows do not add up")
    for group in groups:
        for chunk in group.get(1, []):
            column = chunk.get(3, {})
            kind, values, unpacked = column.get(1, 7), column.get(5, 0), column.get(6, 0)
            packed, start = column.get(7, 0), column.get(9, 0)
            if min(values, unpacked, packed, start) < 0 or start + packed > length:
                raise ValueError("its footer is damaged: a column lies outside the file")
            total += values * _WIDTHS.get(kind, 16) + (unpacked if kind in _TEXTS else 0)
    return ParquetSize(rows, max(total, rows))


def _column_sizes(metadata: dict[int, Any]) -> ColumnSizes | None:
    values: dict[str, int] = {}
    plain_bytes: dict[str, int] = {}
    for group in metadata.get(_GROUPS, []):
        for column in group[_CHUNKS]:
            chunk = column[_CHUNK]
            name = chunk[_PATH][0].decode("utf-8")
            values[name] = values.get(name, 0) + max(0, chunk[_VALUES])
            plain_bytes[name] = plain_bytes.get(name, 0) + max(0, chunk[_PLAIN_BYTES])
    rows = metadata[_ROWS]
    return ColumnSizes(rows, values, plain_bytes) if rows >= 0 else None
