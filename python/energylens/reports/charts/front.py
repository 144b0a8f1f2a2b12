"""The front: joules against latency, a colour for each GPU, a shape for each parallelism."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import altair as alt
import polars as pl

from energylens.engine.result_columns import ENERGY
from energylens.reports.charts.style import COLOURS, HEIGHT, SHAPES, WIDTH, configured, title
from energylens.reports.subject import Subject
from energylens.results.words import configuration, deployment_words, pool_row

POINTS = "points"
"""Name of the data of the chart, so that a page can change them."""


def front_chart(subject: Subject, most: int) -> Any:
    """Return the chart of a front, to be zoomed and hovered over; `picked` is the row that is marked."""
    frame = thinned(subject.labelled(), most, [at for _, at in subject.chosen()])
    low, high = interval_columns(frame)
    known = low is not None and high is not None
    axes = [axis for axis in subject.axes if axis not in (ENERGY, subject.latency)]
    drawn = frame.select(
        "row",
        "colour",
        "shape",
        ENERGY,
        subject.latency,
        *axes,
        *([] if low is None else [low.alias("low")]),
        *([] if high is None else [high.alias("high")]),
        label(subject, frame),
    )
    colours = drawn["colour"].unique(maintain_order=True).to_list()
    shapes = sorted(drawn["shape"].unique().to_list(), key=lambda text: (len(text), text))
    data = alt.InlineData(name=POINTS, values=drawn.to_dicts())
    scale = alt.Scale(type="log", nice=False, padding=16)
    picked = alt.param(name="picked", value=-1)
    base = alt.Chart(data).encode(
        x=alt.X(f"{subject.latency}:Q", title=title(subject.latency), scale=scale),
        color=alt.Color(
            "colour:N",
            title=None,
            scale=alt.Scale(domain=colours, range=[*COLOURS * 4][: len(colours)]),
            legend=alt.Legend(symbolOpacity=1, symbolType="circle"),
        ),
    )
    marked = "datum.row === picked"
    points = base.mark_point(filled=True, size=70, opacity=0.9, strokeWidth=3).encode(
        y=alt.Y(f"{ENERGY}:Q", title=title(ENERGY), scale=scale),
        shape=alt.Shape(
            "shape:N",
            title=None,
            scale=alt.Scale(domain=shapes, range=[*SHAPES * 2][: len(shapes)]),
            legend=None if shapes == ["any"] else alt.Undefined,
        ),
        size=alt.condition(marked, alt.value(320), alt.value(70)),
        tooltip=[
            alt.Tooltip("label:N", title="configuration"),
            alt.Tooltip(f"{ENERGY}:Q", title=title(ENERGY), format=".4~g"),
            *([alt.Tooltip("low:Q", title="80 % from", format=".3~g")] if known else []),
            *([alt.Tooltip("high:Q", title="to", format=".3~g")] if known else []),
            alt.Tooltip(f"{subject.latency}:Q", title=title(subject.latency), format=".4~g"),
        ],
    )
    zoom = alt.selection_interval(bind="scales", name="zoom")
    points = points.add_params(zoom)
    band = base.mark_rule(opacity=0.25).encode(y=alt.Y("low:Q", title=title(ENERGY)), y2="high:Q")
    layered = (alt.layer(band, points) if known else alt.layer(points)).add_params(picked)
    return configured(layered.properties(width=WIDTH, height=HEIGHT))


def thinned(frame: pl.DataFrame, most: int, always: Iterable[int] = ()) -> pl.DataFrame:
    """Return an even choice of rows that keeps both ends, and rows at some places."""
    if frame.height <= most:
        return frame
    step = (frame.height - 1) / (most - 1)
    return frame[sorted({round(at * step) for at in range(most)} | set(always))]


def interval_columns(frame: pl.DataFrame) -> tuple[pl.Expr | None, pl.Expr | None]:
    """Return the 80 % interval of joules per output token; None where there is none."""
    if "energy_lo_j" in frame.columns:
        each = pl.col(ENERGY) / pl.col("energy_j")
        return pl.col("energy_lo_j") * each, pl.col("energy_hi_j") * each
    names = (f"{ENERGY.removesuffix('_j')}_{end}_j" for end in ("lo", "hi"))
    low, high = (pl.col(name) if name in frame.columns else None for name in names)
    return low, high


def label(subject: Subject, frame: pl.DataFrame) -> pl.Series:
    """Return each point in words."""

    def pair(row: dict[str, Any]) -> str:
        sides = {side: pool_row(row, side) for side in ("prefill", "decode")}
        words = {
            side: (deployment_words if "replicas" in side_row else configuration)(side_row)
            for side, side_row in sides.items()
        }
        return "; ".join(f"{side} on {text}" for side, text in words.items())

    words = {"front": configuration, "service": deployment_words, "pairs": pair}[subject.kind]
    named = subject.frame["model"].n_unique() > 1
    labels = [(f"{row['model']} on " if named else "") + words(row) for row in frame.iter_rows(named=True)]
    return pl.Series("label", labels, dtype=pl.String)
