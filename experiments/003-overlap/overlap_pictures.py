"""The two pictures, drawn from the measured configurations and their left-out predictions."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import numpy as np
import polars as pl
from overlap_choice import front
from overlap_model import Runs

from energylens.calibrate.kernels.formulas import Array

SHOWN = ((2, 2), (2, 5), (5, 6), (0, 6))
BLOCK_COLOURS = {"512": "#E69F00", "1024": "#0072B2"}  # Okabe-Ito
ROWS = {"joules": ("J, both GPUs", [1.79, 2.21]), "ms": ("ms", [2.6, 4.4])}
TRUE, HEURISTIC, PREDICTED, OTHER = "#0072B2", "#E69F00", "#D55E00", "#BBBBBB"


def draw(runs: Runs, ms: Array, joules: Array, folder: Path) -> None:
    """Write the two plots."""
    against_sms(runs, ms, joules).save(folder / "against-sms.png", scale_factor=1.5)
    fronts(runs, ms, joules).save(folder / "front.png", scale_factor=1.5)


def _table(runs: Runs, ms: Array, joules: Array) -> pl.DataFrame:
    columns = {"first": runs.first, "last": runs.last, "block": runs.block, "sms": runs.sms}
    return pl.DataFrame({**columns, "ms": runs.ms, "joules": runs.joules, "ms_said": ms, "joules_said": joules})


def against_sms(runs: Runs, ms: Array, joules: Array) -> alt.ConcatChart:
    table = _table(runs, ms, joules).with_columns(pl.col("block").cast(pl.String))
    colour = alt.Color("block:N", title="threads a block").scale(
        domain=list(BLOCK_COLOURS), range=list(BLOCK_COLOURS.values())
    )
    shape = alt.Shape("block:N", title="threads a block").scale(
        domain=list(BLOCK_COLOURS), range=["circle", "triangle-up"]
    )
    charts = []
    for name, (unit, ends) in ROWS.items():
        for i, (first, last) in enumerate(SHOWN):
            base = alt.Chart(
                table.filter(first=first, last=last),
                title=f"operations {first} to {last}" if (first, last) != SHOWN[0] else "operation 2",
                width=200,
                height=200,
            )
            x = alt.X("sms:Q", title="SMs of the all-reduce").scale(domain=[0, 20]).axis(values=[1, 5, 9, 13, 17])
            scale = alt.Scale(domain=ends, nice=False)
            axis = alt.Axis(title=unit if i == 0 else None, tickCount=6)
            point = base.mark_point(filled=True, size=45, clip=True).encode(
                x, alt.Y(f"{name}:Q", scale=scale, axis=axis), colour, shape
            )
            line = base.mark_line(clip=True).encode(x, alt.Y(f"{name}_said:Q", scale=scale, axis=axis), colour)
            charts.append(line + point)
    title = alt.TitleParams(
        "More SMs for the all-reduce are not always better",
        subtitle="Points: measured. Lines: predicted without the window. The fewest SMs are far above the range.",
        anchor="middle",
    )
    return alt.concat(*charts, columns=len(SHOWN), title=title)


def fronts(runs: Runs, ms: Array, joules: Array) -> alt.LayerChart:
    whole = runs.within((0, 6))
    kinds = {
        "other configurations": np.ones(len(runs), dtype=bool),
        "sequential": runs.sequential,
        "overlap with the whole block": whole,
        "its most SMs (19)": whole & (runs.sms == 19),
        "measured front": np.isin(np.arange(len(runs)), front(runs.ms, runs.joules)),
        "predicted front, as measured": np.isin(np.arange(len(runs)), front(ms, joules)),
    }
    colours = [OTHER, "#555555", HEURISTIC, HEURISTIC, TRUE, PREDICTED]
    shapes = ["circle", "cross", "triangle-up", "square", "circle", "diamond"]
    kind = pl.lit("other configurations")
    for name, here in kinds.items():
        kind = pl.when(pl.Series(here)).then(pl.lit(name)).otherwise(kind)
    table = _table(runs, ms, joules).with_columns(
        kind=kind, size=pl.when(kind.is_in(["other configurations", "sequential"])).then(30).otherwise(110)
    )
    x = alt.X("ms:Q", title="ms").scale(domain=[2.62, 3.4], nice=False)
    y = alt.Y("joules:Q", title="J, both GPUs").scale(domain=[1.79, 1.97], nice=False)
    points = (
        alt.Chart(table.sort("size"), width=620, height=380)
        .mark_point(filled=True, clip=True, opacity=0.9)
        .encode(
            x,
            y,
            alt.Color("kind:N", title=None).scale(domain=list(kinds), range=colours),
            alt.Shape("kind:N", title=None).scale(domain=list(kinds), range=shapes),
            alt.Size("size:Q", scale=None, legend=None),
        )
    )
    line = (
        alt.Chart(table.filter(kind="measured front").sort("ms"))
        .mark_line(color=TRUE, interpolate="step-after")
        .encode(x, y)
    )
    title = alt.TitleParams(
        "The measured front spans 5 % of time and 3 % of energy",
        subtitle=f"{len(runs)} configurations (those slower than 3.4 ms or above 1.97 J are outside the picture)",
    )
    layers: alt.LayerChart = (line + points).properties(title=title)
    return layers
