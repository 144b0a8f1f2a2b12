"""What communication costs in predictions: its share and parts, GPUs within limits of latency, ways to hide it."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import polars as pl

import energylens as el
from energylens.inputs.library import load_gpu

HERE = Path(__file__).parent
MODEL = "llama-3.1-70b"
GPUS = {"a100-sxm-80gb": "A100", "h100-sxm": "H100", "b200": "B200"}
TPS = (2, 4, 8)
BATCHES = (1, 16, 64)
LENGTHS = {"prefill": (1024, 1), "decode": (1024, 1024)}
FLEETS = [("b200", 1), ("b200", 2), *product(("h100-sxm", "a100-sxm-80gb"), (2, 4, 8)), ("l40s", 8)]
FLEET_BATCHES = (1, 2, 4, 8, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256)
FLEET_LENGTHS = (512, 512)
TPOT_S = (0.02, 0.05, 0.1)
TTFT_S = (1.0, 60.0)
"""The limit asked for, and one that hardly limits (a batch starts together, and all its prompts are read first)."""
WAYS = [(None, 0), *product((2, 4), (4, 8, 16, 32))]
WAYS_PROMPT = 8192
FOLDED = ("plain", "sequence parallel", "fused norm")


def shares() -> pl.DataFrame:
    """Return the share of communication in joules and seconds and its parts in joules a token, by phase."""
    rows = []
    for phase, gpu, tp, batch in product(LENGTHS, GPUS, TPS, BATCHES):
        prompt, output = LENGTHS[phase]
        point = {"phase": phase, "gpu": gpu, "tp": tp, "batch": batch}
        try:
            result = el.predict(MODEL, gpu, tp=tp, batch=batch, prompt_tokens=prompt, output_tokens=output)
        except el.EnergylensError:
            continue  # does not fit
        rows.append(point | _parts(result.kernels.filter(phase=phase), gpu, tp))
    table = pl.DataFrame(rows)
    points = table.with_columns(
        model=pl.lit(MODEL),
        prompt_tokens=pl.col("phase").replace_strict({name: long[0] for name, long in LENGTHS.items()}),
        output_tokens=pl.col("phase").replace_strict({name: long[1] for name, long in LENGTHS.items()}),
    ).select("phase", "model", "gpu", "tp", "batch", "prompt_tokens", "output_tokens")
    results = el.evaluate(points, carry=["phase"], breakdown=True)
    prefill = pl.col("phase") == "prefill"
    steps = pl.when(prefill).then(1).otherwise(pl.col("output_tokens") - 1)
    both = {
        "energy": pl.when(prefill).then("energy_prefill_j").otherwise("energy_decode_j") / steps,
        "communication": pl.when(prefill)
        .then("energy_prefill_communication_j")
        .otherwise("energy_decode_communication_j")
        / steps,
        "elapsed": pl.when(prefill).then("ttft_s").otherwise("tpot_s"),
        "tokens": pl.col("batch") * pl.when(prefill).then("prompt_tokens").otherwise(1),
    }
    dynamic = pl.col("communication") - pl.col("static")  # at the power limit less than the parts
    retained = dynamic / (pl.col("moved") + pl.col("running"))
    table = pl.concat([table, results.select(**both)], how="horizontal")
    return table.with_columns(moved=pl.col("moved") * retained, running=pl.col("running") * retained).with_columns(
        share=pl.col("communication") / pl.col("energy"),
        time_share=pl.col("seconds") / pl.col("elapsed"),
        communication_w=pl.col("communication") / pl.col("seconds") / pl.col("tp"),
        mean_w=pl.col("energy") / pl.col("elapsed") / pl.col("tp"),
    )


def _parts(kernels: pl.DataFrame, gpu: str, tp: int) -> dict[str, float]:
    """Return seconds of communication, and joules of all GPUs: bytes moved, SMs that move them, static."""
    energy = load_gpu(gpu).spec.energy
    assert energy is not None and energy.static_w is not None
    seconds, link = kernels.select(pl.col("communication_s", "link_j") * pl.col("runs")).sum().row(0)
    running = energy.communication_w * seconds
    return {
        "seconds": seconds,
        "moved": tp * (link - running),
        "running": tp * running,
        "static": tp * energy.static_w * seconds,
    }


def fleets() -> pl.DataFrame:
    """Return for each number of GPUs and limits the batch of least joules per output token (null: none keeps them)."""
    names = ["gpu", "tp", "batch", "prompt_tokens", "output_tokens"]
    rows = [(gpu, tp, batch, *FLEET_LENGTHS) for (gpu, tp), batch in product(FLEETS, FLEET_BATCHES)]
    points = pl.DataFrame(rows, schema=names, orient="row").with_columns(model=pl.lit(MODEL))
    result = el.evaluate(points, breakdown=True).filter(reason="ok")
    spent = pl.col("energy_prefill_communication_j") + pl.col("energy_decode_communication_j")
    result = result.with_columns(share=spent / pl.col("energy_j"))
    retained = ["gpu", "tp", "batch", "energy_per_output_token_j", "output_tokens_per_s", "tpot_s", "ttft_s", "share"]
    best = [
        result.filter(pl.col("tpot_s") <= tpot, pl.col("ttft_s") <= ttft)
        .sort("energy_per_output_token_j")
        .unique(["gpu", "tp"], keep="first", maintain_order=True)
        .select(pl.lit(ttft).alias("ttft_limit_s"), pl.lit(tpot).alias("tpot_limit_s"), *retained)
        for ttft, tpot in product(TTFT_S, TPOT_S)
    ]
    return pl.concat(best)


def ways() -> pl.DataFrame:
    """Return time and energy of a prefill at TP 8 by overlap, sequence parallelism and fused norm."""
    names = ["gpu", "way", "overlap_stages", "overlap_sms"]
    rows = [
        (gpu, run_options, *overlap)
        for gpu, overlap, run_options in product(("a100-sxm-80gb", "h100-sxm"), WAYS, FOLDED)
    ]
    points = pl.DataFrame(rows, schema=names, orient="row").with_columns(
        model=pl.lit(MODEL),
        tp=8,
        batch=1,
        prompt_tokens=WAYS_PROMPT,
        output_tokens=1,
        sequence_parallel=pl.col("way") == FOLDED[1],
        fused_norm=pl.col("way") == FOLDED[2],
    )
    result = el.evaluate(points, carry=["way"], breakdown=True)
    share = pl.col("energy_prefill_communication_j") / pl.col("energy_prefill_j")
    return result.select(*names, "ttft_s", "energy_prefill_j", share=share)
