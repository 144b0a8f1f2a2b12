"""Arrivals of a trace: dates, or numbers whose unit comes from their name, from the rows, or from the caller."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens.serving.dates import NoDates, read_dates

Column = NDArray[np.float64]

UNITS: Final = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""Units of time with how many of them a second has."""

_NAMES: Final = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_SUFFIX: Final = re.compile(r"_(s|ms|us|ns)$")
_EPOCHS: Final = ((1e17, "ns"), (1e14, "us"), (1e11, "ms"))
"""Seconds since 1970 are about 1.8e9; larger numbers count parts of a second."""
_SINCE_1970_S: Final = (6.3e8, 4.2e9)
"""Seconds since 1970 of traces: 1990 to 2103."""
_USUAL_RATES: Final = {"ms": (1e-3, 500.0), "s": (0.01, 1000.0)}
"""Requests a second that a published form of trace may have in its unit; outside, the caller must state its unit."""
_LEAST_INTEGER_RATE: Final = 1.0
"""Whole numbers at fewer requests a second than this may be seconds as well as milliseconds."""
_TICK_S: Final = 10.0
_LONGEST_S: Final = 10 * 365 * 86400.0
UNIT_HINT: Final = "call the column `arrival_s` or `timestamp_ms`, or say its unit: --time-unit s (or ms, us, ns)"


@dataclass(frozen=True)
class Arrivals:
    """Seconds after the first arrival, and what is known of the clock."""

    seconds: Column
    note: str = ""
    clock_s: float | None = None
    """Seconds after midnight of the first arrival; None where the trace has no dates."""
    clock: str = ""
    """Whose midnight: `UTC`, or `as written`."""


@dataclass(frozen=True)
class NoArrivals:
    """Why a column is no arrivals: a sentence, a hint, and the row if there is one."""

    message: str
    hint: str | None = None
    row: int | None = None


def arrivals(column: pl.Series, usual: str | None, time_unit: str | None) -> Arrivals | NoArrivals:
    """Return the arrivals of a column in seconds, or why it has none.

    Parameters
    ----------
    column
        Dates as text or as such, or numbers.
    usual
        Unit that the other columns of the trace let expect of numbers; None where they do not.
    time_unit
        Unit of numbers that a person has said; None where it is to be inferred.
    """
    if column.null_count():
        return NoArrivals(
            f"`{column.name}` is empty", "give every request a time", int(column.is_null().arg_max() or 0)
        )
    if column.dtype == pl.String or column.dtype.is_temporal():
        if time_unit is not None:
            return NoArrivals(f"column `{column.name}` holds dates", "--time-unit is for numbers; leave it out")
        read = _dated(column)
    elif column.dtype.is_numeric():
        read = _counted(column, usual, time_unit)
    else:
        return NoArrivals(f"column `{column.name}` should hold times, in seconds or as dates, found {column.dtype}")
    return read if isinstance(read, NoArrivals) else _checked(column, read)


def _checked(column: pl.Series, read: Arrivals) -> Arrivals | NoArrivals:
    """Return arrivals in their order, counted from the first; spread where their ticks are coarse."""
    seconds = read.seconds
    if seconds.max() - seconds.min() > _LONGEST_S:
        days = (seconds.max() - seconds.min()) / 86400
        hint = "give arrivals in seconds, as `arrival_s`, or in milliseconds, as `timestamp_ms`"
        return NoArrivals(f"column `{column.name}` spans {days:,.0f} days", hint)
    late = np.flatnonzero(np.diff(seconds) < 0)
    if late.size:
        row = int(late[0]) + 1
        message = f"`{column.name}` is {column[row]}, before the {column[row - 1]} of the row above"
        return NoArrivals(message, "sort the trace by arrival", row)
    return replace(read, seconds=_spread(seconds - seconds[0]))


def _dated(column: pl.Series) -> Arrivals | NoArrivals:
    if column.dtype == pl.String:
        dates = read_dates(column)
        if isinstance(dates, NoDates):
            return NoArrivals(dates.message, dates.hint, dates.row)
        first = int(dates.microseconds.min())
        seconds = (dates.microseconds - first) / 1e6
        return Arrivals(seconds, dates.note, dates.clock_s, "as written")
    seconds = ((column - column.min()).dt.total_microseconds() / 1e6).to_numpy()
    clock: float | None = None
    if isinstance(column.dtype, pl.Datetime):
        clock = float((column.dt.replace_time_zone(None) - column.dt.replace_time_zone(None).dt.truncate("1d"))
                      .dt.total_microseconds()[0] / 1e6)  # fmt: skip
    return Arrivals(seconds, "", clock, "as written")


