"""Axis values as text: `1,2,4`, `1:512`, `16:512:16`, names, and `own` for the spec's own format."""

from __future__ import annotations

import re

from energylens.errors import Problem, SpaceError


def numbers(text: str, axis: str) -> list[int]:
    """Read whole numbers: a list of values and `low:high[:step]` ranges, both ends included."""
    found: list[int] = []
    for part in text.split(","):
        try:
            pieces = [whole(piece) for piece in part.split(":")]
        except ValueError:
            pieces = []
        if not 1 <= len(pieces) <= 3 or (len(pieces) == 3 and pieces[2] < 1):
            hint = "write values and ranges, as in 1,2,4 or 1:8 or 16:512:16"
            raise SpaceError(Problem(f"cannot read `{part}` as values of `{axis}`", hint=hint, code="axis-value"))
        if len(pieces) == 1:
            found += pieces
        else:
            step = pieces[2] if len(pieces) == 3 else 1
            if (pieces[1] - pieces[0]) // step > 10**7:
                raise SpaceError(
                    Problem(f"`{part}` has too many values for `{axis}`", hint="use a larger step", code="axis-value")
                )
            found += range(pieces[0], pieces[1] + 1, step)
    return found


def whole(text: str) -> int:
    """Read a whole number, refusing what only looks like one."""
    if not re.fullmatch(r"-?[0-9]{1,18}", text.strip()):
        raise ValueError(f'"{text}" is not a whole number')
    return int(text)


def is_whole(value: object, least: int, most: int) -> bool:
    """Return whether a value is a whole number of a range: an int, or a float without a fraction, but no bool."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and least <= value <= most and value == int(value)  # type: ignore[operator, call-overload]


def names(text: str) -> list[str]:
    """Read a list of names."""
    return [part.strip() for part in text.split(",") if part.strip()]


def formats(text: str) -> list[str | None]:
    """Read a list of data types, `own` being the spec's."""
    return [None if name == "own" else name for name in names(text)]
