"""How a value from outside stands in a message: short, on one line, and without failing."""

from __future__ import annotations

import reprlib
from typing import Final

from energylens.common.files import printable

_MOST: Final = 80
_MOST_WRITTEN: Final = 10**100
"""Whole numbers of a file from here on are shown by their size: Python refuses to write the longest ones."""


def shown(value: object) -> str:
    """Return a value as a message shows it: texts and numbers as they are, anything else by a short `repr`.

    Control characters are escaped and long texts are cut in the middle, so that a value from someone else's file can
    be printed.
    """
    if isinstance(value, str):
        return printable(value, _MOST)
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length():,} bits"
    try:
        text = str(value) if isinstance(value, (int, float)) or value is None else reprlib.repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return printable(text, _MOST)


def value_or_kind(value: object, most: int = 100) -> str:
    """Return a value of a file in words: texts, numbers and null as they are, of whatever has parts only its kind."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _MOST_WRITTEN:
        return f"a whole number of {value.bit_length():,} bits"
    if isinstance(value, (str, int, float)) or value is None:
        return printable(str(value), most)
    return type(value).__name__


def quoted(value: object, most: int = 100) -> str:
    """Return a value of a file as Python writes it, cut if that is long."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value_or_kind(value)
    try:
        return printable(repr(value), most)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
