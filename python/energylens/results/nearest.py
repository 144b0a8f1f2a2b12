"""The point that exceeds limits least, where nothing keeps them: which limit, by how much, on which point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens import _core
from energylens.common.errors import Problem
from energylens.engine.reductions import point_frame, reduce_range
from energylens.engine.result_columns import ENERGY
from energylens.engine.space import Limit, Space

_MOST_WORK: Final = 1e8
"""Work up to which every point is looked at again; some seven seconds on two cores. Beyond it a sample is."""

_SAMPLE: Final = 65_536
_MOST_COLUMNS: Final = 6
"""Columns that the core trades off."""


@dataclass(frozen=True)
class Nearest:
    """The point of a frame that exceeds limits least.

    `row` is the point; `limit` the one that it exceeds most, `beyond` by how much as a share of the limit; `alone` how
    far the nearest point of each limit by itself is beyond it, 0 where one keeps it. `exact` tells whether every point
    was looked at.
    """

    row: Mapping[str, Any]
    limit: Limit
    beyond: float
    alone: Sequence[float]
    exact: bool = True

    def words(self, point: str) -> str:
        """Return it as the end of a message; `point` is the row in words."""
        value = float(self.row[self.limit.column])
        sampled = "" if self.exact else ", of a sample"
        return f"nearest{sampled}: {self.limit.column} {value:.3g} ({percent(self.beyond)} beyond its limit) on {point}"

    def each(self, limits: Sequence[Limit]) -> list[str]:
        """Return what stands in the way of each of several limits by itself."""
        if len(limits) < 2:
            return []
        return [
            f"{limit} alone: {'can be kept' if beyond <= 0 else f'at least {percent(beyond)} beyond it'}"
            for limit, beyond in zip(limits, self.alone, strict=True)
        ]

    def data(self) -> dict[str, Any]:
        """Return it as plain data, for `--json`."""
        content = {"limit": str(self.limit), "column": self.limit.column, "value": float(self.row[self.limit.column])}
        return {"nearest": content | {"beyond": self.beyond, "exact": self.exact, "point": dict(self.row)}}


def percent(share: float) -> str:
    """Return a share in percent, of at least two digits."""
    return f"{100.0 * share:,.0f} %" if share >= 0.095 else f"{100.0 * share:.2g} %"


def nearest_row(frame: pl.DataFrame, limits: Sequence[Limit], exact: bool = True) -> Nearest:
    """Return the row of a frame that exceeds its limits least; of equals the one of least joules, then the first."""
    excess = np.array([_beyond(frame[limit.column].cast(pl.Float64).to_numpy(), limit) for limit in limits])
    worst = excess.max(axis=0)
    joules = frame[ENERGY].to_numpy() if ENERGY in frame.columns else np.zeros(frame.height)
    at = int(np.lexsort((np.arange(frame.height), joules, worst))[0])
    which = int(excess[:, at].argmax())
    alone = [float(values.min()) for values in excess]
    return Nearest(frame.row(at, named=True), limits[which], float(worst[at]), alone, exact)


def nearest_point(space: Space) -> Nearest | None:
    """Return the point of a space that exceeds its limits least, if one is known that runs.

    Every point is looked at: what exceeds the limits least lies on the front of the limited columns. Of a space that is
    too large for that, a sample is.
    """
    limits = space.parsed_limits
    signs = {limit.column: 1.0 if np.isfinite(limit.highest) else -1.0 for limit in limits}
    distinct = {(limit.column, np.isfinite(limit.highest)) for limit in limits}
    exact = len(distinct) == len(signs) <= _MOST_COLUMNS and space.plan.core.space_work(space.json) <= _MOST_WORK
    indices = _front(space, signs) if exact else _sample(space)
    runs = point_frame(space, indices, 1, breakdown=True).filter(pl.col("feasible"))
    return nearest_row(runs, limits, exact) if runs.height else None


def _front(space: Space, signs: Mapping[str, float]) -> NDArray[np.uint64]:
    """Return the points that nothing beats in columns, of every point that runs."""
    from energylens.engine.evaluate import default_threads

    reduction = _core.Reduction(space.plan.core, space.json, list(signs.items()), [], None, 0, None, [])
    reduce_range(reduction, 0, space.size, default_threads())
    indices: NDArray[np.uint64] = reduction.contents()["front"]
    return indices


def _sample(space: Space) -> NDArray[np.uint64]:
    """Return points evenly spread over a space."""
    count = min(space.size, _SAMPLE)
    return np.array([at * (space.size - 1) // max(count - 1, 1) for at in range(count)], dtype=np.uint64)


def _beyond(values: NDArray[np.float64], limit: Limit) -> NDArray[np.float64]:
    """Return how far values are beyond a limit, as a share of it; 0 where they keep it."""
    bound = limit.highest if np.isfinite(limit.highest) else limit.lowest
    over = values - bound if np.isfinite(limit.highest) else bound - values
    excess: NDArray[np.float64] = np.maximum(over, 0.0) / max(abs(bound), 1e-300)
    return np.where(np.isnan(excess), np.inf, excess)  # a result that there is not keeps no limit


def refused(message: str, nearest: Nearest, point: str, limits: Sequence[Limit]) -> Problem:
    """Return the problem of limits that nothing keeps, with the nearest point."""
    hint = "; ".join(["relax that limit, or widen the axes", *nearest.each(limits)])
    return Problem(f"{message}; {nearest.words(point)}", hint=hint, code="limits", data=nearest.data())
