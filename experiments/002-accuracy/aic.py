"""AIConfigurator's own predictions; run by its own Python, reads JSON questions and writes JSON answers, one a line."""

from __future__ import annotations

import functools
import json
import logging
import math
import sys
import time
import warnings
from importlib import import_module
from typing import Any

ALIASES = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/Qwen3-32B-NVFP4": "Qwen/Qwen3-32B",
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-ai/DeepSeek-R1",
}
"""Names that AIC has a config of, for those it would download; number formats are given apart."""
POOLS = ("tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size", "batch_size")


@functools.cache
def latest(system: str, backend: str) -> str | None:
    """Return the newest database of a system and framework; asking AIConfigurator parses 160 YAML files each time."""
    result: str | None = import_module("aiconfigurator.sdk.perf_database").get_latest_database_version(system, backend)
    return result


def requested(row: dict[str, Any], quantised: bool) -> dict[str, Any]:
    """Return the arguments of `cli_estimate` for a row of the sample, with its number formats or with AIC's choice."""
    disagg = row["mode"] == "disagg"
    names = [f"{pool}_{name}" for pool in ("prefill", "decode") for name in POOLS] if disagg else list(POOLS)
    names += ["prefill_num_workers", "decode_num_workers"] if disagg else []
    names += ["gemm_quant_mode", "moe_quant_mode"] if quantised else []
    passed = {name: row[name] for name in names if row[name] not in (None, 0)}
    model = ALIASES.get(row["model_path"], row["model_path"])
    version = latest(row["system"], row["backend"])
    head = {"model_path": model, "system_name": row["system"], "backend_name": row["backend"], "mode": row["mode"]}
    return {**head, "backend_version": version, "isl": row["isl"], "osl": row["osl"], **passed}


def predict(row: dict[str, Any]) -> dict[str, Any]:
    """Return AIC's TTFT and TPOT in ms; if it has no data for the row's formats, for those of the checkpoint."""
    estimate = import_module("aiconfigurator.cli.api").cli_estimate
    why = ""
    group = row["precision"] != "fp4" or "gpt-oss" in row["model_path"]  # whose checkpoint is FP4
    for quantised in (True, False) if group else (True,):
        try:
            result = estimate(**requested(row, quantised))
            ttft, tpot = float(result.ttft), float(result.tpot)
            if math.isfinite(ttft) and math.isfinite(tpot) and ttft > 0 and tpot > 0:
                return {"id": row["id"], "aic_ttft_ms": ttft, "aic_tpot_ms": tpot, "aic_own_formats": not quantised}
            why = "no finite prediction"
        except Exception as error:
            why = why or f"{type(error).__name__}: {error}"[:160]
    return {"id": row["id"], "why_not": why}


def main() -> None:
    """Answer every question on standard input, in order, each with the seconds it took."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        started = time.perf_counter()
        answer = predict(json.loads(line))
        print(json.dumps({**answer, "seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main()
