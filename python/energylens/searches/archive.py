"""All points that a search has evaluated: counts by reason, and the front of those that run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.util.nds.non_dominated_sorting import find_non_dominated

from energylens import _core

Keys = NDArray[np.int64]
Rows = NDArray[np.float64]

_FEWEST_WAITING = 4096


def among(ascending: Keys, keys: Keys) -> NDArray[np.bool_]:
    """Tell for each key whether it is one of some ascending ones, of which there is at least one."""
    places = np.minimum(np.searchsorted(ascending, keys), len(ascending) - 1)
    present: NDArray[np.bool_] = ascending[places] == keys
    return present


class KeySet:
    """A growing set of integers: sorted runs, each more than twice as long as the next, so that adding stays cheap."""

    def __init__(self) -> None:
        self._runs: list[Keys] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def holds(self, keys: Keys) -> NDArray[np.bool_]:
        """Tell for each key whether it is in the set."""
        present = np.zeros(len(keys), dtype=bool)
        for run in self._runs:
            present |= among(run, keys)
        return present

    def add(self, keys: Keys) -> None:
        """Add ascending keys, none of which is in the set yet."""
        if len(keys):
            self._runs.append(keys)
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")

    def sorted(self) -> Keys:
        """Return all keys, ascending."""
        return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *self._runs]), kind="stable")


class Archive:
    """Counts of all points met, and the non-dominated ones among those inside the limits, which no population caps.

    A point counts once, however often it is met. `objectives` are all minimised.
    """

    def __init__(self, objectives: int) -> None:
        self._seen = KeySet()
        self._counts = np.zeros(len(_core.REASONS), dtype=np.int64)
        self.outside = 0
        self._keys: Keys = np.zeros(0, dtype=np.int64)
        self._values: Rows = np.zeros((0, objectives))
        self._waiting: list[tuple[Keys, Rows]] = []

    def add(self, keys: Keys, values: Rows, reasons: NDArray[Any], inside: NDArray[np.bool_]) -> None:
        """Take note of points: index, objectives, why they cannot run (0: they can), whether inside the limits."""
        unique, first = np.unique(keys, return_index=True)
        new = ~self._seen.holds(unique)
        first = first[new]
        self._seen.add(unique[new])
        self._counts += np.bincount(reasons[first], minlength=len(self._counts))
        self.outside += int(((reasons[first] == 0) & ~inside[first]).sum())
        chosen = first[inside[first]]
        self._waiting.append((keys[chosen], values[chosen]))
        if sum(len(waiting_keys) for waiting_keys, _ in self._waiting) > max(_FEWEST_WAITING, len(self._keys)):
            self._reduce()

    def _reduce(self) -> None:
        """Drop what is dominated; ties are kept."""
        if not self._waiting:
            return
        keys = np.concatenate([self._keys, *(waiting_keys for waiting_keys, _ in self._waiting)])
        values = np.concatenate([self._values, *(rows for _, rows in self._waiting)])
        best = find_non_dominated(values)
        best = best[np.argsort(keys[best], kind="stable")]
        self._keys, self._values, self._waiting = keys[best], values[best], []

    @property
    def points(self) -> int:
        """Number of different points met."""
        return len(self._seen)

    @property
    def by_reason(self) -> dict[str, int]:
        """Number of different points met by why they cannot run, those that can as `ok`."""
        return {name: int(n) for name, n in zip(_core.REASONS, self._counts, strict=True) if n}

    @property
    def keys(self) -> Keys:
        """Indices of the non-dominated points, ascending."""
        self._reduce()
        return self._keys

    @property
    def values(self) -> Rows:
        """Objectives of the non-dominated points, in the order of `keys`."""
        self._reduce()
        return self._values

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what a checkpoint stores."""
        return {
            "seen": self._seen.sorted(),
            "counts": self._counts,
            "outside": np.array(self.outside),
            "front": self.keys,
        }

    def restore(self, state: Mapping[str, NDArray[Any]], objectives: Callable[[Keys], Rows]) -> None:
        """Take up a state; objectives are not stored but evaluated again."""
        self._seen = KeySet()
        self._seen.add(state["seen"])
        self._counts = state["counts"].copy()
        self.outside = int(state["outside"])
        self._keys, self._waiting = state["front"], []
        self._values = objectives(self._keys)
