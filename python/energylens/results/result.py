"""A front with how it was found: a Polars frame, an answer in a sentence, a Parquet file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens import _core
from energylens.common import views
from energylens.common.errors import EnergylensError, Problem, SpaceError
from energylens.common.files import is_file, printable
from energylens.common.show import shown
from energylens.engine.evaluate import checked_threads
from energylens.engine.reductions import Keep, Kept, frames
from energylens.engine.space import FrozenSpace, Space

_COMPANIONS = ("top", "best_per", "distributions")


@dataclass(frozen=True)
class Result:
    """The Pareto front of a space, sorted by the first objective; `explore`, `search` and `merge` return it.

    Parameters
    ----------
    frame
        Points of the front: axes, results and joules by cause, one row each.
    space
        The space that was explored.
    method
        How: `exhaustive`, `native`, or an algorithm of pymoo.
    points
        Number of configurations that were evaluated.
    by_reason
        Number of them by outcome: `ok`, or why they cannot run.
    outside_limits
        Number of those that run but exceed a limit.
    seconds
        Time it took; 0 for results that were read from a file.
    top, best_per
        Points with the best first objective, and the best for each combination of some axes; None if not requested.
    distributions
        Histograms of result columns: `column`, `low`, `high`, `count`; None if not requested.
    """

    frame: pl.DataFrame
    space: Space
    method: str
    points: int
    by_reason: dict[str, int]
    outside_limits: int
    seconds: float = field(compare=False)
    top: pl.DataFrame | None = None
    best_per: pl.DataFrame | None = None
    distributions: pl.DataFrame | None = None

    def quantile(self, column: str, share: float) -> float:
        """Return the value of a column that a share of the points stays below, to within 1/128 of it.

        Parameters
        ----------
        column
            A result column whose distribution was requested.
        share
            0 to 1: 0.5 for the median.

        Raises
        ------
        SpaceError
            If the distribution of the column was not requested, or the share is out of range.
        """
        bins = self.distributions
        if bins is None or not isinstance(column, str) or column not in bins["column"]:
            hint = f'keep it: distributions=["{shown(column)}"]'
            raise SpaceError(Problem(f"the distribution of `{shown(column)}` was not kept", hint=hint, code="keep"))
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise SpaceError(Problem(f"a share is between 0 and 1, found {shown(share)}", code="keep"))
        bins = bins.filter(column=column).sort("low")
        reached = bins["count"].cum_sum() >= share * int(bins["count"].sum())
        low, high = bins.row(int(reached.arg_max() or 0))[1:3]
        return float(low + high) / 2

    @property
    def feasible(self) -> int:
        """Number of points that can run."""
        return self.by_reason.get("ok", 0)

    @property
    def plan_sha256(self) -> str:
        """Name of the plan the points belong to."""
        return self.space.plan.sha256

    @property
    def best(self) -> dict[str, Any] | None:
        """The point with the best first objective, if any point is left."""
        return self.frame.row(0, named=True) if self.frame.height else None

    @property
    def note(self) -> dict[str, Any]:
        """What its files say about where they come from."""
        note = {"kind": "front", "method": self.method, "points": self.points, "by_reason": self.by_reason}
        note |= {"outside_limits": self.outside_limits, "space": dict(self.space.describe())}
        note |= {"sources": dict(self.space.sources)}
        return note | {"trust": dict(self.space.trust), "plan": json.loads(self.space.plan.json)}

    @property
    def plot(self) -> views.FrontCharts:
        """Its charts: `front()`, `breakdown()`, `operations()`, `roofline()`, `changes()`, `sweet_spots()`."""
        charts: views.FrontCharts = views.charts(self)
        return charts

    def answer(self) -> str:
        """Return the one-line answer."""
        return views.answer(self)

    @classmethod
    def read(cls, path: str | Path) -> Result:
        """Return the result of a file that `write` made, with what lies beside it; raise `EnergylensError`.

        The file says everything itself: no spec is read, and its plan is the one it was made with.
        """
        from energylens.common.parquet_file import named_path, read_parquet

        path = named_path(path, "read")
        frame, metadata = read_parquet(path)
        note = metadata.get("note", {})
        if note.get("kind") != "front":
            raise EnergylensError(not_a_front(path, note))
        return cls.of_file(path, frame, metadata)

    @classmethod
    def of_file(cls, path: Path, frame: pl.DataFrame, metadata: Mapping[str, Any]) -> Result:
        """Return the result of a front's file whose frame and metadata are read; what lies beside it is read here."""
        from energylens.common.parquet_file import read_parquet
        from energylens.results.file_form import checked_result

        frame, note = checked_result(frame, metadata, path), metadata["note"]
        with undamaged(path):
            space = thawed(note)
            _ = space.size, space.signed_objectives, space.bounds
        others = {}
        for name in _COMPANIONS:
            companion = path.with_name(f"{path.stem}.{name}{path.suffix}")
            if is_file(companion):
                rows, its = read_parquet(companion)
                # Files of another run that had the same name are not this one's.
                if its.get("note") == note | {"kind": name}:
                    others[name] = checked_result(rows, its, companion)
        counts = dict(note["by_reason"])
        return cls(frame, space, note["method"], note["points"], counts, note["outside_limits"], 0.0, **others)

    def write(self, path: str | Path) -> Path:
        """Write the front as Parquet with plan hash, version and units in its metadata, and return the path.

        What else was kept goes beside it: `front.parquet` has `front.top.parquet`, `front.best_per.parquet` and
        `front.distributions.parquet`.
        """
        from energylens.common.parquet_file import named_path, write_files
        from energylens.results.parquet import parquet_bytes

        path = named_path(path, "write")
        files = []
        for name in _COMPANIONS:
            frame: pl.DataFrame | None = getattr(self, name)
            if frame is not None:
                companion = path.with_name(f"{path.stem}.{name}{path.suffix}")
                files.append(
                    (companion, parquet_bytes(frame, self.plan_sha256, self.note | {"kind": name}, sealed=True))
                )
        front = parquet_bytes(self.frame, self.plan_sha256, self.note, sealed=True)
        return write_files([*files, (path, front)])[-1]


