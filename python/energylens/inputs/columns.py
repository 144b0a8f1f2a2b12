"""Columns of points from outside: what each may hold, every fault with its row and value, and the exact conversion.

What can be converted without loss is taken: whole numbers of any integer type (128 bits included), of a float or of a
decimal; names as String, Categorical or Enum; switches as Boolean or as the texts `off, on, false, true`; a null, or a
column of nulls alone, where a column has a default. Everything else is a `Problem`: text in place of numbers, numbers
in place of names or switches, fractions, values out of range, lists, structs, dates, Python objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from energylens.common.errors import FrameError, Problem
from energylens.common.show import shown

SPEC_WORD: Final = "own"
"""What commands and results call the value of the spec or the profile; in a column it means null."""

SWITCHES: Final = {"off": False, "on": True, "false": False, "true": True}
"""Texts that a column of switches may hold."""

_MOST_SHOWN: Final = 20
"""Most wrong texts of one column that are shown."""


@dataclass(frozen=True)
class Whole:
    """Whole numbers of a range; `null` allows nulls, `default` takes their place; `spec` allows the word `own`."""

    least: int
    most: int
    null: bool = False
    default: int | None = None
    spec: bool = False

    @property
    def words(self) -> str:
        """What the column should hold."""
        return f"whole numbers from {self.least:,} to {self.most:,}" + (" or null" if self.null else "")


@dataclass(frozen=True)
class Number:
    """Finite numbers of a range."""

    least: float = -1.7976931348623157e308
    most: float = 1.7976931348623157e308
    null: bool = False

    @property
    def words(self) -> str:
        """What the column should hold."""
        bounded = self.least > -1e308 or self.most < 1e308
        kind = f"numbers from {self.least:g} to {self.most:g}" if bounded else "finite numbers"
        return kind + (" or null" if self.null else "")


@dataclass(frozen=True)
class Words:
    """Texts; `check` says what is wrong with one. `null` allows nulls, `default` takes their place.

    `spec` allows the word `own`.
    """

    check: Callable[[str], Problem | None] = lambda _text: None
    null: bool = False
    default: str | None = None
    spec: bool = False
    words: str = "names"


@dataclass(frozen=True)
class Switch:
    """True or false; nulls are the default."""

    default: bool | None = False
    words: str = "true or false"


Form = Whole | Number | Words | Switch


def convert(column: pl.Series, form: Form) -> tuple[pl.Series, list[Problem]]:
    """Return a column as its form has it (UInt32 or UInt64, Float64, String, Boolean), and what is wrong with it.

    Parameters
    ----------
    column
        A column of any type.
    form
        What it may hold.

    Returns
    -------
    tuple
        The converted column, of no meaning if there is a problem, and at most one problem for a wrong type or for
        numbers, one for each different wrong text.
    """
    if isinstance(form, (Whole, Words)) and form.spec:
        column = _without_word(column, form)
    match form:
        case Whole():
            return _whole(column, form)
        case Number():
            return _number(column, form)
        case Words():
            return _words(column, form)
        case Switch():
            return _switch(column, form)


def frame_of(*rows: Mapping[str, Any]) -> pl.DataFrame:
    """Return points with the same fields as a frame; raise `FrameError` for values that no column can hold."""
    plain = [
        {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()} for row in rows
    ]
    wrong = {name: value for row in plain for name, value in row.items() if not _scalar(value)}
    problems = [
        Problem(
            f"`{shown(name)}` should be a number, a text, True or False, found `{shown(value)}`", code="column-value"
        )
        for name, value in wrong.items()
    ]
    if problems:
        raise FrameError(problems)
    return pl.DataFrame(plain, infer_schema_length=None)


def _scalar(value: object) -> bool:
    """Return whether a column can hold a value; Polars itself does not refuse all others with an exception."""
    if isinstance(value, str):
        return not any("\ud800" <= c <= "\udfff" for c in value)
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return value is None or isinstance(value, float)


def _whole(column: pl.Series, form: Whole) -> tuple[pl.Series, list[Problem]]:
    if column.dtype == pl.Null:
        column = column.cast(pl.UInt32)
    if not column.dtype.is_numeric():
        return column, [_wrong_type(column, form)]
    value = column.cast(pl.Float64, strict=False)
    good = (value >= form.least) & (value <= form.most) & (value == value.floor())
    if isinstance(column.dtype, pl.Decimal):
        good &= column == value.floor().cast(column.dtype, strict=False)
    problems = _wrong_values(column, good, form)
    if problems:
        return column, problems
    whole = (column if column.dtype.is_integer() else value).cast(pl.UInt32 if form.most < 2**32 else pl.UInt64)
    return (whole if form.default is None else whole.fill_null(form.default)), []


def _number(column: pl.Series, form: Number) -> tuple[pl.Series, list[Problem]]:
    if column.dtype == pl.Null:
        column = column.cast(pl.Float64)
    if not column.dtype.is_numeric():
        return column, [_wrong_type(column, form)]
    value = column.cast(pl.Float64, strict=False)
    good = value.is_finite() & (value >= form.least) & (value <= form.most)
    return value, _wrong_values(column, good, form)


def _words(column: pl.Series, form: Words) -> tuple[pl.Series, list[Problem]]:
    if not _textual(column):
        return column, [_wrong_type(column, form)]
    text = column.cast(pl.String)
    problems: list[Problem] = []
    if text.null_count() and not form.null and form.default is None:
        row = int(text.is_null().arg_max() or 0)
        problems.append(Problem(f"column `{text.name}` is null in row {row}", code="null"))
    for value in text.drop_nulls().unique(maintain_order=True).to_list():
        if (wrong := form.check(value)) is not None and len(problems) < _MOST_SHOWN:
            problems.append(_in_row(wrong, text, int((text == value).arg_max() or 0)))
    return (text if form.default is None else text.fill_null(form.default)), problems


def _switch(column: pl.Series, form: Switch) -> tuple[pl.Series, list[Problem]]:
    if column.dtype != pl.Boolean:
        if not _textual(column):
            return column, [_wrong_type(column, form)]
        text = column.cast(pl.String)
        bad = text.is_not_null() & ~text.is_in(list(SWITCHES))
        if bad.any():
            row = int(bad.arg_max() or 0)
            hint = "write off or on, in Python False or True"
            wrong = Problem(f"`{text.name}` is on or off, found `{shown(text[row])}`", hint=hint, code="axis-value")
            return column, [_in_row(wrong, text, row)]
        column = text.replace_strict(SWITCHES, default=None, return_dtype=pl.Boolean)
    return (column if form.default is None else column.fill_null(form.default)), []


def _without_word(column: pl.Series, form: Form) -> pl.Series:
    """Return a column with nulls for the word `own`; other texts stay as they are."""
    if column.dtype == pl.Null or not _textual(column):
        return column
    text = column.cast(pl.String)
    text = text.set(text == SPEC_WORD, None)
    return text.cast(pl.Null) if isinstance(form, Whole) and text.null_count() == len(text) else text


def _textual(column: pl.Series) -> bool:
    return column.dtype in (pl.String, pl.Null) or isinstance(column.dtype, (pl.Categorical, pl.Enum))


def _wrong_type(column: pl.Series, form: Form) -> Problem:
    """Return the fault of a column of the wrong type, with the first value that is there."""
    row, value = next(((at, value) for at, value in enumerate(column) if value is not None), (0, None))
    hint = None
    if isinstance(form, (Whole, Number)) and column.dtype in (pl.String, pl.Boolean):
        hint = f'cast it: pl.col("{column.name}").cast(pl.{"UInt32" if isinstance(form, Whole) else "Float64"})'
    kind = {Whole: "whole numbers", Number: "numbers"}.get(type(form)) or form.words
    message = f"column `{column.name}` should hold {kind}, found {shown(str(column.dtype))}"
    return Problem(f"{message}: `{shown(value)}` in row {row:,}", hint=hint, code="column-type")


def _wrong_values(column: pl.Series, good: pl.Series, form: Whole | Number) -> list[Problem]:
    nulls_allowed = form.null or (isinstance(form, Whole) and form.default is not None)
    bad = ~good.fill_null(nulls_allowed)
    if nulls_allowed:
        bad &= column.is_not_null()
    if not bad.any():
        return []
    row = int(bad.arg_max() or 0)
    value = shown(column[row])
    if len(column) == 1:
        what = form.words.replace("whole numbers", "a whole number").replace("finite numbers", "a finite number")
        what = what if what.startswith("a ") else what.replace("numbers", "a number")
        return [Problem(f"`{column.name}` should be {what}, found {value}", code="column-value")]
    message = f"column `{column.name}` should hold {form.words}, found {value} in row {row:,}"
    return [Problem(message, hint=f"{int(bad.sum()):,} of {len(bad):,} rows are wrong", code="column-value")]


def _in_row(problem: Problem, column: pl.Series, row: int) -> Problem:
    """Return the fault of a value with its row, where there is more than one."""
    named = "" if f"`{column.name}`" in problem.message else f" of column `{column.name}`"
    where = f" in row {row:,}{named}" if len(column) > 1 else ""
    return Problem(f"{problem.message}{where}", problem.place, problem.hint, problem.code, problem.where)
