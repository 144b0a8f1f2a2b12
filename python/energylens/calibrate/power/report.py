"""What a fit of kernel power gives: coefficients, errors on held-out shapes, what GEMMs at the cap show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl

from energylens.calibrate.robust import Array
from energylens.common.errors import Problem, SpecError

BANDS = {
    "flop_bf16": (0.3e-12, 1.0e-12),
    "flop_fp8": (0.15e-12, 0.7e-12),
    "flop_fp4": (0.08e-12, 0.4e-12),
    "hbm": (60e-12, 180e-12),
    "hbm_weight": (60e-12, 180e-12),
    "hbm_kv": (60e-12, 360e-12),
    "hbm_activation": (60e-12, 240e-12),
    "link": (100e-12, 900e-12),
    "active": (0.0, 300.0),
}
"""Plausible J/FLOP, J/B and W; `active` stands for every class."""
_FEW = 15


class Rows(Protocol):
    """What the tables need of one family's rows."""

    name: str
    watts: Array
    arithmetic: Array
    in_fit: Array
    test: Array
    rows: pl.DataFrame

    @property
    def capped(self) -> Array:
        """Return which rows are at the power cap."""


@dataclass
class Fit:
    """Coefficients (J/FLOP, J/B, W), standard errors, meter memory by family, and errors on held-out shapes (%)."""

    gpu: str
    form: str
    static_w: float
    coefficients: dict[str, float]
    standard_errors: dict[str, float]
    memory: dict[str, list[float]]
    condition: float
    errors: list[dict[str, Any]]
    mean_error: float
    at_cap: list[dict[str, Any]]
    out_of_band: dict[str, str]
    notes: dict[str, str]


def rounded(value: float) -> float:
    """Return a coefficient to three significant digits, in its own unit."""
    return float(f"{value:.3g}")


def error_table(
    families: Sequence[Rows], shown: list[Array], dtypes: Sequence[str]
) -> tuple[list[dict[str, Any]], float]:
    """Return errors (%) of readings of held-out shapes, and their mean over families below the cap."""
    table: list[dict[str, Any]] = []
    means = []
    for family, reading in zip(families, shown, strict=True):
        relative = 100 * (reading / np.where(family.watts > 0, family.watts, np.nan) - 1)
        base = family.test & family.in_fit
        if (below := base & ~family.capped).any():
            means.append(float(np.abs(relative[below]).mean()))
        for dtype in dtypes:
            for rows, pick in (("below the cap", base & ~family.capped), ("at the cap", base & family.capped)):
                error = relative[pick & (family.arithmetic == dtype)]
                if len(error) >= _FEW:
                    table.append(
                        {"family": family.name, "dtype": dtype, "rows": rows, "n": len(error)} | summary(error)
                    )
    return table, round(float(np.mean(means)), 2) if means else float("nan")


def summary(relative: Array) -> dict[str, float]:
    """Return mean and median size of relative errors and their median (%)."""
    size = np.abs(relative)
    values = {"mape": size.mean(), "median": np.median(size), "bias": np.median(relative)}
    return {name: round(float(value), 1) for name, value in values.items()}


def cap_table(families: Sequence[Rows], static_w: float, dtypes: Sequence[str]) -> list[dict[str, Any]]:
    """Return W, FLOP/s and (W - static)/(FLOP/s) of long GEMMs at the cap: the most J/FLOP can be at that clock."""
    table = []
    for family in families:
        for dtype in dtypes if family.name == "gemm" else ():
            pick = (
                family.in_fit
                & family.capped
                & (family.arithmetic == dtype)
                & (family.rows["seconds"].to_numpy() > 1e-3)
            )
            if pick.sum() < _FEW:
                continue
            rate, watts = family.rows[f"flop_{dtype}"].to_numpy()[pick], family.watts[pick]
            table.append(
                {
                    "dtype": dtype,
                    "n": int(pick.sum()),
                    "watts": rounded(float(np.median(watts))),
                    "flop_per_s": rounded(float(np.median(rate))),
                    "flop_j": rounded(float(np.median((watts - static_w) / rate))),
                }
            )
    return table


def check_bands(gpu: str, values: dict[str, float], reasons: dict[str, str]) -> dict[str, str]:
    """Return the reason of each coefficient out of its band; a missing reason is a SpecError."""
    dropped = {}
    problems = []
    for name, value in values.items():
        low, high = BANDS["active" if name.startswith("active") else name]
        if low <= value <= high:
            continue
        if reasons.get(name):
            dropped[name] = reasons[name]
            continue
        text = f"`{name}` of `{gpu}` is {value:.3g}, outside {low:.3g} to {high:.3g}"
        problems.append(Problem(text, hint="give a reason for it, or look at the rows", code="calibrate"))
    if problems:
        raise SpecError(problems)
    return dropped