def _counted(column: pl.Series, usual: str | None, time_unit: str | None) -> Arrivals | NoArrivals:
    values = column.cast(pl.Float64)
    if not values.is_finite().all():
        row = int((~values.is_finite()).arg_max() or 0)
        return NoArrivals(f"`{column.name}` is {column[row]}: times are finite", None, row)
    suffix = _SUFFIX.search(column.name)
    if suffix is not None:
        if time_unit not in (None, suffix[1]):
            message = f"column `{column.name}` says {_NAMES[suffix[1]]}, the stated time unit is {_NAMES[time_unit]}"
            return NoArrivals(message, "rename the column, or leave the unit out")
        return Arrivals(_in_seconds(values, suffix[1]))
    if time_unit is not None:
        return _since_1970(values, time_unit) or Arrivals(_in_seconds(values, time_unit))
    largest = float(values.abs().max() or 0.0)  # type: ignore[arg-type]
    epoch = next((unit for above, unit in _EPOCHS if largest > above), "s")
    if (dated := _since_1970(values, epoch)) is not None:
        note = f"`{column.name}` read as {_NAMES[epoch]} since 1970"
        return replace(dated, note="" if epoch == "s" else note)
    return _inferred(column, values, usual)


def _in_seconds(values: pl.Series, unit: str) -> Column:
    if unit == "ms":
        milliseconds: Column = values.to_numpy() * 1e-3
        return milliseconds
    seconds: Column = (values / UNITS[unit]).to_numpy()
    return seconds


def _since_1970(values: pl.Series, unit: str) -> Arrivals | None:
    """Return arrivals that count from 1970, or None if these do not."""
    seconds: Column = (values / UNITS[unit]).to_numpy()
    low, high = _SINCE_1970_S
    if not low <= seconds.min() <= seconds.max() <= high:
        return None
    return Arrivals(seconds, clock_s=float(seconds[0] % 86400.0), clock="UTC")


def _inferred(column: pl.Series, values: pl.Series, usual: str | None) -> Arrivals | NoArrivals:
    """Return arrivals of numbers without a unit, in the one that their size, fractions and the trace's form say."""
    numbers = values.to_numpy()
    span, count = float(numbers.max() - numbers.min()), len(numbers)
    if span <= 0.0:
        return Arrivals(np.zeros(count))
    per_unit = (count - 1) / span
    integers = bool((numbers == np.floor(numbers)).all())
    unit = None
    if usual is not None:
        low, high = _USUAL_RATES[usual]
        fits = low <= per_unit * UNITS[usual] <= high
        unit = usual if fits and (integers or usual == "s") else None
    if unit is None:
        low, high = _USUAL_RATES["s"]
        low = max(low, _LEAST_INTEGER_RATE) if integers else low
        contradicted = usual == "ms" and integers
        unit = "s" if low <= per_unit <= high and not contradicted else None
    if unit is None:
        rates = ", ".join(f"{_rate(per_unit * UNITS[name])} in {_NAMES[name]}" for name in ("s", "ms"))
        message = f"column `{column.name}` does not say its unit: {count:,} requests would be {rates}"
        return NoArrivals(message, UNIT_HINT)
    note = f"`{column.name}` read as {_NAMES[unit]}: {_rate(per_unit * UNITS[unit])}"
    return Arrivals(_in_seconds(values, unit), note)


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}/s" if per_s >= 1000 else f"{per_s:.3g}/s"


def _spread(seconds: Column) -> Column:
    """Spread requests of one coarse timestamp over the time to the next, where these are ticks of a few seconds."""
    moments, of = np.unique(seconds, return_inverse=True)
    if len(moments) < 2 or len(seconds) < 2 * len(moments):
        return seconds
    usual = float(np.median(np.diff(moments)))
    if usual > _TICK_S:
        return seconds
    gaps = np.minimum(np.append(np.diff(moments), usual), usual)
    random = np.random.default_rng(2026).random(len(seconds))
    spread: Column = np.sort(seconds + random * gaps[of], kind="stable")
    spread -= spread[0]
    return spread


def by_name(names: Sequence[str], columns: Sequence[str]) -> str | None:
    """Return the first of the names that is a column."""
    return next((name for name in names if name in columns), None)
