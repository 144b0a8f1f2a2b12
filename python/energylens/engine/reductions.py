"""What is kept of the points of a space besides their counts: front, best few, best of each group, distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens import _core
from energylens.common.errors import Problem, SpaceError, did_you_mean
from energylens.common.show import shown
from energylens.common.units import RESULTS
from energylens.engine.frame import results
from energylens.engine.space import Space
from energylens.inputs.axis_lists import listed

MOST_TOP = 1_000_000

Kept = dict[str, Any]


@dataclass(frozen=True)
class Keep:
    """What to keep of a space; every part can be made in pieces and merged, in any order, with the same outcome.

    `epsilon`: a front on which every point has one within a factor of `1 + epsilon` (Laumanns et al. 2002), with the
    best by the first objective; None keeps the exact front with its ties (the 4,096 lowest indices of each). `top`:
    that many points with the best first objective. `best_per`: the best by the first objective for each combination of
    these axes. `distributions`: result columns counted in bins of at most 1/128 relative width, for histograms and
    quantiles.
    """

    epsilon: float | None = None
    top: int = 0
    best_per: Sequence[str] = ()
    distributions: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Raise `SpaceError` with every problem."""
        problems: list[Problem] = []
        if self.epsilon is not None and not (type(self.epsilon) in (int, float) and 2**-52 <= self.epsilon <= 1):
            problems.append(
                Problem(f"`epsilon` should be above 0 and at most 1, found {shown(self.epsilon)}", code="keep")
            )
        if not isinstance(self.top, int) or isinstance(self.top, bool) or not 0 <= self.top <= MOST_TOP:
            problems.append(Problem(f"`top` should be 0 to {MOST_TOP:,}, found {shown(self.top)}", code="keep"))
        for field, what, known in (
            ("best_per", "axis", list(_core.AXES)),
            ("distributions", "result column", _core.COLUMNS),
        ):
            names = tuple(listed(getattr(self, field)))
            object.__setattr__(self, field, names)
            wrong = [shown(name) for name in names if not isinstance(name, str) or name not in known]
            problems += [
                Problem(f"unknown {what} `{name}` in `{field}`", hint=did_you_mean(name, known), code="keep")
                for name in wrong
            ]
            if any(name in names[:at] for at, name in enumerate(names)):
                problems.append(Problem(f"`{field}` names something twice", code="keep"))
        if problems:
            raise SpaceError(problems)

    @property
    def resolution(self) -> int | None:
        """Bits of mantissa that tell objectives apart."""
        return None if self.epsilon is None else max(0, math.ceil(-math.log2(self.epsilon)))

    def reduction(self, space: Space) -> _core.Reduction:
        """Return an empty reduction of a space; raise `SpaceError` if there are too many groups or laws of routing."""
        one_law(space, self.best_per)
        try:
            return _core.Reduction(
                space.plan.core,
                space.json,
                space.signed_objectives,
                space.bounds,
                self.resolution,
                max(self.top, int(self.epsilon is not None)),
                list(self.best_per) or None,
                list(self.distributions),
            )
        except _core.PlanError as error:
            if all(problem.code != "groups" for problem in error.problems):
                raise
            groups = math.prod(len(space.axes[axis]) for axis in self.best_per)
            message = f"`best_per` makes {groups:,} groups, 4,194,304 are the most"
            raise SpaceError(Problem(message, hint="name fewer or shorter axes", code="keep")) from None

    def describe(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "epsilon": self.epsilon,
            "top": self.top,
            "best_per": list(self.best_per),
            "distributions": list(self.distributions),
        }


def one_law(space: Space, best_per: Sequence[str] = (), verb: str = "explore") -> None:
    """Raise `SpaceError` for several laws of routing whose points would compete: nobody can choose the friendliest."""
    laws = space.axes["routing"]
    if len(laws) > 1 and "routing" not in best_per:
        hint = 'give one, or keep the best of each: --best-per routing, in Python best_per=["routing"]'
        if verb != "explore":
            hint = f"give one: `{verb}` keeps one front; explore keeps the best of each, with --best-per routing"
        message = f"{len(laws)} laws of routing, of which a front would take the friendliest: a law is no choice"
        raise SpaceError(Problem(message, hint=hint, code="keep"))


def point_frame(space: Space, indices: NDArray[np.uint64], threads: int, breakdown: bool = True) -> pl.DataFrame:
    """Return points of a space with their results, in the order given."""
    names = _core.COLUMNS if breakdown else RESULTS
    columns = space.plan.core.evaluate_space(space.json, indices, names, threads)
    return pl.concat([space.points(indices), results(columns, breakdown)], how="horizontal")


def frames(space: Space, keep: Keep, kept: Kept, threads: int) -> dict[str, pl.DataFrame]:
    """Return what was kept as frames by name: `front`, and `top`, `best_per`, `distributions` if asked for."""
    objectives = space.signed_objectives
    indices = kept["front"]
    if keep.epsilon is not None:
        # The best by the first objective is always shown, also where another stands for it on the thinned front.
        indices = np.union1d(indices, kept["top"][:1])
    front = point_frame(space, indices, threads)
    found = {
        "front": front.sort(
            [name for name, _ in objectives], descending=[sign < 0 for _, sign in objectives], maintain_order=True
        )
    }
    if keep.top:
        found["top"] = point_frame(space, kept["top"][: keep.top], threads)
    if keep.best_per:
        found["best_per"] = point_frame(space, kept["best"], threads)
    if keep.distributions:
        names = pl.Series("column", keep.distributions, dtype=pl.String)
        found["distributions"] = pl.DataFrame(
            {
                "column": names.gather(kept["bin_column"]),
                "low": kept["bin_low"],
                "high": kept["bin_high"],
                "count": kept["bin_count"],
            }
        )
    return found
