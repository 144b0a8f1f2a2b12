"""Run options on their way into the core and back, and as words: the axes of `inputs.axes` marked `run_option`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens.inputs import routing
from energylens.inputs.axes import AXES
from energylens.inputs.axes import RUNNING as RUNNING


def plain(value: Any, axis: str, laws: Sequence[str] = ()) -> Any:
    """Return a checked value as the core takes it: 0 for what is left to it, a law by its place in the plan."""
    match AXES[axis].kind:
        case "law":
            return 0 if value is None else 1 + laws.index(value)
        case "placement":
            return routing.placement_code(value)
        case "count":
            return int(value or 0)
        case "size":
            return float(value)
        case _:
            return value


def from_core(value: Any, axis: str, laws: Sequence[str] = ()) -> Any:
    """Return the value of an axis from what the core takes: the inverse of `plain`."""
    match AXES[axis].kind:
        case "law" if value:
            return laws[value - 1]
        case "placement":
            return routing.placement_text(value)
        case "size":
            return int(value)
        case _:
            return None if value == 0 and AXES[axis].nullable else value


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


def words(row: Mapping[str, Any]) -> list[str]:
    """Return in words what differs from the defaults: `overlap 4 x 16 SMs in prefill`, `1200 MHz`."""
    changed = {name: row[name] for name, default in RUNNING.items() if row.get(name, default) != default}
    labels = ((AXES[name].label, value) for name, value in changed.items())
    texts = [label.format(value) if isinstance(label, str) else label(value, row) for label, value in labels]
    return [text for text in texts if text]
