"""Workloads in words, and why deployments cannot run. Messages and reports share these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from energylens.common.format import number
from energylens.results.words import why_not

if TYPE_CHECKING:
    from energylens.serving.workload import Workload


def reasons_words(counts: Mapping[str, int]) -> str:
    """Return why deployments cannot run, the most frequent first."""
    over = counts.get("overload", 0)
    small = counts.get("budget", 0)
    rest = {name: n for name, n in counts.items() if name not in {"overload", "budget", "ok"}}
    parts = [f"{over:,} deployments cannot serve all that arrives"] if over else []
    parts += (
        [f"{small:,} have steps of fewer tokens than requests may run (token_budget, max_num_seqs)"] if small else []
    )
    parts += [why_not(rest)] if rest else []
    return ", ".join(parts)


def workload_words(workload: Workload, rate: float | None) -> str:
    """Return a workload in words."""
    words = (
        f"{workload.name}: {number(workload.prompt_tokens)} prompt and {number(workload.output_tokens)} output tokens"
    )
    if rate is None:
        return f"{words}, engines always full"
    words += f", {number(rate)} requests/s"
    peak = max(factor for factor, _ in workload.rates)
    return words if peak <= 1.0 else f"{words}, {number(peak * rate)}/s in its busiest seconds"
