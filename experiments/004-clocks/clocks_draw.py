"""The pictures: energy against clock, energy and time of caps and locks."""

from __future__ import annotations

import altair as alt
import polars as pl
from clocks import CLOCKS, GPUS, PCIE, WORKS

SATURATED_SWEEPS = [("opt-1.3b", 2, 2048), ("opt-1.3b", 8, 2048), ("qwen2-1.5b", 1, 4096)]
NAMES = {"opt-1.3b": "OPT-1.3B", "qwen2-1.5b": "Qwen2-1.5B", PCIE: "A100 PCIe", "h100-sxm": "H100 SXM"}
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00"]  # Okabe-Ito
DRAWN = [0, 2, 4, 5, 6]  # works in the picture of clocks
CAPPED = [0, 2, 5, 9]  # works in the picture of caps
WIDE, HIGH = 300, 210


def _lines(frame: pl.DataFrame, title: str, x: alt.X, y: alt.Y, colour: alt.Color, dash: alt.StrokeDash) -> alt.Chart:
    chart = alt.Chart(frame, title=alt.TitleParams(title, fontSize=13), width=WIDE, height=HIGH)
    lines: alt.Chart = chart.mark_line(clip=True).encode(x, y, colour, strokeDash=dash)
    return lines


def draw_clocks(table: pl.DataFrame, runs: pl.DataFrame) -> alt.ConcatChart:
    """Return energy against clock: predicted for Llama on two GPUs, predicted and measured on the A100 PCIe."""
    names = [str(WORKS[i]) for i in DRAWN]
    colour = alt.Color("work:N", title="A100, H100: predicted").scale(domain=names, range=COLOURS)
    colour = colour.legend(labelLimit=300)
    mhz = alt.X("value:Q", title="SM clock (MHz)").scale(zero=False)
    charts = []
    for gpu, short in GPUS.items():
        here = table.filter(pl.col("work").is_in(names), gpu=gpu, knob="clock")
        here = here.with_columns(
            y=pl.col("j_per_token") / pl.col("j_per_token").get(pl.col("value").arg_max()).over("work")
        )
        y = alt.Y("y:Q", title="J / J at the highest clock").scale(domain=[0.5, 1.2])
        charts.append(_lines(here, f"{short} SXM, predicted", mhz, y, colour, alt.StrokeDash()))
    shapes = []
    for model, batch, tokens in SATURATED_SWEEPS:
        run = runs.filter(runs="clock sweep", model=model, batch=batch, prompt_tokens=tokens)
        label = f"{NAMES[model]}, batch {batch}, {tokens:,} tokens"
        for side, joules, time in (("measured", "energy_j", "time_ms"), ("predicted", "predicted_j", "predicted_ms")):
            at = run.filter(sm_clock_mhz=960)
            shapes.append(run.select(
                work=pl.lit(label), side=pl.lit(side), value="sm_clock_mhz",
                j=pl.col(joules) / at[joules].item(), t=pl.col(time) / at[time].item(),
            ))  # fmt: skip
    dash = alt.StrokeDash("side:N", title=None).scale(domain=["measured", "predicted"], range=[[1, 0], [5, 4]])
    shape_colour = alt.Color("work:N", title="A100 PCIe, prefill").scale(range=COLOURS).legend(labelLimit=300)
    for name, what, low, high in (("j", "J", 0.9, 1.3), ("t", "time", 0.8, 1.8)):
        y = alt.Y(f"{name}:Q", title=f"{what} / {what} at 960 MHz").scale(domain=[low, high])
        title = f"A100 PCIe at most 250 W, {'energy' if name == 'j' else 'time'}"
        charts.append(_lines(pl.concat(shapes), title, mhz, y, shape_colour, dash))
    pairs = [alt.concat(*charts[i : i + 2], columns=2).resolve_scale(color="shared") for i in (0, 2)]
    both: alt.ConcatChart = alt.vconcat(*pairs).resolve_scale(color="independent", strokeDash="independent")
    return both


def draw_caps(table: pl.DataFrame) -> alt.ConcatChart:
    """Return energy against time of caps and of locks."""
    names = ["clock lock", "power cap"]
    colour = alt.Color("knob:N", title=None).scale(domain=names, range=["#0072B2", "#D55E00"])
    shape = alt.Shape("knob:N", title=None).scale(domain=names, range=["circle", "triangle-up"])
    charts = []
    for (gpu, short), work in ((gpu, WORKS[i]) for gpu in GPUS.items() for i in CAPPED):
        here = table.filter(gpu=gpu, work=str(work))
        free = here.filter(knob="clock", value=CLOCKS[gpu][-1]).row(0, named=True)
        here = here.with_columns(
            x=pl.col("time_s") / free["time_s"], y=pl.col("j_per_token") / free["j_per_token"],
            knob=pl.when(knob="clock").then(pl.lit(names[0])).otherwise(pl.lit(names[1])),
        )  # fmt: skip
        size = work.model.removeprefix("llama-3.1-").upper()
        at = f"TP {work.tp}, batch {work.batch}, {work.prompt:,} prompt tokens"
        title = alt.TitleParams(f"{short}: {work.phase} {size}", fontSize=13, subtitle=at)
        x = alt.X("x:Q", title="time / time without a limit").scale(domain=[1, 1.6])
        y = alt.Y("y:Q", title="J / J without a limit").scale(domain=[0.55, 1.05])
        mark = alt.Chart(here, title=title, width=200, height=170).mark_point(size=24, clip=True, filled=True)
        charts.append(mark.encode(x, y, colour, shape))
    head = alt.TitleParams("Energy against time under a lock and under a cap, predicted", anchor="middle")
    return alt.concat(*charts, columns=len(CAPPED), title=head)
