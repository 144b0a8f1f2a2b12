"""Values on the command line: those of `energylens.inputs.axis_text`, whole numbers, and service-level objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from energylens.common.errors import Problem, SpaceError
from energylens.inputs import axis_text
from energylens.inputs.axis_text import formats, names, numbers

__all__ = ["every", "formats", "names", "numbers", "parse", "slo", "switch", "whole"]


def every(readers: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Return what each reader returns; raise `SpaceError` with the problems of all."""
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, read in readers.items():
        try:
            values[name] = read()
        except SpaceError as error:
            problems += error.problems
    if problems:
        raise SpaceError(problems)
    return values


def parse(text: str, axis: str) -> list[Any]:
    """Return the values of an axis of a space; raise `SpaceError`."""
    from energylens.inputs import axis_values  # checks in columns of polars, which help does without

    return axis_values.parse(text, axis)


def whole(text: str) -> int:
    """Return a whole number, refusing what only looks like one."""
    return axis_text.whole(text)


def switch(text: str) -> bool:
    """Return what `on` or `off` means; raise `ValueError` for another word."""
    if text not in ("on", "off"):
        raise ValueError(f'"{text}" is neither on nor off')
    return text == "on"


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
