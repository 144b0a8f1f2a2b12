"""The answer of an exploration: one sentence, one table, and how far to trust it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from energylens.common.errors import Problem
from energylens.common.format import number, si, table
from energylens.engine.result_columns import UNITS
from energylens.engine.trust import Account, levels
from energylens.inputs.axes import AXES, heading
from energylens.inputs.axis_text import DEFAULT
from energylens.results.words import configuration, why_not

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from energylens.results.result import Result

_NAMES = {
    "energy_per_output_token_j": "energy",
    "latency_s": "latency",
    "tpot_s": "TPOT",
    "ttft_s": "TTFT",
    "output_tokens_per_s": "throughput",
}
_ROWS_SHOWN = 20
_AXES_SHOWN = (*(axis for axis in AXES if axis != "batch"), "batch")


def _lengths(result: Result, row: dict[str, Any]) -> str:
    """Return the request lengths of a point in words, where they vary."""
    axes = result.space.axes
    vary = [len(axes[axis]) > 1 for axis in ("prompt_tokens", "output_tokens")]
    parts = [
        f"{row['prompt_tokens']:,} prompt" if vary[0] else "",
        f"{row['output_tokens']:,} output" if vary[1] else "",
    ]
    lengths = " and ".join(part for part in parts if part)
    return f", {lengths} tokens" if lengths else ""


def limits(result: Result) -> str:
    """Return the limits as a person writes them."""
    return ", ".join(str(limit) for limit in result.space.parsed_limits)


def sentence(result: Result) -> str:
    """Return the one-line answer, or what stands in the way."""
    within = f" within {limits(result)}" if result.space.limits else ""
    if (best := result.best) is None:
        if result.feasible:
            return (
                f"nothing{within}: {result.feasible:,} of {result.points:,} configurations run, all outside the limits"
            )
        return f"nothing runs: {why_not(result.by_reason)}"
    first = result.space.objectives[0]
    name = _NAMES.get(first, first)
    goal = "most" if dict(result.space.signed_objectives)[first] < 0 else "least"
    value = f"{number(best[first])} {UNITS.get(first, '')}".strip() + _interval(best, first)
    return (
        f"{goal} {name}{within}: {value} - {best['model']} on {configuration(best)}{_lengths(result, best)}; "
        f"TTFT {si(best['ttft_s'], 's')}, TPOT {si(best['tpot_s'], 's')}, "
        f"{number(best['output_tokens_per_s'])} tokens/s, {number(best['power_w_per_gpu'])} W/GPU"
    )


def _interval(row: dict[str, Any], column: str) -> str:
    """Return the 80 % interval of a column of joules in words, nothing for other columns."""
    if column not in _PER or row.get("energy_lo_j") is None:
        return ""
    shares = [row[column] / row["energy_j"] * row[name] for name in ("energy_lo_j", "energy_hi_j")]
    beyond = ", extrapolated" if row["extrapolated"] else ""
    return f" (80 %: {number(shares[0])} to {number(shares[1])}{beyond})"


_PER = frozenset({"energy_j", "energy_per_output_token_j", "energy_per_request_j"})
"""Columns whose interval is that of all joules, scaled."""


def nothing(result: Result) -> Problem:
    """Return why a space has no front, and what would help."""
    message = f"no configuration to choose: {sentence(result)}"
    if result.feasible:
        from energylens.results.nearest import nearest_point, refused

        nearest = nearest_point(result.space)
        if nearest is None:
            return Problem(message, hint="relax a limit (`limit`, `slo`), or widen the axes", code="limits")
        return refused(
            message,
            nearest,
            f"{nearest.row['model']} on {configuration(dict(nearest.row))}",
            result.space.parsed_limits,
        )
    hint = "widen the axes"
    if result.by_reason.get("memory"):
        need, name = _least_memory(result)
        hint = f"the nearest needs {need / 1e9:.1f} GB on each {name}; use more GPUs, narrower formats or less batch"
    return Problem(message, hint=hint, code="infeasible")


def _least_memory(result: Result) -> tuple[float, str]:
    """Return the smallest need over capacity among an even sample of the space, and its GPU."""
    space = result.space
    picked = np.unique(np.linspace(0, space.size - 1, min(space.size, 4096)).astype(np.uint64))
    columns = space.plan.core.evaluate_space(space.json, picked, ["memory_bytes_per_gpu"], 1)
    gpu = space.points(picked)["gpu"].to_list()
    capacity = {gpu.spec.name: gpu.spec.memory.capacity_bytes for gpu in space.plan.gpus}
    needs = [
        (need / capacity[name], need, name) for need, name in zip(columns["memory_bytes_per_gpu"], gpu, strict=True)
    ]
    _, need, name = min(row for row in needs if row[1] > 0)
    return float(need), name


def front_table(result: Result) -> str:
    """Return the front as a table: ties by objectives shown once (with the fewest GPUs), long fronts thinned evenly."""
    objectives = list(result.space.objectives)
    frame = result.frame.sort([*objectives, "gpus"]).unique(objectives, keep="first", maintain_order=True)
    sign = dict(result.space.signed_objectives)[objectives[0]]
    frame = frame.sort(objectives[0], descending=sign < 0, maintain_order=True)
    height = frame.height
    step = max(1.0, (height - 1) / (_ROWS_SHOWN - 1)) if height > 1 else 1.0
    picked = sorted({min(height - 1, round(i * step)) for i in range(_ROWS_SHOWN)}) if height else []
    lines = [point_table(frame[picked], result)]
    if height > len(picked):
        lines.append(f"({len(picked)} of {height} points of the front; --out writes all)")
    return "\n".join(lines)


def point_table(frame: pl.DataFrame, result: Result) -> str:
    """Return points as a table: the axes that vary, then the results people ask for first."""
    always = {"tp", "batch"}
    shown = [axis for axis in _AXES_SHOWN if axis in always or len(result.space.axes[axis]) > 1]
    rows = []
    for row in frame.iter_rows(named=True):
        values = [row[axis] if row[axis] is not None else DEFAULT for axis in shown]
        numbers = [row["energy_per_output_token_j"], row["latency_s"], row["ttft_s"], row["tpot_s"] * 1e3]
        numbers += [row["output_tokens_per_s"], row["power_w_per_gpu"], row["memory_bytes_per_gpu"] / 1e9]
        rows.append([*values, row["gpus"], *(number(value) for value in numbers)])
    results = ["GPUs", "J/token", "latency s", "TTFT s", "TPOT ms", "tokens/s", "W/GPU", "GB/GPU"]
    return table([*(heading(axis) for axis in shown), *results], rows)


def reduction_tables(result: Result) -> str:
    """Return what was kept besides the front: the best few, the best of each group, quantiles."""
    parts = []
    for title, frame in (("best", result.top), ("best of each group", result.best_per)):
        if frame is not None:
            left = f"\n({_ROWS_SHOWN} of {frame.height}; --out writes all)" if frame.height > _ROWS_SHOWN else ""
            parts.append(f"{title}:\n{point_table(frame.head(_ROWS_SHOWN), result)}{left}")
    if result.distributions is not None and result.distributions.height:
        shares = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
        names = result.distributions["column"].unique(maintain_order=True)
        rows = [[name, *(number(result.quantile(name, share)) for share in shares)] for name in names]
        parts.append(f"quantiles, to within 1/128:\n{table(['column', *(f'{s:.0%}' for s in shares)], rows)}")
    return "\n\n".join(parts)


def account(result: Result) -> str:
    """Return how the front was found: points, speed, what could not run."""
    whole = f" of {result.space.size:,}" if result.points < result.space.size else ""
    lines = [f"{result.method}: {result.points:,}{whole} configurations{_speed(result)}, {result.feasible:,} run"]
    if result.feasible < result.points:
        lines.append(f"the others {why_not(result.by_reason)}")
    if result.outside_limits:
        lines.append(f"{result.outside_limits:,} run outside the limits")
    return "; ".join(lines)


def _speed(result: Result) -> str:
    """Return how fast the points were found, of results that were not read from a file."""
    if result.seconds <= 0.0:
        return ""
    return f" in {si(result.seconds, 's')} ({number(result.points / result.seconds)}/s)"


def trust(result: Result) -> str:
    """Return how far each GPU's numbers are trusted."""
    return trust_line(result.space.trust)


