"""Axis values on the command line: `1,2,4`, `1:512`, `16:512:16`, names, and `own` for the spec's own format."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cyclopts import Token

from energylens.errors import Problem, SpaceError


def numbers(text: str, axis: str) -> list[int]:
    """Read whole numbers: a list of values and `low:high[:step]` ranges, both ends included."""
    found: list[int] = []
    for part in text.split(","):
        try:
            pieces = [whole(int, [Token(value=piece.strip())]) for piece in part.split(":")]
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


def whole(_kind: object, tokens: Sequence[Token]) -> int:
    """Convert one option to a whole number, refusing what only looks like one."""
    text = tokens[0].value
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise ValueError(f'"{text}" is not a whole number')
    return int(text)


def names(text: str) -> list[str]:
    """Read a list of names."""
    return [part.strip() for part in text.split(",") if part.strip()]


def formats(text: str) -> list[str | None]:
    """Read a list of data types, `own` being the spec's."""
    return [None if name == "own" else name for name in names(text)]


def slo(text: str) -> list[str]:
    """Turn `ttft=1s,tpot=50ms` into limits."""
    limits = []
    for part in names(text):
        if "=" not in part or "<" in part or ">" in part:
            hint = "write it as ttft=1s,tpot=50ms; use --limit for other columns"
            raise SpaceError(Problem(f"cannot read `{part}` as a service-level objective", hint=hint, code="slo"))
        if part[-1:].isdigit():
            raise SpaceError(Problem(f"`{part}` has no unit", hint="write s or ms, as in tpot=50ms", code="slo"))
        limits.append(part.replace("=", "<="))
    return limits