def front_result(
    space: Space,
    indices: NDArray[np.uint64],
    method: str,
    points: int,
    by_reason: dict[str, int],
    outside: int,
    seconds: float,
    threads: int | None = None,
) -> Result:
    """Return the result of a front given by ascending indices, with all result and breakdown columns."""
    frame = frames(space, Keep(), {"front": indices}, checked_threads(threads))["front"]
    return Result(frame, space, method, points, by_reason, outside, seconds)


def reduced_result(space: Space, keep: Keep, reduced: Kept, method: str, seconds: float, threads: int) -> Result:
    """Return the result of a reduction of a whole space."""
    reduced_frames = frames(space, keep, reduced, threads)
    by_reason = {name: int(n) for name, n in zip(_core.REASONS, reduced["by_reason"], strict=True) if n}
    front = reduced_frames.pop("front")
    return Result(front, space, method, space.size, by_reason, int(reduced["outside"]), seconds, **reduced_frames)


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Tell what a file lacks, or holds beyond reason, as a mistake in the file."""
    try:
        yield
    except EnergylensError:
        raise
    except (
        *(LookupError, TypeError, ValueError, AttributeError, StopIteration, ArithmeticError, RecursionError),
        pl.exceptions.PolarsError,
    ) as error:
        fault = shown(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
        message = f"`{printable(str(path))}` was changed by hand, or written by another version of energylens ({fault})"
        raise EnergylensError(Problem(message, hint="make it again", code="result")) from None


def thawed(note: dict[str, Any]) -> Space:
    """Return the space that a file's note tells."""
    described, content = note["space"], note["plan"]
    axes = {name: values for name, values in described["axes"].items() if name not in {"model", "gpu"}}
    return FrozenSpace(
        models=described["axes"]["model"],
        gpus=described["axes"]["gpu"],
        **axes,
        max_batched_tokens=int(content["settings"]["max_batched_tokens"]),
        limits=described["limits"],
        objectives=described["objectives"],
        content=content,
        accounts=note["trust"],
        model_sources=note["sources"],
    )


def not_a_front(path: Path, note: Mapping[str, Any]) -> Problem:
    """Return what is wrong with a file that holds no front."""
    kinds = {"service": "a service plan", "pairs": "pairs of prefill and decode", "best_per": "the best of each group"}
    kinds |= {"top": "the best few", "distributions": "distributions"}
    kind = note.get("kind")
    what = f"holds {kinds[kind]}, not a front" if isinstance(kind, str) and kind in kinds else "says nothing of a front"
    return Problem(f"`{printable(str(path))}` {what}", hint="give a file of explore, search or sweep", code="result")
