"""The batching advisor on published H100 curves: joules, latencies, best batches, and what replicas give."""

from __future__ import annotations

import argparse
from pathlib import Path
from string import Template
from typing import Any

import altair as alt
import polars as pl
from pages import markdown, must, settled

from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.plan import LoadedGpu
from energylens.serving.advice.batch import advise_batch
from energylens.serving.evaluate import serve

HERE = Path(__file__).parent
GPU = "h100-64gb"
# HBM2e at 1,593 MHz (nvidia-smi in the published logs): 5,120 bits, two a clock.
BANDWIDTH = 2 * 1.593e9 * 5120 / 8
CAPACITY = 64e9
LENGTHS = {"opt-1.3b": "111:292", "opt-2.7b": "111:292", "llama-2-7b": "113:323", "llama-2-13b": "113:323"}
RULES = ((0.2, 2.0), (0.2, 4.0), (0.1, 2.0), (0.1, 4.0))
# As the rule gives them on the measured curves (the raw files of the paper), by the order of RULES.
BEST = {
    "opt-1.3b": (96, 96, 96, 256),
    "opt-2.7b": (96, 128, 96, 256),
    "llama-2-7b": (96, 192, 96, 256),
    "llama-2-13b": (192, 192, 256, 256),
}
REPLICAS = {("opt-1.3b", 96): (6617, 8933), ("opt-1.3b", 256): (7887, 10642), ("opt-2.7b", 128): (4740, 6013)}
HEADLINE = 100.0 * (10642 / 7956 - 1.0)


def gpu() -> LoadedGpu:
    """Return the H100 profile with the memory of the measured one."""
    loaded = load_gpu("h100-sxm")
    memory = loaded.spec.memory.model_copy(update={"capacity_bytes": CAPACITY, "bandwidth_bytes_per_s": BANDWIDTH})
    return LoadedGpu(loaded.spec.model_copy(update={"name": GPU, "memory": memory}), loaded.document)


def curves() -> pl.DataFrame:
    """Return measured and predicted curves."""
    measured = pl.read_csv(HERE / "measured.csv")
    parts = []
    for name, lengths in LENGTHS.items():
        group = measured.filter(model=name)
        points = pl.DataFrame(
            {"model": name, "gpu": GPU, "max_num_seqs": group["batch"].cast(pl.UInt32), "chunked": False}
        )
        summary = serve(points, lengths, None, models=[load_model(HERE / f"{name}.yaml")], gpus=[gpu()])
        parts.append(
            group.with_columns(
                summary["slots"],
                predicted_tokens_per_s=summary["output_tokens_per_s"],
                predicted_itl_ms=1e3 * summary["tpot_s"],
                predicted_power_w=summary["power_w"],
                predicted_j=summary["energy_per_output_token_j"],
            )
        )
    return pl.concat(parts)


def advice() -> tuple[list[list[str]], int, int]:
    """Return best batches by rule, measured and predicted, and how many lie within one value of the published grid."""
    grid = sorted({batch for batches in BEST.values() for batch in batches} | {128, 512})
    rows, near, total = [], 0, 0
    for name, published in BEST.items():
        cells = []
        for (epsilon, slowdown), stated in zip(RULES, published, strict=True):
            model = load_model(HERE / f"{name}.yaml")
            summary = advise_batch(
                model,
                gpu(),
                LENGTHS[name],
                epsilon=epsilon,
                slowdown=slowdown,
                batches=[1, 8, 32, 64, *grid],
                chunked=False,
            ).batch
            cells.append(f"{stated} / {summary}")
            both = [min(range(len(grid)), key=lambda i, v=value: abs(grid[i] - v)) for value in (stated, summary)]  # type: ignore[misc]
            near, total = near + (abs(both[0] - both[1]) <= 1), total + 1
        rows.append([name, *cells])
    return rows, near, total


def replicas() -> list[list[str]]:
    """Return what two engines on one GPU give, measured and predicted."""
    rows = []
    for (name, batch), (entry, two) in REPLICAS.items():
        model = load_model(HERE / f"{name}.yaml")
        # Only this batch and those the rule needs; a rule that keeps everything takes the largest.
        summary = advise_batch(model, gpu(), LENGTHS[name], epsilon=0.0, slowdown=1e9, batches=[batch], chunked=False)
        result = summary.replicas.filter(pl.col("replicas") == 2)
        single = summary.replicas["output_tokens_per_s"][0]
        more = 100.0 * (result["output_tokens_per_s"][0] / single - 1.0) if result.height else float("nan")
        joules = 100.0 * (
            result["energy_per_output_token_j"][0] / summary.replicas["energy_per_output_token_j"][0] - 1.0
        )
        rows.append([name, str(batch), f"{100.0 * (two / entry - 1.0):+.0f}", f"{more:+.0f}", f"{joules:+.0f}"])
    return rows


