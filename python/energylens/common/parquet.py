"""What a Parquet file says of its size before any of its data is read: rows, and bytes once it is in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from energylens.common.memory import require_bytes

MAGIC: Final = b"PAR1"

_MOST_FOOTER: Final = 64 * 2**20
"""Largest footer that is read; that of a result has 50 kB."""
_MOST_DEPTH: Final = 16
_WIDTHS: Final = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8, 6: 16, 7: 16}
"""Bytes in memory of a value by physical type: boolean, int32, int64, int96, float, double, texts, fixed texts."""
_TEXTS: Final = (6, 7)
_COPIES: Final = 1.5
"""How often a frame is held at the most while it is read: decoded pages beside the columns made of them."""


@dataclass(frozen=True)
class ParquetSize:
    """Rows of a file, and bytes of its columns in memory."""

    rows: int
    nbytes: int


def is_parquet(path: object) -> bool:
    """Return whether a path names a regular file that begins as Parquet does, whatever its suffix."""
    import stat
    from pathlib import Path

    try:
        target = Path(str(path))
        if not stat.S_ISREG(target.stat().st_mode):
            return False
        with target.open("rb") as file:
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
    footer, length = _footer(file)
    file.seek(length - 8 - footer)
    try:
        return _size(_Reader(file.read(footer)).struct(0), length)
    except (IndexError, TypeError, AttributeError):
        raise ValueError("its footer is damaged") from None


def data_sha256(file: BinaryIO, texts: Iterable[str]) -> str:
    """Return the SHA-256 of some texts and of a Parquet file's data, all that is before its footer."""
    footer, length = _footer(file)
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    file.seek(0)
    left = length - 8 - footer
    while left > 0 and (part := file.read(min(left, 1 << 20))):
        digest.update(part)
        left -= len(part)
    file.seek(0)
    return digest.hexdigest()


def _footer(file: BinaryIO) -> tuple[int, int]:
    """Return the length of the footer and of the file; raise `ValueError` if it is not whole."""
    length = file.seek(0, 2)
    file.seek(0)
    if length < 12 or file.read(4) != MAGIC:
        raise ValueError("it does not begin as Parquet does")
    file.seek(length - 8)
    tail = file.read(8)
    footer = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC:
        raise ValueError("it does not end as Parquet does: it was cut off, or is not Parquet")
    if not 0 < footer <= min(length - 12, _MOST_FOOTER):
        raise ValueError("its footer is damaged")
    return footer, length


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


class _Reader:
    """Reads Thrift's compact protocol into dictionaries by field number; `IndexError` at the end of the bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _MOST_DEPTH:
            raise ValueError("its footer is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            delta, kind = head >> 4, head & 15
            number = number + delta if delta else self._zigzag()
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        read: Callable[[], Any] | None = {
            1: lambda: self._byte() == 1,
            2: lambda: self._byte() == 1,
            3: self._byte,
            4: self._zigzag,
            5: self._zigzag,
            6: self._zigzag,
            7: lambda: self._take(8),
            8: lambda: self._take(self._varint()),
            9: lambda: self._list(depth),
            10: lambda: self._list(depth),
            12: lambda: self.struct(depth + 1),
        }.get(kind)
        if read is None:
            raise ValueError("its footer is damaged")
        return read()

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count, kind = head >> 4, head & 15
        count = self._varint() if count == 15 else count
        if count > len(self.data) - self.at:
            raise ValueError("its footer is damaged")
        return [self._value(kind, depth + 1) for _ in range(count)]

    def _byte(self) -> int:
        value = self.data[self.at]
        self.at += 1
        return value

    def _take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise ValueError("its footer is damaged")
        self.at += count
        return self.data[self.at - count : self.at]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("its footer is damaged")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
