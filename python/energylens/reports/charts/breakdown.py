"""Where the joules go: by cause for a few points, by operation for one."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from energylens.common.format import number
from energylens.engine.result_columns import ENERGY
from energylens.reports.charts.style import CAUSE_COLOURS, COLOURS, WIDTH, configured, title
from energylens.reports.text.prediction import CAUSE_NAMES

_MOST_OPERATIONS = 12


def breakdown_chart(causes: pl.DataFrame) -> Any:
    """Return shares of the joules by cause, a bar for each point and phase; columns as `Subject.causes` has them."""
    points = causes["point"].unique(maintain_order=True).to_list()
    phases = causes["phase"].unique(maintain_order=True).to_list()
    known = causes["cause"].unique(maintain_order=True).to_list()
    drawn = causes.with_columns(
        pl.col("cause").replace(CAUSE_NAMES).alias("name"),
        (pl.col(ENERGY) / pl.col("total")).alias("share"),
        pl.col("cause")
        .replace_strict({cause: i for i, cause in enumerate(known)}, return_dtype=pl.Int32)
        .alias("order"),
        pl.Series(
            "bar", [f"{point}: {number(total)} J/token" for point, total in causes.select("point", "total").iter_rows()]
        ),
    )
    bars = drawn["bar"].unique(maintain_order=True).to_list()
    names = [CAUSE_NAMES.get(cause, cause) for cause in known]
    colours = [CAUSE_COLOURS.get(cause, COLOURS[at]) for at, cause in enumerate(known)]
    rows: dict[str, Any] = {}
    if len(phases) > 1:
        rows["yOffset"] = alt.YOffset("phase:N", sort=phases, scale=alt.Scale(paddingInner=0.15))
    chart = (
        alt.Chart(alt.InlineData(values=drawn.to_dicts()))
        .mark_bar()
        .encode(
            x=alt.X(
                "sum(share):Q",
                title="share of the point's joules",
                scale=alt.Scale(domain=[0, 1.12 if len(phases) > 1 else 1.0], nice=False),
                axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1.0]),
            ),
            y=alt.Y(
                "bar:N",
                title=None,
                sort=bars,
                scale=alt.Scale(paddingInner=0.35, paddingOuter=0.25),
                axis=alt.Axis(labels=False, ticks=False, domain=False),
            ),
            color=alt.Color("name:N", title=None, scale=alt.Scale(domain=names, range=colours)),
            order="order:Q",
            tooltip=[
                alt.Tooltip("point:N", title="point"),
                alt.Tooltip("phase:N", title="phase"),
                alt.Tooltip("name:N", title="cause"),
                alt.Tooltip(f"{ENERGY}:Q", title=title(ENERGY), format=".3~g"),
                alt.Tooltip("share:Q", title="share", format=".1%"),
            ],
            **rows,
        )
    )
    heads = (
        alt.Chart(alt.InlineData(values=[{"bar": bar} for bar in bars]))
        .mark_text(align="left", baseline="bottom", dy=-33 if len(phases) > 1 else -20, fontSize=12)
        .encode(y=alt.Y("bar:N", sort=bars, title=None), x=alt.value(0), text="bar:N")
    )
    layers = alt.layer(chart, heads)
    if len(phases) > 1:
        ends = drawn.group_by("bar", "phase", maintain_order=True).agg(pl.col("share").sum().alias("end"))
        layers += (
            alt.Chart(alt.InlineData(values=ends.to_dicts()))
            .mark_text(align="left", dx=4, fontSize=11)
            .encode(
                x=alt.X("end:Q"),
                y=alt.Y("bar:N", sort=bars, title=None),
                yOffset=alt.YOffset("phase:N", sort=phases),
                text="phase:N",
            )
        )
    step = 84 if len(phases) > 1 else 56
    return configured(layers.properties(width=WIDTH, height=step * len(points)))


def operations_chart(operations: pl.DataFrame) -> Any:
    """Return joules per output token of the largest operations, prefill beside decode."""
    totals = operations.group_by("operation").agg(pl.col(ENERGY).sum().alias("total")).sort("total", descending=True)
    names = totals["operation"].head(_MOST_OPERATIONS).to_list()
    rest = f"{totals.height - len(names)} others"
    drawn = (
        operations.with_columns(
            pl.when(pl.col("operation").is_in(names)).then(pl.col("operation")).otherwise(pl.lit(rest)).alias("name")
        )
        .group_by("name", "phase", maintain_order=True)
        .agg(pl.col(ENERGY).sum(), pl.col("class").first())
    )
    order = [*names, rest] if totals.height > len(names) else names
    chart = (
        alt.Chart(alt.InlineData(values=drawn.to_dicts()))
        .mark_bar()
        .encode(
            x=alt.X(f"{ENERGY}:Q", title=title(ENERGY), axis=alt.Axis(tickCount=5)),
            y=alt.Y("name:N", title=None, sort=order),
            color=alt.Color(
                "phase:N", title=None, scale=alt.Scale(domain=["prefill", "decode"], range=[COLOURS[1], COLOURS[0]])
            ),
            tooltip=[
                alt.Tooltip("name:N", title="operation"),
                alt.Tooltip("class:N", title="class"),
                alt.Tooltip("phase:N", title="phase"),
                alt.Tooltip(f"{ENERGY}:Q", title=title(ENERGY), format=".3~g"),
            ],
        )
    )
    return configured(chart.properties(width=WIDTH, height=22 * len(order)))
