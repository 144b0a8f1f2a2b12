"""pymoo's NSGA-II on columns: its own ranks, crowding and operators, without an object per point."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.variable import get
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from pymoo.util.randomized_argsort import randomized_argsort

from energylens.searches.archive import among
from energylens.searches.problem import Measured, SpaceProblem
from energylens.searches.selection import dominance_then_crowding, tournament

_MOST_MATINGS = 100


class Columns:
    """A population as columns, with what pymoo asks of one: `get`, `set`, length and indexing."""

    def __init__(self, **columns: NDArray[Any]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["X"])

    def __getitem__(self, index: Any) -> Columns:
        return Columns(**{name: column[index] for name, column in self.columns.items()})

    def get(self, *names: str) -> Any:
        """Return the column of a name, or a tuple of columns."""
        columns = tuple(self.columns[name] for name in names)
        return columns[0] if len(columns) == 1 else columns

    def set(self, name: str, value: Any) -> None:
        """Set a column from values or from one value for all."""
        self.columns[name] = np.array(np.broadcast_to(value, (len(self), *np.shape(value)[1:])))

    def measured(self, results: Measured) -> None:
        """Set objectives and violations."""
        violation = np.maximum(results.violations, 0.0).sum(axis=1)
        self.columns |= {
            "F": results.objectives,
            "G": results.violations,
            "H": np.zeros((len(self), 0)),
            "CV": violation[:, None],
            "FEAS": violation[:, None] <= 0,
            "f": results.objectives[:, 0],
            "cv": violation,
            "feas": violation <= 0,
        }

    @staticmethod
    def joined(a: Columns, b: Columns) -> Columns:
        """Return one population after the other, with the columns both have."""
        shared = [name for name in a.columns if name in b.columns]
        return Columns(**{name: np.concatenate([a.columns[name], b.columns[name]]) for name in shared})


class ColumnEvaluator(Evaluator):  # type: ignore[misc]
    """Evaluates a whole population in one call."""

    def eval(self, problem: SpaceProblem, pop: Columns, **_: Any) -> Columns:
        """Set objectives and violations of every point."""
        pop.measured(problem.meet(pop.get("key")))
        self.n_eval += len(pop)
        return pop


class ColumnSurvival(RankAndCrowding):  # type: ignore[misc]
    """The feasible by rank, the last front by crowding; then the infeasible by violation."""

    def do(
        self,
        _problem: SpaceProblem,
        pop: Columns,
        *_args: Any,
        n_survive: int,
        random_state: np.random.Generator,
        **_kwargs: Any,
    ) -> Columns:
        """Return the survivors with columns `rank` (-1 if infeasible) and `crowding`."""
        violation, objectives = pop.get("cv", "F")
        feasible, infeasible = np.flatnonzero(violation <= 0), np.flatnonzero(violation > 0)
        infeasible = infeasible[np.argsort(violation[infeasible])]
        rank, crowding = np.full(len(pop), -1), np.zeros(len(pop))
        left, chosen = min(n_survive, len(pop)), []
        for number, places in enumerate(self.nds.do(objectives[feasible], n_stop_if_ranked=min(left, len(feasible)))):
            front = feasible[places]
            surplus = max(len(front) - left, 0)
            rank[front] = number
            crowding[front] = self.crowding_func.do(objectives[front], n_remove=surplus)
            if surplus:
                order = randomized_argsort(crowding[front], order="descending", random_state=random_state)
                front = front[order[:-surplus]]
            chosen.append(front)
            left -= len(front)
        survivors = np.concatenate([*chosen, infeasible[:left]])
        population = pop[survivors]
        population.columns |= {"rank": rank[survivors], "crowding": crowding[survivors]}
        return population


class ColumnMating:
    """Selection, crossover and mutation until there are enough points that neither parents nor offspring hold yet."""

    def __init__(self) -> None:
        self.selection = tournament(dominance_then_crowding)
        self.crossover, self.mutation = SBX(prob=0.9, eta=3.0), PM(eta=3.0)

    def do(
        self, problem: SpaceProblem, pop: Columns, n_offsprings: int, random_state: np.random.Generator, **_: Any
    ) -> Columns:
        """Return the offspring, fewer if a hundred rounds do not find as many."""
        known = np.sort(pop.get("key"))
        parts = [Columns(X=problem.variables(known[:0]), key=known[:0])]
        missing = n_offsprings
        for _round in range(_MOST_MATINGS):
            if not missing:
                break
            x = self._children(problem, pop, missing, random_state)
            keys = problem.keys(x)
            fresh = np.sort(np.unique(keys, return_index=True)[1])
            fresh = fresh[~among(known, keys[fresh])][:missing]
            parts.append(Columns(X=x[fresh], key=keys[fresh]))
            known = np.sort(np.concatenate([known, keys[fresh]]))
            missing -= len(fresh)
        return Columns(**{name: np.concatenate([part.get(name) for part in parts]) for name in ("X", "key")})

    def _children(
        self, problem: SpaceProblem, pop: Columns, count: int, random_state: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return rounded children of pairs of parents, as `do` of pymoo's crossover and mutation make them."""
        pairs = self.selection.do(problem, pop, math.ceil(count / 2), 2, to_pop=False, random_state=random_state)
        parents = pop.get("X")[pairs.T].astype(np.float64)
        crossed = random_state.random(len(pairs)) < get(self.crossover.prob, size=len(pairs))
        children = self.crossover._do(problem, parents, random_state=random_state)
        children = np.where(crossed[:, None], children, parents).reshape(-1, problem.n_var)
        children = np.rint(children)
        mutants = self.mutation._do(problem, children, random_state=random_state)
        mutated = random_state.random(len(children)) <= get(self.mutation.prob, size=len(children))
        digits: NDArray[np.int64] = np.rint(np.where(mutated[:, None], mutants, children)).astype(np.int64)
        return digits


