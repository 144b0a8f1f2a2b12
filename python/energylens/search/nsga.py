"""NSGA-II with pymoo over a space."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from energylens import _core
from energylens.errors import Problem, SpaceError
from energylens.evaluation import checked_threads
from energylens.progress import progress
from energylens.result import Result, front_result
from energylens.space import Space


def search(
    space: Space | None = None,
    *,
    population: int = 200,
    generations: int = 100,
    seed: int = 1,
    threads: int | None = None,
    show_progress: bool = False,
    **axes: Any,
) -> Result:
    """Return the front found by NSGA-II (Deb et al. 2002, as in pymoo); the same seed gives the same front.

    Axes are integer genes; limits and memory are constraints; every feasible point met is kept, so the front is not
    capped by the population. Raises `SpecError` or `SpaceError`.
    """
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    from energylens.search.problem import SameIndex, SpaceProblem

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
    problem = SpaceProblem(space, checked_threads(threads))
    algorithm = NSGA2(
        pop_size=min(population, space.size),
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=0.9, eta=3.0, vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=SameIndex(problem.radix),
    )
    started = time.perf_counter()
    algorithm.setup(problem, termination=("n_gen", generations), seed=seed, verbose=False)
    with progress("searching", generations, show_progress) as advance:
        while algorithm.has_next():
            algorithm.next()
            advance(1)
    seconds = time.perf_counter() - started
    indices = sorted(problem.met)
    kept = _core.non_dominated([list(problem.met[i]) for i in indices])
    front = np.asarray([indices[i] for i in kept], dtype=np.uint64)
    by_reason = {name: count for name, count in problem.by_reason.items() if count}
    return front_result(space, front, "nsga2", len(problem.seen), by_reason, problem.outside, seconds, threads)
