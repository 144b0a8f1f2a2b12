"""AIConfigurator on runs of `energylens.calibrate.validate`: batch over its TPOT against measured tokens/s."""

from __future__ import annotations

from typing import Any

import polars as pl

from energylens.calibrate.validate import validate
from energylens.common.accuracy import errors
from energylens.inputs.library import load_gpu

SYSTEMS = {"h100-sxm": "h100_sxm", "b200": "b200_sxm"}
MODELS = {
    "llama-3.1-8b": "meta-llama/Meta-Llama-3.1-8B",
    "llama-3.1-70b": "meta-llama/Meta-Llama-3.1-70B",
    "llama-3.1-405b": "meta-llama/Meta-Llama-3.1-405B",
    "qwen3-14b": "Qwen/Qwen3-14B",
    "qwen3-32b": "Qwen/Qwen3-32B",
    "qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B",
    "qwen3-235b-a22b": "Qwen/Qwen3-235B-A22B",
    "gpt-oss-20b": "openai/gpt-oss-20b",
}
"""Names that AIConfigurator has a config of."""
ROUTED = ("qwen3-30b-a3b", "qwen3-235b-a22b", "gpt-oss-20b")
FORMATS = {"llama-3.1-405b": "fp8", "qwen3-235b-a22b": "fp8_block"}


def questions() -> pl.DataFrame:
    """Return the runs with what AIConfigurator is asked of each: its names, mesh, batch, our input lengths."""
    runs = validate().runs
    inputs = load_gpu("h100-sxm").spec.host
    tokens = (inputs.task_input_tokens if inputs else None) or {}
    routed = pl.col("model").is_in(ROUTED)
    quantised = pl.col("model").replace_strict(FORMATS, default=None, return_dtype=pl.String)
    return runs.with_columns(
        pl.concat_str(pl.lit("serving"), "gpu", "run_id", separator=" ").alias("id"),
        pl.lit("agg").alias("mode"),
        pl.lit("vllm").alias("backend"),
        pl.lit("own").alias("precision"),
        pl.col("model").replace_strict(MODELS).alias("model_path"),
        pl.col("gpu").replace_strict(SYSTEMS).alias("system"),
        pl.col("task")
        .replace_strict(tokens, default=200.0, return_dtype=pl.Float64)
        .round()
        .cast(pl.Int64)
        .alias("isl"),
        pl.col("output_tokens").round().cast(pl.Int64).alias("osl"),
        pl.col("tp").alias("tp_size"),
        pl.lit(1).alias("pp_size"),
        pl.col("dp").alias("attention_dp_size"),
        pl.when(routed).then(pl.col("tp") * pl.col("dp") // pl.col("ep")).alias("moe_tp_size"),
        pl.when(routed).then("ep").alias("moe_ep_size"),
        (pl.col("batch") / pl.col("dp")).round().clip(1).cast(pl.Int64).alias("batch_size"),
        quantised.alias("gemm_quant_mode"),
        pl.when(routed).then(quantised).alias("moe_quant_mode"),
    )


def compared(requested: pl.DataFrame, answers: pl.DataFrame) -> dict[str, Any]:
    """Return errors of tokens/s by GPU and model on runs that AIConfigurator answers: batch over its TPOT, and ours."""
    both = requested.join(answers.select("id", "aic_tpot_ms", "why_not"), on="id", maintain_order="left", how="left")
    answered = both.filter(pl.col("aic_tpot_ms").is_not_null())
    answered = answered.with_columns((pl.col("batch") / pl.col("aic_tpot_ms") * 1e3).alias("aic"))
    columns = {"aic": "aic", "in_sample": "output_tokens_per_s_in_sample", "left_out": "output_tokens_per_s_left_out"}
    summary: dict[str, Any] = {"asked": both.height, "answered": answered.height}
    for cut in (["gpu"], ["gpu", "model"]):
        lines = []
        for names, group in answered.sort(cut).group_by(cut, maintain_order=True):
            line: dict[str, Any] = {"group": " ".join(map(str, names)), "rows": group.height}
            for name, column in columns.items():
                result = errors(group[column].to_numpy(), group["output_tokens_per_s"].to_numpy())
                line[name] = [result.mape_percent, result.median_percent, result.bias_percent]
            lines.append(line)
        summary[cut[-1]] = lines
    why = (
        pl.when(pl.col("why_not").str.contains("OOM"))
        .then(pl.lit("does not fit by its count"))
        .when(pl.col("why_not").str.contains("Download"))
        .then(pl.lit("no configuration without a download"))
        .otherwise(pl.lit("no answer"))
    )
    without = both.filter(pl.col("aic_tpot_ms").is_null()).with_columns(reason=why)
    summary["unanswered"] = without.group_by("gpu", "model", "reason").len().sort("gpu", "model", "reason").rows()
    return summary
