"""Which lengths are cheap: joules per output token over prompt and output lengths."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from energylens.engine.result_columns import ENERGY
from energylens.reports.charts.style import WIDTH, configured, title


def sweet_spots_chart(cells: pl.DataFrame) -> Any:
    """Return a map of joules per output token; columns `prompt_tokens`, `output_tokens` and the joules."""
    drawn = cells.select("prompt_tokens", "output_tokens", ENERGY).sort("prompt_tokens", "output_tokens")
    across, down = (drawn[name].unique().sort().to_list() for name in ("output_tokens", "prompt_tokens"))
    chart = (
        alt.Chart(alt.InlineData(values=drawn.to_dicts()))
        .mark_rect()
        .encode(
            x=alt.X("output_tokens:O", title="output tokens", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("prompt_tokens:O", title="prompt tokens", sort="descending", axis=alt.Axis(labelOverlap=True)),
            color=alt.Color(
                f"{ENERGY}:Q", title=title(ENERGY), scale=alt.Scale(type="log", scheme="viridis", reverse=True)
            ),
            tooltip=[
                alt.Tooltip("prompt_tokens:O", title="prompt tokens"),
                alt.Tooltip("output_tokens:O", title="output tokens"),
                alt.Tooltip(f"{ENERGY}:Q", title=title(ENERGY), format=".3~g"),
            ],
        )
    )
    height = max(160, min(420, 42 * len(down)))
    return configured(chart.properties(width=max(WIDTH // 2, min(WIDTH, 64 * len(across))), height=height))
