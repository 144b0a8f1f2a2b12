"""How a value from outside stands in a message: short, on one line, and without failing."""

from __future__ import annotations

import reprlib

from energylens.common.files import printable

_MOST = 80


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
