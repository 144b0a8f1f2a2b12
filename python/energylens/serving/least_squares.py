"""Least squares with coefficients that are not negative, summed in a fixed order (`energylens.serving.sums`)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from energylens.serving.sums import row_sums

# Why not scipy.optimize.nnls: it sums by BLAS, so that its last bits, and with them the weights of a workload and the
# hash of every plan made for it, would differ between processors (tests/serving/test_same_bytes.py).

Column = NDArray[np.float64]


def nonnegative_least_squares(matrix: Column, wanted: Column) -> Column:
    """Return the x >= 0 of least `|matrix·x - wanted|`: the active sets of Lawson and Hanson (1974, chapter 23).

    Parameters
    ----------
    matrix
        Shape (equations, coefficients), of full column rank.
    wanted
        Shape (equations,).
    """
    count = matrix.shape[1]
    solution, free = np.zeros(count), np.zeros(count, dtype=bool)
    columns = np.ascontiguousarray(matrix.T)
    least = 10.0 * np.finfo(float).eps * float(np.abs(columns).sum(axis=1).max()) * max(matrix.shape)
    for _ in range(3 * count):
        slope = row_sums(columns, wanted - row_sums(matrix, solution))
        slope[free] = -np.inf
        entering = int(slope.argmax())
        if not slope[entering] > least:
            break
        free[entering] = True
        while free.any():
            trial = np.zeros(count)
            trial[free] = _unconstrained(matrix[:, free], wanted)
            blocking = free & (trial <= 0.0)
            if not blocking.any():
                solution = trial
                break
            steps = solution[blocking] / (solution[blocking] - trial[blocking])
            solution = solution + float(steps.min()) * (trial - solution)
            leaving = np.flatnonzero(blocking)[steps <= steps.min()]
            free[leaving] = False
            free &= solution > 0.0
            solution[~free] = 0.0
    return solution


def _unconstrained(matrix: Column, wanted: Column) -> Column:
    """Return the least-squares solution by Householder reflections."""
    upper, right = matrix.astype(np.float64, order="C", copy=True), wanted.astype(np.float64, copy=True)
    count = upper.shape[1]
    for place in range(count):
        mirror = upper[place:, place].copy()
        length = math.sqrt(float(np.add.reduce(mirror * mirror)))
        mirror[0] += math.copysign(length, mirror[0])
        square = float(np.add.reduce(mirror * mirror))
        if square == 0.0:
            continue
        block = upper[place:, place:]
        block -= mirror[:, None] * (2.0 / square * np.add.reduce(mirror[:, None] * block, axis=0))
        right[place:] -= mirror * (2.0 / square * float(np.add.reduce(mirror * right[place:])))
    solution = np.zeros(count)
    for place in range(count - 1, -1, -1):
        known = float(np.add.reduce(upper[place, place + 1 :] * solution[place + 1 :]))
        pivot = float(upper[place, place])
        solution[place] = (right[place] - known) / pivot if pivot != 0.0 else 0.0
    return solution
