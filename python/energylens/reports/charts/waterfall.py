"""A waterfall: from the joules of one point to those of another, cause by cause."""

from __future__ import annotations

from typing import Any

import altair as alt

from energylens.common.format import number
from energylens.engine.result_columns import ENERGY
from energylens.reports.charts.style import COLOURS, WIDTH, configured, title
from energylens.reports.text.prediction import CAUSE_NAMES
from energylens.results.comparison import Comparison

_LEAST = 0.004
"""Changes below this share of the larger total are put together."""


def waterfall_chart(comparison: Comparison) -> Any:
    """Return bars from the joules per output token before to those after, the largest change first."""
    causes = comparison.causes
    before, after = (float(causes[side].sum()) for side in ("before", "after"))
    least = _LEAST * max(before, after)
    steps = [
        (CAUSE_NAMES.get(row["cause"], row["cause"]) + ("" if row["phase"] == "both" else f", {row['phase']}"), row)
        for row in causes.iter_rows(named=True)
    ]
    large = [(name, float(row["change_j"])) for name, row in steps if abs(row["change_j"]) >= least]
    rest = sum(float(row["change_j"]) for _, row in steps if abs(row["change_j"]) < least)
    large += [("all others", rest)] if abs(rest) > 1e-9 * max(before, after) else []
    rows: list[dict[str, Any]] = [
        {"name": "before", "from": 0.0, "to": before, "kind": "total", "text": number(before)}
    ]
    at = before
    for name, change in large:
        kind = "more" if change > 0 else "less"
        text = f"{'+' if change > 0 else '-'}{number(abs(change))}"
        rows.append({"name": name, "from": at, "to": at + change, "kind": kind, "text": text})
        at += change
    rows.append({"name": "after", "from": 0.0, "to": after, "kind": "total", "text": number(after)})
    order = [row["name"] for row in rows]
    kinds = {"total": "#7f7f7f", "more": COLOURS[1], "less": COLOURS[0]}
    shown = [kind for kind in kinds if any(row["kind"] == kind for row in rows)]
    # Small changes of large totals are drawn large: then the axis does not begin at 0, and says so.
    levels = [row["to"] for row in rows]
    low, high = min(levels), max(levels)
    start = max(0.0, low - 0.5 * (high - low)) if 0.6 * high < low < high else 0.0
    for row in rows:
        row["end"] = max(row["from"], row["to"])
        row["from"] = max(row["from"], start)
    domain = [start, high + 0.18 * (high - start)]
    label = title(ENERGY) + (", not from 0" if start else "")
    base = alt.Chart(alt.InlineData(values=rows))
    y = alt.Y("name:N", title=None, sort=order)
    bars = base.mark_bar().encode(
        x=alt.X(
            "from:Q",
            title=label,
            scale=alt.Scale(domain=domain, nice=False, zero=False),
            axis=alt.Axis(tickCount=5),
        ),
        x2="to:Q",
        y=y,
        color=alt.Color("kind:N", title=None, scale=alt.Scale(domain=shown, range=[kinds[kind] for kind in shown])),
        tooltip=[alt.Tooltip("name:N", title="cause"), alt.Tooltip("text:N", title="J per output token")],
    )
    words = base.mark_text(align="left", dx=4, fontSize=11).encode(x="end:Q", y=y, text="text:N")
    return configured(alt.layer(bars, words).properties(width=WIDTH, height=24 * len(rows)))
