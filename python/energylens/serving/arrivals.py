"""Arrivals of requests: how their rate varies, which come together, and arrivals made at a rate."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

Column = NDArray[np.float64]

WINDOW_S: Final = 1.0
"""Seconds over which rates of arrival are counted."""

_MOMENT_S = 0.02
_RATES = 12
_MOST_WINDOWS = 10_000_000


def rate_profile(arrivals: Column, window_s: float = WINDOW_S, number: int = _RATES) -> list[tuple[float, float]]:
    """Return rates over their mean, the share of the time at each: counts in windows, without what is chance.

    Counts of Poisson arrivals scatter too: deviations are shrunk by `√(1 - mean/variance)`.
    """
    window_s = max(window_s, float(arrivals[-1]) / _MOST_WINDOWS)
    counts, _ = np.histogram(arrivals, np.arange(0.0, arrivals[-1] + 1e-9, window_s))
    if len(counts) < number:
        return [(1.0, 1.0)]
    mean, variance = counts.mean(), counts.var()
    if variance <= mean:
        return [(1.0, 1.0)]
    rates = np.sort(mean + (counts - mean) * np.sqrt(1.0 - mean / variance))
    rates = np.maximum(rates, 0.01 * mean)
    return grouped(np.stack([rates / rates.mean(), np.full(len(rates), 1.0 / len(rates))], axis=1), number)


def grouped(rates: Column, number: int) -> list[tuple[float, float]]:
    """Return rates in groups that each hold about the same share of the requests."""
    rate, share = rates[np.argsort(rates[:, 0], kind="stable")].T
    held = np.cumsum(rate * share) / (rate * share).sum()
    group = np.minimum((held * number - 1e-9).astype(int), number - 1)
    groups = []
    for index in np.unique(group):
        members = group == index
        groups.append(
            (float((rate[members] * share[members]).sum() / share[members].sum()), float(share[members].sum()))
        )
    return groups


def crowding(arrivals: Column) -> tuple[float, float]:
    """Return the share of requests up to 20 ms before which others arrive, and how many, beyond what is likely by
    chance.

    By chance are as many as the requests of the second make likely.
    """
    before = np.arange(len(arrivals)) - np.searchsorted(arrivals, arrivals - _MOMENT_S, "left")
    window_s = max(WINDOW_S, float(arrivals[-1]) / _MOST_WINDOWS)
    counts, _ = np.histogram(arrivals, np.arange(0.0, arrivals[-1] + 2.0 * window_s, window_s))
    likely = (counts[(arrivals / window_s).astype(int)] - 1.0) * _MOMENT_S / window_s
    by_chance = float(-np.expm1(-likely).mean())
    if by_chance > 0.9:
        return 0.0, 0.0
    share = (float((before > 0).mean()) - by_chance) / (1.0 - by_chance)
    others = float(before.mean() - likely.mean())
    return (share, max(1.0, others / share)) if share > 0.01 and others > 0 else (0.0, 0.0)


def crowded(times: Column, share: float, others: float, random: np.random.Generator) -> Column:
    """Return arrivals with groups moved together, so that this share has others, on average so many, just before."""
    if share <= 0:
        return times
    size = max(2, round(2.0 * others))
    groups = np.flatnonzero(random.random(len(times)) < share / (size - 1))
    moved = times.copy()
    for place in range(1, min(size, len(times))):
        at = groups + place
        moved[at[at < len(times)]] = times[groups[at < len(times)]]
    return np.sort(moved)


def repeated(requests: pl.DataFrame, number: int, rate_per_s: float) -> pl.DataFrame:
    """Return so many requests of a trace, cut or repeated, at a rate."""
    rounds = -(-number // requests.height)
    rows = requests[np.tile(np.arange(requests.height), rounds)[:number]]
    arrivals = requests["arrival_s"].to_numpy()
    if arrivals[-1] <= arrivals[0]:  # all at once: spread by chance
        random = np.random.default_rng(2026)
        return rows.with_columns(arrival_s=pl.Series(np.cumsum(random.exponential(1.0 / rate_per_s, number))))
    span = float(arrivals[-1]) * len(arrivals) / max(1, len(arrivals) - 1)
    times = np.concatenate([arrivals + turn * span for turn in range(rounds)])[:number]
    trace_rate_per_s = (len(arrivals) - 1) / float(arrivals[-1])
    return rows.with_columns(arrival_s=pl.Series(times * trace_rate_per_s / rate_per_s))
