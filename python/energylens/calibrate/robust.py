"""Non-negative least absolute relative errors, with readings known only to be at least a limit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls  # type: ignore[import-untyped, unused-ignore]

from energylens.common.errors import Problem, SpecError

Array = NDArray[Any]
MAX_CONDITION = 1e5
"""Of the scaled columns; above it some terms cannot be told apart."""


def check_rank(columns: Array, names: list[str]) -> float:
    """Return the condition number of the scaled columns; a SpecError names those that cannot be told apart."""
    if len(columns) < len(names):
        raise SpecError(
            Problem(
                f"{len(columns)} rows cannot fit {len(names)} coefficients: {', '.join(names)}", code="too-few-runs"
            )
        )
    size = np.sqrt((columns**2).sum(axis=0))
    if (size == 0).any():
        empty = [name for name, value in zip(names, size, strict=True) if value == 0]
        raise SpecError(
            Problem(
                f"no row tells anything of {', '.join(empty)}",
                hint="leave the term out, or add rows that have it",
                code="too-few-runs",
            )
        )
    _, singular, right = np.linalg.svd(columns / size, full_matrices=False)
    condition = float(singular[0] / max(singular[-1], 1e-300))
    if condition > MAX_CONDITION:
        mixed = [name for name, value in zip(names, right[-1], strict=True) if abs(value) > 0.1]
        raise SpecError(
            Problem(
                f"the rows cannot tell {' from '.join(mixed)} (condition number {condition:.2g})",
                hint="add kernels in which they differ, or fix one of them",
                code="too-few-runs",
            )
        )
    return condition


def fit(
    columns: Array, watts: Array, offset: Array, weight: Array, capped: NDArray[np.bool_], rounds: int = 25
) -> Array:
    """Return the non-negative coefficients of least |predicted/watts - 1|; capped rows only bound from below."""
    scale = np.sqrt((columns**2).mean(axis=0))
    left = columns / scale / watts[:, None]
    right = (watts - offset) / watts
    pull = weight.copy()
    solution = np.zeros(columns.shape[1])
    for _ in range(rounds):
        root = np.sqrt(pull)
        solution, _ = nnls(left * root[:, None], right * root)
        error = left @ solution - right
        pull = weight / np.maximum(np.abs(error), 0.01)
        pull = np.where(capped & (error > 0), 1e-6 * pull, pull)
    coefficients: Array = solution / scale
    return coefficients
