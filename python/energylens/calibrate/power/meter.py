"""What a power meter reads that still sees the load before: `s = m·s + (1 - m)·P`, row after row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from energylens.calibrate.robust import Array

EDGES = (1e-5, 2e-5, 5e-5, 1e-4, 1e-3)
"""Seconds of a kernel between which the memory `m` is one number: short kernels are timed over short windows."""
START = (0.9, 0.85, 0.8, 0.7, 0.5, 0.4)
GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)


def bucket(seconds: Array) -> NDArray[np.int_]:
    """Return the memory bucket of kernels of some duration (s)."""
    return np.digitize(seconds, EDGES)


def smear(values: Array, memory: Array, starts: NDArray[np.bool_]) -> Array:
    """Return what the meter shows of a series (any unit), forgetting everything where a series starts."""
    shown = []
    state = 0.0
    for value, keep, start in zip(values.tolist(), memory.tolist(), starts.tolist(), strict=True):
        state = value if start else keep * state + (1 - keep) * value
        shown.append(state)
    return np.array(shown)


def search(
    power: Array,
    read: Array,
    rows: NDArray[np.intp],
    buckets: NDArray[np.int_],
    starts: NDArray[np.bool_],
    memory: Array,
) -> Array:
    """Return the memory of each bucket that brings the smeared power (W) nearest to the readings of `rows` (W)."""
    memory = memory.copy()
    if not len(rows):
        return memory
    for place in sorted(set(buckets.tolist())):
        errors = []
        for value in GRID:
            memory[place] = value
            errors.append(float(np.abs(smear(power, memory[buckets], starts)[rows] / read[rows] - 1).mean()))
        memory[place] = GRID[int(np.argmin(errors))]
    return memory