TRUST = {
    "measured": "coefficients measured on it",
    "calibrated": "coefficients fitted to measurements, with their errors",
    "published": "kernels from published measurements; watts, host and interval borrowed from a neighbour",
    "modelled": "derived from the data sheet by rules; expect errors of a third or more",
}


def trust_line(gpus: Mapping[str, Account | str]) -> str:
    """Return a line saying how far profiles are trusted: by their accounts, or their levels alone."""
    by_gpu = {name: {"trust": entry} if isinstance(entry, str) else entry for name, entry in gpus.items()}
    return "trust: " + "; ".join(f"{name} is {entry['trust']} ({trust_words(entry)})" for name, entry in by_gpu.items())


def trust_words(account: Account) -> str:
    """Return what an account of trust means."""
    lent = f"; serving layer and intervals borrowed from {account['lender']}" if account.get("lender") else ""
    return TRUST[account["trust"]] + (lent if account["trust"] == "calibrated" else "")


def as_dict(result: Result) -> dict[str, Any]:
    """Return the whole result as plain data, for `--json`."""
    return {
        "answer": result.answer(),
        "method": result.method,
        "points": result.points,
        "by_reason": result.by_reason,
        "outside_limits": result.outside_limits,
        "seconds": result.seconds,
        "plan_sha256": result.plan_sha256,
        "trust": levels(result.space.trust),
        "space": result.space.describe(),
        "front": result.frame.to_dicts(),
        **{
            name: frame.to_dicts()
            for name in ("top", "best_per", "distributions")
            if (frame := getattr(result, name)) is not None
        },
    }
