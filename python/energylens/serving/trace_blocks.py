"""How many prompt tokens a prefix block of a trace holds: inferred from its numbers of blocks, or a problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

BLOCK_TOKENS: Final = 512
"""Tokens of a prefix block where a trace leaves it open: that of the Mooncake traces."""

MOST_BLOCK_TOKENS: Final = 65_536
_SIZES: Final = tuple(2**power for power in range(12))
"""Sizes that are tried: servers have blocks of 1 (a page of SGLang) to a few hundred tokens, traces up to 512."""

_EXPLAINED: Final = 0.98
"""Share of the requests whose number of blocks a size has to explain: published traces have a few odd rows."""


_CERTAIN: Final = 10
"""Lists from which on no size explains nearly all of them by chance that is not theirs."""


def block_size(blocks: pl.Series, prompt_tokens: pl.Series, expected: int) -> tuple[int, str] | str:
    """Return the tokens of a block with a sentence that says how they are known, or why they cannot be known.

    A prompt of p tokens in blocks of s has `floor(p/s)` blocks, or `ceil(p/s)` if the last, part-filled one is listed
    too. Powers of two are tried, since servers use no others.

    Parameters
    ----------
    blocks
        Lists of blocks, one of each request.
    prompt_tokens
        Prompt tokens of each request.
    expected
        Size that the trace's columns let expect; it is taken where it is one of several that explain the numbers.
    """
    counts = blocks.list.len().fill_null(0).to_numpy().astype(np.float64)
    listed = counts > 0
    if not listed.any():
        return expected, ""
    counts, tokens = counts[listed], prompt_tokens.cast(pl.Float64).to_numpy()[listed]
    fitting = _fitting(counts, tokens)
    if len(fitting) == 1:
        return fitting[0], f"blocks of {fitting[0]:,} tokens, as the numbers of blocks say"
    if expected in fitting:
        near = sorted(fitting, key=lambda size: abs(np.log2(size / expected)))[1]
        return expected, f"blocks of {expected:,} tokens assumed (the lists would also fit {near:,})"
    if fitting:
        return f"blocks may hold {' or '.join(f'{size:,}' for size in fitting[:4])} tokens: the lists do not say which"
    if (counts <= np.ceil(tokens / expected)).all():
        return expected, f"blocks of {expected:,} tokens assumed: the lists name but the beginnings of prompts"
    row = int(np.argmax(counts / np.maximum(tokens, 1.0)))
    return (
        f"no one size of a block explains the lists: a prompt of {tokens[row]:,.0f} tokens has {counts[row]:,.0f} "
        f"blocks, in blocks of {expected:,} tokens it would have {np.ceil(tokens[row] / expected):,.0f}"
    )


@dataclass(frozen=True)
class Contradiction:
    """A size of blocks that lists cannot have: what is wrong, a row that shows it, and what would be right."""

    message: str
    hint: str
    row: int


def contradiction(blocks: pl.Series, prompt_tokens: pl.Series, size: int) -> Contradiction | str:
    """Return why lists cannot be of blocks of a size that somebody named, or else a sentence on how they fit it.

    That is certain only where another size explains nearly all lists. Where none does, lists may name but the
    beginnings of prompts, or blocks of what was made as well: the size is taken, and what does not fit it is said.

    Parameters
    ----------
    blocks
        Lists of blocks, one of each request.
    prompt_tokens
        Prompt tokens of each request.
    size
        Tokens of a block.
    """
    counts = blocks.list.len().fill_null(0).to_numpy().astype(np.float64)
    tokens = prompt_tokens.cast(pl.Float64).to_numpy()
    listed = counts > 0
    if not listed.any():
        return ""
    many, few = counts > np.ceil(tokens / size), counts < np.floor(tokens / size)
    wrong = listed & (many | few)
    if wrong[listed].mean() <= 1.0 - _EXPLAINED:
        return ""
    share = f"{int(wrong.sum()):,} of {int(listed.sum()):,} lists"
    if not (many & listed).any():
        note = f"blocks of {size:,} tokens, as said: {share} name but the beginnings of prompts"
    else:
        note = f"blocks of {size:,} tokens, as said, although {share} have other numbers of blocks"
    fitting = _fitting(counts[listed], tokens[listed])
    if not fitting or (not (many & listed).any() and listed.sum() < _CERTAIN):
        return note
    # The row that shows it best: the number that is off by the largest factor.
    rows = np.flatnonzero(wrong)
    row = int(rows[np.abs(np.log(counts[rows] * size / np.maximum(tokens[rows], 1.0))).argmax()])
    message = (
        f"blocks of {size:,} tokens do not fit the lists: a prompt of {tokens[row]:,.0f} tokens has "
        f"{np.ceil(tokens[row] / size):,.0f} such blocks, its list names {counts[row]:,.0f}; {share} do not fit"
    )
    if len(fitting) == 1:
        hint = f"blocks of {fitting[0]:,} tokens fit: leave --block-tokens out (in Python block_tokens)"
    else:
        hint = f"blocks of {' or '.join(f'{known:,}' for known in fitting[:4])} tokens fit: --block-tokens {fitting[0]}"
    return Contradiction(message, hint, row)


def _fitting(counts: NDArray[np.float64], tokens: NDArray[np.float64]) -> list[int]:
    """Return the sizes that explain nearly all numbers of blocks."""

    def explained(size: int) -> float:
        return float(((np.floor(tokens / size) <= counts) & (counts <= np.ceil(tokens / size))).mean())

    return [size for size in _SIZES if explained(size) >= _EXPLAINED]
