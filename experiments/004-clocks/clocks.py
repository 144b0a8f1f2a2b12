"""Predicted time and energy against SM clock and power cap, the law of the voltages, and measured runs predicted."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

import energylens as el
from energylens.inputs.library import load_gpu

HERE = Path(__file__).parent
PCIE = "a100-pcie-40gb"
OWN = {"models": [HERE / "opt-1.3b.yaml", HERE / "qwen2-1.5b.yaml"], "gpus": [HERE / f"{PCIE}.yaml"]}
GPUS = {"a100-sxm-80gb": "A100", "h100-sxm": "H100"}
CLOCKS = {"a100-sxm-80gb": range(510, 1411, 30), "h100-sxm": range(510, 1981, 30)}
CAPS = {"a100-sxm-80gb": range(100, 401, 10), "h100-sxm": range(200, 701, 25)}
BINDS = 0.005
"""Share of the watts without a limit that a cap must take away to count as one that binds."""
PCIE_CAP_W = 250
RISING_MHZ = 1110
"""Below, the A100's voltage is flat, and idle watts fall a little further with the clock alone."""
SATURATED = 2048
"""Prompt tokens of a pass from which the measured runs are not bound by the launching of kernels."""


class Work(NamedTuple):
    """What is run: a phase of a model."""

    phase: str
    model: str
    tp: int
    batch: int
    prompt: int

    def __str__(self) -> str:
        size = self.model.removeprefix("llama-3.1-").upper()
        what = f"{self.prompt:,} tokens" if self.phase == "prefill" else f"batch {self.batch}"
        return f"{self.phase} {size}, TP {self.tp}, {what}"


MODELS = {"llama-3.1-8b": 1, "llama-3.1-70b": 4}
WORKS = [
    *(Work("prefill", model, tp, 1, prompt) for (model, tp), prompt in product(MODELS.items(), (2048, 8192))),
    *(Work("decode", model, tp, batch, 512) for (model, tp), batch in product(MODELS.items(), (1, 32, 256))),
]


def sweep(works: list[Work] = WORKS) -> pl.DataFrame:
    """Return seconds, joules per token and watts of a GPU for every work, GPU, clock and cap."""
    rows = [
        (str(work), work.phase, work.model, gpu, work.tp, work.batch, work.prompt, 512, knob, value)
        for work, gpu in product(works, GPUS)
        for knob, values in (("clock", CLOCKS[gpu]), ("cap", CAPS[gpu]))
        for value in values
    ]
    names = ["work", "phase", "model", "gpu", "tp", "batch", "prompt_tokens", "output_tokens", "knob", "value"]
    points = pl.DataFrame(rows, schema=names, orient="row").with_columns(
        sm_clock_mhz=pl.when(knob="clock").then("value"), power_cap_w=pl.when(knob="cap").then("value")
    )
    carry = ["work", "phase", "knob", "value"]
    prefill = pl.col("phase") == "prefill"
    joules = pl.when(prefill).then("energy_prefill_j").otherwise("energy_decode_step_j")
    return (
        el.evaluate(points, carry=carry)
        .filter(reason="ok")
        .with_columns(time_s=pl.when(prefill).then("ttft_s").otherwise("tpot_s"), joules=joules)
        .select(
            *("gpu", "work", "phase", "model", "knob", "value", "time_s"),
            j_per_token=pl.col("joules") / pl.col("batch") / pl.when(prefill).then("prompt_tokens").otherwise(1),
            watts=pl.col("joules") / pl.col("time_s") / pl.col("tp"),
        )
    )


