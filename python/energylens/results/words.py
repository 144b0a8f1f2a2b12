"""Points in words: a configuration, a deployment, a pair, and why points cannot run. Messages and reports use these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from energylens.inputs import run_options
from energylens.inputs.batching import BATCHING


def configuration(row: dict[str, Any]) -> str:
    """Return a point in words: `4 x h100-sxm, tp 4, batch 64`."""
    parts = [f"{row['gpus']} x {row['gpu']}"]
    parts += [f"{axis} {row[axis]}" for axis in ("tp", "pp", "dp", "ep") if axis == "tp" or row[axis] > 1]
    parts += run_options.words(row)
    parts += [f"{row['weight_dtype']} weights"] if row["weight_dtype"] else []
    parts += [f"{row['kv_dtype']} KV"] if row["kv_dtype"] else []
    return ", ".join([*parts, f"batch {row['batch']}"])


def deployment_words(row: Mapping[str, Any]) -> str:
    """Return a deployment in words: `3 engines of 4 x h100-sxm, tp 4`."""
    if "prefill_gpu" in row:
        return "; ".join(f"{side} on {deployment_words(pool_row(row, side))}" for side in ("prefill", "decode"))
    replicas = int(row.get("replicas") or 1)
    each = int(row["gpus"]) // replicas
    parts = [f"{replicas} engine{'s' if replicas > 1 else ''} of {each} x {row['gpu']}"]
    parts += [f"{axis} {row[axis]}" for axis in ("tp", "pp", "dp", "ep") if axis == "tp" or row.get(axis, 1) > 1]
    parts += run_options.words(dict(row))
    parts += [
        f"{row[name]} {what}" for name, what in (("weight_dtype", "weights"), ("kv_dtype", "KV")) if row.get(name)
    ]
    if row.get("token_budget", 8192) != BATCHING["token_budget"]:
        parts.append(f"{row['token_budget']:,} tokens a step")
    if row.get("max_num_seqs", 256) != BATCHING["max_num_seqs"]:
        parts.append(f"at most {row['max_num_seqs']} sequences")
    if not row.get("chunked", True):
        parts.append("whole prompts")
    if row.get("draft_tokens", 0):
        parts.append(f"{row['draft_tokens']} draft tokens ({row['draft'] or 'n-grams'})")
    return ", ".join(parts)


def pool_row(row: Mapping[str, Any], side: str) -> dict[str, Any]:
    """Return one pool of a pair as a deployment."""
    return {name.removeprefix(f"{side}_"): value for name, value in row.items() if name.startswith(f"{side}_")}


def pair_words(row: Mapping[str, Any]) -> str:
    """Return a pair in words."""
    return "; ".join(f"{side} on {configuration(pool_row(row, side))}" for side in ("prefill", "decode"))


def why_not(by_reason: Mapping[str, int]) -> str:
    """Return the count of points by reason, the commonest first."""
    reasons = {
        "memory": "do not fit into memory",
        "shard": "split a rank that does not divide",
        "experts": "have an ep that does not divide the experts",
        "ep": "have an ep that does not fit the GPUs",
        "layers": "have more stages than layers",
        "batch": "have a batch below dp",
        "overlap": "ask for overlap that cannot be or changes nothing",
        "clock": "ask for a clock the GPU is not known at",
        "power": "ask for a power cap outside the GPU's range, or below what it draws where its clocks are unknown",
        "routing": "ask for a law of routing that is not one of the model's experts",
        "placement": "ask for a placement that there are no experts or GPUs for",
        "overflow": "have seconds or joules beyond what can be calculated with",
    }
    counts = sorted(((n, reason) for reason, n in by_reason.items() if reason != "ok"), reverse=True)
    return ", ".join(f"{n:,} {reasons[reason]}" for n, reason in counts) or "no point was evaluated"
