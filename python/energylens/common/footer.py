"""What the footer of a Parquet file says of its size, read before any of its values are.

Polars tells the rows of a file, not the values of its lists, and a file of a megabyte can hold 10^8 of either. The
footer is a Thrift structure in the compact protocol (https://github.com/apache/parquet-format, parquet.thrift); only
the fields of sizes are read from it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_MAGIC: Final = b"PAR1"
_MOST_BYTES: Final = 8 * 2**20
"""Longest footer that is read: that of some 50,000 column chunks."""
_MOST_DEPTH: Final = 16

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_ROWS, _GROUPS, _CHUNKS, _CHUNK, _PATH, _VALUES, _PLAIN_BYTES = 3, 4, 1, 3, 3, 5, 6
"""Numbers of the fields `num_rows`, `row_groups`, `columns`, `meta_data`, `path_in_schema`, `num_values`,
`total_uncompressed_size`."""


@dataclass(frozen=True)
class Sizes:
    """Rows of a file, and for each of its columns the values and their bytes before compression."""

    rows: int
    values: dict[str, int]
    plain_bytes: dict[str, int]


def parquet_sizes(path: Path) -> Sizes | None:
    """Return what a file's footer says; None if it is none, damaged, or too long."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 8))
            tail = file.read(8)
            length = int.from_bytes(tail[:4], "little")
            if tail[4:] != _MAGIC or not 0 < length <= min(_MOST_BYTES, end - 8):
                return None
            file.seek(end - 8 - length)
            footer = _Reader(file.read(length)).struct(0)
        return _sizes(footer)
    except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError):
        return None


def _sizes(footer: dict[int, Any]) -> Sizes | None:
    values: dict[str, int] = {}
    plain_bytes: dict[str, int] = {}
    for group in footer.get(_GROUPS, []):
        for column in group[_CHUNKS]:
            chunk = column[_CHUNK]
            name = chunk[_PATH][0].decode("utf-8")
            values[name] = values.get(name, 0) + max(0, chunk[_VALUES])
            plain_bytes[name] = plain_bytes.get(name, 0) + max(0, chunk[_PLAIN_BYTES])
    rows = footer[_ROWS]
    return Sizes(rows, values, plain_bytes) if rows >= 0 else None


class _Reader:
    """Thrift's compact protocol: structures as mappings of field numbers."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self._whole()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind == _BINARY:
            return self._bytes(self._number())
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _MAP:
            return self._map(depth)
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind < _DOUBLE:
            return self._whole()
        raise ValueError("not a kind of value")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count, kind = head >> 4, head & 15
        count = self._number() if count == 15 else count
        if count > len(self._data) - self._at:
            raise ValueError("longer than the footer")
        return [self._value(kind, depth + 1) for _ in range(count)]

    def _map(self, depth: int) -> None:
        if (count := self._number()) == 0:
            return
        kinds = self._byte()
        if count > len(self._data) - self._at:
            raise ValueError("longer than the footer")
        for _ in range(count):
            self._value(kinds >> 4, depth + 1)
            self._value(kinds & 15, depth + 1)

    def _byte(self) -> int:
        value = self._data[self._at]
        self._at += 1
        return value

    def _bytes(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise ValueError("longer than the footer")
        value = self._data[self._at : self._at + count]
        self._at += count
        return value

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("longer than 64 bits")

    def _whole(self) -> int:
        value = self._number()
        return (value >> 1) ^ -(value & 1)
