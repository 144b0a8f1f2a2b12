"""Two points side by side: what changes, what that does to joules and latency, and where the joules go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from energylens.common import views
from energylens.common.errors import EnergylensError, Problem
from energylens.engine.result_columns import ENERGY
from energylens.inputs import run_options
from energylens.inputs.axes import POINT_DEFAULTS
from energylens.inputs.axis_text import axis_words
from energylens.results.breakdown import causes, operations
from energylens.results.point import Point, read_point

_CONFIGURED: Final = (*POINT_DEFAULTS, *run_options.RUNNING)
_SERVED: Final = ("max_num_seqs", "token_budget", "chunked", "prefix_cache", "draft", "draft_tokens", "replicas")
_RESULTS: Final = (
    "gpus",
    ENERGY,
    "energy_per_request_j",
    "ttft_s",
    "ttft_p90_s",
    "tpot_s",
    "tpot_p90_s",
    "latency_s",
    "output_tokens_per_s",
    "power_w_per_gpu",
    "memory_bytes_per_gpu",
    "utilisation",
)


_SPEC: Final = "(SHA-256)"


@dataclass(frozen=True)
class Comparison:
    """What changes from one point to another; `compare` makes it.

    Parameters
    ----------
    before, after
        The two points.
    axes
        Axes that differ: `axis`, `before`, `after`, all text.
    results
        `result`, `before`, `after`, `change` (relative; null where `before` is 0).
    causes
        Joules per output token by `phase` and `cause`: `before`, `after`, `change_j`, the largest change first.
    operations
        The same by `phase` and `operation`; None for deployments.
    """

    before: Point
    after: Point
    axes: pl.DataFrame
    results: pl.DataFrame
    causes: pl.DataFrame
    operations: pl.DataFrame | None

    @property
    def plot(self) -> views.WaterfallChart:
        """Its chart: `waterfall()`."""
        charts: views.WaterfallChart = views.charts(self)
        return charts

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, for `--json`."""
        data: dict[str, Any] = {"before": self.before.words(), "after": self.after.words()}
        data |= {name: getattr(self, name).to_dicts() for name in ("axes", "results", "causes")}
        return data | {"operations": None if self.operations is None else self.operations.to_dicts()}


def compare(before: str | Path | Mapping[str, Any], after: str | Path | Mapping[str, Any]) -> Comparison:
    """Return what changes from one point to another, in joules per output token.

    Parameters
    ----------
    before, after
        Both are configurations (batches that start together) or both deployments of a service plan, whose joules are
        those of a workload. Each is a row of a result's file (`front.parquet` for its row of least energy,
        `front.parquet#3` for row 3), a point file (`.yaml`), text (`"llama-3.1-70b; gpu=h100-sxm; tp=4"`), or a mapping
        of fields.

    Returns
    -------
    Comparison
        Axes that differ, results, and joules by cause and operation.

    Raises
    ------
    EnergylensError
        If they are not of the same kind, cannot be read, or cannot run; with the problems of both.

    Examples
    --------
    >>> comparison = compare("llama-3.1-8b; gpu=h100-sxm; batch=1", "llama-3.1-8b; gpu=h100-sxm; batch=64")
    >>> comparison.axes.row(0)
    ('batch', '1', '64')
    """
    points = _read_both(before, after)
    if points[0].deployment != points[1].deployment:
        kinds = ["a deployment" if point.deployment else "a configuration" for point in points]
        hint = "compare two rows of serve-plan, or two of anything else"
        raise EnergylensError(Problem(f"{kinds[0]} cannot be compared with {kinds[1]}", hint=hint, code="compare"))
    rows = [point.row | point.server for point in points]
    axes = [*_CONFIGURED, *_SERVED] if points[0].deployment else list(_CONFIGURED)
    changed = [
        {"axis": axis, "before": axis_words(rows[0].get(axis)), "after": axis_words(rows[1].get(axis))}
        for axis in axes
        if rows[0].get(axis, run_options.RUNNING.get(axis)) != rows[1].get(axis, run_options.RUNNING.get(axis))
    ]
    for name in dict.fromkeys([*points[0].conditions, *points[1].conditions]):
        sides = [point.conditions.get(name) for point in points]
        same_name = not name.endswith(_SPEC) or rows[0][name.split()[0]] == rows[1][name.split()[0]]
        if sides[0] != sides[1] and same_name:
            changed.append({"axis": name, "before": axis_words(sides[0]), "after": axis_words(sides[1])})
    results = []
    for name in _RESULTS:
        values = [row.get(name) for row in rows]
        if values[0] is not None and values[1] is not None:
            change = float(values[1]) / float(values[0]) - 1.0 if values[0] else None
            results.append({"result": name, "before": float(values[0]), "after": float(values[1]), "change": change})
    text = {"axis": pl.String, "before": pl.String, "after": pl.String}
    return Comparison(
        points[0],
        points[1],
        pl.DataFrame(changed, schema=text),
        pl.DataFrame(results),
        _joined([causes(row) for row in rows], "cause"),
        _joined([_operations(point) for point in points], "operation") if not points[0].deployment else None,
    )


def _read_both(before: Any, after: Any) -> list[Point]:
    """Read both points; raise `EnergylensError` with the problems of both."""
    points: list[Point] = []
    problems: list[Problem] = []
    for name in (before, after):
        try:
            points.append(read_point(name))
        except EnergylensError as error:
            problems += error.problems
    if problems:
        raise EnergylensError(problems)
    return points


def _operations(point: Point) -> pl.DataFrame:
    assert point.plan is not None
    return operations(point.plan, point.row).select("phase", "operation", ENERGY)


def _joined(sides: list[pl.DataFrame], what: str) -> pl.DataFrame:
    """Return joules of both by phase and cause or operation, the largest change first."""
    named = [side.rename({ENERGY: name}) for side, name in zip(sides, ("before", "after"), strict=True)]
    both = named[0].join(named[1], on=["phase", what], how="full", coalesce=True, maintain_order="left_right")
    both = both.with_columns(pl.col("before", "after").fill_null(0.0))
    changed = both.with_columns((pl.col("after") - pl.col("before")).alias("change_j"))
    return changed.sort(pl.col("change_j").abs(), descending=True, maintain_order=True)
