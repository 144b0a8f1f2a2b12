"""The roofline: how near each operation comes to what the GPU's arithmetic and memory allow."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from energylens.engine.result_columns import ENERGY
from energylens.reports.charts.style import COLOURS, HEIGHT, WIDTH, configured, title


def roofline_chart(operations: pl.DataFrame, bandwidth_bytes_per_s: float) -> Any:
    """Return FLOP/s over FLOPs per byte of HBM, in logarithms, below `min(peak, intensity·bandwidth)`."""
    drawn = operations.filter((pl.col("flops") > 0) & (pl.col("hbm_bytes") > 0) & (pl.col("run_s") > 0)).with_columns(
        (pl.col("flops") / pl.col("hbm_bytes")).alias("intensity"),
        (pl.col("flops") / pl.col("run_s") / 1e12).alias("tflops"),
    )
    peaks = sorted(drawn["peak_flops_per_s"].unique().to_list())
    ends = [float(drawn["intensity"].min() or 1.0) / 2, 2.0 * float(drawn["intensity"].max() or 1.0)]  # type: ignore[arg-type]
    ends[1] = max(ends[1], 2.0 * peaks[-1] / bandwidth_bytes_per_s)
    roofs = []
    for peak in peaks:
        knee = peak / bandwidth_bytes_per_s
        for at, x in enumerate((ends[0], knee, ends[1])):
            y = min(peak, x * bandwidth_bytes_per_s) / 1e12
            roofs.append({"peak": peak, "at": at, "intensity": x, "tflops": y, "name": f"{peak / 1e12:,.0f} TFLOP/s"})
    classes = sorted(drawn["class"].unique().to_list())
    x = alt.X("intensity:Q", title="FLOPs per byte of HBM", scale=alt.Scale(type="log", nice=False))
    y = alt.Y("tflops:Q", title="TFLOP/s of one GPU", scale=alt.Scale(type="log", nice=False, padding=12))
    lines = (
        alt.Chart(alt.InlineData(values=roofs))
        .mark_line(color="#7f7f7f", strokeDash=[5, 3], strokeWidth=1.5)
        .encode(x=x, y=y, detail="peak:N", order="at:Q")
    )
    names = (
        alt.Chart(alt.InlineData(values=[row for row in roofs if row["at"] == 1]))
        .mark_text(align="right", baseline="bottom", dx=-10, dy=-4, color="#7f7f7f", fontSize=11)
        .encode(x=x, y=y, text="name:N")
    )
    points = (
        alt.Chart(alt.InlineData(values=drawn.to_dicts()))
        .mark_point(filled=True, opacity=0.85)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "class:N", title=None, scale=alt.Scale(domain=classes, range=list(COLOURS)[: len(classes)])
            ),
            shape=alt.Shape(
                "phase:N", title=None, scale=alt.Scale(domain=["prefill", "decode"], range=["square", "circle"])
            ),
            size=alt.Size(f"{ENERGY}:Q", legend=None, scale=alt.Scale(range=[40, 420])),
            tooltip=[
                alt.Tooltip("operation:N", title="operation"),
                alt.Tooltip("phase:N", title="phase"),
                alt.Tooltip("intensity:Q", title="FLOPs per byte", format=".3~g"),
                alt.Tooltip("tflops:Q", title="TFLOP/s", format=".3~g"),
                alt.Tooltip(f"{ENERGY}:Q", title=title(ENERGY), format=".3~g"),
            ],
        )
    )
    return configured(alt.layer(lines, names, points).properties(width=WIDTH, height=HEIGHT))
