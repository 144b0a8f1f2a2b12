"""Two points side by side, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from energylens.common.format import number, table
from energylens.engine.result_columns import ENERGY, unit
from energylens.reports.text.prediction import CAUSE_NAMES

if TYPE_CHECKING:
    from energylens.results.comparison import Comparison

_MOST_OPERATIONS = 8


def comparison_sentence(comparison: Comparison) -> str:
    """Return the one-line answer."""
    row = comparison.results.filter(result=ENERGY).row(0, named=True)
    less = row["after"] < row["before"]
    return (
        f"{abs(100 * row['change']):.1f} % {'fewer' if less else 'more'} joules per output token: "
        f"{number(row['before'])} J ({comparison.before.words()}) to "
        f"{number(row['after'])} J ({comparison.after.words()})"
    )


def comparison_text(comparison: Comparison) -> str:
    """Return what changes, in what results, and where the joules go."""
    lines = [comparison_sentence(comparison), ""]
    if comparison.axes.height:
        lines += [table(["changed", "before", "after"], comparison.axes.rows()), ""]
    results = [
        [
            f"{row['result']} ({result_unit})" if (result_unit := unit(row["result"])) else row["result"],
            _value(row["result"], row["before"]),
            _value(row["result"], row["after"]),
            "-" if row["change"] is None else f"{100 * row['change']:+.1f} %",
        ]
        for row in comparison.results.iter_rows(named=True)
    ]
    lines += [table(["result", "before", "after", "change"], results), ""]
    rows = [
        [CAUSE_NAMES.get(row["cause"], row["cause"]), row["phase"], *_joules(row)]
        for row in comparison.causes.iter_rows(named=True)
        if max(row["before"], row["after"]) > 0
    ]
    whole = {side: float(comparison.causes[side].sum()) for side in ("before", "after", "change_j")}
    rows.append(["all", "both", *_joules(whole)])
    lines.append(table(["joules per output token", "phase", "before", "after", "change"], rows))
    if comparison.operations is not None:
        largest = comparison.operations.head(_MOST_OPERATIONS)
        rows = [[row["operation"], row["phase"], *_joules(row)] for row in largest.iter_rows(named=True)]
        lines += ["", table(["operation", "phase", "before", "after", "change"], rows)]
        lines.append(
            f"({largest.height} of {comparison.operations.height}, the largest changes; static joules by time)"
        )
    return "\n".join(lines)


def _value(name: str, value: float) -> str:
    if name == "gpus":
        return f"{value:.0f}"
    return f"{value / 1e9:.1f}e9" if name == "memory_bytes_per_gpu" else number(value)


def _joules(row: dict[str, float]) -> list[str]:
    change = row["change_j"]
    return [
        number(row["before"]),
        number(row["after"]),
        f"{'+' if change > 0 else '-' if change < 0 else ''}{number(abs(change))}",
    ]
