"""Search with the core's own NSGA-II."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from energylens import _core
from energylens.errors import Problem, SpaceError
from energylens.search.checkpoint import Checkpoint
from energylens.search.stalled import Stalled
from energylens.space import Space

_STATE = ("generation", "population", "rank", "crowding", "seen", "front", "counts")


def run(
    space: Space,
    *,
    population: int,
    generations: int,
    seed: int,
    threads: int,
    stalled: Stalled | None = None,
    advance: Callable[[int], None] = lambda _generations: None,
    checkpoint: str | Path | None = None,
) -> _core.Nsga:
    """Search a space generation by generation; broken off and taken up from its checkpoint, it finds the same points.

    Raises `SpaceError`.
    """
    population = min(population, space.size)
    nsga = _core.Nsga(space.plan.core, space.json, space.signed_objectives, space.bounds, population, seed)
    file = None
    if checkpoint is not None:
        file = Checkpoint(checkpoint, space, algorithm="native nsga2", population=population, seed=seed)
        state = file.load()
        if state is not None:
            _take_up(nsga, state, file, generations, threads)
            advance(nsga.generation)
    while nsga.generation < generations and not nsga.exhausted:
        nsga.step(threads)
        advance(1)
        if file is not None and file.due:
            file.save(nsga.state())
        if stalled is not None and stalled.ends(lambda: nsga.found()[1], nsga.generation):
            break
    if file is not None:
        file.save(nsga.state())
    return nsga


def _take_up(
    nsga: _core.Nsga, state: dict[str, NDArray[Any]], file: Checkpoint, generations: int, threads: int
) -> None:
    try:
        arrays = [state[name] for name in _STATE]
        if any(array.dtype != np.uint64 or array.ndim != 1 for array in arrays):
            raise file.damaged()
        generation, members, rank, crowding, seen, front, counts = arrays
        nsga.restore(generation, members, rank, crowding, seen, front, counts, threads)
    except (KeyError, AttributeError, _core.PlanError):
        raise file.damaged() from None
    if nsga.generation > generations:
        message = f"the checkpoint `{file.path}` is at generation {nsga.generation}, beyond {generations}"
        raise SpaceError(Problem(message, hint="ask for as many generations or more", code="checkpoint"))
