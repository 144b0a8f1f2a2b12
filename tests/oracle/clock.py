"""The SM clock and the power cap (physics.md section 11)."""

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
    """Value of a table at one clock over that at another; 1 without the table."""
    table = (gpu.get("clock") or {}).get(name)
    return value_at(table, clock) / value_at(table, reference) if table else 1.0


def clock_or_power_reason(gpu: dict[str, Any], run: Run) -> str:
    """Whether the profile allows the clock and the cap: `clock`, `power` or "ok"."""
    f = run.sm_clock_mhz
    if f is not None:
        highest, found = (gpu.get("clock") or {}).get("max_mhz"), tables(gpu)
        if highest is None or not found or not max(table[0][0] for table in found) <= f <= highest:
            return "clock"
    power = at_clock(gpu, f)["power"]
    if run.power_cap_w is not None and not ((gpu.get("clock") or {}).get("max_mhz") and tables(gpu)):
        return "power"
    if run.power_cap_w is not None and not power["static_w"] < run.power_cap_w <= power["tdp_w"]:
        return "power"
    return "ok"


def at_clock(gpu: dict[str, Any], f: float | None) -> dict[str, Any]:
    """Return the profile at an SM clock (None: as measured)."""
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
class Slowed:
    """A stage at a lower clock: its seconds, joules of compute, waiting power over that at the point's clock."""

    time: float
    compute: float
    waiting: float


def capped(
    gpu: dict[str, Any], run: Run, time: float, clocked: float, work: float, active: float, rest: float
) -> Slowed:
    """Lower the clock of a stage of `time` seconds and `work` + `active` + `rest` joules until it draws the cap."""
    cap, static_w = run.power_cap_w, gpu["power"]["static_w"]
    if cap is None or (work + active + rest) / time + static_w <= cap:
        return Slowed(time, work + active, 1.0)
    share = min(1.0, clocked / time)
    f = run.sm_clock_mhz if run.sm_clock_mhz is not None else (gpu.get("clock") or {}).get("max_mhz")

    def seconds(u: float) -> float:
        return time * (1 - share + share / u)

    def compute(u: float, w: float) -> float:
        return w * (work + active * u * seconds(u) / time)

    def watts(at: tuple[float, float, float]) -> float:
        u, w, i = at
        return float((compute(u, w) + rest) / seconds(u) + static_w * i)

    found = (1.0, 1.0, 1.0)
    if f is not None:
        lowest = max((table[0][0] for table in tables(gpu)), default=f)
        for clock in sorted({row[0] for table in tables(gpu) for row in table if lowest <= row[0] < f}, reverse=True):
            lower = (clock / f, ratio(gpu, "voltage_mv", clock, f) ** 2, ratio(gpu, "idle_w", clock, f))
            drawn, wanted = watts(found), watts(lower)
            if wanted <= cap:
                part = (cap - wanted) / (drawn - wanted)
                u, w, i = (low + (high - low) * part for low, high in zip(lower, found, strict=True))
                found = (u, w, i)
                break
            found = lower
    u, w, i = found
    return Slowed(max(seconds(u), (compute(u, w) + rest) / (cap - static_w * i)), compute(u, w), i)
