"""Joules of a window: the energy counter between two of its updates, against the power samples in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from energylens.measurement.backend import Samples, Window

SETTLE_S: Final = 0.3
"""Seconds from the start of a window that are not metered: the clock and the power settle."""
LEAST_S: Final = 1.0
"""A metered stretch that is shorter tells too little."""
MOST_APART: Final = 0.05
"""Beyond this share the counter and the samples disagree, and the row is suspect."""
HOT: Final = 0x20 | 0x40
"""NVML's clock event reasons: software and hardware thermal slowdown."""
BROKEN: Final = 0x08 | 0x80
"""Hardware slowdown, and the power brake of the machine."""
OFTEN: Final = 0.1
"""A reason counts if it holds in this share of the samples."""
CAPPED: Final = 0x04
"""The power limit of the board holds the clock down."""


@dataclass(frozen=True)
class Reading:
    """Means of one window: seconds a call, watts and joules of one GPU."""

    seconds: float
    power_w: float | None
    power_integrated_w: float | None
    metered_s: float
    sm_clock_mhz: float
    memory_clock_mhz: float
    temperature_c: float
    throttle: str
    suspect: str | None

    @property
    def joules(self) -> float | None:
        """Joules of a call by the counter."""
        return None if self.power_w is None else self.power_w * self.seconds

    @property
    def joules_integrated(self) -> float | None:
        """Joules of a call by the power samples."""
        return None if self.power_integrated_w is None else self.power_integrated_w * self.seconds


def read(window: Window) -> Reading:
    """Return what a window tells: `P = ΔE/Δt` between the first and the last update of the counter while it is busy.

    The counter moves in steps of some tens of ms, so it is taken where it has just moved. Of several GPUs the mean is
    returned. A reading is suspect, with the reason, where the counter hardly moved, where counter and samples differ by
    more than `MOST_APART`, or where heat or the machine held the clock down.
    """
    readings = [_reading(samples, window) for samples in window.samples]
    suspect = next((reading.suspect for reading in readings if reading.suspect), None)
    counted, integrated = (
        [getattr(reading, name) for reading in readings] for name in ("power_w", "power_integrated_w")
    )
    means = {
        name: float(np.mean([getattr(reading, name) for reading in readings]))
        for name in ("seconds", "metered_s", "sm_clock_mhz", "memory_clock_mhz", "temperature_c")
    }
    return Reading(
        power_w=None if None in counted else float(np.mean(counted)),
        power_integrated_w=None if None in integrated else float(np.mean(integrated)),
        throttle=",".join(sorted({word for reading in readings for word in reading.throttle.split(",") if word})),
        suspect=suspect,
        **means,
    )


def _reading(samples: Samples, window: Window) -> Reading:
    time = np.asarray(samples.time_s, dtype=float)
    busy = (time >= window.began_s + SETTLE_S) & (time <= window.ended_s)
    counter, watts = np.asarray(samples.counter_mj, dtype=float), 1e-3 * np.asarray(samples.power_mw, dtype=float)
    moved = np.flatnonzero(busy & np.append(False, np.diff(counter) > 0))
    clocks, memory, heat = (
        float(np.mean(np.asarray(some, dtype=float)[busy])) if busy.any() else 0.0
        for some in (samples.sm_clock_mhz, samples.memory_clock_mhz, samples.temperature_c)
    )
    seen = np.asarray(samples.reasons, dtype=np.int64)[busy]
    held = {bits: bool(seen.size) and float(np.mean((seen & bits) != 0)) >= OFTEN for bits in (CAPPED, HOT, BROKEN)}
    metered = float(time[moved[-1]] - time[moved[0]]) if len(moved) >= 2 else 0.0
    suspect: str | None = None
    power: float | None = None
    integrated: float | None = None
    if metered >= LEAST_S:
        first, last = moved[0], moved[-1]
        power = 1e-3 * float(counter[last] - counter[first]) / metered
        window_rows = slice(first, last + 1)
        integrated = float(np.trapezoid(watts[window_rows], time[window_rows]) / metered)
        if abs(integrated / power - 1) > MOST_APART:
            suspect = f"counter and power samples differ by {100 * (integrated / power - 1):+.1f} %"
    else:
        suspect = f"the energy counter moved over {metered:.2g} s of the window only"
    for bits, reason in ((BROKEN, "the machine slowed the GPU down"), (HOT, "heat held the clock down")):
        suspect = reason if held[bits] else suspect
    words = {"power": CAPPED, "thermal": HOT, "hardware": BROKEN}
    throttle = ",".join(word for word, bits in words.items() if held[bits])
    seconds = window.seconds / window.calls
    return Reading(seconds, power, integrated, metered, clocks, memory, heat, throttle, suspect)
