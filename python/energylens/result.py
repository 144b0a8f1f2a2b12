"""A front with how it was found: a Polars frame, an answer in a sentence, a Parquet file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens.evaluation import checked_threads
from energylens.frame import results
from energylens.space import Space


@dataclass(frozen=True)
class Result:
    """Non-dominated points of a space, sorted by the first objective."""

    frame: pl.DataFrame
    space: Space
    method: str
    points: int
    by_reason: dict[str, int]
    outside_limits: int
    seconds: float = field(compare=False)

    @property
    def feasible(self) -> int:
        """Number of points that can run."""
        return self.by_reason.get("ok", 0)

    @property
    def plan_sha256(self) -> str:
        """Name of the plan the points belong to."""
        return self.space.plan.sha256

    @property
    def best(self) -> dict[str, Any] | None:
        """The point with the best first objective, if any point is left."""
        return self.frame.row(0, named=True) if self.frame.height else None

    def answer(self) -> str:
        """Return the one-line answer."""
        from energylens.report.answer import sentence

        return sentence(self)

    def write(self, path: str | Path) -> Path:
        """Write the front as Parquet with plan hash, version and units in its metadata, and return the path."""
        from energylens.store import write_parquet

        note = {"method": self.method, "points": self.points, "by_reason": self.by_reason}
        return write_parquet(self.frame, path, self.plan_sha256, note | {"space": self.space.describe()})


def front_result(
    space: Space,
    indices: NDArray[np.uint64],
    method: str,
    points: int,
    by_reason: dict[str, int],
    outside: int,
    seconds: float,
    threads: int | None = None,
) -> Result:
    """Return the result of a front given by ascending indices, with all result and breakdown columns."""
    columns = space.plan.core.evaluate_space(space.json, indices, True, checked_threads(threads))
    frame = pl.concat([space.points(indices), results(columns, breakdown=True)], how="horizontal")
    names = [name for name, _ in space.signed_objectives]
    descending = [sign < 0 for _, sign in space.signed_objectives]
    frame = frame.sort(names, descending=descending, maintain_order=True)
    return Result(frame, space, method, points, by_reason, outside, seconds)
