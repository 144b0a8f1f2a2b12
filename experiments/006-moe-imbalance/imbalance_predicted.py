"""What skew costs in predictions: loads, latency and joules by law, expert parallelism, tokens and placement."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import polars as pl

import energylens as el
from energylens.engine.expert_loads import loads

HERE = Path(__file__).parent
MODELS = {
    "qwen3-30b-a3b": ("Qwen3-30B-A3B", (1, 2, 4, 8)),
    "qwen3-235b-a22b": ("Qwen3-235B-A22B", (8, 16)),
    "deepseek-v3": ("DeepSeek-V3", (16, 32, 64)),
    "gpt-oss-120b": ("gpt-oss-120b", (1, 2, 4, 8)),
}
"""Names, and GPUs that share the experts."""
GPU = "h200-sxm"
ALPHAS = (0.0, 0.4, 0.8, 1.01, 1.2, 1.5)
BATCHES = (4, 16, 64, 256)
PROMPT, OUTPUT = 2048, 256
REPORTED = ((64, 60, 1.67), (1024, 83, 1.43))
"""Tokens, experts hit of 128 and the busiest of 8 GPUs by the mean one, as reported for Qwen3-30B-A3B."""
SHAPES = (0.15, 0.2, 0.25, 0.35, 0.5, 0.8, 2.0)
PLACED = ("contiguous", "balanced", "replicated:32")


def law(alpha: float) -> str:
    return "uniform" if alpha == 0 else f"power_law:{alpha:g}"


def sweep() -> pl.DataFrame:
    """Return time and joules of a prompt and of a token by skew, expert parallelism and batch of a GPU.

    Tokens are sharded: one data-parallel rank on each GPU, its batch the same however many there are.
    """
    rows = [
        {"model": name, "ep": ep, "dp": ep, "alpha": alpha, "routing": law(alpha), "batch": batch * ep}
        for name, (_, widths) in MODELS.items()
        for ep, alpha, batch in product(widths, ALPHAS, BATCHES)
    ]
    points = pl.DataFrame(rows).with_columns(
        gpu=pl.lit(GPU),
        prompt_tokens=pl.lit(PROMPT),
        output_tokens=pl.lit(OUTPUT),
        batch_of_gpu=pl.col("batch") / pl.col("ep"),
    )
    result = el.evaluate(points, carry=["alpha", "batch_of_gpu"]).filter(pl.col("reason") == "ok")
    return result.select(
        "model", "ep", "alpha", pl.col("batch_of_gpu").cast(pl.Int64), "ttft_s", "tpot_s",
        prefill_j=pl.col("energy_prefill_j") / pl.col("batch") / PROMPT,
        decode_j=pl.col("energy_decode_step_j") / pl.col("batch"),
    )  # fmt: skip


def placements() -> pl.DataFrame:
    """Return what each placement buys DeepSeek-V3 on 32 GPUs, where popularity lasts (counted, or Zipf) or does not."""
    rows = [
        {"model": "deepseek-v3", "gpu": GPU, "dp": 32, "ep": 32, "routing": routing, "placement": placement}
        | {"batch": 64 * 32, "prompt_tokens": PROMPT, "output_tokens": OUTPUT}
        for routing, placement in product(("zipf:0.5", "zipf:0.8", "dirichlet:0.35"), PLACED)
    ]
    result = el.evaluate(pl.DataFrame(rows))
    held = loads(
        "deepseek-v3",
        gpus=[32],
        tokens=[2048, 65536],
        routings=["zipf:0.5", "zipf:0.8", "dirichlet:0.35"],
        placements=PLACED,
    )
    wide = held.pivot("tokens", index=["routing", "placement"], values="load").rename(
        {"2048": "load_2048", "65536": "load_65536"}
    )
    summary = result.select(
        "routing",
        "placement",
        "ttft_s",
        "tpot_s",
        "energy_prefill_j",
        "energy_per_output_token_j",
        "memory_bytes_per_gpu",
    )
    return summary.join(wide, on=["routing", "placement"], maintain_order="left")


def shapes() -> pl.DataFrame:
    """Return what laws say of what was reported: experts hit and the busiest GPU's load."""
    result = loads(
        "qwen3-30b-a3b",
        gpus=[1, 8],
        tokens=[tokens for tokens, *_ in REPORTED],
        routings=["uniform", *(f"dirichlet:{shape:g}" for shape in SHAPES)],
    )
    hit = result.filter(gpus=1).select("routing", "tokens", "experts_hit")
    return hit.join(
        result.filter(gpus=8).select("routing", "tokens", "load"), on=["routing", "tokens"], maintain_order="left"
    )


WAYS = ((8, 1, 8), (8, 1, 1), (1, 8, 8), (4, 2, 8), (2, 4, 8))
"""Attention over tp, data-parallel ranks, experts over ep."""


def ways() -> pl.DataFrame:
    """Return joules and time of Qwen3-235B (FP8) by how 4 or 8 H100s share it, at batch 8 to 512."""
    meshes = [(tp, dp, ep, 8) for tp, dp, ep in WAYS] + [(4, 1, 4, 4), (4, 1, 1, 4), (1, 4, 4, 4)]
    rows = [
        {
            "model": "qwen3-235b-a22b",
            "gpu": "h100-sxm",
            "weight_dtype": "fp8_block",
            "tp": tp,
            "dp": dp,
            "ep": ep,
            "gpus": gpus,
        }
        | {"batch": batch, "prompt_tokens": 256, "output_tokens": 1024}
        for (tp, dp, ep, gpus), batch in product(meshes, (8, 64, 512))
    ]
    result = el.evaluate(pl.DataFrame(rows).drop("gpus"))
    return result.select("tp", "dp", "ep", "gpus", "batch", "reason", "tpot_s", "energy_per_output_token_j")
