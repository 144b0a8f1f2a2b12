"""Every point of a space, reduced to its front in the core."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from energylens.common.errors import Problem, SpaceError
from energylens.common.progress import progress
from energylens.engine.evaluate import checked_threads
from energylens.engine.reductions import Keep, reduce_range
from energylens.engine.space import Space, space_of
from energylens.results.result import Result, reduced_result

MOST_WORK = 2 * 10**10
"""Most points evaluated from scratch that `explore` takes on, or work like it; some twenty minutes on two cores."""


def explore(
    space: Space | None = None,
    *,
    epsilon: float | None = None,
    top: int = 0,
    best_per: Sequence[str] = (),
    distributions: Sequence[str] = (),
    threads: int | None = None,
    show_progress: bool = False,
    **axes: Any,
) -> Result:
    """Return the exact Pareto front of a space by evaluating every point.

    Parameters
    ----------
    space
        A space; or give its fields as keywords, see `axes`.
    epsilon
        Thin the front: every point has one within a factor of `1 + epsilon`. None keeps the exact front.
    top
        Also return this many points with the best first objective.
    best_per
        Also return the best point for each combination of these axes.
    distributions
        Also count these result columns in bins of at most 1/128 relative width.
    threads
        Threads; all CPUs if None.
    show_progress
        Show progress on standard error.
    **axes
        Fields of `Space`, where no space is given.

    Returns
    -------
    Result
        The front, and what else was requested.

    Raises
    ------
    SpecError, SpaceError
        If a model, a GPU or an axis is faulty, or the points are too many.

    Examples
    --------
    >>> result = explore(models="llama-3.1-8b", gpus="h100-sxm", batch=[1, 8, 64], limits=["tpot<=50ms"])
    >>> result.best["batch"]
    64
    """
    space = space_of(space, axes)
    keep = Keep(epsilon, top, best_per, distributions)
    threads = checked_threads(threads)
    if work(space) > MOST_WORK:
        hint = "use `search`, fewer values, or a sweep over many machines"
        raise SpaceError(
            Problem(f"{space.size:,} points are too many to evaluate one by one", hint=hint, code="too-large")
        )
    reduction = keep.reduction(space)
    started = time.perf_counter()
    with progress("exploring", space.size, show_progress) as advance:
        reduce_range(reduction, 0, space.size, threads, advance)
    seconds = time.perf_counter() - started
    return reduced_result(space, keep, reduction.contents(), "exhaustive", seconds, threads)


def work(space: Space) -> float:
    """Return how much work a space is, as a number of points evaluated from scratch."""
    return space.plan.core.space_work(space.json)
