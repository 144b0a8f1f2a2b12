"""Search with pymoo: NSGA-II on columns, and any other multi-objective algorithm of pymoo as it is."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pymoo
from numpy.typing import NDArray
from pymoo.core.algorithm import Algorithm
from pymoo.core.duplicate import DefaultDuplicateElimination
from pymoo.core.termination import Termination
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.termination.max_gen import MaximumGenerationTermination
from pymoo.util.ref_dirs import get_reference_directions
from pymoo.util.reference_direction import get_partition_closest_to_points

from energylens import _core
from energylens.common.errors import Problem, SpaceError, did_you_mean
from energylens.engine.space import Space
from energylens.searches.archive import Archive
from energylens.searches.checkpoint import DAMAGED, Checkpoint
from energylens.searches.columns import ColumnNSGA2
from energylens.searches.problem import SameKey, SpaceProblem
from energylens.searches.selection import dominance_then_crowding, either, niche_rank_distance, tournament
from energylens.searches.stalled import Stalled

ALGORITHMS = {
    "nsga2": "moo.nsga2.NSGA2",
    "nsga3": "moo.nsga3.NSGA3",
    "unsga3": "moo.unsga3.UNSGA3",
    "agemoea": "moo.age.AGEMOEA",
    "agemoea2": "moo.age2.AGEMOEA2",
    "smsemoa": "moo.sms.SMSEMOA",
    "spea2": "moo.spea2.SPEA2",
    "rvea": "moo.rvea.RVEA",
    "ctaea": "moo.ctaea.CTAEA",
}
"""Algorithms by name; MOEA/D is not among them because pymoo's takes no constraints."""

_DIRECTED = {"nsga3", "unsga3", "rvea", "ctaea"}
_TOURNAMENTS = {
    "nsga3": either,
    "unsga3": niche_rank_distance,
    "agemoea": dominance_then_crowding,
    "agemoea2": dominance_then_crowding,
}

_MOST_SPREAD_DIRECTIONS = 200


def run(
    space: Space,
    *,
    algorithm: str | Algorithm = "nsga2",
    population: int,
    generations: int,
    seed: int,
    threads: int,
    termination: Termination | None = None,
    advance: Callable[[int], None] = lambda _generations: None,
    stalled: Stalled | None = None,
    checkpoint: str | Path | None = None,
) -> Archive:
    """Search a space and return every point met, reduced to the best; the same seed gives the same points.

    `algorithm` is one of `ALGORITHMS`, run with integer sampling, SBX and polynomial mutation rounded to digits, or an
    algorithm of pymoo with operators, population and reference directions of its own, of which a copy is run; its
    variables are rounded to digits. (A few of pymoo's draw numbers that no seed fixes: CMOPSO, and the tournament that
    NSGA3 brings along.) A `termination` of pymoo takes the place of `generations`. `advance` is called after each
    generation; `stalled` ends the search when nothing more is gained.

    With `checkpoint`, `nsga2` writes its state to that file every ten seconds and at the end, and takes it up from
    there: broken off or not, the archive is the same. More `generations` go on where fewer have ended. The file holds
    plain arrays and no code. Raises `SpaceError`.
    """
    problem = SpaceProblem(space, threads)
    chosen = _copied(_named(algorithm, problem, population) if isinstance(algorithm, str) else algorithm, problem)
    ending = MaximumGenerationTermination(generations) if termination is None else copy.deepcopy(termination)
    try:
        chosen.setup(problem, termination=ending, seed=seed, verbose=False)
    except Exception as error:
        raise _refused(type(chosen).__name__, error) from None
    file = None
    if checkpoint is not None:
        if not isinstance(chosen, ColumnNSGA2) or termination is not None:
            hint = "leave out `checkpoint`, or use `nsga2` with `generations`"
            message = "only `nsga2` without a termination of its own can be taken up from a checkpoint"
            raise SpaceError(Problem(message, hint=hint, code="checkpoint"))
        versions = {"pymoo": pymoo.__version__, "numpy": np.__version__}
        file = Checkpoint(checkpoint, space, algorithm="nsga2", population=population, seed=seed, **versions)
        state = file.load()
        if state is not None:
            _take_up(chosen, state, file, stalled)
            done = chosen.n_iter - 1
            if done > generations:
                message = f"the checkpoint `{file.path}` is at generation {done}, beyond {generations}"
                raise SpaceError(Problem(message, hint="ask for as many generations or more", code="checkpoint"))
            advance(done)
    archive = problem.archive
    ended = stalled is not None and chosen.is_initialized and stalled.over(chosen.n_iter - 1)

    def state_now() -> dict[str, NDArray[Any]]:
        state: dict[str, NDArray[Any]] = archive.state() | chosen.state()
        return state if stalled is None else state | stalled.state()

    try:
        while not ended and chosen.has_next():
            chosen.next()
            ended = stalled is not None and stalled.ends(lambda: archive.values, chosen.n_iter - 1)
            advance(1)
            if file is not None and file.due:
                file.save(state_now())
    except KeyboardInterrupt:
        # In the middle of a generation there is no state to go on from; what was written last is.
        if file is None or not file.path.exists():
            raise
        raise KeyboardInterrupt(f"interrupted; the same command goes on from {file.path}") from None
    if file is not None:
        file.save(state_now())
    return archive


