"""The footer of a Parquet file, read before any of its values are.

It is a Thrift structure in the compact protocol (https://github.com/apache/parquet-format, parquet.thrift).
"""

from __future__ import annotations

from typing import Any, BinaryIO, Final

MAGIC: Final = b"PAR1"
TAIL: Final = 8
"""Last bytes of a file: the length of the footer before them, and `MAGIC`."""

_MOST_DEPTH: Final = 16
_DAMAGED: Final = "its footer is damaged"
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12


def ends_whole(tail: bytes, size: int) -> bool:
    """Return whether the last bytes of a file of that size are those of Parquet: a disk that lost them has zeros."""
    footer = int.from_bytes(tail[:4], "little")
    return len(tail) == TAIL and tail[4:] == MAGIC and 0 < footer <= size - TAIL - len(MAGIC)


def footer_place(file: BinaryIO, most: int) -> tuple[int, int]:
    """Return where a footer of at most `most` bytes begins and where it ends; raise `ValueError` if there is none."""
    length = file.seek(0, 2)
    file.seek(max(0, length - 8))
    tail = file.read(8)
    if tail[4:] != MAGIC:
        raise ValueError("it does not end as Parquet does: it was cut off, or is not Parquet")
    footer = int.from_bytes(tail[:4], "little")
    if not 0 < footer <= min(length - 8, most):
        raise ValueError(_DAMAGED)
    return length - 8 - footer, length - 8


def read_footer(file: BinaryIO, start: int, end: int) -> dict[int, Any]:
    """Return the structure `FileMetaData` by its field numbers; raise `ValueError` or `IndexError` if it is damaged."""
    file.seek(start)
    return _Reader(file.read(end - start)).struct(0)


class _Reader:
    """Thrift's compact protocol: structures as mappings of field numbers; `IndexError` at the end of the bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        _check(depth)
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
        raise ValueError(_DAMAGED)

    def _list(self, depth: int) -> list[Any]:
        _check(depth)
        head = self._byte()
        count, kind = head >> 4, head & 15
        count = self._number() if count == 15 else count
        if count > len(self._data) - self._at:
            raise ValueError(_DAMAGED)
        return [self._value(kind, depth + 1) for _ in range(count)]

    def _map(self, depth: int) -> None:
        _check(depth)
        if (count := self._number()) == 0:
            return
        kinds = self._byte()
        if count > len(self._data) - self._at:
            raise ValueError(_DAMAGED)
        for _ in range(count):
            self._value(kinds >> 4, depth + 1)
            self._value(kinds & 15, depth + 1)

    def _byte(self) -> int:
        value = self._data[self._at]
        self._at += 1
        return value

    def _bytes(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise ValueError(_DAMAGED)
        value = self._data[self._at : self._at + count]
        self._at += count
        return value

    def _number(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError(_DAMAGED)

    def _whole(self) -> int:
        value = self._number()
        return (value >> 1) ^ -(value & 1)


def _check(depth: int) -> None:
    """Raise `ValueError` where a part lies deeper than those of any footer do."""
    if depth > _MOST_DEPTH:
        raise ValueError("its footer is nested too deeply")
