"""Search of a space with an algorithm of pymoo."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from energylens.errors import Problem, SpaceError
from energylens.evaluation import checked_threads
from energylens.progress import progress
from energylens.result import Result, front_result
from energylens.space import Space

if TYPE_CHECKING:
    from pymoo.core.algorithm import Algorithm
    from pymoo.core.termination import Termination

    from energylens.search.archive import Archive


def search(
    space: Space | None = None,
    *,
    algorithm: str | Algorithm = "nsga2",
    population: int = 200,
    generations: int = 100,
    seed: int = 1,
    threads: int | None = None,
    termination: Termination | None = None,
    stop: Callable[[Archive, int], bool] | None = None,
    checkpoint: str | Path | None = None,
    show_progress: bool = False,
    **axes: Any,
) -> Result:
    """Return the front found by NSGA-II (Deb et al. 2002, as in pymoo) or another algorithm; same seed, same front.

    Axes are integer genes; limits and memory are constraints; every feasible point met is kept, so the front is not
    capped by the population. `energylens.search.pymoo_engine.run` tells of `algorithm`, `termination`, `stop` and
    `checkpoint`. Raises `SpecError` or `SpaceError`.
    """
    from energylens.search.pymoo_engine import run

    space = Space(**axes) if space is None else replace(space, **axes) if axes else space
    for name, value, least, most in (
        ("population", population, 2, 1_000_000),
        ("generations", generations, 1, 1_000_000),
        ("seed", seed, 0, 2**32 - 1),
    ):
        if not isinstance(value, int) or not least <= value <= most:
            message = f"`{name}` should be a whole number from {least} to {most:,}, found {value!r}"
            raise SpaceError(Problem(message, code="search"))
    if space.size > 2**62:
        raise SpaceError(
            Problem("a space of more than 2^62 points cannot be searched", hint="use fewer values", code="search")
        )
    started = time.perf_counter()
    with progress("searching", generations, show_progress) as advance:
        archive = run(
            space,
            algorithm=algorithm,
            population=population,
            generations=generations,
            seed=seed,
            threads=checked_threads(threads),
            termination=termination,
            advance=advance,
            stop=stop,
            checkpoint=checkpoint,
        )
    seconds = time.perf_counter() - started
    name = algorithm if isinstance(algorithm, str) else type(algorithm).__name__.lower()
    front = archive.keys.astype(np.uint64)
    return front_result(space, front, name, archive.points, archive.by_reason, archive.outside, seconds, threads)
