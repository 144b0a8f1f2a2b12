"""The compiled core: one plan string in, columns out."""

from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AXES",
    "CAUSES",
    "COLUMNS",
    "DEBUG_BUILD",
    "DTYPES",
    "FUNCTIONS",
    "REASONS",
    "TILE_ROWS",
    "Nsga",
    "Plan",
    "PlanError",
    "Reduction",
    "__version__",
    "non_dominated",
    "prefix_found",
    "reach",
    "replay",
    "routing_fault",
    "routing_loads",
]

AXES: Final[list[str]]
CAUSES: Final[list[str]]
COLUMNS: Final[list[str]]
DEBUG_BUILD: Final[bool]
DTYPES: Final[list[str]]
FUNCTIONS: Final[list[str]]
REASONS: Final[list[str]]
TILE_ROWS: Final[list[int]]
__version__: Final[str]

class PlanError(ValueError):
    """A plan is faulty; the argument is the JSON list of problems."""

def reach(parts: float, experts: float, active: float) -> float:
    """Return of so many GPUs or nodes those that hold any of a token's experts, on average."""

def routing_fault(law: str, experts: int, active: int) -> str | None:
    """Return what keeps a law from being that of a model of so many experts."""

def routing_loads(
    law: str, experts: int, active: int, gpus: int, placement: int, tokens: Sequence[float]
) -> tuple[list[float], list[float], list[float], list[list[float]]]:
    """Return experts hit on a mean GPU, experts hit and tokens on the busiest, and tiles there by `TILE_ROWS`."""

def non_dominated(rows: Sequence[Sequence[float]]) -> list[int]:
    """Positions of the rows nothing dominates (all columns minimised), in order."""

def replay(
    steps: dict[str, Any],
    engine: dict[str, Any],
    arrival_s: NDArray[np.float64],
    prompts: NDArray[np.uint32],
    outputs: NDArray[np.uint32],
    blocks: Sequence[int],
    starts: Sequence[int],
) -> dict[str, Any]:
    """Replay requests; steps by the names of `energylens.serving.step_table`, blocks of all and where each's begin."""

def prefix_found(
    blocks: Sequence[int], starts: Sequence[int], block_tokens: int, capacities: Sequence[int]
) -> list[int]:
    """Return tokens of prompts that least-recently-used caches of so many tokens would find."""

@final
class Nsga:
    """NSGA-II over a space, generation by generation."""

    def __new__(
        cls,
        /,
        plan: Plan,
        space: str,
        objectives: Sequence[tuple[str, float]],
        bounds: Sequence[tuple[str, float, float]],
        population: int,
        seed: int,
    ) -> Nsga: ...
    @property
    def generation(self) -> int:
        """Generations done."""

    @property
    def points(self) -> int:
        """Different points met."""

    @property
    def exhausted(self) -> bool:
        """Whether every point of the space has been met."""

    def step(self, /, threads: int) -> None:
        """Runs one generation."""

    def found(self, /) -> tuple[NDArray[np.uint64], NDArray[np.float64], list[int], int]:
        """The best of all points met: indices, objectives by row (minimised), counts by reason, outside the bounds."""

    def state(self, /) -> dict[str, NDArray[np.uint64]]:
        """Arrays from which the search can go on."""

    def restore(
        self,
        /,
        generation: NDArray[np.uint64],
        population: NDArray[np.uint64],
        rank: NDArray[np.uint64],
        crowding: NDArray[np.uint64],
        seen: NDArray[np.uint64],
        front: NDArray[np.uint64],
        counts: NDArray[np.uint64],
        threads: int,
    ) -> None:
        """Goes on from the arrays of `state`."""

