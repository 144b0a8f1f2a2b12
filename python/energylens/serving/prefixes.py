"""Prefixes of prompts that recur: blocks in lists, and what caches of each size find of them."""

from __future__ import annotations

import numpy as np
import polars as pl

from energylens import _core
from energylens.serving.trace_blocks import BLOCK_TOKENS

_CAPACITIES = [int(2**power) for power in np.arange(12, 27.5, 0.5)]


def prefix_curve(requests: pl.DataFrame, block_tokens: int = BLOCK_TOKENS) -> list[tuple[float, float]]:
    """Return the share of prompt tokens that least-recently-used caches find, by the tokens they hold.

    Every request looks up its blocks in order until one is missing; the block of the last token is never taken from the
    cache.
    """
    blocks, starts = flat_blocks(requests, block_tokens)
    hit_tokens = _core.prefix_hit_tokens(blocks, starts, block_tokens, _CAPACITIES)
    total = float(requests["prompt_tokens"].sum())
    curve = [(float(size), tokens / total) for size, tokens in zip(_CAPACITIES, hit_tokens, strict=True)]
    last = next((at for at, (_, share) in enumerate(curve) if share >= curve[-1][1]), len(curve) - 1)
    return curve[: last + 1]


def flat_blocks(requests: pl.DataFrame, block_tokens: int = BLOCK_TOKENS) -> tuple[list[int], list[int]]:
    """Return the blocks of all requests in one list, and where each request's begin; none of last tokens.

    They are numbered anew, densely: of requests that are a part of a trace, or whose last blocks are not full, the
    numbers in the trace may be larger than there are blocks here.
    """
    most = ((pl.col("prompt_tokens") - 1.0) / block_tokens).floor().cast(pl.UInt32)
    held = requests.select(pl.col("blocks").list.head(most))["blocks"]
    starts = np.concatenate([[0], np.cumsum(held.list.len().to_numpy())]).astype(np.int64)
    flat = held.explode(empty_as_null=False).drop_nulls().to_numpy()
    dense = np.unique(flat, return_inverse=True)[1]
    return dense.tolist(), starts.tolist()
