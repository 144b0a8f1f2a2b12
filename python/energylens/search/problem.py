"""A space as a pymoo problem: integer digits in, objectives and violations out, one core call a generation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.problem import Problem

from energylens import _core
from energylens.space import Space

Digits = NDArray[np.int64]


def radix(space: Space) -> Digits:
    """Return the weight of each digit, so that `digits @ radix` is a point's index."""
    lengths = [len(values) for values in space.axes.values()]
    return np.append(np.cumprod(lengths[:0:-1])[::-1], 1).astype(np.int64)


class SpaceProblem(Problem):  # type: ignore[misc]
    """Objectives of a space; remembers every feasible point it has met, which no population caps."""

    def __init__(self, space: Space, threads: int) -> None:
        self.space, self.threads, self.radix = space, threads, radix(space)
        self.lengths = np.array([len(values) for values in space.axes.values()])
        self.names = [name for name, _ in space.signed_objectives]
        self.signs = np.array([sign for _, sign in space.signed_objectives])
        self.met: dict[int, tuple[float, ...]] = {}
        self.seen: set[int] = set()
        self.by_reason = dict.fromkeys(_core.REASONS, 0)
        self.outside = 0
        constraints = 1 + len(space.bounds)
        super().__init__(
            n_var=len(self.lengths),
            n_obj=len(self.names),
            n_ieq_constr=constraints,
            xl=0,
            xu=self.lengths - 1,
            vtype=int,
        )

    def _evaluate(self, x: NDArray[Any], out: dict[str, Any], *_args: Any, **_kwargs: Any) -> None:
        indices = (np.asarray(x, dtype=np.int64) @ self.radix).astype(np.uint64)
        columns = self.space.plan.core.evaluate_space(self.space.json, indices, False, self.threads)
        objectives = np.column_stack([columns[name] for name in self.names]) * self.signs
        runs = columns["reason"] == 0
        violations = [np.where(runs, 0.0, self._lack(columns))]
        inside = runs.copy()
        for name, low, high in self.space.bounds:
            value = columns[name]
            if np.isfinite(high):
                excess = np.maximum(value - high, 0.0) / max(abs(high), 1e-300)
            else:
                excess = np.maximum(low - value, 0.0) / max(abs(low), 1e-300)
            violations.append(np.where(runs, excess, 1e3))
            inside &= (value >= low) & (value <= high)
        self._remember(indices, objectives, columns["reason"], runs, inside)
        out["F"] = np.where(runs[:, None], objectives, 1e30)
        out["G"] = np.column_stack(violations)

    def _lack(self, columns: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """How far a point is from running: by the memory it needs, or a plain 1e6 if it cannot be laid out."""
        need = columns["memory_bytes_per_gpu"]
        known = need > 0
        return np.where(known, 1.0 + need / 1e12, 1e6)

    def _remember(self, indices: Any, objectives: Any, reasons: Any, runs: Any, inside: Any) -> None:
        for index, row, reason, run, ok in zip(
            indices.tolist(), objectives.tolist(), reasons.tolist(), runs.tolist(), inside.tolist(), strict=True
        ):
            if index in self.seen:
                continue
            self.seen.add(index)
            self.by_reason[_core.REASONS[reason]] += 1
            if ok:
                self.met[index] = tuple(row)
            elif run:
                self.outside += 1


class SameIndex(DuplicateElimination):  # type: ignore[misc]
    """Exact duplicate elimination by a point's index, n log n instead of all pairs."""

    def __init__(self, weights: Digits) -> None:
        super().__init__()
        self.weights = weights

    def _index(self, population: Any) -> Digits:
        return np.asarray(population.get("X"), dtype=np.int64) @ self.weights

    def _do(self, pop: Any, other: Any, is_duplicate: Any) -> Any:
        own = self._index(pop)
        if other is None:
            _, first = np.unique(own, return_index=True)
            is_duplicate[:] = True
            is_duplicate[first] = False
        else:
            is_duplicate[np.isin(own, self._index(other))] = True
        return is_duplicate