class ColumnNSGA2(NSGA2):  # type: ignore[misc]
    """NSGA-II of Deb et al. 2002 as pymoo runs it, on columns."""

    pop: Columns

    def __init__(self, pop_size: int) -> None:
        super().__init__(
            pop_size=pop_size,
            evaluator=ColumnEvaluator(),
            survival=ColumnSurvival(),
            mating=ColumnMating(),
            eliminate_duplicates=False,
        )

    def _initialize_infill(self) -> Columns:
        x = IntegerRandomSampling()._do(self.problem, self.pop_size, random_state=self.random_state)
        keys = self.problem.keys(x)
        first = np.sort(np.unique(keys, return_index=True)[1])
        return Columns(X=np.rint(x[first]).astype(np.int64), key=keys[first])

    def _advance(self, infills: Columns | None = None, **_: Any) -> None:
        pop = self.pop if infills is None else Columns.joined(self.pop, infills)
        self.pop = self.survival.do(self.problem, pop, n_survive=self.pop_size, random_state=self.random_state)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what a checkpoint stores: points as indices, and the random numbers to come."""
        keys, rank, crowding = self.pop.get("key", "rank", "crowding")
        numbers = {"iteration": self.n_iter, "evaluations": self.evaluator.n_eval}
        numbers["random"] = self.random_state.bit_generator.state
        return {"population": keys, "rank": rank, "crowding": crowding, "numbers": np.array(json.dumps(numbers))}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take up a state after `setup`; objectives are not stored but evaluated again."""
        numbers = json.loads(str(state["numbers"]))
        keys = state["population"]
        self.pop = Columns(X=self.problem.variables(keys), key=keys, rank=state["rank"], crowding=state["crowding"])
        self.pop.measured(self.problem.measure(keys))
        self.random_state.bit_generator.state = numbers["random"]
        self.evaluator.n_eval = int(numbers["evaluations"])
        self.start_time, self.is_initialized = time.time(), True
        self.n_iter = int(numbers["iteration"]) - 1
        self._set_optimum()
        self.termination.update(self)
        self.n_iter += 1
