"""`search`: all points of a space if they are few enough, else an evolutionary algorithm."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from energylens import _core
from energylens.common.errors import Problem, SpaceError, did_you_mean
from energylens.common.progress import progress
from energylens.common.show import shown
from energylens.engine.evaluate import checked_threads
from energylens.engine.reductions import require_single_law
from energylens.engine.space import Space, space_of
from energylens.results.result import Result, front_result
from energylens.searches.exhaustive import explore, work

if TYPE_CHECKING:
    from pymoo.core.algorithm import Algorithm
    from pymoo.core.termination import Termination

METHODS = ("auto", "exhaustive", "native", "pymoo")

FEW = 3e8
"""Work (points evaluated from scratch) up to which `auto` evaluates every point: some twenty seconds on two cores."""


def search(
    space: Space | None = None,
    *,
    method: str = "auto",
    population: int = 200,
    generations: int = 100,
    seed: int = 1,
    patience: int | None = None,
    tolerance: float = 1e-4,
    algorithm: str | Algorithm | None = None,
    termination: Termination | None = None,
    checkpoint: str | Path | None = None,
    threads: int | None = None,
    show_progress: bool = False,
    **axes: Any,
) -> Result:
    """Return the front of a space that may be too large to enumerate; the same seed gives the same front.

    Parameters
    ----------
    space
        A `Space`, or its fields as keywords.
    method
        `exhaustive` (every point), `native` (NSGA-II in the core), `pymoo`, or `auto`: every point if the space is
        small enough, else native. `Result.method` says which.
    population, generations, seed
        Of the evolutionary search.
    patience, tolerance
        The search ends when its hypervolume has grown by less than the share `tolerance` in `patience` generations.
    algorithm, termination
        A name of `pymoo_engine.ALGORITHMS` or an algorithm of pymoo, and one of its terminations; either makes `auto`
        choose pymoo.
    checkpoint
        A file to resume from after an interruption.
    threads
        Threads of the core; all CPUs of the process, if None. The front does not depend on it.
    show_progress
        Whether to draw a progress bar on a terminal.
    **axes
        Fields of the `Space`, if none is given.

    Returns
    -------
    Result
        Every feasible non-dominated point that was evaluated: the population does not cap the front.

    Raises
    ------
    SpecError
        With every problem of models and GPUs.
    SpaceError
        With every problem of axes, limits and options; of a checkpoint of another search.

    Examples
    --------
    >>> result = search(models="llama-3.1-8b", gpus="h100-sxm", tp=[1, 2, 4], batch="1:64")
    >>> result.method, result.points
    ('exhaustive', 192)

    Notes
    -----
    Axes are integer genes; limits and memory are constraints. Where `auto` evaluates every point, `threads` is the only
    option that matters.

    References
    ----------
    Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE Trans. Evol. Comput. 6(2), 2002.
    """
    space = space_of(space, axes)
    threads = checked_threads(threads)
    _check(method, population, generations, seed)
    if method == "auto" and (algorithm is not None or termination is not None):
        method = "pymoo"
    if method != "pymoo" and (algorithm is not None or termination is not None):
        name = "algorithm" if algorithm is not None else "termination"
        message = f"`{name}` and method `{method}` exclude each other: only pymoo lets one choose it"
        raise SpaceError(Problem(message, hint="leave one of them out, or use method `pymoo`", code="search"))
    if method == "exhaustive":
        _nothing_to_break_off(patience, checkpoint)
    from energylens.searches.stalled import Stalled

    stalled = None if patience is None else Stalled(patience, tolerance)
    if method == "auto":
        method = "exhaustive" if work(space) <= FEW else "native"
    require_single_law(space, verb="search")
    if method == "exhaustive":
        return explore(space, threads=threads, show_progress=show_progress)
    if space.size > 2**62:
        raise SpaceError(
            Problem("a space of more than 2^62 points cannot be searched", hint="use fewer values", code="search")
        )
    started = time.perf_counter()
    usual: dict[str, Any] = {"population": population, "generations": generations, "seed": seed, "threads": threads}
    with progress("searching", generations, show_progress) as advance:
        if method == "native":
            from energylens.searches import native

            nsga = native.run(space, stalled=stalled, advance=advance, checkpoint=checkpoint, **usual)
            best = nsga.best()
            indices, counts, outside = best["indices"], best["by_reason"], best["outside"]
            points, name = nsga.points, "native nsga2"
            by_reason = {reason: n for reason, n in zip(_core.REASONS, counts, strict=True) if n}
        else:
            from energylens.searches import pymoo_engine

            chosen = "nsga2" if algorithm is None else algorithm
            archive = pymoo_engine.run(
                space,
                algorithm=chosen,
                termination=termination,
                stalled=stalled,
                advance=advance,
                checkpoint=checkpoint,
                **usual,
            )
            indices, points = archive.keys.astype(np.uint64), archive.points
            by_reason, outside = archive.by_reason, archive.outside
            name = f"pymoo {chosen if isinstance(chosen, str) else type(chosen).__name__.lower()}"
    seconds = time.perf_counter() - started
    return front_result(space, indices, name, points, by_reason, outside, seconds, threads)


def _nothing_to_break_off(patience: int | None, checkpoint: str | Path | None) -> None:
    """Raise `SpaceError` for options that say when to end, or where to go on, if every point is to be evaluated."""
    reasons = {"patience": "there are no generations to wait for", "checkpoint": "there is no state to go on from"}
    options = {"patience": patience, "checkpoint": checkpoint}
    hint = "leave one of them out, or use method `native` or `pymoo`"
    problems = [
        Problem(f"`{name}` and method `exhaustive` exclude each other: {reason}", hint=hint, code="search")
        for name, reason in reasons.items()
        if options[name] is not None
    ]
    if problems:
        raise SpaceError(problems)


def _check(method: str, population: int, generations: int, seed: int) -> None:
    if not isinstance(method, str) or method not in METHODS:
        hint = did_you_mean(shown(method), METHODS) or f"use {', '.join(METHODS)}"
        raise SpaceError(Problem(f"unknown method `{shown(method)}`", hint=hint, code="search"))
    for name, value, least, most in (
        ("population", population, 2, 1_000_000),
        ("generations", generations, 1, 1_000_000),
        ("seed", seed, 0, 2**32 - 1),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            message = f"`{name}` should be a whole number from {least} to {most:,}, found {shown(value)}"
            raise SpaceError(Problem(message, code="search"))
