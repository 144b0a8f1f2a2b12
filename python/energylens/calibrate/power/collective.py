"""Watts of a running all-reduce and joules per byte of its message, fitted to measured powers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from energylens.calibrate import robust
from energylens.calibrate.power import meter
from energylens.calibrate.power.fit import STATIC_W
from energylens.calibrate.power.kernel_power import count, data_folder, read
from energylens.calibrate.power.report import check_bands, rounded, summary

MIN_SECONDS = 2e-5
"""Shorter all-reduces are timed over windows far shorter than the meter averages: they read the floor."""
STARTS = (0.0, 0.5, 0.8, 0.9)
"""Memories of the meter from which the search is begun."""
ALIKE = 0.005
"""Fits whose mean errors differ by less are alike: the one with the shortest memory is taken."""
_ROUNDS = 4


def fit(folder: Path | None = None, gpu: str = "b200") -> dict[str, Any]:
    """Return `power - static = active_w + link_j_per_byte · message bytes/s` of an all-reduce, with errors (%)."""
    order = ["kernel", "gpus", "link"]
    raw = read(folder or data_folder(), "allreduce")
    rows = count(raw, "allreduce").with_columns(gpus=raw["num_gpus"]).sort(order)
    seconds, watts = rows["seconds"].to_numpy(), rows["watts"].to_numpy()
    rate = rows["link"].to_numpy() / seconds
    key = rows["kernel"].to_numpy() + rows["gpus"].cast(str).to_numpy()
    starts = np.r_[True, key[1:] != key[:-1]]
    buckets, static = meter.bucket(seconds), STATIC_W[gpu]
    used = np.flatnonzero((watts > 0) & (seconds >= MIN_SECONDS))
    columns = np.column_stack([np.ones(len(rate)), rate])
    names = ["active", "link"]
    capped, floor = np.zeros(len(used), bool), np.full(len(used), static)
    condition = robust.check_rank(columns[used] / watts[used, None], names)
    # Memory and joules per byte both raise late readings: fits of different memory are all but equally good.
    tries: list[tuple[float, robust.Array, robust.Array]] = []
    for start in STARTS:
        memory = np.full(len(meter.START), start)
        for _ in range(_ROUNDS):
            seen = np.column_stack([meter.smear(column, memory[buckets], starts) for column in columns.T])[used]
            solution = robust.fit(seen, watts[used], floor, np.ones(len(used)), capped)
            solution = np.array([rounded(float(value)) for value in solution])
            memory = meter.search(static + columns @ solution, watts, used, buckets, starts, memory)
        shown = meter.smear(static + columns @ solution, memory[buckets], starts)[used]
        tries.append((float(np.abs(shown / watts[used] - 1).mean()), solution, memory))
    least = min(error for error, _, _ in tries)
    good = [trial for trial in tries if trial[0] <= least + ALIKE]
    _, final, memory = min(good, key=lambda trial: float(trial[2].sum()))
    values = {name: float(value) for name, value in zip(names, final, strict=True)}
    reading = meter.smear(static + columns @ final, memory[buckets], starts)
    errors = 100 * (reading / watts - 1)
    check_bands(gpu, values, {})
    by_gpus = {
        str(size): {"n": int(pick.sum())} | summary(errors[used][pick])
        for size in sorted(set(rows["gpus"].to_list()))
        if (pick := rows["gpus"].to_numpy()[used] == size).any()
    }
    fastest = float(rate.max())
    return {
        "static_w": static,
        "active_w": values["active"],
        "link_j_per_byte": values["link"],
        "link_range": [float(min(trial[1][1] for trial in good)), float(max(trial[1][1] for trial in good))],
        "watts_at_full_rate": rounded(static + values["active"] + values["link"] * fastest),
        "full_rate_bytes_per_s": rounded(fastest),
        "condition": rounded(condition),
        "memory": [float(x) for x in memory],
        "errors": by_gpus,
        "excluded": [
            {"reason": f"shorter than {MIN_SECONDS * 1e6:g} us", "of": len(watts), "dropped": len(watts) - len(used)}
        ],
    }
