"""Write serving_energy.parquet from a clone of the ML.ENERGY leaderboard (Apache-2.0).

`python experiments/002-accuracy/leaderboard.py leaderboard/public/data/tasks measured/serving_energy.parquet`
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import polars as pl

from energylens.calibrate.engines.runs import GPUS, MODELS

TASKS = ("gpqa", "lm-arena-chat")
HOST_BOUND = ("Qwen/Qwen3-14B", "Qwen/Qwen3-32B")
"""Models whose GPQA runs on one B200 the host paced: several times the latency of the chat runs at less power."""


def run(task: str, summary: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of the leaderboard as a row: attention is split over the GPUs of a data-parallel rank."""
    model, gpus, joules = summary["model_id"], summary["num_gpus"], summary["energy_per_token_joules"]
    tokens_per_s = summary["output_throughput_tokens_per_sec"]
    return {
        "task": task,
        "model_id": model,
        "gpu_model": summary["gpu_model"],
        "num_gpus": gpus,
        "attn_tp": gpus // summary["data_parallel"],
        "attn_dp": summary["data_parallel"],
        "moe_ep": summary["expert_parallel"],
        "avg_batch_size": summary["avg_batch_size"],
        "avg_output_len": summary["avg_output_len"],
        "energy_per_token_j": joules,
        "avg_power_w_per_gpu": summary["avg_power_watts"] / gpus,
        "output_tok_per_s": tokens_per_s,
        "median_itl_ms": summary["median_itl_ms"],
        "host_bound_suspect": task == "gpqa" and summary["gpu_model"] == "B200" and gpus == 1 and model in HOST_BOUND,
    }


def table(folder: Path) -> pl.DataFrame:
    """Return the runs of known models on known GPUs."""
    rows = [
        run(task, summary)
        for task in TASKS
        for summary in json.loads((folder / f"{task}.json").read_text(encoding="utf-8"))["configurations"]
        if summary["model_id"] in MODELS and summary["gpu_model"] in GPUS
    ]
    return pl.DataFrame(rows).with_row_index("run_id")


def main() -> None:
    parser = argparse.ArgumentParser(description="Serving runs of the ML.ENERGY leaderboard as one table.")
    parser.add_argument("tasks", type=Path, help="public/data/tasks of a clone of the leaderboard")
    parser.add_argument("out", type=Path, help="serving_energy.parquet to write")
    options = parser.parse_args()
    result = table(options.tasks)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result.write_parquet(options.out)
    print(f"{result.height} runs")


if __name__ == "__main__":
    main()
