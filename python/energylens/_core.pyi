"""The compiled core: one plan string in, columns out."""

from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from energylens.inputs.crossing import Point, PointColumns

__all__ = [
    "AXES",
    "CAUSES",
    "COLUMNS",
    "DEBUG_BUILD",
    "DTYPES",
    "FUNCTIONS",
    "REASONS",
    "TILE_ROWS",
    "Infeasible",
    "Nsga",
    "Plan",
    "PlanError",
    "Problem",
    "Reduction",
    "__version__",
    "non_dominated",
    "prefix_hit_tokens",
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

@final
class Problem:
    """One fault: a stable code, a sentence, a path and, inside a text, a span, and advice."""

    @property
    def code(self) -> str:
        """Stable short name of the kind of fault, such as `unknown-rank`."""

    @property
    def message(self) -> str:
        """One sentence, with the value at fault."""

    @property
    def path(self) -> list[str | int]:
        """Names of fields and positions in lists that lead to the fault in the plan."""

    @property
    def span(self) -> tuple[int, int] | None:
        """Byte offsets within the text at `path`."""

    @property
    def hint(self) -> str | None:
        """What to do about it."""

class PlanError(ValueError):
    """Something the core was given is faulty; `problems` say what."""

    problems: tuple[Problem, ...]

@final
class Infeasible:
    """Why a configuration cannot be laid out."""

    @property
    def reason(self) -> str:
        """One of `REASONS`."""

    @property
    def message(self) -> str:
        """One sentence."""

    @property
    def hint(self) -> str:
        """What to do about it; may be empty."""

    @property
    def rank(self) -> str | None:
        """The rank at fault."""

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
    prompt_tokens: NDArray[np.uint32],
    output_tokens: NDArray[np.uint32],
    blocks: Sequence[int],
    starts: Sequence[int],
) -> dict[str, Any]:
    """Replay requests.

    `steps` go by the names of `energylens.serving.step_table`; `blocks` are the prefix blocks of all requests, those of
    request i from `starts[i]` to `starts[i + 1]`.
    """

def prefix_hit_tokens(
    blocks: Sequence[int], starts: Sequence[int], block_tokens: int, capacities: Sequence[int]
) -> list[int]:
    """Return prompt tokens that prefix caches of so many tokens each would hold (least recently used out first)."""

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

    def best(self, /) -> dict[str, Any]:
        """The best of all points met: `indices`, `objectives` by row (minimised), `by_reason` (counts), `outside`."""

    def state(self, /) -> dict[str, NDArray[np.uint64]]:
        """Arrays from which the search can go on."""

    def restore(self, /, state: dict[str, NDArray[np.uint64]], threads: int) -> None:
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

    def why_not(self, /, point: Point) -> Infeasible | None:
        """Why a point cannot be laid out; none if it can."""

    def explain_point(self, /, point: Point) -> str:
        """Cost of one point kernel by kernel, as JSON."""

    def drawn_w(self, /, point: Point) -> list[float]:
        """Watts of the stage that draws the most, in prefill and in decode, under a cap without clock tables."""

    def evaluate(self, /, points: PointColumns, columns: Sequence[str], threads: int) -> dict[str, NDArray[Any]]:
        """Evaluates columns of points into the result columns named."""

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
    """Reductions over evaluated points of a space: front, top-k, best of each group, histograms, counts by reason."""

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
        """Takes in the contents of another reduction of the same space: its points, bins and counts."""

    def contents(self, /) -> dict[str, Any]:
        """Everything so far: front and top, groups and their best, bins, counts by reason, outside."""
