"""What went wrong, where, and what would mend it: one shape for every message."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

from energylens.common.readable import readable

MOST_SHOWN: Final = 50
"""Most problems that are written out; the others are counted."""

_TAB: Final = 4
_BEFORE, _AFTER = 80, 120
"""Cells of a long line that are shown before and after the caret."""
_LONGEST_TEXT: Final = 2000
"""Longest message, hint or path that is written out."""
MOST_LISTED: Final = 10_000
"""Most problems that `--json` lists."""


@dataclass(frozen=True)
class Place:
    """A stretch of one line of a file."""

    file: str
    line: int
    column: int
    length: int
    text: str


@dataclass(frozen=True)
class Problem:
    """One fault: a sentence, its place if it has one, and a hint."""

    message: str
    place: Place | None = None
    hint: str | None = None
    code: str = "problem"
    where: str | None = None
    data: Mapping[str, object] | None = field(default=None, compare=False)
    """What `--json` tells besides, by name."""

    def render(self) -> str:
        """Return the message as lines: error, place, caret, hint."""
        lines = [f"error: {_plain(self.message)}"]
        if self.place is not None:
            place = self.place
            number = f"{place.line}"
            margin = " " * (len(number) + 1)
            text, caret = _shown_line(place)
            lines.append(f" --> {_plain(place.file)}:{place.line}:{place.column}")
            lines.append(f" {number}| {text}")
            lines.append(f"{margin}| {caret}")
        elif self.where is not None:
            lines.append(f" --> {_plain(self.where)}")
        if self.hint:
            lines.append(f"hint: {_plain(self.hint)}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """Return the fault as plain data, for `--json`."""
        place = self.place
        return {
            "code": self.code,
            "message": readable(self.message),
            "hint": readable(self.hint) if self.hint else self.hint,
            "file": readable(place.file if place else self.where or "") or None,
            "line": place.line if place else None,
            "column": place.column if place else None,
            **(self.data or {}),
        }


def _plain(text: str) -> str:
    """Return a text without characters that would steer a terminal, its middle cut out if it is long."""
    text = readable(text)
    if len(text) > _LONGEST_TEXT:
        text = f"{text[: _LONGEST_TEXT // 2]} ... {text[-_LONGEST_TEXT // 2 :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


def _shown_line(place: Place) -> tuple[str, str]:
    """Return the line of a place as it is shown, cut to a window around it if it is long, and the caret below it."""
    start, end = place.column - 1, place.column - 1 + max(1, place.length)
    first = 0 if len(place.text) <= _BEFORE + _AFTER else max(0, start - _BEFORE)
    last = len(place.text) if len(place.text) <= _BEFORE + _AFTER else start + _AFTER
    before = ("... " if first else "") + _cells(place.text[first:start])
    marked = _cells(place.text[start : min(end, last)])
    after = _cells(place.text[min(end, last) : last]) + (" ..." if last < len(place.text) else "")
    padding = " " * max(0, start - len(place.text))
    return f"{before}{marked}{after}", f"{' ' * _width(before)}{padding}{'^' * max(1, _width(marked))}"


def _cells(text: str) -> str:
    """Return a part of a line in characters of known width: tabs as blanks, what does not print escaped."""
    if text.isprintable():
        return text
    return "".join(" " * _TAB if c == "\t" else _plain(c) for c in text)


def _width(text: str) -> int:
    """Return the cells that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def needs_extra(fault: str, extra: str) -> Problem:
    """Return the fault of a package that is not installed, with the extra of this one that brings it."""
    hint = f"pip install 'energylens[{extra}]', with the wheel's path in place of energylens if you have one"
    return Problem(fault, hint=hint, code="extra")


class EnergylensError(ValueError):
    """A mistake in what was given; `problems` holds all of them."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__(self.render().removeprefix("error: "))

    def __reduce__(self) -> tuple[type[EnergylensError], tuple[tuple[Problem, ...]]]:
        return type(self), (tuple(self.problems),)

    def render(self) -> str:
        """Return the messages as a person reads them on a terminal: all of them, or the first and how many more."""
        parts = [problem.render() for problem in self.problems[:MOST_SHOWN]]
        if (more := len(self.problems) - MOST_SHOWN) > 0:
            parts.append(f"... and {more:,} more problem{'s' if more > 1 else ''}")
        return "\n\n".join(parts)

    def as_dict(self) -> dict[str, object]:
        """Return the problems as plain data, for `--json`; beyond 10,000 of them, how many more there are."""
        data: dict[str, object] = {"errors": [problem.as_dict() for problem in self.problems[:MOST_LISTED]]}
        more = len(self.problems) - MOST_LISTED
        return data | {"more": more} if more > 0 else data


class SpecError(EnergylensError):
    """A spec file, profile or builder call is faulty."""


class FrameError(EnergylensError):
    """A frame of points has a wrong column or value."""


class SpaceError(EnergylensError):
    """A space, its limits or its objectives are faulty."""


class InfeasibleError(EnergylensError):
    """The one configuration asked for cannot be run."""


class GpuError(EnergylensError):
    """There is no GPU to measure, or it is not free."""


_MOST_WORD = 200
"""Characters of a word that are compared: comparing takes time by the square of them."""


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return a hint naming the nearest known word, or the known words if they are few."""
    known, word = list(known), str(word)[:_MOST_WORD]
    longer = [name for name in known if len(word) > 2 and name.startswith(word.lower())]
    if longer:
        return f"did you mean {' or '.join(f'`{name}`' for name in longer[:3])}?"
    near = get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"known: {', '.join(known)}" if 0 < len(known) <= 30 else None
