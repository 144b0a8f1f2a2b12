"""Kernel times over arrays of shapes, in seconds; the engine computes the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Coefficients = Mapping[str, object]

ROWS = 128
"""Query rows of one attention work item."""


def number(coefficients: Coefficients, name: str) -> float:
    """Return one scalar coefficient, 0 where it is left out."""
    value = coefficients.get(name, 0.0)
    if not isinstance(value, (int, float)):
        raise TypeError(f"`{name}` is not a number")
    return float(value)


def smooth_max(a: Array, b: Array, power: float) -> Array:
    """Return `(a^p + b^p)^(1/p)`."""
    high, low = np.maximum(a, b), np.minimum(a, b)
    high = np.maximum(high, 1e-30)
    return np.asarray(high * (1 + (low / high) ** power) ** (1 / power))


def memory_time(size: Array, bandwidth: float, efficiency: float, root: float) -> Array:
    """Return `B/(BW e) + root sqrt(B)`, in s for B in bytes."""
    return np.asarray(size / (bandwidth * efficiency) + root * np.sqrt(size))


def tile_work(
    rows: Array, columns: Array, depth: Array, count: Array, pairs: Sequence[tuple[int, int, int]], sms: int
) -> tuple[Array, Array]:
    """Return per (tile rows, tile columns, split) `waves 2 m n K/s SMs` and `waves 2 m n SMs`, in FLOPs."""
    m, n, split = (np.array(part, dtype=np.float64)[:, None] for part in zip(*pairs, strict=True))
    waves = np.ceil(np.ceil(count * np.ceil(rows / m) * np.ceil(columns / n)) * split / sms)
    each = waves * 2 * m * n * sms
    return each * depth / split, each


def tile_time(
    work: tuple[Array, Array], efficiency: Array, splits: Array, peak: float, depth_0: float, split_s: float
) -> Array:
    """Return `min over tiles and splits of (work + depth_0 each)/(peak e) + split_s [s > 1]`, in s."""
    seconds = (work[0] + depth_0 * work[1]) / (peak * efficiency[:, None]) + (splits > 1)[:, None] * split_s
    return np.asarray(seconds.min(axis=0))


def prefill_work(
    batch: Array, heads: Array, head_dim: Array, tokens: Array, pad: int, sms: int
) -> tuple[Array, Array, Array]:
    """Return padded causal FLOPs, FLOPs of the longest item on every SM, and FLOPs of one depth of every wave."""
    blocks = np.ceil(tokens / pad) * pad
    flops = 4 * batch * heads * head_dim * blocks * (tokens + pad) / 2
    item = 4 * ROWS * head_dim * sms
    waves = np.ceil(batch * heads * np.ceil(tokens / ROWS) / sms)
    return np.asarray(flops), np.asarray(item * tokens), np.asarray(item * waves)


def slower(sms: Array, saturating: float, sharpness: float) -> Array:
    """Return `(1 + (n/c)^q)^(1/q)`: how many times slower a collective is on c SMs than on those it wants."""
    return np.asarray((1 + (saturating / sms) ** sharpness) ** (1 / sharpness))


def both(compute: Array, collective: Array, slow_compute: float, slow_collective: float) -> Array:
    """Return the seconds of a kernel and a collective that start together and slow each other down while both run.

    `o = min(C (1 + k_c), R (1 + k_r))`, `max(C + o k_c/(1 + k_c), R + o k_r/(1 + k_r))`.
    """
    o = np.minimum(compute * (1 + slow_compute), collective * (1 + slow_collective))
    kernel = compute + o * slow_compute / (1 + slow_compute)
    return np.asarray(np.maximum(kernel, collective + o * slow_collective / (1 + slow_collective)))
