"""The page, the tables and the pictures: README.md from template.md, sweep.csv, placements.csv, ways.csv, two PNGs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from string import Template
from typing import Any

import imbalance_measured
import numpy as np
import polars as pl
from imbalance_pictures import SKEWED, against_uniform, draw_ratios, draw_sweep
from imbalance_predicted import HERE, MODELS, REPORTED, SHAPES, placements, shapes, sweep, ways
from pages import markdown, must, settled

from energylens.inputs.routing import DEFAULT

RESULTS = HERE / "results.json"
SHORT = {"h100-sxm": "H100", "h200-sxm": "H200", "b200": "B200", "gb200": "GB200"}
FRAMEWORKS = {"vllm": "vLLM", "trtllm": "TensorRT-LLM", "sglang": "SGLang"}
KERNEL_TARGET, SERVING_TARGET = 12, 12
ENERGY, ITL = "energy_per_output_token_j", "itl_s"


def kernel_figures(result: dict[str, Any]) -> dict[str, str]:
    """Return held-out errors by framework and format, and how near the ratios of skewed to balanced kernels are."""
    kernels = pl.DataFrame(result["kernels"])
    rows = [
        [SHORT[entry["gpu"]], FRAMEWORKS[entry["framework"]], entry["format"], f"{entry['all']:.1f} %"]
        + [f"{entry[name]:.1f} %" for name in ("balanced", "power_law_1.01", "power_law_1.2")]
        + [f"{entry['rows']:,}", f"{entry['unsound']:.0f} %", f"{entry['with_unsound']:.1f} %"]
        for entry in result["kernels"]
        if entry["format"] in ("bf16", "fp8", "fp8_block", "nvfp4", "mxfp4")
    ]
    requested = kernels.filter(pl.col("format").is_in(["bf16", "fp8"]))
    met, missed = requested.filter(pl.col("all") <= KERNEL_TARGET), requested.filter(pl.col("all") > KERNEL_TARGET)
    must((missed["framework"] == "sglang").all(), "only SGLang's bf16 misses the target of kernels")
    near = pl.DataFrame(result["ratios"])
    cells, five, ten = (int(near[name].sum()) for name in ("cells", "in_5", "in_10"))
    ours, without = ((near[name] * near["cells"]).sum() / cells for name in ("mean", "without"))
    must(2 * ours < without, "the loads explain more than half of what skew does to kernels")
    worst = near.sort("mean", descending=True).head(2)
    must(set(worst["framework"]) == {"trtllm"} and set(worst["format"]) == {"bf16"}, "TensorRT-LLM's bf16 is worst")
    flat = {(c["skew"], c["groups"], c["tokens_up_to"]): c for c in result["cells"]}
    few, many = flat[SKEWED, 1.0, 64], flat[SKEWED, 8.0, 16384]
    return {
        "table_kernels": markdown(
            [
                "GPU",
                "framework",
                "format",
                "all",
                "balanced",
                "α = 1.01",
                "α = 1.2",
                "rows",
                "unsound",
                "all with them",
            ],
            rows,
        ),
        "kernels_met": f"{met.height} of {requested.height}",
        "kernels_least": f"{min(requested['all']):.0f}",
        "kernels_most": f"{max(met['all']):.0f}",
        "kernels_missed": ", ".join(f"{SHORT[entry['gpu']]} {entry['all']:.0f} %" for entry in missed.to_dicts()),
        "cells": f"{cells:,}",
        "in_five": f"{100 * five / cells:.0f}",
        "in_ten": f"{100 * ten / cells:.0f}",
        "ratio_error": f"{100 * ours:.0f}",
        "ratio_without": f"{100 * without:.0f}",
        "few_measured": f"{few['measured']:.2f}",
        "few_predicted": f"{few['predicted']:.2f}",
        "many_measured": f"{many['measured']:.2f}",
        "many_predicted": f"{many['predicted']:.2f}",
    }


def node_figures(result: dict[str, Any]) -> dict[str, str]:
    """Return errors of dispatch and combine across nodes."""
    rows = [
        [
            entry["name"],
            entry["operation"],
            str(entry["nodes"]),
            str(entry["rows"]),
            f"{entry['mape']:.0f} %",
            f"{entry['bias']:+.0f} %",
        ]
        for entry in result["nodes"]
    ]
    errors = [entry["mape"] for entry in result["nodes"]]
    return {
        "table_nodes": markdown(["way", "operation", "nodes", "rows", "mean error", "mean signed"], rows),
        "nodes_least": f"{min(errors):.0f}",
        "nodes_most": f"{max(errors):.0f}",
    }


def serving_figures(result: dict[str, Any]) -> dict[str, str]:
    """Return errors of serving runs by law, and the pairs of runs on fewer and more GPUs."""
    summary = pl.DataFrame(result["serving"], infer_schema_length=None)
    names: dict[str | None, str] = {"routed": "all three", None: "all models, dense too"}
    names |= {name: name for name in imbalance_measured.ROUTED}
    rows, out = [], {}
    for gpu in imbalance_measured.SERVED:
        for law in imbalance_measured.LAWS:
            here = summary.filter(gpu=gpu, law=law)
            cells = []
            for model in names:
                entry = here.filter(pl.col("model").is_null() if model is None else pl.col("model") == model).row(
                    0, named=True
                )
                cells.append(f"{entry[ENERGY]:.1f} / {entry[ITL]:.1f}")
            rows.append([SHORT[gpu], f"**{law}**" if law == DEFAULT else law, *cells])
    head = ["GPU", "law", *names.values()]

    def error(gpu: str, law: str, model: str) -> float:
        return float(summary.filter(gpu=gpu, law=law, model=model)[ENERGY].item())

    for gpu in imbalance_measured.SERVED:
        for law, word in ((DEFAULT, "with"), ("uniform", "uniform"), ("balanced", "balanced")):
            out[f"{SHORT[gpu]}_{word}"] = f"{error(gpu, law, 'routed'):.1f}"
        for model in imbalance_measured.ROUTED:
            out[f"{SHORT[gpu]}_{model.split('-')[1 if 'oss' not in model else 2]}"] = (
                f"{error(gpu, DEFAULT, model):.1f}"
            )
    best = summary.filter(gpu="h100-sxm", model="routed").sort(ENERGY)["law"][0]
    must(error("h100-sxm", DEFAULT, "routed") < 1.01 * error("h100-sxm", best, "routed"), "the default is best on H100")
    must(error("b200", DEFAULT, "routed") > error("b200", "uniform", "routed"), "on B200 uniform is better")
    pairs = pl.DataFrame(result["pairs"])
    lines = [
        [
            entry["model"], SHORT[entry["gpu"]], f"{entry['gpus']} to {entry['gpus_wide']}", f"{entry['concurrency']}",
            f"{entry['measured']:.2f}", f"{entry['predicted']:.2f}", f"{entry['independent']:.2f}",
        ]
        for entry in result["pairs"]
    ]  # fmt: skip
    right = (pairs["measured"] > 1) == (pairs["predicted"] > 1)
    without = (pairs["measured"] > 1) == (pairs["independent"] > 1)
    mixtures = pairs.filter(pl.col("model").is_in(imbalance_measured.ROUTED))
    others = pairs.filter(~pl.col("model").is_in(imbalance_measured.ROUTED))
    dense = [100 * (1 - value) for value in others["measured"]]
    apart = [
        float(np.mean(np.abs(100 * (mixtures[name] / mixtures["measured"] - 1).to_numpy())))
        for name in ("predicted", "independent")
    ]
    routed = pairs["model"].is_in(imbalance_measured.ROUTED)
    must(right.filter(routed).all(), "the sign is right in every pair of a routed model")
    must(not right.filter(~routed).any(), "it is wrong for Qwen3-32B")
    return out | {
        "target": str(SERVING_TARGET),
        "kernel_target": str(KERNEL_TARGET),
        "default": DEFAULT,
        "table_serving": markdown(head, rows),
        "table_pairs": markdown(
            ["model", "GPU", "GPUs", "batch", "measured", "predicted", "independent choices"], lines
        ),
        "pairs_right": f"{right.filter(routed).sum()} of {routed.sum()}",
        "pairs_dense": f"{(~routed).sum()}",
        "pairs_without": f"{without.filter(routed).sum()} of {routed.sum()}",
        "pairs_apart": f"{apart[0]:.0f}",
        "pairs_apart_without": f"{apart[1]:.0f}",
        "dense_saved": f"{min(dense):.0f} to {max(dense):.0f}",
    }


def sweep_figures(table: pl.DataFrame) -> dict[str, str]:
    """Return what skew costs by model and expert parallelism."""
    skewed = against_uniform(table).filter(alpha=SKEWED)
    rows = []
    for (model, ep), here in skewed.group_by(["model", "ep"], maintain_order=True):
        few, many = here.row(0, named=True), here.row(-1, named=True)
        cells = [f"{entry['tpot']:.2f} / {entry['decode']:.2f}" for entry in (few, many)]
        many_batch = f"{many['batch_of_gpu']}"
        rows.append([MODELS[str(model)][0], str(ep), *cells, many_batch, f"{many['ttft']:.2f} / {many['prefill']:.2f}"])
    head = ["model", "EP", "decode, 4 a GPU", "decode, most a GPU", "most", "prefill"]
    small, large = skewed.filter(pl.col("batch_of_gpu") == 4, pl.col("ep") <= 8), skewed.filter(pl.col("ep") >= 32)
    must((small["decode"] < 1).all(), "skew saves joules of small batches on few GPUs")
    must(
        (large["decode"] > 1).all() and (large["tpot"] > large["decode"]).all(),
        "it costs more time than joules on many",
    )
    prefill = skewed.filter(pl.col("ep") >= 8)
    must((prefill["ttft"] > prefill["prefill"]).all(), "prefill: more time than joules")

    def span(values: pl.Series, sign: int = 1) -> str:
        low, high = sorted(100 * sign * (value - 1) for value in (min(values), max(values)))
        return f"{low:.0f} to {high:.0f}"

    return {
        "table_sweep": markdown(head, rows),
        "small_saved": span(small["decode"], -1),
        "large_time": span(large["tpot"]),
        "large_joules": span(large["decode"]),
        "prefill_time": span(prefill["ttft"]),
        "prefill_joules": span(prefill["prefill"]),
    }


def placement_figures(table: pl.DataFrame) -> dict[str, str]:
    """Return what placements buy."""
    rows = []
    for entry in table.to_dicts():
        base = table.filter(routing=entry["routing"], placement="contiguous").row(0, named=True)
        cells = [f"{entry[f'load_{tokens}']:.2f}" for tokens in (2048, 65536)]
        for name in ("tpot_s", "ttft_s", "energy_per_output_token_j"):
            cells.append(f"{100 * (entry[name] / base[name] - 1):+.0f} %")
        rows.append([entry["routing"], entry["placement"], *cells, f"{entry['memory_bytes_per_gpu'] / 1e9:.1f} GB"])
    head = ["law", "placement", "load, 2,048 tokens", "65,536 tokens", "TPOT", "TTFT", "J/token", "memory of a GPU"]
    copies = table.filter(pl.col("routing").str.starts_with("zipf"), placement="replicated:32")
    must((copies["load_65536"] < 1.1).all(), "32 copies level the load")
    for entry in table.filter(routing=DEFAULT).to_dicts():
        base = table.filter(routing=DEFAULT, placement="contiguous")["energy_per_output_token_j"].item()
        must(abs(entry["energy_per_output_token_j"] / base - 1) < 0.06, "placing does not help under Dirichlet")
    return {"table_placements": markdown(head, rows)}


def shape_figures(table: pl.DataFrame) -> dict[str, str]:
    """Return experts hit and loads by law, beside those reported."""
    rows = []
    for law in table["routing"].unique(maintain_order=True):
        cells = []
        for tokens, *_ in REPORTED:
            entry = table.filter(routing=law, tokens=tokens).row(0, named=True)
            cells += [f"{entry['experts_hit']:.0f}", f"{entry['load']:.2f}"]
        rows.append([law, *cells])
    summary = ["**reported**"]
    for _, hit, load in REPORTED:
        summary += [str(hit), f"{load:.2f}"]
    head = ["law"]
    for tokens, *_ in REPORTED:
        head += [f"hit of 128, {tokens:,} tokens", "busiest of 8"]
    fits = []
    for shape in SHAPES:
        here = table.filter(routing=f"dirichlet:{shape:g}")
        fits.append((sum(abs(a / b[1] - 1) for a, b in zip(here["experts_hit"], REPORTED, strict=True)), shape))
    near = [
        min(
            SHAPES,
            key=lambda shape: abs(table.filter(routing=f"dirichlet:{shape:g}", tokens=tokens)["load"].item() - load),
        )
        for tokens, _, load in REPORTED
    ]
    return {
        "table_shapes": markdown(head, [summary, *rows]),
        "shape_of_hits": f"{min(fits)[1]:g}",
        "shape_least": f"{min(near):g}",
        "shape_most": f"{max(near):g}",
    }


def way_figures(table: pl.DataFrame) -> dict[str, str]:
    """Return joules and time of Qwen3-235B by mesh."""
    rows = []
    for (tp, dp, ep, gpus), here in table.group_by(["tp", "dp", "ep", "gpus"], maintain_order=True):
        cells = [
            f"{entry['energy_per_output_token_j']:.2f} ({1e3 * entry['tpot_s']:.0f} ms)"
            if entry["reason"] == "ok"
            else "does not fit"
            for entry in here.to_dicts()
        ]
        rows.append([str(gpus), str(tp), str(dp), str(ep), *cells])
    eight = table.filter(gpus=8)
    tensor, expert = (eight.filter(tp=8, ep=ep)[ENERGY].to_list() for ep in (1, 8))
    apart = max(abs(a / b - 1) for a, b in zip(tensor, expert, strict=True))
    must(apart < 0.05, "EP or TP inside experts: within 5 %")
    sharded = eight.filter(dp=8, batch=512)[ENERGY].item() / eight.filter(tp=8, ep=8, batch=512)[ENERGY].item()
    must(sharded < 0.75, "data-parallel attention saves joules of large batches")
    return {
        "table_ways": markdown(["GPUs", "TP", "DP", "EP", *(f"batch {batch}" for batch in (8, 64, 512))], rows),
        "ep_against_tp": f"{100 * apart:.0f}",
        "sharded": f"{100 * (1 - sharded):.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare the committed results with a fresh run")
    parser.add_argument(
        "--refresh", action="store_true", help="judge against what was measured again (ENERGYLENS_DATA)"
    )
    parser.add_argument(
        "--tables", type=Path, help="folder of the unpacked aiconfigurator-core wheel, if not installed"
    )
    requested = parser.parse_args()
    if requested.refresh:
        imbalance_measured.write(RESULTS, imbalance_measured.results(requested.tables))
    result = json.loads(RESULTS.read_text(encoding="utf-8"))
    tables = {"sweep": sweep(), "placements": placements(), "ways": ways()}
    figures = kernel_figures(result) | node_figures(result) | serving_figures(result) | sweep_figures(tables["sweep"])
    figures |= placement_figures(tables["placements"]) | shape_figures(shapes()) | way_figures(tables["ways"])
    readme = Template((HERE / "template.md").read_text(encoding="utf-8")).substitute(figures)
    if settled(HERE, readme, tables, requested.check):
        draw_ratios(result["cells"]).save(HERE / "ratios.png", scale_factor=1.5)
        draw_sweep(tables["sweep"]).save(HERE / "skew.png", scale_factor=1.5)


if __name__ == "__main__":
    main()
