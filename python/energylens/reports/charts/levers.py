"""What a change of each lever saves or costs."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from energylens.reports.charts.style import COLOURS, WIDTH, configured

_KEEPS_LIMITS, _BROKEN = "keeps the limits", "breaks a limit"


def _text(share: float, extrapolated: bool) -> str:
    text = "0 %" if abs(share) < 0.005 else f"{-100 * share:+.0f} %"
    return f"{text} *" if extrapolated else text


def changes_chart(changes: pl.DataFrame) -> Any:
    """Return the change of joules per output token of each single change, the best first; columns as in `changes`.

    `*` marks what is extrapolated.
    """
    drawn = changes.with_columns(
        (-pl.col("saved_share")).alias("more"),
        pl.when("keeps").then(pl.lit(_KEEPS_LIMITS)).otherwise(pl.lit(_BROKEN)).alias("limits"),
    ).with_columns(
        pl.when(pl.col("more") < 0).then(pl.lit(0.0)).otherwise(pl.col("more")).alias("end"),
        pl.Series("text", [_text(*row) for row in changes.select("saved_share", "extrapolated").iter_rows()]),
    )
    order = drawn["change"].to_list()
    domain = [name for name in (_KEEPS_LIMITS, _BROKEN) if name in drawn["limits"].to_list()]
    y = alt.Y("change:N", title=None, sort=order, axis=alt.Axis(labelExpr="split(datum.label, ', ')"))
    base = alt.Chart(alt.InlineData(values=drawn.to_dicts()))
    bars = base.mark_bar().encode(
        x=alt.X(
            "more:Q",
            title="change of J per output token",
            scale=alt.Scale(padding=52, nice=False),
            axis=alt.Axis(format="+%", tickCount=4, labelFlush=True),
        ),
        y=y,
        color=alt.Color(
            "limits:N",
            title=None,
            scale=alt.Scale(
                domain=domain, range=[COLOURS[0] if name == _KEEPS_LIMITS else COLOURS[1] for name in domain]
            ),
        ),
        tooltip=[
            alt.Tooltip("change:N", title="change"),
            alt.Tooltip("more:Q", title="joules per output token", format="+.1%"),
            alt.Tooltip("saved_j:Q", title="saved (J per output token)", format=".3~g"),
            *(
                [alt.Tooltip("latency_share:Q", title="latency", format="+.1%")]
                if "latency_share" in drawn.columns
                else []
            ),
            alt.Tooltip("limits:N", title="limits"),
            alt.Tooltip("extrapolated:N", title="extrapolated"),
        ],
    )
    words = base.mark_text(align="left", dx=4, fontSize=11).encode(x="end:Q", y=y, text="text:N")
    return configured(
        alt.layer(bars, words).properties(
            width=WIDTH, height=(36 if any(", " in words for words in order) else 22) * drawn.height
        )
    )
