"""Sums in an order of our own: the same bits whatever kernels the installed BLAS has for this processor.

`a @ b` is left to BLAS, which sums in blocks as wide as the processor's vectors, with fused multiply-add where there
is one: the last bit differs between machines. Products of single elements are rounded alike everywhere, and
`np.add.reduce` along a contiguous axis sums in blocks of eight with a fixed order (numpy's pairwise summation, plain C
without fused operations), so that these functions depend on the numbers alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]


def weighted_sum(weights: Column, values: Column) -> float:
    """Return the sum of products of two columns."""
    return float(np.add.reduce(np.ascontiguousarray(weights * values)))


def row_sums(table: Column, weights: Column) -> Column:
    """Return the weighted sum of each row of a table."""
    sums: Column = np.add.reduce(np.ascontiguousarray(table * weights), axis=-1)
    return sums
