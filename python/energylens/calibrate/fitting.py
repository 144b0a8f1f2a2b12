"""Robust fits of a few coefficients, with every fifth shape held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize  # type: ignore[import-untyped, unused-ignore]

from energylens.calibrate.kernels.formulas import Array

Model = Callable[[Array], Array]
Flags = NDArray[np.bool_]
Index = NDArray[np.intp]

SAMPLE = 3000
"""Rows a fit sees at most."""

STEPS = 1500


@dataclass(frozen=True)
class Coefficient:
    """One coefficient: first value, below what it counts as zero, and whether it is a share of one."""

    start: float
    zero: float = 0.0
    share: bool = False


@dataclass(frozen=True)
class Score:
    """Errors in percent on the held-out rows."""

    mape_percent: float
    median_percent: float
    p90_percent: float
    rows: int

    def as_dict(self) -> dict[str, float | int]:
        """Return the errors as plain numbers."""
        return {
            "mape_percent": self.mape_percent,
            "median_percent": self.median_percent,
            "p90_percent": self.p90_percent,
            "rows": self.rows,
        }


def mixed(*columns: Array) -> NDArray[np.uint64]:
    """Return a 64-bit hash of every row of whole numbers."""
    hashed = np.full(len(columns[0]), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for column in columns:
        hashed = (hashed ^ column.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        hashed ^= hashed >> np.uint64(29)
        hashed *= np.uint64(0x94D049BB133111EB)
        hashed ^= hashed >> np.uint64(32)
    return hashed


def held_out(*shape: Array) -> Flags:
    """Return which rows are held out: those of about every fifth shape."""
    return np.asarray(mixed(*shape) % np.uint64(5) == 0)


def sample(held: Flags, *columns: Array) -> Index:
    """Return the rows to fit, at most `SAMPLE`, in an order set by their hash."""
    rows = np.flatnonzero(~held)
    return np.asarray(rows[np.argsort(mixed(*columns)[rows], kind="stable")[:SAMPLE]])


def rounded(value: float, digits: int = 3) -> float:
    """Return a value at so many significant digits."""
    return float(f"{value:.{digits - 1}e}")


def _inner(values: Array, share: Array) -> Array:
    inner = np.log(np.maximum(values, 1e-300))
    return np.where(share, np.log(-np.minimum(inner, -1e-6)), inner)


def _outer(inner: Array, share: Array) -> Array:
    value = np.exp(np.clip(inner, -60, 40))
    return np.where(share, np.exp(-value), value)


def fit(predict: Model, measured: Array, starts: Sequence[Sequence[Coefficient]]) -> tuple[float, Array]:
    """Return the least mean `|ln(predicted/measured)|` of several starts, and the rounded coefficients there."""
    best: tuple[float, Array] | None = None
    for start in starts:
        share = np.array([coefficient.share for coefficient in start])
        zero = np.array([coefficient.zero for coefficient in start])

        def residual(inner: Array, share: Array = share) -> Array:
            ratio = np.log(predict(_outer(inner, share)) / measured)
            return np.nan_to_num(ratio, nan=20.0, posinf=20.0, neginf=-20.0)

        def loss(inner: Array) -> float:
            return float(np.abs(residual(inner)).mean())

        point = _inner(np.array([coefficient.start for coefficient in start]), share)
        with np.errstate(all="ignore"):
            for scale in (0.2, 0.05):
                point = least_squares(residual, point, loss="soft_l1", f_scale=scale, max_nfev=25, diff_step=1e-3).x
            for _ in range(3):
                point = minimize(loss, point, method="Nelder-Mead", options={"maxfev": STEPS, "adaptive": True}).x
            values = np.array([rounded(value) for value in _outer(point, share)])
            values[values < zero] = 0.0
            error = float(np.nan_to_num(np.abs(np.log(predict(values) / measured)).mean(), nan=20.0, posinf=20.0))
        if best is None or error < best[0]:
            best = error, values
    if best is None:
        raise ValueError("a fit needs a start")
    return best


def score(predicted: Array, measured: Array) -> Score:
    """Return the relative errors of predicted against measured times."""
    if not len(measured):
        return Score(float("nan"), float("nan"), float("nan"), 0)
    error = 100 * np.abs(predicted / measured - 1)
    return Score(
        round(float(error.mean()), 1),
        round(float(np.median(error)), 1),
        round(float(np.quantile(error, 0.9)), 1),
        len(error),
    )


def ranges(**columns: Array) -> dict[str, list[float]]:
    """Return the least and largest value of every column."""
    return {name: [float(column.min()), float(column.max())] for name, column in columns.items()}
