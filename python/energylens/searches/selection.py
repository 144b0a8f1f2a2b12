"""Binary tournaments of pymoo's algorithms, all pairs at once and drawn from the run's own random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.operators.selection.tournament import TournamentSelection

Positions = NDArray[np.int64]
Preference = NDArray[np.int8]
Prefer = Callable[[Any, Positions, Positions], Preference]


def smaller(a: NDArray[Any], b: NDArray[Any]) -> Preference:
    """Return -1 where `a` is smaller, 1 where `b` is, 0 for ties."""
    return (a > b).astype(np.int8) - (a < b).astype(np.int8)


def either(_population: Any, first: Positions, _second: Positions) -> Preference:
    """Prefer none, as NSGA-III does."""
    return np.zeros(len(first), dtype=np.int8)


def dominance_then_crowding(population: Any, first: Positions, second: Positions) -> Preference:
    """Prefer the one that dominates, else the less crowded, as NSGA-II does."""
    objectives, crowding = population.get("F", "crowding")
    a, b = objectives[first], objectives[second]
    preference = smaller((a > b).any(axis=1), (a < b).any(axis=1))
    tied = preference == 0
    preference[tied] = smaller(crowding[second[tied]], crowding[first[tied]])
    return preference


def niche_rank_distance(population: Any, first: Positions, second: Positions) -> Preference:
    """Prefer the better rank, then the smaller distance, within one niche only, as U-NSGA-III does."""
    niche, rank, distance = population.get("niche", "rank", "dist_to_niche")
    preference = either(population, first, second)
    same = niche[first] == niche[second]
    a, b = first[same], second[same]
    by_rank, by_distance = smaller(rank[a], rank[b]), smaller(distance[a], distance[b])
    preference[same] = np.where(by_rank == 0, by_distance, by_rank)
    return preference


def tournament(prefer: Prefer) -> TournamentSelection:
    """Return a selection: the smaller violation wins, `prefer` decides between two without any, ties are random."""

    def winners(pop: Any, pairs: Positions, random_state: np.random.Generator, **_: Any) -> Positions:
        violation = pop.get("CV")[:, 0]
        first, second = pairs[:, 0], pairs[:, 1]
        preference = smaller(violation[first], violation[second])
        both = (violation[first] <= 0) & (violation[second] <= 0)
        preference[both] = prefer(pop, first[both], second[both])
        coins = random_state.random(len(pairs)) < 0.5
        wins = (preference < 0) | ((preference == 0) & coins)
        return np.where(wins, first, second)[:, None]

    return TournamentSelection(func_comp=winners)
