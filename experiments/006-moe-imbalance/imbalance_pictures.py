"""Pictures: ratios of skewed to balanced kernels, and what skew costs in decode."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl
from imbalance_predicted import ALPHAS, MODELS

SKEWED = 1.2
JOINED = ["model", "ep", "batch_of_gpu"]


def against_uniform(table: pl.DataFrame) -> pl.DataFrame:
    """Return a sweep with times and joules by those of independent choices."""
    flat = table.filter(alpha=0.0).drop("alpha")
    both = table.join(flat, on=JOINED, suffix="_flat", maintain_order="left")
    return both.with_columns(
        tpot=pl.col("tpot_s") / pl.col("tpot_s_flat"),
        ttft=pl.col("ttft_s") / pl.col("ttft_s_flat"),
        decode=pl.col("decode_j") / pl.col("decode_j_flat"),
        prefill=pl.col("prefill_j") / pl.col("prefill_j_flat"),
    )


def draw_ratios(cells: list[dict[str, Any]]) -> alt.ConcatChart:
    """Return measured and predicted ratios of skewed to balanced kernels against expert parallelism."""
    bands = {64: "up to 64 tokens", 2047: "65 to 2,047", 16384: "2,048 to 16,384"}
    rows = pl.DataFrame(cells).filter(skew=SKEWED)
    long = rows.unpivot(
        ["measured", "predicted"], index=["groups", "tokens_up_to"], variable_name="what", value_name="ratio"
    )
    colour = alt.Color("what:N", title=None).scale(domain=["measured", "predicted"], range=["#0072B2", "#E69F00"])
    charts = []
    for band, title in bands.items():
        base = alt.Chart(long.filter(tokens_up_to=band), title=title, width=210, height=200)
        x = alt.X("groups:Q", title="EP").scale(type="log", base=2).axis(values=[1, 2, 4, 8, 16, 32, 64], format="d")
        y = alt.Y("ratio:Q", title="time of skewed by balanced").scale(domain=[0.7, 1.8])
        charts.append(
            base.mark_line(point=alt.OverlayMarkDef(size=45)).encode(
                x, y, colour, alt.Shape("what:N", title=None).scale(domain=["measured", "predicted"])
            )
        )
    head = alt.TitleParams("Fused experts of vLLM on H100, bf16, power law 1.2", anchor="middle")
    both: alt.ConcatChart = alt.concat(*charts, columns=3, title=head)
    return both


def draw_sweep(table: pl.DataFrame) -> alt.ConcatChart:
    """Return time and joules of a decode step against skew, by expert parallelism."""
    rows = against_uniform(table).filter(pl.col("batch_of_gpu") == 64)
    charts = []
    for model in ("qwen3-30b-a3b", "deepseek-v3"):
        name, widths = MODELS[model]
        here = rows.filter(model=model).with_columns(width=pl.format("EP {}", "ep"))
        order = [f"EP {width}" for width in widths]
        colour = alt.Color("width:N", title=None, sort=order).scale(
            domain=order, range=["#0072B2", "#E69F00", "#009E73", "#CC79A7"]
        )
        for column, what in (("tpot", "time per token"), ("decode", "joules per token")):
            x = alt.X("alpha:Q", title="α of the power law (0: uniform)").axis(values=list(ALPHAS), format="~g")
            y = alt.Y(f"{column}:Q", title=f"{what} by uniform").scale(zero=False)
            chart = alt.Chart(here, title=f"{name}: {what}", width=300, height=180)
            charts.append(chart.mark_line(point=True).encode(x, y, colour))
    head = alt.TitleParams("What skew costs in decode on H200, 64 sequences a GPU, predicted", anchor="middle")
    both: alt.ConcatChart = alt.concat(*charts, columns=2, title=head).resolve_scale(color="independent")
    return both
