"""Sums, means and percentiles of a replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from energylens.serving.notes import p90_interval


def _quantile(frame: pl.DataFrame, name: str, share: float) -> float | None:
    value = frame[name].quantile(share)
    return None if value is None else float(value)


def _mean(frame: pl.DataFrame, name: str) -> float | None:
    value = frame[name].mean()
    return None if value is None else float(value)  # type: ignore[arg-type]


def _times(served: pl.DataFrame) -> dict[str, Any]:
    """Return quantiles and means of what requests waited for, with the intervals of the 90th percentiles."""
    bounds = {
        f"{name}_p90_{end}_s": value
        for name in ("ttft", "tpot")
        for end, value in zip(("lo", "hi"), p90_interval(served[f"{name}_s"].drop_nulls().to_numpy()), strict=True)
    }
    return bounds | {
        "ttft_p50_s": _quantile(served, "ttft_s", 0.5),
        "ttft_p90_s": _quantile(served, "ttft_s", 0.9),
        "ttft_p99_s": _quantile(served, "ttft_s", 0.99),
        "ttft_s": _mean(served, "ttft_s"),
        "tpot_s": _mean(served, "tpot_s"),
        "tpot_p90_s": _quantile(served, "tpot_s", 0.9),
        "latency_s": _mean(served, "latency_s"),
    }


def windowed(served: pl.DataFrame, sums: Sequence[Mapping[str, Any]], gpus: float) -> dict[str, Any]:
    """Return what happened between warming up and the last arrival: means of the engines, sums of those replayed."""
    seconds = sum(float(engine["window_s"]) for engine in sums) / len(sums)
    joules, idle, made = (sum(float(engine[f"window_{name}"]) for engine in sums) for name in ("j", "idle_j", "made"))
    if seconds <= 0 or made <= 0 or not served.height:
        return {}
    per_request = float(served["output_tokens"].mean())  # type: ignore[arg-type]
    power = joules / seconds
    return _times(served.filter(pl.col("latency_s").is_not_null())) | {
        "running": sum(float(engine["window_ran_s"]) for engine in sums) / seconds / len(sums),
        "requests_per_s": made / seconds / per_request,
        "output_tokens_per_s": made / seconds,
        "power_w": power,
        "power_w_per_gpu": power / len(sums) / gpus,
        "busy_share": sum(float(engine["window_busy_s"]) for engine in sums) / seconds / len(sums),
        "idle_share": idle / joules if joules > 0 else 0.0,
        "energy_per_output_token_j": joules / made,
        "energy_per_request_j": joules / made * per_request,
    }


def values_of(
    done: pl.DataFrame, sums: Sequence[Mapping[str, Any]], idle_w: float, gpus_each: float, replicas: int
) -> dict[str, Any]:
    """Return sums and means from the first arrival to the last token; all engines are on that long."""
    served = done.filter(pl.col("latency_s").is_not_null())
    began = min(float(engine["began_s"]) for engine in sums)
    span = max(float(engine["began_s"]) + float(engine["span_s"]) for engine in sums) - began
    off = span * replicas - sum(float(engine["span_s"]) for engine in sums)
    idle = sum(float(engine["energy_idle_j"]) for engine in sums) + off * idle_w
    energy = sum(float(engine["energy_j"]) for engine in sums) + off * idle_w
    made, gpus = float(served["output_tokens"].sum()), gpus_each * replicas
    prompts = float(done["prompt_tokens"].sum())
    return _times(served) | {
        "gpus": int(gpus),
        "requests": served.height,
        "running": sum(float(engine["mean_running"]) * float(engine["span_s"]) for engine in sums) / (span * replicas)
        if span > 0
        else 0.0,
        "requests_per_s": served.height / span if span > 0 else 0.0,
        "output_tokens_per_s": made / span if span > 0 else 0.0,
        "power_w": energy / span if span > 0 else 0.0,
        "power_w_per_gpu": energy / span / gpus if span > 0 else 0.0,
        "busy_share": sum(float(engine["busy_s"]) for engine in sums) / (span * replicas) if span > 0 else 0.0,
        "idle_share": idle / energy if energy > 0 else 0.0,
        "found_share": sum(int(engine["prefix_hit_tokens"]) for engine in sums) / prompts,
        "energy_per_request_j": energy / served.height if served.height else None,
        "energy_per_output_token_j": energy / made if made else None,
        "energy_idle_j": idle,
        "span_s": span,
        "steps": sum(int(engine["steps"]) for engine in sums),
        "preempted": sum(int(engine["preempted"]) for engine in sums),
        "refused": sum(int(engine["refused"]) for engine in sums),
    }
