"""How a configuration runs besides mesh and formats: context parallelism, overlap, fusion, clock, power cap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens.common.errors import Problem, did_you_mean
from energylens.common.show import shown
from energylens.inputs import routing
from energylens.inputs.axis_text import is_whole, numbers
from energylens.inputs.columns import Form, Switch, Whole, Words

Where = Literal["prefill", "decode", "both"]
"""Phases in which collectives are overlapped."""

RUNNING: Final[dict[str, object]] = {
    "cp": 1,
    "overlap_stages": None,
    "overlap_sms": 0,
    "overlap_where": "prefill",
    "sequence_parallel": False,
    "fused_norm": False,
    "sm_clock_mhz": None,
    "power_cap_w": None,
    "routing": None,
    "placement": "contiguous",
}
"""Axes with their defaults: None leaves overlap and routing to the spec, clock and power as they are."""

HELP: Final[dict[str, str]] = {
    "cp": "Context parallelism",
    "overlap_stages": "Stages of compute beside which collectives run",
    "overlap_sms": "SMs that overlapped collectives take",
    "overlap_where": "Where collectives are overlapped: prefill, decode, both",
    "sequence_parallel": "Reduce-scatter and all-gather in place of all-reduce",
    "fused_norm": "Norms inside the all-reduce before them",
    "sm_clock_mhz": "Locked SM clock in MHz",
    "power_cap_w": "Cap on the power of each GPU in W",
    "routing": "How tokens choose experts: uniform, dirichlet:0.8, zipf:0.5, power_law:1.2, balanced, counts:FILE",
    "placement": "Which GPU holds which expert: contiguous, balanced, replicated:COPIES",
}

_MOST: Final = {"cp": 1024, "overlap_stages": 1024, "overlap_sms": 1024, "sm_clock_mhz": 10_000, "power_cap_w": 20_000}
_SWITCHES: Final = ("sequence_parallel", "fused_norm")
_TEXTS: Final = ("overlap_where", "routing", "placement")


def values(text: str, axis: str) -> list[Any]:
    """Read values of an axis as text: numbers and ranges, `own` for None, `off,on` for switches, phases."""
    words: dict[str, Any]
    if axis in _SWITCHES:
        words = {"off": False, "on": True, "false": False, "true": True}
    elif axis == "overlap_where":
        words = {name: name for name in get_args(Where)}
    else:
        words = {"own": None} if RUNNING[axis] is None else {}
    found: list[Any] = []
    for part in text.split(","):
        word = part.strip()
        if word in words:
            found.append(words[word])
        else:
            found += [word] if axis in (*_TEXTS, *_SWITCHES) else numbers(word, axis)
    return found


def problem(value: object, axis: str) -> Problem | None:
    """Return what is wrong with a value of an axis."""
    if axis in _SWITCHES:
        if isinstance(value, bool):
            return None
        return Problem(
            f"`{axis}` is on or off, found `{shown(value)}`",
            hint="write off or on, in Python False or True",
            code="axis-value",
        )
    if axis == "overlap_where":
        if isinstance(value, str) and value in get_args(Where):
            return None
        hint = did_you_mean(shown(value), get_args(Where)) or f"use {', '.join(get_args(Where))}"
        return Problem(f"`{axis}` is no phase: `{shown(value)}`", hint=hint, code="axis-value")
    if axis == "routing":
        return None if value is None else routing.problem(value if isinstance(value, str) else shown(value))
    if axis == "placement":
        return routing.placement_problem(value if isinstance(value, str) else shown(value))
    least = 0 if axis == "overlap_sms" else 1
    if (value is None and RUNNING[axis] is None) or is_whole(value, least, _MOST[axis]):
        return None
    own = " (own, in frames null, leaves it as it is)" if RUNNING[axis] is None else ""
    message = f"axis `{axis}` needs whole numbers from {least} to {_MOST[axis]:,}{own}, found `{shown(value)}`"
    return Problem(message, code="axis-value")


def _checked(axis: str) -> Callable[[str], Problem | None]:
    return lambda text: problem(text, axis)


def _form(axis: str, default: Any) -> Form:
    """Return what a column of an axis may hold."""
    if axis in _SWITCHES:
        return Switch(default)
    if axis in _TEXTS:
        return Words(_checked(axis), null=default is None, default=default)
    return Whole(int(axis != "overlap_sms"), _MOST[axis], null=default is None, default=default)


FORMS: Final[dict[str, Form]] = {axis: _form(axis, default) for axis, default in RUNNING.items()}
"""What each axis may hold as a column of a frame."""


def plain(value: Any, axis: str, laws: Sequence[str] = ()) -> Any:
    """Return a checked value as the core takes it: 0 for what was not asked for, a law by its place in the plan."""
    if axis == "routing":
        return 0 if value is None else 1 + laws.index(value)
    if axis == "placement":
        return routing.placement_code(value)
    return value if axis in (*_SWITCHES, "overlap_where") else int(value or 0)


def given(value: Any, axis: str, laws: Sequence[str] = ()) -> Any:
    """Return the value of an axis that the core was given."""
    if axis == "routing" and value:
        return laws[value - 1]
    if axis == "placement":
        return routing.placement_text(value)
    return None if value == 0 and axis in RUNNING and RUNNING[axis] is None else value


def for_core(row: Mapping[str, Any], laws: Sequence[str] = ()) -> dict[str, int | bool | str]:
    """Return the run options of a row by axis, as the core takes them."""
    return {axis: plain(row.get(axis, default), axis, laws) for axis, default in RUNNING.items()}


def columns_for_core(
    frame: pl.DataFrame, laws: Sequence[str] = ()
) -> tuple[list[dict[str, int | bool | str]], NDArray[np.uint32]]:
    """Return the different run options in a frame, and the position of each row's among them."""
    present = [axis for axis in RUNNING if axis in frame.columns]
    if not present:
        return [for_core({})], np.zeros(frame.height, dtype=np.uint32)
    different = frame.select(present).unique(maintain_order=True).with_row_index("position")
    rows = frame.select(present).join(different, on=present, how="left", nulls_equal=True, maintain_order="left")
    return [for_core(row, laws) for row in different.iter_rows(named=True)], rows["position"].to_numpy()


def typed(axis: str) -> Any:
    """Return the Polars type of an axis."""
    return pl.Boolean if axis in _SWITCHES else pl.String if axis in _TEXTS else pl.UInt32


def words(row: Mapping[str, Any]) -> list[str]:
    """Return in words what differs from the defaults: `4 stages x 16 SMs in prefill`, `1,200 MHz`."""
    told: Sequence[tuple[str, Callable[[Any], str]]] = (
        ("cp", lambda v: f"cp {v}"),
        (
            "overlap_stages",
            lambda v: "no overlap" if v == 1 else f"overlap {v} x {row.get('overlap_sms')} SMs in {where}",
        ),
        ("sequence_parallel", lambda _: "sequence parallel"),
        ("fused_norm", lambda _: "fused norm"),
        ("sm_clock_mhz", lambda v: f"{v} MHz"),
        ("power_cap_w", lambda v: f"cap {v} W"),
        ("routing", lambda v: f"routing {v}"),
        ("placement", lambda v: f"experts {v}"),
    )
    where = {"both": "both phases"}.get(str(row.get("overlap_where", "prefill")), row.get("overlap_where", "prefill"))
    return [tell(row[axis]) for axis, tell in told if row.get(axis, RUNNING[axis]) != RUNNING[axis]]
