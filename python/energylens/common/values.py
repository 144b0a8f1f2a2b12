"""Values as messages show them: short, on one line, whatever they are."""

from __future__ import annotations

from energylens.common.files import printable

_MOST_SHOWN = 10**100
"""Whole numbers from here on are shown by their size: Python refuses to write the longest ones."""


def shown(value: object, most: int = 100) -> str:
    """Return a value in words: numbers, texts, null; of whatever has parts only its kind."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _MOST_SHOWN:
        return f"a whole number of {value.bit_length():,} bits"
    if isinstance(value, (str, int, float)) or value is None:
        return printable(str(value), most)
    return type(value).__name__


def quoted(value: object, most: int = 100) -> str:
    """Return a value as Python writes it, cut if that is long."""
    if isinstance(value, int) and not isinstance(value, bool):
        return shown(value)
    try:
        return printable(repr(value), most)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
