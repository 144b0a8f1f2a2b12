"""How a server batches requests: the columns of a deployment besides those of its engine."""

from __future__ import annotations

from typing import Final

MAX_BATCHED_TOKENS: Final = 8192
"""Prompt tokens of one prefill pass."""

BATCHING: Final[dict[str, object]] = {
    "max_num_seqs": 256,
    "token_budget": 8192,
    "chunked": True,
    "prefix_cache": True,
    "draft": None,
    "draft_tokens": 0,
    "acceptance": 0.7,
    "replicas": 1,
}
"""Columns of a deployment besides those of its engine, with their defaults."""
