"""Figures of results.json: derived from the measured configurations, none of them a row of these."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from overlap_choice import (
    PLATEAU,
    by_count,
    front,
    groups,
    least,
    mean_of,
    on_front,
    over_groups,
    recovered,
    regret,
    shortlist,
    summary,
)
from overlap_model import BLOCKS, FULL, LITERAL, SMOOTH, Form, Mask, Runs, fit, left_out, load, predict

from energylens.calibrate.kernels.formulas import Array
from energylens.common.accuracy import errors

CHOSEN = Form()
REPEATS = (0, 1, 2)
WHOLE = (0, 6)
PAPER_COUNTS = {"1": (1,), "3, 5": (3, 5), "15, 17": (15, 17)}
"""The EnergyLens paper overlaps on 1, 4 and 16 SMs; windows are measured at odd numbers."""
TRIED = {
    "chosen": CHOSEN,
    "contention by kind: memory-bound, product, attention; operations 5, 6 as named": Form(contention=(0, 1, 0, 2, 1)),
    "the same, 5 as rotary embedding and 6 as attention": Form(contention=(0, 1, 0, 0, 2)),
    "contention of each part of its own": Form(contention=(0, 1, 2, 3, 4)),
    "waves of thread blocks (768, 1024, 512), rest in proportion; as named": Form(
        waves=(SMOOTH, 768, SMOOTH, 1024, 512)
    ),
    "the same, 768 in operation 2 and 1024 in 6": Form(waves=(SMOOTH, 768, SMOOTH, SMOOTH, 1024)),
    "the same, memory-bound parts keep their pace": Form(waves=(FULL, 768, FULL, FULL, 1024)),
    "waves and contention by kind": Form(waves=(FULL, 768, FULL, FULL, 1024), contention=(0, 1, 0, 0, 2)),
    "fewer SMs do not slow compute down": Form(waves=(FULL,) * 5),
    "compute keeps 108 - c SMs to the end of the window": Form(gives_back=False),
    "no contention": Form(contention=(None,) * 5),
    "contention of compute as well": Form(slows_compute=True),
    "q fitted": Form(sharpness=None),
    "q = 1": Form(sharpness=1.0),
    "q = 2": Form(sharpness=2.0),
    "max(1, n/c)": Form(sharpness=64.0),
    "windows open with their first operation": Form(opens=tuple(LITERAL.items())),
    "0.2 ms that no window covers": Form(after=0.2),
    "such a time fitted": Form(after=None),
    "no watts of communication SMs": Form(watts=("static",)),
    "watts while the collective runs as well": Form(watts=("static", "sms", "live")),
}
FOUR = ((0, 1), (0, 2), (0, 5), (0, 6))
DRAWS = 60


def results(folder: Path) -> tuple[dict[str, Any], Runs, tuple[Array, Array]]:
    """Return everything that goes to results.json, and what the pictures are drawn from."""
    runs = load(folder)
    repeats = [load(folder, (entry,)) for entry in REPEATS]
    others = [load(folder, tuple(other for other in REPEATS if other != entry)) for entry in REPEATS]
    ms, joules = left_out(CHOSEN, runs)
    result = {
        "data": _data(runs, repeats),
        "errors": _errors(runs, ms, joules),
        "windows": _by_window(runs, ms, joules),
        "least": _least(runs, ms, joules),
        "pooled": _pooled(runs, ms, joules, repeats, others),
        "groups": _groups(runs, ms, joules, repeats, others),
        "shortlist": _shortlist(runs, ms, joules),
        "tried": {name: _tried(form, runs) for name, form in TRIED.items()},
        "few": _few(runs),
        "saved": _saved(runs),
        "coefficients": _coefficients(runs),
    }
    return result, runs, (ms, joules)


def _spread(values: Array) -> float:
    return 100 * float(values.max() / values.min() - 1)


def _data(runs: Runs, repeats: list[Runs]) -> dict[str, Any]:
    true = front(runs.ms, runs.joules)
    scatter = np.log(np.array([entry.joules / runs.joules for entry in repeats]))
    subset = scatter - scatter.mean(axis=1, keepdims=True)
    return {
        "configurations": len(runs),
        "sequential": int(runs.sequential.sum()),
        "windows": len(runs.windows),
        "groups": len(groups(runs)),
        "scatter_joules_percent": 100 * float(scatter.std(axis=0, ddof=1).mean()),
        "scatter_joules_own_percent": 100 * float(subset.std(axis=0, ddof=1).mean()),
        "drift_percent": [100 * float(np.expm1(shift)) for shift in scatter.mean(axis=1)],
        "scatter_ms_percent": 100
        * float(np.log(np.array([entry.ms / runs.ms for entry in repeats])).std(axis=0, ddof=1).mean()),
        "front": [_named(runs, i) for i in true[np.argsort(runs.ms[true])]],
        "front_ms_percent": _spread(runs.ms[true]),
        "front_joules_percent": _spread(runs.joules[true]),
    }


def _named(runs: Runs, i: int) -> dict[str, Any]:
    window = f"{runs.first[i]} to {runs.last[i]}"
    return {
        "window": window if runs.first[i] >= 0 else "none",
        "block": int(runs.block[i]),
        "sms": int(runs.sms[i]),
        "ms": float(runs.ms[i]),
        "joules": float(runs.joules[i]),
    }


def _both(runs: Runs, ms: Array, joules: Array, here: Mask) -> dict[str, Any]:
    pairs = {"joules": (joules, runs.joules), "ms": (ms, runs.ms)}
    return {
        name: {**errors(a[here], b[here]).as_dict(), "most_percent": 100 * float(abs(a / b - 1)[here].max())}
        for name, (a, b) in pairs.items()
    }


def _errors(runs: Runs, ms: Array, joules: Array) -> dict[str, Any]:
    overlapped = ~runs.sequential
    cuts = {"all": overlapped, "sequential": runs.sequential}
    cuts |= {name: overlapped & np.isin(runs.sms, counts) for name, counts in PAPER_COUNTS.items()}
    return {name: _both(runs, ms, joules, here) for name, here in cuts.items()}


def _by_window(runs: Runs, ms: Array, joules: Array) -> dict[str, Any]:
    return {f"{a} to {b}": _both(runs, ms, joules, runs.within((a, b))) for a, b in runs.windows}


def _least(runs: Runs, ms: Array, joules: Array) -> dict[str, Any]:
    """By how much chosen numbers of SMs miss the least energy, time, and product of the two, group by group."""
    counts = sorted({int(count) for count in runs.sms[~runs.sequential]})
    result: dict[str, Any] = {}
    for name, predicted, measured in (
        ("joules", joules, runs.joules),
        ("ms", ms, runs.ms),
        ("product", ms * joules, runs.ms * runs.joules),
    ):
        fixed = {count: regret(runs, by_count(runs, count), measured) for count in counts}
        best = min(counts, key=lambda count: (-summary(fixed[count])["within"], fixed[count].mean()))
        ends = [int(runs.sms[least(measured)(np.flatnonzero(group))[0]]) for group in groups(runs)]
        result[name] = {
            "model": summary(regret(runs, least(predicted), measured)),
            **{str(count): summary(fixed[count]) for count in (1, 9, 15, 17, 19)},
            "hindsight": {"sms": best, **summary(fixed[best])},
            "inside": sum(counts[0] < end < counts[-1] for end in ends),
            "counts": {str(count): ends.count(count) for count in counts if count in ends},
        }
    above = regret(runs, least(joules), runs.joules)
    result["misses"] = [
        {**_named(runs, least(joules)(np.flatnonzero(group))[0]), "above_percent": 100 * float(excess)}
        for group, excess in zip(groups(runs), above, strict=True)
        if excess > PLATEAU
    ]
    return result


def _pooled(runs: Runs, ms: Array, joules: Array, repeats: list[Runs], others: list[Runs]) -> dict[str, Any]:
    whole = np.flatnonzero(runs.within(WHOLE))
    most = whole[runs.sms[whole] == runs.sms[whole].max()]
    return {
        "model": recovered(runs, front(ms, joules)),
        "whole, most SMs": recovered(runs, most),
        "whole, every SM count": recovered(runs, whole),
        "sequential": recovered(runs, np.flatnonzero(runs.sequential)),
        "repeat": mean_of(
            recovered(b, front(a.ms, a.joules)) for a, b in zip(repeats, others, strict=True)
        ),
        "front": [_named(runs, i) for i in front(ms, joules)],
    }  # fmt: skip


def _groups(runs: Runs, ms: Array, joules: Array, repeats: list[Runs], others: list[Runs]) -> dict[str, Any]:
    return {
        "model": over_groups(runs, on_front(ms, joules)),
        "most": over_groups(runs, by_count(runs, runs.sms[~runs.sequential].max())),
        "15": over_groups(runs, by_count(runs, 15)),
        "17": over_groups(runs, by_count(runs, 17)),
        "fastest": over_groups(runs, least(runs.ms)),
        "repeat": mean_of(
            over_groups(b, on_front(a.ms, a.joules)) for a, b in zip(repeats, others, strict=True)
        ),
        "front_size": fmean(len(front(runs.ms[group], runs.joules[group])) for group in groups(runs)),
    }  # fmt: skip


def _shortlist(runs: Runs, ms: Array, joules: Array) -> list[dict[str, Any]]:
    """What measuring the configurations predicted to be close to the front would find, and as many random ones."""
    random, rows = np.random.default_rng(0), []
    overlapped = np.flatnonzero(~runs.sequential)
    for slack in (0.0025, 0.005, 0.01):
        chosen = shortlist(ms, joules, slack)
        draws = [recovered(runs, random.choice(overlapped, len(chosen), replace=False)) for _ in range(200)]
        rows.append({"slack_percent": 100 * slack, **recovered(runs, chosen), "random": mean_of(draws)})
    return rows


def _tried(form: Form, runs: Runs) -> dict[str, Any]:
    ms, joules = left_out(form, runs)
    both = _both(runs, ms, joules, ~runs.sequential)
    return {
        "ms_percent": both["ms"]["mape_percent"],
        "joules_percent": both["joules"]["mape_percent"],
        "least": summary(regret(runs, least(joules), runs.joules))["within"],
        "pooled_percent": recovered(runs, front(ms, joules))["near_percent"],
        "groups_percent": over_groups(runs, on_front(ms, joules))["near_percent"],
        "contention": sorted({float(value) for value in fit(form, runs).contention}),
    }


def _few(runs: Runs) -> dict[str, Any]:
    """Fits to few configurations, judged on the windows (or SM counts) that they have not seen."""

    def judged(seen: Mask) -> dict[str, float]:
        rest = ~seen & ~runs.sequential
        both = _both(runs, *predict(CHOSEN, fit(CHOSEN, runs.only(seen)), runs), rest)
        return {"rows": int(seen.sum()), **{f"{name}_percent": both[name]["mape_percent"] for name in both}}

    def windows(some: list[tuple[int, int]]) -> Mask:
        return np.asarray(runs.sequential | np.any([runs.within(window) for window in some], axis=0))

    random = np.random.default_rng(0)
    draws = [random.choice(len(runs.windows), 4, replace=False) for _ in range(DRAWS)]
    drawn = [judged(windows([runs.windows[i] for i in draw])) for draw in draws]
    sparse = windows(list(FOUR)) & np.isin(runs.sms, (1, 5, 11, 19))
    return {
        "four": judged(windows(list(FOUR))),
        "four, sparse": judged(sparse),
        "drawn": {
            name: {"median": median(ends), "p90": float(np.quantile(ends, 0.9)), "most": max(ends)}
            for name in ("joules_percent", "ms_percent")
            for ends in [[row[name] for row in drawn]]
        },
        "every other count": judged(np.isin(runs.sms, range(1, 20, 4)) | runs.sequential),
    }


def _saved(runs: Runs) -> dict[str, Any]:
    """Joules saved by the best overlap, and by the best number of SMs of each group."""
    alone, overlapped = runs.only(runs.sequential), runs.only(~runs.sequential)
    i, j = int(np.argmin(overlapped.joules)), int(np.argmin(alone.joules))
    saved: dict[str, Any] = {
        "least": _named(overlapped, i),
        "sequential": _named(alone, j),
        "joules_percent": 100 * float(1 - overlapped.joules[i] / alone.joules[j]),
        "ms_percent": 100 * float(1 - overlapped.ms[i] / alone.ms[j]),
        "fastest_percent": 100 * float(1 - overlapped.ms.min() / alone.ms.min()),
    }
    for count in (1, 19):
        over = [
            100 * (1 - runs.joules[group].min() / float(runs.joules[group & (runs.sms == count)][0]))
            for group in groups(runs)
        ]
        saved[str(count)] = {"least": min(over), "mean": fmean(over), "most": max(over)}
    entry = alone.only(alone.block == BLOCKS[1])
    for count in (1, 20):
        here = entry.joules[entry.sms == count][0]
        saved[f"sequential {count}"] = 100 * float(1 - overlapped.joules[i] / here)
    return saved


def _coefficients(runs: Runs) -> dict[str, Any]:
    """The fit to all rows: what the profile carries, and the rest."""
    result = fit(CHOSEN, runs)
    static, sms = result.watts
    return {
        "sms_to_saturate": result.saturating,
        "sms_to_saturate_512": result.saturating * result.ratio,
        "sms_sharpness": result.sharpness,
        "contention_compute": result.slows_compute,
        "contention_communication": float(result.contention[0]),
        "static_w": static,
        "sm_w": sms,
        "fixed_j": result.fixed_j,
        "collective_ms": result.collective,
        "parts_ms": [float(part) for part in result.parts],
    }
