"""A space as a pymoo problem: digits in, objectives and violations out, one core call a generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.problem import Problem

from energylens.engine.space import Space
from energylens.searches.archive import Archive, Keys, Rows

_CANNOT_RUN = 1e30


@dataclass(frozen=True)
class Measured:
    """Objectives (all minimised), violations (0 or less: none), reasons, and who is inside the limits."""

    objectives: Rows
    violations: Rows
    reasons: NDArray[Any]
    inside: NDArray[np.bool_]


class SpaceProblem(Problem):  # type: ignore[misc]
    """A variable for every axis with a choice; a point's key is its index in the space."""

    def __init__(self, space: Space, threads: int) -> None:
        self.space, self.threads = space, threads
        lengths = np.array([len(values) for values in space.axes.values()], dtype=np.int64)
        weights = np.append(np.cumprod(lengths[:0:-1])[::-1], 1)
        free = lengths > 1
        free[-1] |= not free.any()
        self.lengths, self.weights = lengths[free], weights[free]
        self.signs = np.array([sign for _, sign in space.signed_objectives])
        self.archive = Archive(len(self.signs))
        named = [name for name, _ in space.signed_objectives] + [name for name, *_ in space.bounds]
        self.columns = list(dict.fromkeys([*named, "memory_bytes_per_gpu"]))
        super().__init__(
            n_var=len(self.lengths),
            n_obj=len(self.signs),
            n_ieq_constr=1 + len(space.bounds),
            xl=0,
            xu=self.lengths - 1,
            vtype=int,
        )

    def keys(self, x: NDArray[Any]) -> Keys:
        """Return the index of the point nearest to each row of variables."""
        digits = np.clip(np.rint(np.asarray(x, dtype=np.float64)).astype(np.int64), 0, self.lengths - 1)
        keys: Keys = digits @ self.weights
        return keys

    def variables(self, keys: Keys) -> NDArray[np.int64]:
        """Return the row of variables of each index."""
        digits: NDArray[np.int64] = keys[:, None] // self.weights % self.lengths
        return digits

    def measure(self, keys: Keys) -> Measured:
        """Evaluate points in one call."""
        columns = self.space.plan.core.evaluate_space(
            self.space.json, keys.astype(np.uint64), self.columns, self.threads
        )
        runs = columns["reason"] == 0
        need = columns["memory_bytes_per_gpu"]
        # Too much memory is nearer to running than a mesh that cannot be laid out.
        lack = np.where(need > 0, 1.0 + need / 1e12, 1e6)
        violations, inside = [np.where(runs, 0.0, lack)], runs.copy()
        for name, low, high in self.space.bounds:
            value = columns[name]
            beyond, bound = (value - high, high) if np.isfinite(high) else (low - value, low)
            violations.append(np.where(runs, np.maximum(beyond, 0.0) / max(abs(bound), 1e-300), 1e3))
            inside &= (value >= low) & (value <= high)
        signed = np.column_stack([columns[name] for name, _ in self.space.signed_objectives]) * self.signs
        objectives = np.where(runs[:, None], signed, _CANNOT_RUN)
        return Measured(objectives, np.column_stack(violations), columns["reason"], inside)

    def meet(self, keys: Keys) -> Measured:
        """Evaluate points and add them to the archive."""
        measured = self.measure(keys)
        self.archive.add(keys, measured.objectives, measured.reasons, measured.inside)
        return measured

    def _evaluate(self, x: NDArray[Any], out: dict[str, Any], *_args: Any, **_kwargs: Any) -> None:
        measured = self.meet(self.keys(x))
        out["F"], out["G"] = measured.objectives, measured.violations


class SameKey(DuplicateElimination):  # type: ignore[misc]
    """Exact duplicate elimination by a point's index, n log n instead of all pairs."""

    def __init__(self, problem: SpaceProblem) -> None:
        super().__init__()
        self.problem = problem

    def _do(self, pop: Any, other: Any, is_duplicate: NDArray[np.bool_]) -> NDArray[np.bool_]:
        keys = self.problem.keys(pop.get("X"))
        if other is None:
            is_duplicate[:] = True
            is_duplicate[np.unique(keys, return_index=True)[1]] = False
        else:
            is_duplicate[np.isin(keys, self.problem.keys(other.get("X")))] = True
        return is_duplicate
