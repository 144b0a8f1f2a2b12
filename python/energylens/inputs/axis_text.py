"""Axis values as text: `1,2,4`, `1:512`, `16:512:16`, names, and `default` for what the spec or hardware says."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from energylens.common.errors import Problem, SpaceError
from energylens.common.files import printable

MOST_VALUES: Final = 10**7
"""Values of one axis."""

DEFAULT: Final = "default"
"""The word for None: a value that is left to the spec or the hardware."""

FORMERLY: Final = "own"
"""The same word in older files, which stay readable."""

_VALUE_BYTES: Final = 150
"""Memory that a value of an axis takes on its way to the core: as a number, in a list, and as text."""

_LISTS: Final = "write values and ranges, as in 1,2,4 or 1:8 or 16:512:16"
_SUFFIXES: Final = {"k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def numbers(text: str, axis: str) -> list[int]:
    """Read whole numbers: a list of values and `low:high[:step]` ranges, both ends included.

    Raises `SpaceError` with every part that is none.
    """
    problems: list[Problem] = []
    ranges: list[range] = []
    if not text.strip(" ,"):
        raise SpaceError(Problem(f"`{axis}` has no value, found `{printable(text)}`", hint=_LISTS, code="axis-value"))
    for part in text.split(","):
        try:
            ranges.append(_part(part, axis))
        except SpaceError as error:
            problems += error.problems
    if not problems and (count := sum(map(len, ranges))) > MOST_VALUES:
        message = f"`{printable(text)}` has {count:,} values for `{axis}`, more than {MOST_VALUES:,}"
        problems.append(Problem(message, hint="use a larger step", code="axis-value"))
    if problems:
        raise SpaceError(problems)
    if count > 10**5:
        from energylens.common.memory import require_bytes

        require_bytes(count * _VALUE_BYTES, f"{count:,} values of `{axis}`", "use a larger step")
    return [value for part in ranges for value in part]


def _part(part: str, axis: str) -> range:
    """Return a value or a range of values; raise `SpaceError`."""
    shown = printable(part)
    pieces: list[int] = []
    try:
        pieces = [whole(piece) for piece in part.split(":")]
        fault = f"cannot read `{shown}` as values of `{axis}`" if len(pieces) > 3 else None
        hint = _LISTS
    except ValueError:
        fault = f"cannot read `{shown}` as values of `{axis}`"
        hint = _LISTS if ":" in part else meant(part, True) or _LISTS
    if fault is None and len(pieces) == 3 and pieces[2] < 1:
        fault, hint = f"cannot read `{shown}` as values of `{axis}`: its step is {pieces[2]}", "the step is 1 or more"
    if fault is None and len(pieces) > 1 and pieces[1] < pieces[0]:
        fault = f"`{shown}` has no value of `{axis}`: it ends below where it begins"
        hint = f"write {':'.join(map(str, [pieces[1], pieces[0], *pieces[2:]]))}"
    if fault is not None:
        raise SpaceError(Problem(fault, hint=hint, code="axis-value"))
    return range(pieces[0], pieces[1] + 1, *pieces[2:]) if len(pieces) > 1 else range(pieces[0], pieces[0] + 1)


def whole(text: str) -> int:
    """Read a whole number, refusing what only looks like one."""
    if not re.fullmatch(r"-?[0-9]{1,18}", text.strip(" ")):
        raise ValueError(f'"{text}" is not a whole number')
    return int(text)


def is_whole(value: object, least: int, most: int) -> bool:
    """Return whether a value is a whole number of a range: an int, or a float without a fraction, but no bool."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and least <= value <= most and value == int(value)  # type: ignore[operator, call-overload]


def real(text: str) -> float:
    """Read a finite number, refusing what only looks like one."""
    if not re.fullmatch(
        r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,60})?|\.[0-9]{1,60})(?:[eE][+-]?[0-9]{1,3})?", text.strip(" ")
    ):
        raise ValueError(f'"{text}" is not a number')
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f'"{text}" is not finite')
    return value


def meant(text: str, integral: bool) -> str | None:
    """Return how a number is to be written that was written as `1k`, `$2`, `1_000` or `50%`, as a hint.

    Parameters
    ----------
    text
        What is no number as it stands.
    integral
        Whether a whole number is wanted.
    """
    bare = re.sub(r"[\s_$€£]|/s$", "", text.strip().lower().lstrip("+"))
    # A comma before three digits each parts thousands; any other one is where a decimal point belongs.
    bare = (
        bare.replace(",", "")
        if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d*)?[a-z%]{0,2}", bare)
        else bare.replace(",", ".")
    )
    if match := re.fullmatch(r"0x[0-9a-f]{1,15}", bare):
        return f"write {int(match[0], 16)}"
    match = re.fullmatch(r"(-?\d{1,30}(?:\.\d{0,60})?(?:e[+-]?\d{1,3})?)(%|[a-z]{0,2})", bare)
    if match is None or match[2] not in ("", "%", *_SUFFIXES):
        return None
    value = float(match[1]) * (0.01 if match[2] == "%" else _SUFFIXES.get(match[2], 1))
    if not math.isfinite(value) or abs(value) >= 1e18:
        return "write a number of at most 18 digits"
    if value == int(value):
        return f"write {int(value)}"
    return None if integral else f"write {value:g}"


def names(text: str) -> list[str]:
    """Read a list of names."""
    return [part.strip() for part in text.split(",") if part.strip()]


def is_default(word: str) -> bool:
    """Return whether a word stands for None."""
    return word in (DEFAULT, FORMERLY)


def formats(text: str) -> list[str | None]:
    """Read a list of data types, `default` being the spec's."""
    return [None if is_default(name) else name for name in names(text)]


def axis_words(value: Any) -> str:
    """Return the value of an axis in words."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return DEFAULT if value is None else f"{value:,}" if isinstance(value, int) else str(value)
