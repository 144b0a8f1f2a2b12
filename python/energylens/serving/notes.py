"""Notes of an answer on its traffic: what was inferred, a changed rate, few requests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from energylens.serving.workload import Workload

Column = NDArray[np.float64]

FEW_REQUESTS: Final = 50
"""Requests below which percentiles are said to be coarse: the 80 % interval of a P90 then spans four ranks and more
of the ten percent above it."""

_Z_80: Final = 1.281_551_565_544_6
_P90: Final = 0.9


def traffic_notes(workload: Workload, rate_per_s: float | None, requests: int | None = None) -> list[str]:
    """Return sentences on how a workload is used: what was inferred of a trace, its rate changed, its requests few.

    `requests` is how many of a trace are replayed, if not all.
    """
    notes = list(workload.notes)
    rows = workload.requests
    if rows is None:
        return notes
    if rows.height < FEW_REQUESTS:
        notes.append(few_words(rows.height, "the trace has"))
    if rate_per_s is not None and rows["arrival_s"].null_count():
        notes.append("the trace has no times: arrivals are drawn by chance at the rate")
    elif rate_per_s is not None and workload.rate_per_s is None:
        notes.append("all requests of the trace arrive at one moment: arrivals are drawn by chance at the rate")
    elif rate_per_s is not None and workload.rate_per_s is not None:
        factor = rate_per_s / workload.rate_per_s
        if abs(factor - 1.0) > 1e-6:
            changed = f"sped up {factor:,.3g}x" if factor > 1.0 else f"slowed down {1.0 / factor:,.3g}x"
            notes.append(f"the trace is {changed}: from {workload.rate_per_s:,.3g} to {rate_per_s:,.3g} requests/s")
    if requests is not None and requests != rows.height:
        part = f"the first {requests:,} of its" if requests < rows.height else f"{requests:,}, by repeating its"
        notes.append(f"requests replayed: {part} {rows.height:,}")
    return notes


def few_words(count: int, what: str) -> str:
    """Return the warning that percentiles are of few requests."""
    noun = "request" if count == 1 else "requests"
    return f"{what} {count} {noun}: percentiles of fewer than {FEW_REQUESTS} are coarse"


def p90_ranks(count: int) -> tuple[int | None, int | None]:
    """Return the ranks, from 0, between which the 90th percentile lies four times in five; None for no bound.

    The number of values below the true percentile is binomial, whatever their distribution (order statistics):
    exactly so for few, by its normal approximation from 1,000 on.
    """
    if count >= 1000:
        half = _Z_80 * math.sqrt(count * _P90 * (1.0 - _P90))
        return int(count * _P90 - half), min(count - 1, math.ceil(count * _P90 + half))
    below, low, high = 0.0, None, None
    for rank in range(count + 1):
        below += math.comb(count, rank) * _P90**rank * (1.0 - _P90) ** (count - rank)
        if low is None and below > 0.1:
            low = rank - 1
        if high is None and below >= _P90:
            high = rank
    return low if low is not None and low >= 0 else None, high if high is not None and high < count else None


def p90_interval(values: Column) -> tuple[float | None, float | None]:
    """Return the 80 % interval of the 90th percentile of what values are a sample of; None for no bound."""
    values = np.sort(values[np.isfinite(values)])
    if not len(values):
        return None, None
    low, high = p90_ranks(len(values))
    return None if low is None else float(values[low]), None if high is None else float(values[high])
