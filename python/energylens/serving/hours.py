"""The hours of the day in which requests come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]


def hours_of(arrival_s: Column, output_tokens: Column, clock_s: float) -> tuple[tuple[float, float], ...]:
    """Return the share of the time and of the output tokens that fall in each of the 24 hours of the day.

    `clock_s` is the time of day of the first arrival in seconds after midnight.
    """
    began, ended = clock_s, clock_s + max(float(arrival_s[-1]), 1e-9)
    hours = np.arange(int(began // 3600), int(ended // 3600) + 1)
    covered = np.minimum(ended, (hours + 1) * 3600.0) - np.maximum(began, hours * 3600.0)
    time = np.bincount(hours % 24, np.maximum(covered, 0.0), 24)
    work = np.bincount(((clock_s + arrival_s) // 3600).astype(np.int64) % 24, output_tokens, 24)
    return tuple(zip((time / time.sum()).tolist(), (work / work.sum()).tolist(), strict=True))


def hours_words(hours: Sequence[tuple[float, float]], clock: str) -> str:
    """Return over which hours of the day joules are spent, in words."""
    if not hours:
        return "carbon by hour: joules taken as spent evenly over the day (the workload has no times of day)"
    used = [hour for hour, (time, _) in enumerate(hours) if time > 0]
    which = f"{len(used)} hours" if len(used) > 3 else ", ".join(f"{hour:02d}:00" for hour in used)
    zone = "UTC" if clock == "UTC" else "as the timestamps are written"
    return f"carbon by hour: weighted by when joules are spent, by the trace's timestamps ({which}, {zone})"
