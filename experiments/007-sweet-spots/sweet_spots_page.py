"""Joules of an output token over lengths: the cheapest and the dearest cell, and the surface they lie on."""

from __future__ import annotations

import argparse
from pathlib import Path
from string import Template

import altair as alt
import polars as pl
from pages import markdown, must, settled

from energylens.inputs.library import load_gpu, load_model
from energylens.serving.advice.sweet_spots import SweetSpots, sweet_spots
from energylens.serving.fixed_concurrency import ample

HERE = Path(__file__).parent
LLAMA_2 = HERE.parent / "008-batch-advisor"
GPU = "h100-sxm@trtllm"
MODELS = {
    "llama-3.1-8b": "llama-3.1-8b",
    "qwen3-8b": "qwen3-8b",
    "llama-2-7b": str(LLAMA_2 / "llama-2-7b.yaml"),
    "opt-2.7b": str(LLAMA_2 / "opt-2.7b.yaml"),
    "opt-1.3b": str(LLAMA_2 / "opt-1.3b.yaml"),
}
BATCHES = (1, 8, 32, 128)
DRAWN = ("llama-3.1-8b", 32)
LARGE = 512
PAPER_RATIO, PAPER_MAPE = 33.41, 1.79


def result() -> dict[tuple[str, int], SweetSpots]:
    """Return sweet spots of each model and batch."""
    gpu = load_gpu(GPU)
    return {
        (name, batch): sweet_spots(load_model(path), gpu, batch=batch)
        for name, path in MODELS.items()
        for batch in BATCHES
    }


def table(spots: dict[tuple[str, int], SweetSpots]) -> pl.DataFrame:
    """Return best and worst cells, a row each."""
    rows = []
    for (name, batch), group in spots.items():
        best, worst = group.best, group.worst
        rows.append(
            {
                "model": name,
                "batch": batch,
                "cells": group.cells.height,
                "best_j": best["energy_per_output_token_j"],
                "best_prompt_tokens": best["prompt_tokens"],
                "best_output_tokens": best["output_tokens"],
                "worst_j": worst["energy_per_output_token_j"],
                "worst_prompt_tokens": worst["prompt_tokens"],
                "worst_output_tokens": worst["output_tokens"],
                "ratio": worst["energy_per_output_token_j"] / best["energy_per_output_token_j"],
                "error_percent": group.error_percent,
            }
        )
    return pl.DataFrame(rows)


def page(rows: pl.DataFrame, spots: dict[tuple[str, int], SweetSpots]) -> dict[str, str]:
    """Return what the template asks for."""
    longest = {key: group.cells.filter(output_tokens=64)["prompt_tokens"].max() for key, group in spots.items()}
    for row in rows.iter_rows(named=True):
        where = (row["worst_prompt_tokens"], row["worst_output_tokens"])
        must(where == (longest[(row["model"], row["batch"])], 64), "the dearest cell is the longest prompt and 64 out")
    roomy = [sweet_spots(load_model(path), ample(load_gpu(GPU)), batch=LARGE) for path in MODELS.values()]
    large = [group.worst["energy_per_output_token_j"] / group.best["energy_per_output_token_j"] for group in roomy]
    must(rows["best_prompt_tokens"].max() == 64, "the cheapest cell has the shortest prompts everywhere")
    must(
        max(rows["error_percent"]) < PAPER_MAPE, "the surface fits every map better than the paper's fits measurements"
    )
    cells = [
        [
            row["model"], str(row["batch"]), str(row["cells"]),
            f"{row['best_j']:.3g} at {row['best_prompt_tokens']} in, {row['best_output_tokens']} out",
            f"{row['worst_j']:.3g} at {row['worst_prompt_tokens']:,} in",
            f"{row['ratio']:.1f}", f"{row['error_percent']:.2f}",
        ]
        for row in rows.iter_rows(named=True)
    ]  # fmt: skip
    full = {name: max(rows.filter(model=name)["ratio"]) for name in MODELS}
    heads = spots[DRAWN].coefficients
    gqa, mha = (spots[(name, 32)].coefficients["input·output"] for name in ("llama-3.1-8b", "llama-2-7b"))
    must(mha > 2 * gqa, "cache reads of Llama-2-7B cost more than twice those of Llama-3.1-8B")
    return {
        "table": markdown(
            ["model", "batch", "cells", "cheapest, J/token", "dearest (64 out)", "times", "surface, %"], cells
        ),
        "least": f"{min(rows['ratio']):.1f}",
        "most": f"{max(rows['ratio']):.0f}",
        "most_model": str(rows.sort("ratio")["model"][-1]),
        "most_batch": str(rows.sort("ratio")["batch"][-1]),
        "large": f"{min(large):.0f} to {max(large):.0f}",
        "large_batch": str(LARGE),
        "by_model": ", ".join(f"{name} {value:.0f}" for name, value in full.items()),
        "error": f"{max(rows['error_percent']):.2f}",
        "paper_ratio": f"{PAPER_RATIO}",
        "paper_mape": f"{PAPER_MAPE}",
        "surface": " + ".join(f"{value:.3g}·{term}" for term, value in heads.items() if value > 0).replace("·1 ", " "),
        "drawn": f"{DRAWN[0]}, batch {DRAWN[1]}",
        "cache": f"{mha / gqa:.1f}",
        "best_output": f"{spots[DRAWN].best_output_tokens(64):.0f}",
    }


def draw(group: SweetSpots) -> None:
    """Draw the map of one model and batch."""
    cells = group.cells.with_columns(label=pl.col("energy_per_output_token_j").round_sig_figs(2).cast(pl.String))
    base = alt.Chart(
        cells, width=420, height=300, title=f"J per output token, {DRAWN[0]} on H100, batch {DRAWN[1]}"
    ).encode(
        alt.X("output_tokens:O", title="output tokens").axis(labelAngle=0),
        alt.Y("prompt_tokens:O", title="prompt tokens").sort("descending"),
    )
    colour = alt.Color("energy_per_output_token_j:Q", title="J").scale(type="log", scheme="cividis")
    dark = float((cells["energy_per_output_token_j"].min() * cells["energy_per_output_token_j"].max()) ** 0.5)  # type: ignore[operator]
    text = alt.condition(f"datum.energy_per_output_token_j < {dark}", alt.value("white"), alt.value("black"))
    (base.mark_rect().encode(colour) + base.mark_text(fontSize=11).encode(alt.Text("label:N"), color=text)).save(
        str(HERE / "map.png"), scale_factor=2
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed page instead of writing")
    passed = parser.parse_args()
    spots = result()
    rows = table(spots)
    template = Template((HERE / "template.md").read_text(encoding="utf-8"))
    if settled(HERE, template.substitute(page(rows, spots)), {"cells": rows}, passed.check):
        draw(spots[DRAWN])
