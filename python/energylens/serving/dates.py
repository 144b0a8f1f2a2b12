"""Timestamps written as dates: ISO 8601, or day and month in the order that the rows themselves show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

Integers = NDArray[np.int64]

_CLOCK: Final = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
_ZONE: Final = r"(?P<zone>Z|z|UTC|[+-]\d{2}:?\d{2})?"
_ISO: Final = rf"^\s*(?P<year>\d{{4}})[-/](?P<month>\d{{1,2}})[-/](?P<day>\d{{1,2}})(?:[T ]+{_CLOCK})?\s*{_ZONE}\s*$"
_OTHER: Final = (
    r"^\s*(?P<first>\d{1,2})(?P<mark>[/.-])(?P<other>\d{1,2})[/.-](?P<year>\d{4})"
    rf"(?:[T ,]+{_CLOCK}\s*(?P<half>[AaPp]\.?[Mm]\.?)?)?\s*{_ZONE}\s*$"
)
_DAY_US: Final = 86_400_000_000
ISO_HINT: Final = "write them as 2026-11-16 18:15:46.5, with an offset such as +01:00 if they have one"


@dataclass(frozen=True)
class Dates:
    """Moments of a column of dates."""

    microseconds: Integers
    """Since 1970, in UTC where the texts have offsets, else in the time that they are written in."""
    clock_s: float
    """Seconds after midnight of the first, in the time that it is written in."""
    note: str = ""
    """How they were read, where that was to be decided."""


@dataclass(frozen=True)
class NoDates:
    """Why a column cannot be read as dates: a sentence, the row if there is one, and a hint."""

    message: str
    row: int | None = None
    hint: str = ISO_HINT


def read_dates(column: pl.Series) -> Dates | NoDates:
    """Return the moments of a column of texts.

    `16/11/2026` and `11/16/2026` are distinguished by numbers above 12; where none is, by which order makes the rows
    rise; where both do and mean different times, neither is taken. Offsets may differ from row to row; rows with and
    without one are not mixed.
    """
    iso = _fields(column, _ISO)
    if (iso["year"] >= 0).all():
        return _moments(column, iso, iso["month"], iso["day"], "")
    other = _fields(column, _OTHER)
    matched = other["year"] >= 0
    if not matched.any() or (iso["year"] >= 0).any():
        bad = ~((iso["year"] >= 0) if (iso["year"] >= 0).any() else matched)
        row = int(np.argmax(bad))
        value = column[row]
        return NoDates(f"`{column.name}` should hold times, found {'nothing' if value is None else f'`{value}`'}", row)
    if not matched.all():
        row = int(np.argmin(matched))
        return NoDates(f"`{column.name}` is `{column[row]}`, of another form than the rows above", row)
    return _ordered(column, other)


def _ordered(column: pl.Series, fields: Mapping[str, Integers]) -> Dates | NoDates:
    """Return dates of day and month in the order that the rows show."""
    first, other = fields["first"], fields["other"]
    points = column.str.contains(r"^\s*\d{1,2}\.").all()
    if (first > 12).any() or points:
        why = "" if points else f" ({int(first.max())} is no month)"
        return _moments(column, fields, other, first, f"dates read as day/month/year{why}")
    if (other > 12).any():
        return _moments(column, fields, first, other, f"dates read as month/day/year ({int(other.max())} is no month)")
    american = _moments(column, fields, first, other, "dates read as month/day/year: in that order the rows rise")
    european = _moments(column, fields, other, first, "dates read as day/month/year: in that order the rows rise")
    if isinstance(american, NoDates) or isinstance(european, NoDates):
        return european if isinstance(american, NoDates) else american
    gaps = [np.diff(dates.microseconds) for dates in (american, european)]
    if np.array_equal(gaps[0], gaps[1]):
        return Dates(american.microseconds, american.clock_s)
    rising = [bool((gap >= 0).all()) for gap in gaps]
    if rising[0] != rising[1]:
        return american if rising[0] else european
    days = [(dates.microseconds[-1] - dates.microseconds[0]) / _DAY_US for dates in (american, european)]
    return NoDates(
        f"`{column.name}` may be month/day/year ({days[0]:,.3g} days in all) or day/month/year ({days[1]:,.3g} days): "
        "no day above 12 decides",
        hint="write dates as year-month-day: 2026-11-16 18:15:46",
    )


def _fields(column: pl.Series, pattern: str) -> dict[str, Integers]:
    """Return the parts of texts as whole numbers, -1 where a text is of another form; a part left out is 0."""
    parts = column.str.extract_groups(_positional(pattern)).struct.unnest()
    parts.columns = list(re.compile(pattern).groupindex)
    fields: dict[str, Integers] = {}
    matched = parts["year"].is_not_null()
    for name in parts.columns:
        text = parts[name]
        if name == "fraction":
            text = text.str.pad_end(9, "0").str.slice(0, 6)
        if name == "zone":
            offset = text.str.replace(":", "").str.extract(r"^([+-]\d{4})$")
            hours, minutes = (offset.str.slice(at, 2).cast(pl.Int64).fill_null(0) for at in (1, 3))
            sign = pl.select(pl.when(offset.str.starts_with("-").fill_null(False)).then(-1).otherwise(1)).to_series()
            fields["offset"] = (sign * (hours * 60 + minutes)).to_numpy()
            fields["zoned"] = text.is_not_null().cast(pl.Int64).to_numpy()
        elif name == "half":
            fields["afternoon"] = text.str.to_lowercase().str.starts_with("p").cast(pl.Int64).fill_null(-1).to_numpy()
        elif name != "mark":
            numbers = text.cast(pl.Int64).fill_null(0).to_numpy()
            fields[name] = np.where(matched.to_numpy(), numbers, -1)
    return fields


def _positional(pattern: str) -> str:
    return re.sub(r"\?P<\w+>", "", pattern)


def _moments(
    column: pl.Series, fields: Mapping[str, Integers], month: Integers, day: Integers, note: str
) -> Dates | NoDates:
    hour = fields["hour"]
    half = fields.get("afternoon", np.full(len(hour), -1))
    right = (half < 0) | ((hour >= 1) & (hour <= 12))
    hour = np.where(half < 0, hour, hour % 12 + 12 * np.maximum(half, 0))
    right &= (month >= 1) & (month <= 12) & (day >= 1) & (fields["minute"] < 60) & (fields["second"] < 60) & (hour < 24)
    right &= fields["year"] >= 1
    months = ((fields["year"] - 1970) * 12 + np.clip(month, 1, 12) - 1).astype("datetime64[M]")
    dates = months.astype("datetime64[D]") + (day - 1)
    right &= dates.astype("datetime64[M]") == months
    if not right.all():
        row = int(np.argmin(right))
        return NoDates(f"`{column.name}` is `{column[row]}`, which is no date", row)
    zoned = fields["zoned"]
    if zoned.any() and not zoned.all():
        row = int(np.argmax(zoned != zoned[0]))
        return NoDates(f"`{column.name}` is `{column[row]}`: some rows have an offset from UTC, others have none", row)
    clock = ((hour * 60 + fields["minute"]) * 60 + fields["second"]) * 1_000_000 + fields["fraction"]
    written = dates.astype(np.int64) * _DAY_US + clock
    return Dates(written - fields["offset"] * 60_000_000, float(clock[0]) / 1e6, note)