def page(table: pl.DataFrame) -> dict[str, str]:
    """Return what the template asks for."""
    pairs = {
        "joules": ("predicted_j", "energy_per_output_token_j"),
        "itl": ("predicted_itl_ms", "itl_ms"),
        "tokens": ("predicted_tokens_per_s", "output_tokens_per_s"),
        "watts": ("predicted_power_w", "power_w"),
    }
    errors = {name: 100.0 * (table[a] / table[b] - 1.0) for name, (a, b) in pairs.items()}
    out = {f"{name}_mape": f"{sum(abs(e) for e in error) / len(error):.0f}" for name, error in errors.items()}
    out |= {f"{name}_bias": f"{sum(error) / len(error):+.0f}" for name, error in errors.items()}
    rows: list[list[Any]] = []
    for row, *error in zip(table.iter_rows(named=True), *errors.values(), strict=True):
        cells = [
            row["model"],
            str(row["batch"]),
            f"{row['energy_per_output_token_j']:.3g}",
            f"{row['predicted_j']:.3g}",
        ]
        cells += [f"{row['itl_ms']:.3g}", f"{row['predicted_itl_ms']:.3g}"]
        rows.append([*cells, *(f"{value:+.0f}" for value in error)])
    head = ["model", "batch", "J/token", "predicted", "ITL ms", "predicted", "J, %", "ITL, %", "tokens/s, %", "W, %"]
    best, near, total = advice()
    must(near >= total - 4, "most of the best batches lie beside the published ones")
    rules = [f"ε {epsilon:g}, L {slowdown:g}" for epsilon, slowdown in RULES]
    ratios = {}
    for name in LENGTHS:
        group = table.filter(model=name)
        ratios[name] = [
            group[column][0] / group[column].min() for column in ("energy_per_output_token_j", "predicted_j")
        ]
    return out | {
        "table": markdown(head, rows),
        "best": markdown(["model", *rules], best),
        "near": f"{near} of {total}",
        "replicas": markdown(
            ["model", "batch of each", "measured, %", "predicted, %", "J/token predicted, %"], replicas()
        ),
        "headline": f"{HEADLINE:.1f}",
        "spread": ", ".join(f"{name} {a:.0f} / {b:.0f}" for name, (a, b) in ratios.items()),
        "bandwidth": f"{BANDWIDTH / 1e12:.2f}",
    }


def draw(table: pl.DataFrame) -> None:
    """Draw joules per token against running requests."""
    long = pl.concat(
        [
            table.select(
                "model", "batch", pl.col("energy_per_output_token_j").alias("j"), pl.lit("measured").alias("what")
            ),
            table.select("model", "batch", pl.col("predicted_j").alias("j"), pl.lit("predicted").alias("what")),
        ]
    )
    colour = alt.Color("what:N", title=None).scale(domain=["measured", "predicted"], range=["#0072B2", "#E69F00"])
    charts = [
        alt.Chart(long.filter(model=name), title=name, width=210, height=200)
        .mark_line(point=alt.OverlayMarkDef(size=45))
        .encode(
            alt.X("batch:Q", title="requests at once").scale(type="log", base=2).axis(values=[1, 4, 16, 64, 256]),
            alt.Y("j:Q", title="J per output token").scale(type="log"),
            colour,
            alt.Shape("what:N", title=None).scale(domain=["measured", "predicted"]),
        )
        for name in LENGTHS
    ]
    title = alt.TitleParams("Joules of an output token on an H100 64 GB, always full", anchor="middle")
    alt.concat(*charts, columns=2, title=title).save(str(HERE / "curves.png"), scale_factor=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed page instead of writing")
    passed = parser.parse_args()
    table = curves()
    template = Template((HERE / "template.md").read_text(encoding="utf-8"))
    if settled(HERE, template.substitute(page(table)), {"curves": table}, passed.check):
        draw(table)
