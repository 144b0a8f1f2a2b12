"""Queueing at fixed concurrency from times of single kernels, for the comparison with AIConfigurator alone.

The product has `energylens.serving.steady_state`. A closed loop keeps B requests in the system; each that ends is
replaced at once. A request waits, is prefilled, and decodes its `output - 1` further tokens; prefills of others run in
between, in the same steps (chunked prefill).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]

_ROUNDS = 60
_DAMPING = 0.5


@dataclass(frozen=True)
class Serving:
    """What a framework makes of the kernels' times; every field is a number or a column."""

    graph_share: float | Column = 1.0
    """Share of the kernels' fixed times that decode steps pay, replayed as a CUDA graph."""
    decode_scale: float | Column = 1.0
    """Seconds of a decode step, without fixed times, over those of the kernels."""
    eager_share: float | Column = 1.0
    """Fixed times that the first token of a request pays (prefill is launched kernel by kernel), over the kernels'."""
    prefill_scale: float | Column = 1.0
    """Seconds of prefill, without fixed times, over those of the kernels."""
    request_s: float | Column = 0.0
    """Seconds of a request before its prefill: HTTP, tokens, scheduling, transfer of the cache."""
    burst: float | Column = 0.05
    """Share of the other requests' prefills that a request waits for because all start together."""


@dataclass(frozen=True)
class Load:
    """A closed loop, and the engine's times for it; columns of one length."""

    concurrency: Column
    """Requests in the system, B."""
    slots: Column
    """Requests for which the engine has room (KV cache or its own limit); the others wait outside."""
    output_tokens: Column
    """Mean output tokens of a request."""
    decode_s: Column
    """A decode step of min(B, slots) sequences at mean context, in seconds."""
    decode_fixed_s: Column
    """Part of it that is fixed times of kernels (`t0_s`)."""
    prefill_s: Column
    """Prefill of one request on every attention rank, in seconds."""
    prefill_fixed_s: Column
    """Part of it that is fixed times of kernels."""
    chunk_s: Column
    """Work of one request's prefill in steps full of prompts, on every attention rank, without fixed times."""
    prefill_lanes: Column
    """Requests prefilled at once: attention data-parallel ranks times workers."""
    chunks: Column
    """Steps over which a prefill is spread."""
    apart: NDArray[np.bool_]
    """Whether prefill has GPUs of its own (disaggregated)."""


@dataclass(frozen=True)
class Steady:
    """What a benchmark measures, in columns."""

    ttft_s: Column
    """Mean time to first token, waiting included, in seconds."""
    tpot_s: Column
    """Mean time per output token after the first, in seconds."""
    output_tokens_per_s: Column
    """Output tokens a second of all requests: B output / (ttft + (output - 1) tpot)."""
    prefill_utilisation: Column
    """Share of the time in which some prompt is being read."""


def steady_state(load: Load, serving: Serving) -> Steady:
    """Return the steady state of a closed loop, the fixed point of

    b = min(B, slots), T = inside + D, D = (output - 1) tpot         residence of an admitted request
    step = decode_scale (decode_s - decode_fixed_s) + graph_share decode_fixed_s
    p = prefill_scale (prefill_s - prefill_fixed_s)
    w = (p + min(1, eager_share) prefill_fixed_s) / lanes          work of a prefill that comes alone
    c = prefill_scale chunk_s / lanes                                work of a prefill among many
    tpot = step + [together] (b - 1) w (D / T) / (output - 1)
    inside = request_s + p + eager_share prefill_fixed_s + [together] (chunks + 1/2) step + (b - 1) c burst
    ttft = inside + (B / b - 1) T

    and, with prefill apart, `inside` is at least what the prefill pool needs for all: b c - D.
    """
    admitted = np.maximum(np.minimum(load.concurrency, load.slots), 1.0)
    others, steps = admitted - 1.0, np.maximum(load.output_tokens - 1.0, 1.0)
    moving = load.decode_s - load.decode_fixed_s
    step = serving.decode_scale * moving + serving.graph_share * load.decode_fixed_s
    prefill_s = serving.prefill_scale * (load.prefill_s - load.prefill_fixed_s)
    work = (prefill_s + np.minimum(1.0, serving.eager_share) * load.prefill_fixed_s) / load.prefill_lanes
    crowd = serving.prefill_scale * load.chunk_s / load.prefill_lanes
    alone = serving.request_s + prefill_s + serving.eager_share * load.prefill_fixed_s
    alone = alone + np.where(load.apart, 0.0, (load.chunks + 0.5) * step)
    queued = alone + others * crowd * serving.burst
    inside, tpot = queued, step
    for _ in range(_ROUNDS):
        decoding = steps * tpot
        between = np.where(load.apart, 0.0, others * work * decoding / (inside + decoding) / steps)
        starved = np.where(load.apart, admitted * crowd - decoding, 0.0)
        tpot = tpot + _DAMPING * (step + between - tpot)
        inside = inside + _DAMPING * (np.maximum(queued, starved) - inside)
    ttft = inside + (load.concurrency / admitted - 1.0) * (inside + steps * tpot)
    rate = load.concurrency * load.output_tokens / (ttft + steps * tpot)
    return Steady(ttft, tpot, rate, np.minimum(1.0, admitted * work / (inside + steps * tpot)))
