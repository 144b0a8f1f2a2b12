"""When to end a search: the hypervolume of its front stops growing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from energylens.common.errors import Problem, SpaceError
from energylens.common.show import shown


class Stalled:
    """Tells whether the hypervolume (Zitzler & Thiele 1998) has all but stopped growing: by `tolerance` in `patience`.

    The reference point is a tenth of their range beyond the worst objectives of the first front found.
    """

    def __init__(self, patience: int, tolerance: float) -> None:
        if not isinstance(patience, int) or isinstance(patience, bool) or patience < 1:
            raise SpaceError(
                Problem(f"`patience` should be 1 or more generations, found {shown(patience)}", code="search")
            )
        number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
        if not number or not 0 <= tolerance < math.inf:
            raise SpaceError(Problem(f"`tolerance` should be 0 or more, found {shown(tolerance)}", code="search"))
        self.patience, self.tolerance = patience, tolerance
        self._every = max(1, patience // 10)
        self._reference: NDArray[np.float64] | None = None
        self._best, self._since = 0.0, 0

    def state(self) -> dict[str, NDArray[np.float64]]:
        """Return what a checkpoint stores."""
        reference = () if self._reference is None else tuple(self._reference.tolist())
        return {"stalled": np.array([self._best, self._since, *reference], dtype=np.float64)}

    def restore(self, state: Mapping[str, NDArray[Any]], objectives: int) -> None:
        """Take up a state, if there is one; raise `ValueError` if it is none."""
        if "stalled" in state:
            stored = state["stalled"]
            if stored.dtype != np.float64 or stored.ndim != 1 or len(stored) < 2 or not np.isfinite(stored).all():
                raise ValueError("it does not say when the search last gained something")
            best, since, *reference = stored.tolist()
            if best < 0 or not 0 <= since < 2**53 or len(reference) not in (0, objectives):
                raise ValueError("it does not say when the search last gained something")
            self._best, self._since = best, int(since)
            self._reference = np.array(reference) if reference else None

    def over(self, generation: int) -> bool:
        """Return whether the search had ended by a generation."""
        return generation - self._since >= self.patience

    def ends(self, front_of: Callable[[], NDArray[Any]], generation: int) -> bool:
        """Return whether to stop after a generation, `front_of` returns the front's objectives (all minimised)."""
        if generation % self._every:
            return False
        front = front_of()
        if not len(front):
            self._since = generation
            return False
        if self._reference is None:
            worst = front.max(axis=0)
            spread = worst - front.min(axis=0)
            self._reference = worst + 0.1 * np.where(spread > 0, spread, np.abs(worst))
        from moocore import hypervolume

        volume = float(hypervolume(front, ref=self._reference))
        if volume > self._best * (1 + self.tolerance):
            self._best, self._since = volume, generation
        return self.over(generation)
