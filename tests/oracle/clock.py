"""The SM clock and the power cap (physics.md section 11)."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .how import Run

Table = list[list[float]]


def tables(gpu: dict[str, Any]) -> list[Table]:
    """Return the clock tables a profile has."""
    clock = gpu.get("clock") or {}
    return [clock[name] for name in ("voltage_mv", "idle_w") if clock.get(name)]


def value_at(table: Table, clock: float) -> float:
    """Interpolate between the rows of a table, flat beyond them."""
    if clock <= table[0][0]:
        return float(table[0][1])
    for (low, first), (high, second) in pairwise(table):
        if clock <= high:
            return float(first + (second - first) * (clock - low) / (high - low))
    return float(table[-1][1])


def ratio(gpu: dict[str, Any], name: str, clock: float, reference: float) -> float:
    """Value of a table at one clock over that at another; 1 without the table (Eq. 11.2)."""
    table = (gpu.get("clock") or {}).get(name)
    return value_at(table, clock) / value_at(table, reference) if table else 1.0


def clock_or_power_reason(gpu: dict[str, Any], run: Run) -> str:
    """Whether the profile allows the clock and the cap: `clock`, `power` or "ok"."""
    f = run.sm_clock_mhz
    if f is not None:
        highest, known = (gpu.get("clock") or {}).get("max_mhz"), tables(gpu)
        if highest is None or not known or not max(table[0][0] for table in known) <= f <= highest:
            return "clock"
    power = at_clock(gpu, f)["power"]
    if run.power_cap_w is not None and not power["static_w"] < run.power_cap_w <= power["tdp_w"]:
        return "power"
    return "ok"


def unknown_cap(gpu: dict[str, Any], run: Run) -> float | None:
    """Watts that no stage may draw: the cap, where no clock tables say what it would do (Eq. 11.4)."""
    return run.power_cap_w if run.power_cap_w is not None and not tables(gpu) else None


def at_clock(gpu: dict[str, Any], f: float | None) -> dict[str, Any]:
    """Return the profile at an SM clock (None: as measured; Eq. 11.3)."""
    if f is None:
        return gpu
    highest = gpu["clock"]["max_mhz"]
    x, v, i = f / highest, ratio(gpu, "voltage_mv", f, highest), ratio(gpu, "idle_w", f, highest)
    compute, energy, power, kernels = (dict(gpu[name]) for name in ("compute", "energy", "power", "kernels"))
    compute["peak_flops"] = {kind: peak and peak * x for kind, peak in compute["peak_flops"].items()}
    for name in ("attention_prefill", "attention_decode"):
        kernels[name] = {
            fmt: {**entry, "sequence_head_s": entry.get("sequence_head_s", 0.0) / x}
            for fmt, entry in kernels[name].items()
        }
    energy["flop_j"] = {kind: cost and cost * v**2 for kind, cost in energy["flop_j"].items()}
    energy["on_chip_j_per_byte"] *= v**2
    power["sequence_j"] = power.get("sequence_j", 0.0) * v**2
    for name in ("active_w", "communication_w"):
        power[name] = power.get(name, 0.0) * v**2 * x
    power["static_w"] *= i
    return {**gpu, "compute": compute, "energy": energy, "power": power, "kernels": kernels}


@dataclass(frozen=True)
class Level:
    """A clock u, and there: squared voltage (joules of an operation) and waiting power, each over the reference's."""

    u: float = 1.0
    voltage: float = 1.0
    waiting: float = 1.0


def seek(gpu: dict[str, Any], clock: float, limit: float, watts: Callable[[Level], float]) -> Level:
    """Find the highest level below `clock` that draws no more than `limit`; the lowest if none does (Eq. 11.10)."""
    above = Level()
    if watts(above) <= limit:
        return above
    lowest = max(table[0][0] for table in tables(gpu))
    for below in sorted({row[0] for table in tables(gpu) for row in table if lowest <= row[0] < clock}, reverse=True):
        voltage, idle = ratio(gpu, "voltage_mv", below, clock), ratio(gpu, "idle_w", below, clock)
        lower = Level(below / clock, voltage**2, idle)
        if watts(lower) <= limit:
            part = (limit - watts(lower)) / (watts(above) - watts(lower))
            return Level(
                lower.u + (above.u - lower.u) * part,
                lower.voltage + (above.voltage - lower.voltage) * part,
                lower.waiting + (above.waiting - lower.waiting) * part,
            )
        above = lower
    return above


@dataclass(frozen=True)
class Load:
    """A stage at the point's clock, before limit and cap (Eq. 11.5): its seconds and joules.

    `time` are all its seconds, `kernels` and `clocked` those of kernels and those that follow the clock; `work` are the
    joules of FLOPs, on-chip bytes and sampling, `rest` all others.
    """

    time: float
    kernels: float
    clocked: float
    work: float
    rest: float


@dataclass(frozen=True)
class Settled:
    """A stage under lock, limit and cap: seconds, joules of compute, waiting power over that at the point's clock."""

    time: float
    compute: float
    waiting: float = 1.0
    scale: float = 1.0  # of all joules, at the limit


def enforced(gpu: dict[str, Any], f: float, load: Load) -> float:
    """Clock that the limit of the board enforces, over the highest (Eq. 11.6); `gpu` is that at the clock f."""
    highest, power = gpu["clock"]["max_mhz"], gpu["power"]
    x, v, i = f / highest, ratio(gpu, "voltage_mv", f, highest), ratio(gpu, "idle_w", f, highest)
    slowed = load.clocked * (1 - x)
    active = power.get("active_w", 0.0) / (v**2 * x) * (load.kernels - slowed)

    def watts(at: Level) -> float:
        drawn = at.voltage * (load.work / v**2 + active * at.u) + load.rest
        return float(drawn / (load.time - slowed) + power["static_w"] / i * at.waiting)

    return seek(gpu, highest, power["tdp_w"], watts).u


def settled(gpu: dict[str, Any], run: Run, load: Load) -> Settled:
    """Count the limit once under a lock, then keep a stage within the cap, or the limit (Eq. 8.4, 11.7, 11.8, 11.9).

    `gpu` is that at the point's clock.
    """
    static_w, tdp_w = gpu["power"]["static_w"], gpu["power"]["tdp_w"]
    cap = tdp_w if run.power_cap_w is None or unknown_cap(gpu, run) is not None else run.power_cap_w
    f, x, e = 0.0, 1.0, 1.0
    if run.sm_clock_mhz is not None or cap < tdp_w:
        highest = gpu["clock"]["max_mhz"]
        f = highest if run.sm_clock_mhz is None else run.sm_clock_mhz
        x, e = f / highest, enforced(gpu, f, load)
    held = max(x, e)
    saved = load.clocked * (1 - held)
    time, clocked = load.time - saved, load.clocked * held
    active = gpu["power"].get("active_w", 0.0) * (load.kernels - saved)
    if cap == tdp_w:
        total = load.work + active + load.rest
        scale = min(1.0, (tdp_w - static_w) * time / total) if total > 0 else 1.0
        return Settled(time, load.work + active, scale=scale)

    def seconds(at: Level) -> float:
        return time - clocked + clocked * max(1.0, min(1.0, e / x) / at.u)

    def compute(at: Level) -> float:
        return float(at.voltage * (load.work + active * at.u * seconds(at) / time))

    def watts(at: Level) -> float:
        return float((compute(at) + load.rest) / seconds(at) + static_w * at.waiting)

    at = seek(gpu, f, cap, watts)
    return Settled(max(seconds(at), (compute(at) + load.rest) / (cap - static_w * at.waiting)), compute(at), at.waiting)