@final
class Plan:
    """A typed plan."""

    def __new__(cls, /, json: str, cache_bytes: int | None = None) -> Plan: ...
    def cached(self, /) -> tuple[int, int]:
        """How many mappings and layouts it keeps, and their bytes, about."""

    def parameters(self, /, model: int) -> float:
        """Number of weights of a model."""

    def explain_model(self, /, model: int) -> str:
        """What was derived from a model's text, as JSON."""

    def collective(
        self,
        /,
        gpu: int,
        operation: str,
        gpus: int,
        sms: float | None,
        implementation: str | None,
        sizes: Sequence[float],
    ) -> tuple[list[float], list[float]]:
        """Seconds and dynamic joules of a GPU, of a collective over so many GPUs, for each message size."""

    def cache_bytes(self, /, model: int, kv_dtype: str | None, tokens: float) -> float:
        """Bytes of the cache of one sequence of so many tokens, over all GPUs."""

    def why_not(
        self, /, model: int, gpu: int, tp: int, pp: int, dp: int, ep: int, way: tuple[Any, ...]
    ) -> tuple[str, str, str, str | None] | None:
        """Why a mesh cannot carry a model: reason, message, hint and the rank at fault; or none."""

    def explain_point(
        self,
        /,
        model: int,
        gpu: int,
        weight_dtype: str | None,
        kv_dtype: str | None,
        tp: int,
        pp: int,
        dp: int,
        ep: int,
        way: tuple[Any, ...],
        batch: float,
        prompt_tokens: float,
        output_tokens: float,
    ) -> str:
        """Cost of one point kernel by kernel, as JSON."""

    def drawn_w(
        self,
        /,
        model: int,
        gpu: int,
        weight_dtype: str | None,
        kv_dtype: str | None,
        tp: int,
        pp: int,
        dp: int,
        ep: int,
        way: tuple[Any, ...],
        batch: float,
        prompt_tokens: float,
        output_tokens: float,
    ) -> list[float]:
        """Watts of the stage that draws the most, in prefill and in decode, under a cap without clock tables."""

    def evaluate(
        self,
        /,
        dtypes: Sequence[str | None],
        model: NDArray[np.uint32],
        gpu: NDArray[np.uint32],
        weight_dtype: NDArray[np.uint32],
        kv_dtype: NDArray[np.uint32],
        tp: NDArray[np.uint32],
        pp: NDArray[np.uint32],
        dp: NDArray[np.uint32],
        ep: NDArray[np.uint32],
        ways: Sequence[tuple[Any, ...]],
        way: NDArray[np.uint32],
        batch: NDArray[np.float64],
        prompt_tokens: NDArray[np.float64],
        output_tokens: NDArray[np.float64],
        columns: Sequence[str],
        threads: int,
    ) -> dict[str, NDArray[Any]]:
        """Evaluates columns of points into the result columns named; format columns hold positions in `dtypes`."""

    def evaluate_space(
        self, /, space: str, indices: NDArray[np.uint64], columns: Sequence[str], threads: int
    ) -> dict[str, NDArray[Any]]:
        """Evaluates points of a space by index into the result columns named."""

    def space_size(self, /, space: str) -> int:
        """Number of points of a space."""

    def space_work(self, /, space: str) -> float:
        """How much work all points of a space are, as a number of points evaluated from scratch."""

    def space_digits(self, /, space: str, indices: NDArray[np.uint64]) -> dict[str, NDArray[np.uint32]]:
        """Digits of points of a space: one array per axis, positions in its values."""

@final
class Reduction:
    """What is kept of the points of a space: a front, the best few, the best of each group, distributions, counts."""

    def __new__(
        cls,
        /,
        plan: Plan,
        space: str,
        objectives: Sequence[tuple[str, float]],
        bounds: Sequence[tuple[str, float, float]],
        resolution: int | None = None,
        top: int = 0,
        groups: Sequence[str] | None = None,
        distributions: Sequence[str] = ...,
    ) -> Reduction: ...
    def run(self, /, lo: int, hi: int, threads: int, direct: bool = False) -> None:
        """Takes in points `lo` to `hi` of the space; `direct` evaluates each from scratch, with the same result."""

    def merge(
        self,
        /,
        points: NDArray[np.uint64],
        bins: Sequence[tuple[int, int, int]],
        by_reason: Sequence[int],
        outside: int,
        threads: int,
    ) -> None:
        """Takes in what another reduction of the same space kept: its points, bins and counts."""

    def kept(self, /) -> dict[str, Any]:
        """Everything kept: front and top, groups and their best, bins, counts by reason, outside."""
