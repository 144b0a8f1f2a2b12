"""How good choices are: fronts of time and energy, and SM counts of least energy. Runs are the measured truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from overlap_model import BLOCKS, Mask, Runs

from energylens.calibrate.kernels.formulas import Array

Index = NDArray[np.int64]
Chooser = Callable[[Index], Index]
NEAR, PLATEAU, CORNER = 0.01, 0.01, 1.10


def front(ms: Array, joules: Array) -> Index:
    """Return the configurations that no other beats or equals in both, unless it equals them in both."""
    no_worse = (ms[:, None] <= ms) & (joules[:, None] <= joules)
    better = no_worse & ((ms[:, None] < ms) | (joules[:, None] < joules))
    return np.flatnonzero(~better.any(axis=0))


def _area(ms: Array, joules: Array, corner: tuple[float, float]) -> float:
    """Return the area between the points and a corner that is worse in both."""
    area, floor = 0.0, corner[1]
    for i in np.lexsort((joules, ms)):
        if ms[i] < corner[0] and joules[i] < floor:
            area += (corner[0] - ms[i]) * (floor - joules[i])
            floor = float(joules[i])
    return area


def recovered(runs: Runs, chosen: Index) -> dict[str, float]:
    """Return which share of the measured front the chosen configurations recover, judged as measured."""
    true = front(runs.ms, runs.joules)
    ms, joules = runs.ms[chosen], runs.joules[chosen]
    near = (abs(ms / runs.ms[true][:, None] - 1) <= NEAR) & (abs(joules / runs.joules[true][:, None] - 1) <= NEAR)
    corner = CORNER * runs.ms.min(), CORNER * runs.joules.min()
    return {
        "size": len(chosen),
        "near_percent": 100 * float(near.any(axis=1).mean()),
        "strict_percent": 100 * float(np.isin(true, chosen).mean()),
        "hypervolume_percent": 100 * _area(ms, joules, corner) / _area(runs.ms, runs.joules, corner),
    }


def groups(runs: Runs) -> list[Mask]:
    """Return the windows at each block size: what is left to choose is the number of SMs."""
    return [runs.within(window, block) for window in runs.windows for block in BLOCKS]


def over_groups(runs: Runs, choose: Chooser) -> dict[str, float]:
    """Return the mean over the groups of what is recovered within each."""
    result = []
    for group in groups(runs):
        index = np.flatnonzero(group)
        result.append(recovered(runs.only(group), np.flatnonzero(np.isin(index, choose(index)))))
    return {key: fmean(entry[key] for entry in result) for key in result[0]}


def regret(runs: Runs, choose: Chooser, measured: Array) -> Array:
    """Return by how much the choice exceeds the least of its group, for every group."""
    indices = [np.flatnonzero(group) for group in groups(runs)]
    return np.array([measured[choose(index)[0]] / measured[index].min() - 1 for index in indices])


def summary(excess: Array) -> dict[str, float]:
    return {
        "within": int((excess <= PLATEAU).sum()),
        "of": len(excess),
        "mean_percent": 100 * float(excess.mean()),
        "most_percent": 100 * float(excess.max()),
    }


def by_count(runs: Runs, count: float) -> Chooser:
    return lambda index: index[runs.sms[index] == count]


def least(values: Array) -> Chooser:
    return lambda index: index[[int(np.argmin(values[index]))]]


def on_front(ms: Array, joules: Array) -> Chooser:
    return lambda index: index[front(ms[index], joules[index])]


def shortlist(ms: Array, joules: Array, slack: float) -> Index:
    """Return the configurations that no other is predicted to beat by more than the slack in both."""
    beaten = (ms[:, None] < ms * (1 - slack)) & (joules[:, None] < joules * (1 - slack))
    return np.flatnonzero(~beaten.any(axis=0))


def mean_of(rows: Iterable[dict[str, float]]) -> dict[str, Any]:
    rows = list(rows)
    return {key: fmean(row[key] for row in rows) for key in rows[0]}
