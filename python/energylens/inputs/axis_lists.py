"""Values of an axis as Python gives them: one, or any iterable of them, of a bounded number."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from energylens.common.errors import Problem, SpaceError
from energylens.common.show import shown
from energylens.inputs.axes import LARGEST
from energylens.inputs.axis_text import is_whole

MOST_VALUES: Final = 10**7 + 1
"""Most values of one axis."""


def listed(value: Any) -> list[Any]:
    """Return the values of an axis: one, or any iterable of them but a text; raise `SpaceError` for too many."""
    values = [value]
    if not isinstance(value, (str, bytes, Path)) and isinstance(value, Iterable):
        with suppress(TypeError, ValueError):  # an array without a dimension, for one
            values = list(islice(value, MOST_VALUES + 1))
    if len(values) > MOST_VALUES:
        hint = f"give at most {MOST_VALUES:,}: a larger step"
        raise SpaceError(Problem("an axis has too many values", hint=hint, code="axis-value"))
    return [item.item() if isinstance(item, np.generic) else item for item in values]


def whole_numbers(value: Any, axis: str, most: int) -> list[int]:
    """Return the values of an axis of whole numbers from 1; raise `SpaceError` for anything else, and for none."""
    values = listed(value)
    wrong = next((item for item in values if not is_whole(item, 1, most)), None)
    if wrong is not None or not values or None in values:
        reason = f"found `{shown(wrong)}`" if values else "found none"
        raise SpaceError(Problem(f"axis `{axis}` needs whole numbers from 1 to {most:,}, {reason}", code="axis-value"))
    return [int(item) for item in values]


def different(values: Sequence[Any], axis: str) -> list[Any]:
    """Return values without repeats, 8.0 as 8; raise `SpaceError` for what cannot be the value of an axis."""
    whole = [int(v) if isinstance(v, float) and v.is_integer() and abs(v) <= LARGEST else v for v in values]
    try:
        return list(dict.fromkeys(whole))
    except TypeError:
        wrong = next(value for value in values if not isinstance(value, Hashable) or isinstance(value, tuple))
        hint = "give one value, or a flat list of them"
        problem = Problem(f"`{shown(wrong)}` is no value of axis `{axis}`", hint=hint, code="axis-value")
        raise SpaceError(problem) from None