def _named(name: str, problem: SpaceProblem, population: int) -> Algorithm:
    """Return an algorithm of `ALGORITHMS` for a problem."""
    if name not in ALGORITHMS:
        hint = did_you_mean(name, ALGORITHMS)
        if name == "moead":
            hint = "MOEA/D of pymoo takes no constraints; `nsga3` and `rvea` follow reference directions too"
        raise SpaceError(Problem(f"unknown algorithm `{name}`", hint=hint, code="search"))
    population = min(population, problem.space.size)
    if name == "nsga2":
        return ColumnNSGA2(population)
    arguments: dict[str, Any] = {
        "sampling": IntegerRandomSampling(),
        "crossover": SBX(prob=0.9, eta=3.0, vtype=float, repair=RoundingRepair()),
        "mutation": PM(eta=3.0, vtype=float, repair=RoundingRepair()),
    }
    if name in _TOURNAMENTS:
        arguments["selection"] = tournament(_TOURNAMENTS[name])
    if name in _DIRECTED:
        if problem.n_obj == 1:
            raise SpaceError(Problem(f"`{name}` needs two or more objectives", hint="use `nsga2`", code="search"))
        arguments["ref_dirs"] = directions(problem.n_obj, population)
        population = max(population, len(arguments["ref_dirs"]))
    if name != "ctaea":
        arguments["pop_size"] = population
    module, _, kind = ALGORITHMS[name].rpartition(".")
    try:
        made: Algorithm = getattr(importlib.import_module(f"pymoo.algorithms.{module}"), kind)(**arguments)
    except Exception as error:
        raise _refused(name, error) from None
    return made


def directions(objectives: int, population: int) -> NDArray[np.float64]:
    """Return about as many reference directions as points: Das and Dennis, or by energy where those lack an inside."""
    count = max(population, objectives)
    partitions = get_partition_closest_to_points(count, objectives)
    if partitions < objectives and 2 * objectives <= count <= _MOST_SPREAD_DIRECTIONS:
        points = get_reference_directions("energy", objectives, count, seed=1)
    else:
        points = get_reference_directions("das-dennis", objectives, n_partitions=partitions)
    return np.asarray(points, dtype=np.float64)


def _copied(algorithm: Algorithm, problem: SpaceProblem) -> Algorithm:
    """Return a copy of an algorithm whose default duplicate elimination, if any, tells points by index.

    Algorithms of pymoo share the objects that are defaults of theirs, and change them; a copy keeps runs apart.
    """
    made: Algorithm = copy.deepcopy(algorithm)
    for owner in (made, getattr(made, "initialization", None), getattr(made, "mating", None)):
        if owner is not None and type(getattr(owner, "eliminate_duplicates", None)) is DefaultDuplicateElimination:
            owner.eliminate_duplicates = SameKey(problem)
    return made


def _refused(name: str, error: Exception) -> SpaceError:
    """Return what pymoo says against an algorithm as an error of ours."""
    said = str(error).strip().splitlines()
    return SpaceError(Problem(f"pymoo cannot run `{name}`: {said[0] if said else repr(error)}", code="search"))


def _take_up(
    algorithm: ColumnNSGA2, state: Mapping[str, NDArray[Any]], file: Checkpoint, stalled: Stalled | None
) -> None:
    """Restore algorithm and archive; raise `SpaceError` if the arrays do not fit the space or one another."""
    problem = algorithm.problem
    try:
        if not _fits(state, problem, algorithm.pop_size):
            raise file.damaged()
        problem.archive.restore(state, lambda indices: problem.measure(indices).objectives)
        algorithm.restore(state)
        if stalled is not None:
            stalled.restore(state, problem.n_obj)
    except SpaceError:
        raise
    except DAMAGED:
        raise file.damaged() from None


def _fits(state: Mapping[str, NDArray[Any]], problem: SpaceProblem, population: int) -> bool:
    """Return whether arrays are points of the space, counted as they should be, and a population of them."""
    seen, front, members = keys = [state[name] for name in ("seen", "front", "population")]
    if any(array.ndim != 1 or array.dtype != np.int64 or not len(array) for array in (seen, members)):
        return False
    if front.ndim != 1 or front.dtype != np.int64 or not 1 <= len(members) <= population:
        return False
    if not all(((array >= 0) & (array < problem.space.size)).all() for array in keys):
        return False
    if (np.diff(seen) <= 0).any() or (np.diff(front) <= 0).any():
        return False
    if not np.isin(front, seen).all() or not np.isin(members, seen).all():
        return False
    rank, crowding, counts = (state[name] for name in ("rank", "crowding", "counts"))
    if rank.shape != members.shape or crowding.shape != members.shape or np.isnan(crowding).any():
        return False
    counted = counts.dtype == np.int64 and counts.shape == (len(_core.REASONS),) and (counts >= 0).all()
    outside = state["outside"]
    return bool(counted and counts.sum() == len(seen) and outside.ndim == 0 and 0 <= int(outside) <= len(seen))
