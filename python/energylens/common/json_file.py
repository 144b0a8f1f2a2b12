"""JSON of files, read in one way: without what JSON does not have, that of people of a checked size and depth."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NoReturn

from energylens.common.errors import EnergylensError, Problem, SpecError
from energylens.common.files import printable, read_text

MOST_DEPTH: Final = 64
"""Deepest nesting that is read."""


def read_json(path: str | Path, what: str = "file", *, error: type[EnergylensError] = SpecError) -> dict[str, Any]:
    """Return the object of a JSON file; raise `error` with the place of its first fault.

    A name that stands twice in one object, `NaN` and `Infinity` are faults: which of two values is meant, and what
    either number would be, nobody can tell.
    """
    text = read_text(path, what, error=error)
    shown = printable(str(path))

    def fail(reason: str, where: str | None = None) -> NoReturn:
        raise error(Problem(f"`{shown}` {reason}", where=where or shown, code="json"))

    def pairs(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(entries)
        if len(made) < len(entries):
            twice, _ = Counter(name for name, _ in entries).most_common(1)[0]
            fail(f"has the name `{printable(twice, 60)}` twice in one object")
        return made

    try:
        data = json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        fail(f"is nested deeper than the {MOST_DEPTH} levels that are read")
    except json.JSONDecodeError as fault:
        fail(f"is not JSON: {fault.msg}", f"{shown}:{fault.lineno}:{fault.colno}")
    except ValueError as fault:
        if isinstance(fault, EnergylensError):
            raise
        fail("holds a number of too many digits")
    if not isinstance(data, dict):
        fail(f"holds a {type(data).__name__}, not the fields of a config")
    level: list[tuple[str, Any]] = [("", data)]
    for _ in range(MOST_DEPTH):
        level = [entry for name, part in level for entry in _parts(name, part)]
        if wrong := next((name for name, part in level if isinstance(part, float) and not math.isfinite(part)), None):
            fail(f"gives `{printable(wrong)}` a value that is no number of JSON: NaN, or beyond 1.8e308")
    if level:
        fail(f"is nested deeper than the {MOST_DEPTH} levels that are read")
    return data


def strict_json(text: str | bytes) -> Any:
    """Return the data of a JSON text; raise `ValueError` for anything else, NaN and infinite numbers among it."""
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _parts(name: str, data: Any) -> Iterable[tuple[str, Any]]:
    """Return what an object or a list holds, by its path."""
    if isinstance(data, dict):
        return ((f"{name}.{key}" if name else key, part) for key, part in data.items())
    return ((f"{name}.{at}", part) for at, part in enumerate(data)) if isinstance(data, list) else ()


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"`{text[:40]}` is beyond any number")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"`{text}` is no number of JSON")
