"""Colours, words and sizes that all charts share; the colours are told apart by readers who are colour-blind too."""

from __future__ import annotations

from typing import Any, Final

from energylens.engine.result_columns import UNITS

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#7f7f7f")
"""Okabe and Ito's, with brown and grey in place of yellow and black, which pages in light and dark would swallow."""

CAUSE_COLOURS: Final = {
    "compute": "#d55e00",
    "hbm_weights": "#0072b2",
    "hbm_kv": "#56b4e9",
    "hbm_activations": "#009e73",
    "communication": "#cc79a7",
    "static": "#7f7f7f",
    "waiting": "#c9c9c9",
}

SHAPES: Final = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")

WIDTH, HEIGHT = 520, 320

_TITLES: Final = {
    "energy_per_output_token_j": "energy per output token (J)",
    "latency_s": "latency of a request (s)",
    "ttft_s": "time to first token (s)",
    "tpot_s": "time per output token (s)",
    "ttft_p90_s": "P90 time to first token (s)",
    "tpot_p90_s": "P90 time per output token (s)",
    "output_tokens_per_s": "output tokens/s",
    "power_w_per_gpu": "power of each GPU (W)",
    "memory_bytes_per_gpu": "memory of each GPU (bytes)",
}


def title(column: str) -> str:
    """Return the title of a column's axis, with its unit."""
    if column in _TITLES:
        return _TITLES[column]
    unit = UNITS.get(column)
    return f"{column} ({unit})" if unit else column


def configured(chart: Any) -> Any:
    """Return a chart in the style of all: no frame, light grid, legends below so that narrow screens hold them."""
    return (
        chart.configure_view(stroke=None)
        .configure_axis(
            gridOpacity=0.5,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            labelLimit=220,
            labelOverlap=True,
        )
        .configure_legend(orient="bottom", labelFontSize=12, titleFontSize=12, columns=3, labelLimit=260, symbolLimit=0)
        .configure_title(anchor="start", fontSize=14)
    )
