"""Curves of up to three pieces, each for messages up to a size: the least mean error, exactly, by linear programs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from energylens.calibrate.kernels.formulas import Array

MOST = 3
"""Pieces of a curve: a library has that many protocols."""

FEWEST = 3
"""Sizes a piece is fitted to."""

GAIN = 0.25
FLOOR = 0.005
"""An additional piece stays if it lowers the mean error by that share, and by that much."""

SCALE = np.array([1e-6, 1e-9, 1e-12])


@dataclass(frozen=True)
class Pieces:
    """Alpha (s), root (s/√byte) and slope (s/byte) of each piece, and the bytes up to which all but the last hold."""

    values: Array
    cuts: tuple[float, ...]
    error: float

    def seconds(self, size: Array) -> Array:
        """Return the least time over the pieces that take a message, in s."""
        times = _basis(size) @ self.values.T
        for piece, cut in enumerate(self.cuts):
            times[size > cut, piece] = np.inf
        return np.asarray(times.min(axis=1))


def _basis(size: Array) -> Array:
    return np.column_stack([np.ones(len(size)), np.sqrt(size), size])


def smooth(seconds: Array) -> Array:
    """Return times without spikes: no message takes longer than a larger one."""
    return np.minimum.accumulate(seconds[::-1])[::-1]


def _solve(size: Array, seconds: Array, piece: NDArray[np.int_], count: int) -> tuple[float, Array] | None:
    """Return the least mean |predicted/measured - 1| of pieces given by size, and their coefficients (all at least 0).

    No later piece is faster than the one a size belongs to, so that the least over all pieces is that one.
    """
    from scipy.optimize import linprog

    rows = len(size)
    basis = _basis(size) * SCALE / seconds[:, None]
    predicted = np.zeros((rows, 3 * count + rows))
    later = []
    for i in range(rows):
        index = int(piece[i])
        predicted[i, 3 * index : 3 * index + 3] = basis[i]
        for other in range(index + 1, count):
            line = np.zeros(3 * count + rows)
            line[3 * index : 3 * index + 3] = basis[i]
            line[3 * other : 3 * other + 3] = -basis[i]
            later.append(line)
    slack = np.hstack([np.zeros((rows, 3 * count)), np.eye(rows)])
    bounds = [predicted - slack, -predicted - slack, *([np.array(later)] if later else [])]
    limits = np.concatenate([np.ones(rows), -np.ones(rows), np.zeros(len(later))])
    cost = np.r_[np.zeros(3 * count), np.full(rows, 1 / rows)]
    solution = linprog(cost, A_ub=np.vstack(bounds), b_ub=limits, bounds=(0, None), method="highs")
    if solution.status != 0:
        return None
    return float(solution.fun), solution.x[: 3 * count].reshape(count, 3) * SCALE


def fit(size: Array, seconds: Array) -> Pieces:
    """Return the pieces of a curve through rising sizes (bytes) and their times (s), as few as do."""
    seconds, rows = smooth(seconds), len(size)
    best: Pieces | None = None
    for count in range(1, MOST + 1):
        tried: list[Pieces] = []
        for inner in itertools.combinations(range(1, rows), count - 1):
            ends = (0, *inner, rows)
            if any(after - before < FEWEST for before, after in itertools.pairwise(ends)):
                continue
            piece = np.searchsorted(np.array(inner), np.arange(rows), side="right")
            if solution := _solve(size, seconds, piece, count):
                cuts = tuple(float(np.sqrt(size[end - 1] * size[end])) for end in inner)
                tried.append(Pieces(solution[1], cuts, solution[0]))
        least = min(tried, key=lambda pieces: pieces.error, default=None)
        enough = best is None or (least and least.error < min(best.error * (1 - GAIN), best.error - FLOOR))
        if least and enough:
            best = least
    if best is None:
        raise ValueError("a curve needs at least three sizes")
    return best
