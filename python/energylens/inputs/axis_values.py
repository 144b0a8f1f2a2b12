"""Values of an axis: read from text, checked, and as columns of a frame; what they may be says `inputs.axes`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, get_args

import polars as pl

from energylens import _core
from energylens.common.errors import Problem, did_you_mean
from energylens.common.show import shown
from energylens.inputs import routing
from energylens.inputs.axes import AXES, POINT_DEFAULTS, RUNNING, Axis, Where
from energylens.inputs.axis_text import DEFAULT, formats, is_default, is_whole, names, numbers
from energylens.inputs.columns import SWITCHES, Form, Switch, Whole, Words

Check = Callable[[Any], Problem | None]

PHASES: Final = get_args(Where)


def parse(text: str, axis: str) -> list[Any]:
    """Return the values that a text stands for: numbers and ranges, names, `off,on`, `default` for None.

    Words that are no value of the axis are returned as they are, for `problem` to explain. Raises `SpaceError` for
    numbers that cannot be read.
    """
    row = AXES[axis]
    match row.kind:
        case "name":
            return [*names(text)]
        case "format":
            return [*formats(text)]
        case "count" | "size" if not row.nullable:
            return [*numbers(text, axis)]
    values: list[Any] = []
    for word in (part.strip() for part in text.split(",")):
        if row.nullable and is_default(word):
            values.append(None)
        elif row.kind == "count":
            values += numbers(word, axis)
        else:
            values.append(SWITCHES.get(word, word) if row.kind == "switch" else word)
    return values


def problem(value: object, axis: str) -> Problem | None:
    """Return what is wrong with a value of an axis."""
    return _CHECKS[axis](value)


def first_problem(values: Iterable[object], axis: str) -> Problem | None:
    """Return what is wrong with the first wrong value of an axis."""
    return next(filter(None, map(_CHECKS[axis], values)), None)


def _check(row: Axis) -> Check:
    """Return what checks a value of an axis."""
    match row.kind:
        case "name":
            return lambda _value: None
        case "format":
            return lambda value: _format_problem(value, row.name)
        case "switch":
            return lambda value: None if isinstance(value, bool) else _no_switch(value, row.name)
        case "phase":
            return lambda value: None if isinstance(value, str) and value in PHASES else _no_phase(value, row.name)
        case "law":
            return lambda value: None if value is None else routing.problem(_text(value))
        case "placement":
            return lambda value: routing.placement_problem(_text(value))
        case _:
            return lambda value: None if _is_number(value, row) else _no_number(value, row)


def _text(value: object) -> str:
    return value if isinstance(value, str) else shown(value)


def _format_problem(value: object, axis: str) -> Problem | None:
    if value is None or (isinstance(value, str) and value in _core.DTYPES):
        return None
    hint = did_you_mean(shown(value), [DEFAULT, *_core.DTYPES])
    return Problem(f"unknown data type `{shown(value)}` in `{axis}`", hint=hint, code="unknown-dtype")


def _no_switch(value: object, axis: str) -> Problem:
    hint = "write off or on, in Python False or True"
    return Problem(f"`{axis}` is on or off, found `{shown(value)}`", hint=hint, code="axis-value")


def _no_phase(value: object, axis: str) -> Problem:
    hint = did_you_mean(shown(value), PHASES) or f"use {', '.join(PHASES)}"
    return Problem(f"`{axis}` is no phase: `{shown(value)}`", hint=hint, code="axis-value")


def _is_number(value: object, row: Axis) -> bool:
    return (value is None and row.nullable) or is_whole(value, row.least, row.most)


def _no_number(value: object, row: Axis) -> Problem:
    unset = f" ({DEFAULT}, in frames null, leaves it as it is)" if row.nullable else ""
    bounds = f"whole numbers from {row.least} to {row.most:,}{unset}"
    return Problem(f"axis `{row.name}` needs {bounds}, found `{shown(value)}`", code="axis-value")


_CHECKS: Final[dict[str, Check]] = {name: _check(row) for name, row in AXES.items()}


def _form(row: Axis) -> Form:
    """Return what a column of an axis may hold; nulls of run options are their default."""
    default = row.default if row.run_option else None
    match row.kind:
        case "name":
            return Words()
        case "switch":
            return Switch(default)
        case "count" | "size":
            return Whole(row.least, row.most, null=row.nullable, default=default, spec=row.nullable)
        case _:
            return Words(_CHECKS[row.name], null=row.nullable, default=default, spec=row.nullable)


FORMS: Final[dict[str, Form]] = {name: _form(AXES[name]) for name in (*POINT_DEFAULTS, *RUNNING)}
"""What each column of a point may hold, in the order of columns."""


def polars_type(axis: str) -> Any:
    """Return the Polars type of an axis in results."""
    match AXES[axis].kind:
        case "switch":
            return pl.Boolean
        case "count" | "size":
            return pl.UInt32
        case _:
            return pl.String
