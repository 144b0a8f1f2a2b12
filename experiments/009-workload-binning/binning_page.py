"""How few requests stand for a trace: bins as published and coresets against whole traces; bundled workloads."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import polars as pl
from pages import markdown, must, settled

import energylens as el
from energylens.calibrate.engines.runs import data_dir
from energylens.inputs.library import load_gpu
from energylens.inputs.schema import first_line
from energylens.serving.coreset import binned, coreset
from energylens.serving.fixed_concurrency import ample
from energylens.serving.workload import Workload, load_workload

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
SPECS = HERE.parents[1] / "python" / "energylens" / "specs" / "workloads"
TRACES = {
    "azure-conv": "trace_azure_conv.parquet",
    "azure-code": "trace_azure_code.parquet",
    "mooncake-conversation": "trace_mooncake_conversation.parquet",
}
SOURCES = {
    "azure-conv": "Azure LLM inference trace 2023, chat (Patel et al., ISCA'24; CC-BY 4.0), its 19,366 requests",
    "azure-code": "Azure LLM inference trace 2023, code (Patel et al., ISCA'24; CC-BY 4.0), its 8,819 requests",
    "mooncake-conversation": "Mooncake conversation trace (Qin et al., FAST'25; Apache-2.0), its 12,031 requests",
}
KINDS = (8, 16, 32, 64)
BATCHES = (1, 8, 32)
POINT: dict[str, Any] = {"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": 8}
TARGET_PERCENT = 2.0
# Fernandez et al. (arXiv 2504.17674), table 4: percent above the ideal energy, PyTorch and vLLM; savings they state.
PUBLISHED = {
    "BurstGPT": (506.52, 63.75, 73.00),
    "Azure code": (102.79, 26.59, 37.58),
    "Azure conversation": (490.23, 64.22, 72.18),
}


def joules(requests: pl.DataFrame, batch: int) -> float:
    """Return the joules of a request, a weighted mean, as if all fitted into memory."""
    points = requests.select(
        *(pl.lit(value).alias(name) for name, value in POINT.items()),
        pl.lit(batch).alias("batch"),
        pl.col("prompt_tokens").cast(pl.UInt32),
        pl.col("output_tokens").cast(pl.UInt32),
    )
    summary = el.evaluate(points, gpus=[ample(load_gpu(POINT["gpu"]))])["energy_per_request_j"]
    weight = requests["weight"] if "weight" in requests.columns else pl.Series(np.ones(requests.height))
    return float(np.average(summary.to_numpy(), weights=weight.to_numpy()))


def measured(folder: Path) -> dict[str, Any]:
    """Return errors of bins and coresets against whole traces, and write the bundled workloads."""
    summary: dict[str, Any] = {}
    for name, file in TRACES.items():
        load = load_workload(folder / file)
        assert load.requests is not None
        requests = load.requests
        whole = {batch: joules(requests, batch) for batch in BATCHES}

        def error(few: pl.DataFrame, whole: dict[int, float] = whole) -> list[float]:
            return [round(100.0 * (joules(few, batch) / whole[batch] - 1.0), 3) for batch in BATCHES]

        summary[name] = {
            "requests": requests.height,
            "bins": binned(requests).height,
            "kept_by_bins": round(100.0 * float(binned(requests)["weight"].sum()) / requests.height, 2),
            "binned": error(binned(requests)),
            "mean": error(
                pl.DataFrame(
                    {"prompt_tokens": [load.prompt_tokens], "output_tokens": [load.output_tokens]}
                ).with_columns(pl.all().round())
            ),
            "coreset": {str(number): error(coreset(requests, number)) for number in KINDS},
        }
        write(load, name)
    return summary


def write(load: Workload, name: str) -> None:
    """Write a bundled workload: 32 kinds of requests, rates, crowds and prefixes of a trace."""
    kinds = [f"  - [{i:.0f}, {o:.0f}, {w:.6g}]" for i, o, w in load.kinds.iter_rows()]
    rates = ", ".join(f"[{rate:.4g}, {share:.4g}]" for rate, share in load.rates)
    lines = [
        first_line("workload"),
        f"# Written by experiments/009-workload-binning: {load.kinds.height} kinds of requests that stand for a trace.",
        f"name: {name}",
        f'source: "{SOURCES[name]}"',
        f"rate_per_s: {load.rate_per_s:.5g}",
        f"rates: [{rates}]  # of one second over their mean, and the share of the time",
    ]
    if load.crowded:
        lines.append(f"crowd: {{share: {load.crowded:.3g}, others: {load.crowd:.3g}}}  # within 20 ms, beyond chance")
    if load.prefix_hits:
        hits = ", ".join(f"[{tokens:.0f}, {share:.4g}]" for tokens, share in load.prefix_hits)
        lines.append(f"prefix: {{block_tokens: {load.block_tokens}, found: [{hits}]}}")
    lines += ["kinds:  # prompt tokens, output tokens, share of the requests", *kinds]
    (SPECS / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def savings(pytorch: float, vllm: float) -> float:
    """Return the percent saved by vLLM over PyTorch, from both's percent above the ideal."""
    return 100.0 * (1.0 - (1.0 + vllm / 100.0) / (1.0 + pytorch / 100.0))


def page(summary: dict[str, Any]) -> dict[str, str]:
    """Return what the template asks for."""
    rows = []
    for name, group in summary.items():
        cells = [("one mean request", group["mean"]), (f"{group['bins']} bins", group["binned"])]
        cells += [(f"{number} requests", group["coreset"][str(number)]) for number in KINDS]
        rows += [[name, what, *(f"{value:+.2f}" for value in errors)] for what, errors in cells]
    worst = {
        number: max(abs(e) for group in summary.values() for e in group["coreset"][str(number)]) for number in KINDS
    }
    must(worst[32] < TARGET_PERCENT, "32 requests predict the joules of every trace within 2 %")
    bins = [abs(e) for group in summary.values() for e in group["binned"]]
    must(min(bins) > TARGET_PERCENT, "bins miss all three traces by more than 2 %")
    published = []
    for name, (pytorch, vllm, stated) in PUBLISHED.items():
        derived = savings(pytorch, vllm)
        must(abs(derived - stated) < 0.005, "the published savings follow from the published overheads")
        published.append([name, f"{pytorch:.2f}", f"{vllm:.2f}", f"{stated:.2f}", f"{derived:.2f}"])
    return {
        "table": markdown(["trace", "what stands for it", *(f"batch {batch}, %" for batch in BATCHES)], rows),
        "worst": f"{worst[32]:.2f}",
        "worst_few": f"{worst[8]:.1f}",
        "bins_least": f"{min(bins):.0f}",
        "bins_most": f"{max(bins):.0f}",
        "kept": ", ".join(f"{group['kept_by_bins']:.0f} % of {name}" for name, group in summary.items()),
        "published": markdown(
            ["workload", "PyTorch above ideal, %", "vLLM, %", "savings stated, %", "derived, %"], published
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed page instead of writing")
    parser.add_argument("--refresh", action="store_true", help="read the traces again (ENERGYLENS_DATA)")
    passed = parser.parse_args()
    if passed.refresh:
        RESULTS.write_text(json.dumps(measured(data_dir()), indent=1) + "\n", encoding="utf-8")
    summary = json.loads(RESULTS.read_text(encoding="utf-8"))
    template = Template((HERE / "template.md").read_text(encoding="utf-8"))
    settled(HERE, template.substitute(page(summary)), {}, passed.check)
