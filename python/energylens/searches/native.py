"""Search with the core's own NSGA-II."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from energylens import _core
from energylens.common.errors import Problem, SpaceError
from energylens.engine.space import Space
from energylens.searches.checkpoint import DAMAGED, Checkpoint
from energylens.searches.stalled import Stalled

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
        versions = {"numpy": np.__version__}
        file = Checkpoint(checkpoint, space, algorithm="native nsga2", population=population, seed=seed, **versions)
        state = file.load()
        if state is not None:
            _take_up(nsga, state, file, generations, threads)
            try:
                if stalled is not None:
                    stalled.restore(state, len(space.signed_objectives))
            except ValueError:
                raise file.damaged() from None
            advance(nsga.generation)
    ended = stalled is not None and stalled.over(nsga.generation)
    try:
        while not ended and nsga.generation < generations and not nsga.exhausted:
            nsga.step(threads)
            ended = stalled is not None and stalled.ends(lambda: nsga.best()["objectives"], nsga.generation)
            advance(1)
            if file is not None and file.due:
                file.save(_state(nsga, stalled))
    except KeyboardInterrupt:
        if file is None:
            raise
        file.save(_state(nsga, stalled))
        raise file.interrupted(nsga.generation) from None
    if file is not None:
        file.save(_state(nsga, stalled))
    return nsga


def _state(nsga: _core.Nsga, stalled: Stalled | None) -> dict[str, NDArray[Any]]:
    return dict(nsga.state()) | ({} if stalled is None else stalled.state())


def _take_up(
    nsga: _core.Nsga, state: dict[str, NDArray[Any]], file: Checkpoint, generations: int, threads: int
) -> None:
    try:
        arrays = [state[name] for name in _STATE]
        if any(array.dtype != np.uint64 or array.ndim != 1 for array in arrays) or not _fits(state):
            raise file.damaged()
        nsga.restore(dict(zip(_STATE, arrays, strict=True)), threads)
    except SpaceError:
        raise
    except (*DAMAGED, _core.PlanError):
        raise file.damaged() from None
    if nsga.generation > generations:
        message = f"the checkpoint `{file.path}` is at generation {nsga.generation}, beyond {generations}"
        raise SpaceError(Problem(message, hint="ask for as many generations or more", code="checkpoint"))


def _fits(state: dict[str, NDArray[Any]]) -> bool:
    """Return whether what was met holds the front and the population, and is as many points as were counted."""
    seen, counts = state["seen"], [int(count) for count in state["counts"]]
    known = all(np.isin(state[name], seen).all() for name in ("front", "population"))
    standing = not np.isnan(state["crowding"].view(np.float64)).any() and (state["rank"] < 2**32).all()
    counted = len(np.unique(seen)) == len(seen) == sum(counts[:-1]) and counts[-1] <= len(seen)
    return bool(known and standing and counted and len(state["generation"]) == 1)