def best(table: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Return for each group of a table over clocks the clock of least energy, and both ends against it."""
    least, most = pl.col("j_per_token").arg_min(), pl.col("value").arg_max()
    return table.group_by(keys, maintain_order=True).agg(
        mhz=pl.col("value").get(least),
        energy=pl.col("j_per_token").get(most) / pl.min("j_per_token"),
        time=pl.col("time_s").get(least) / pl.col("time_s").get(most),
        watts=pl.col("watts").get(most),
        least_watts=pl.col("watts").get(least),
    )


def cap_against_lock(table: pl.DataFrame, slower: float) -> tuple[float, float, float, float] | None:
    """Return cap (W) and lock (MHz) that make a work `slower` times as long, and the energy of each against neither.

    None where no cap does that; the lock is 0 MHz where none does.
    """
    clocks, caps = (table.filter(knob=knob).sort("value") for knob in ("clock", "cap"))
    free = clocks.row(-1, named=True)
    wanted = slower * free["time_s"]
    if caps["time_s"].max() < wanted:
        return None
    result = []
    for side in (caps, clocks):
        time, value, joules = (side[name].to_numpy()[::-1] for name in ("time_s", "value", "j_per_token"))
        result.append((float(np.interp(wanted, time, value)), float(np.interp(wanted, time, joules))))
    (cap, cap_j), (mhz, mhz_j) = result
    reached = clocks["time_s"].max() >= wanted
    return cap, mhz if reached else 0, cap_j / free["j_per_token"], mhz_j / free["j_per_token"]


def same_watts(table: pl.DataFrame) -> list[float]:
    """Return the joules under each cap that binds over those under a lock that draws as much, where one does.

    `table` is of one work on one GPU. At equal watts joules compare as times do.
    """
    clocks, caps = (table.filter(knob=knob).sort("value") for knob in ("clock", "cap"))
    binding = caps.filter(pl.col("watts") < (1 - BINDS) * clocks["watts"][-1], pl.col("watts") >= clocks["watts"][0])
    lock_s = np.interp(binding["watts"].to_numpy(), clocks["watts"].to_numpy(), clocks["time_s"].to_numpy())
    return [float(ratio) for ratio in binding["time_s"].to_numpy() / lock_s]


def measured() -> pl.DataFrame:
    """Return the measured runs with what is predicted for them (J, ms) and the errors (%)."""
    table = pl.read_csv(HERE / "measured.csv").with_row_index("row")
    cap = pl.when(gpu=PCIE).then(pl.lit(PCIE_CAP_W))
    points = table.select("row", "gpu", "model", "batch", "prompt_tokens", "sm_clock_mhz", power_cap_w=cap)
    result = el.evaluate(points.with_columns(output_tokens=pl.lit(1)), carry=["row"], **OWN)  # type: ignore[arg-type]
    both = table.join(result.select("row", "energy_prefill_j", "ttft_s"), on="row", maintain_order="left")
    both = both.rename({"energy_prefill_j": "predicted_j"}).with_columns(predicted_ms=pl.col("ttft_s") * 1e3)
    both = both.with_columns(watts=pl.col("energy_j") / pl.col("time_ms") * 1e3)
    return both.with_columns(
        j_error=100 * (pl.col("predicted_j") / pl.col("energy_j") - 1),
        ms_error=100 * (pl.col("predicted_ms") / pl.col("time_ms") - 1),
        w_error=100 * (pl.col("predicted_j") / pl.col("predicted_ms") * 1e3 / pl.col("watts") - 1),
        saturated=pl.col("batch") * pl.col("prompt_tokens") >= SATURATED,
    )


def published_sweep(table: pl.DataFrame) -> pl.DataFrame:
    """Return the measured clock sweeps and the predicted ones, as `best` sees them."""
    runs = table.filter(runs="clock sweep").with_columns(value="sm_clock_mhz")
    keys = ["model", "batch", "prompt_tokens"]
    sides = []
    for side, joules, time in (("measured", "energy_j", "time_ms"), ("predicted", "predicted_j", "predicted_ms")):
        entry = runs.with_columns(
            j_per_token=joules, time_s=pl.col(time) / 1e3, watts=pl.col(joules) / pl.col(time) * 1e3
        )
        sides.append(best(entry, keys).with_columns(side=pl.lit(side)))
    return pl.concat(sides)


class Law(NamedTuple):
    """Idle watts = a + b·V², its largest error, and the two as shares of the watts at the highest voltage."""

    a: float
    b: float
    error: float
    shares: tuple[float, float]


def idle_law() -> tuple[Law, pl.DataFrame]:
    """Return the law through both ends of the A100's published voltages, in round watts, with the tables' rows."""
    clock = load_gpu("a100-sxm-80gb").spec.clock
    assert clock is not None and clock.voltage_mv is not None and clock.idle_w is not None
    mhz, idle = np.array(clock.idle_w).T
    volts = np.interp(mhz, *np.array(clock.voltage_mv).T) / 1e3
    low, high = int(np.argmax(mhz >= RISING_MHZ)), len(mhz) - 1
    slope = (idle[high] - idle[low]) / (volts[high] ** 2 - volts[low] ** 2)
    a, b = round(2 * float(idle[low] - slope * volts[low] ** 2)) / 2, float(round(slope))
    law = a + b * volts**2
    fixed = round(a / float(law[high]), 3)
    rows = pl.DataFrame({"mhz": mhz, "volts": volts, "idle": idle, "law": law})
    return Law(a, b, float(np.abs(law / idle - 1)[low:].max()), (fixed, round(1 - fixed, 3))), rows


def inferred_voltages(law: Law) -> list[tuple[int, int]]:
    """Return the H100's voltage table (MHz, mV) that the law gives from its idle watts, 1,000 mV at 1,830 MHz."""
    clock = load_gpu("h100-sxm").spec.clock
    assert clock is not None and clock.idle_w is not None
    mhz, idle = np.array(clock.idle_w).T
    ratio = np.sqrt((idle / idle[-1] - law.shares[0]) / law.shares[1])
    highest = round(1000 / float(ratio[mhz == 1830][0]))
    rows = [(int(f), round(highest * float(share))) for f, share in zip(mhz, ratio, strict=True) if f >= 1200]
    return [(510, rows[0][1]), *rows]


def profile_voltages() -> list[tuple[int, int]]:
    """Return the table that the profile has."""
    clock = load_gpu("h100-sxm").spec.clock
    assert clock is not None and clock.voltage_mv is not None
    return [(int(f), round(v)) for f, v in clock.voltage_mv]
