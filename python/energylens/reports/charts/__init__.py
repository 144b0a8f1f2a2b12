"""Charts of results, for notebooks, pages and pictures: Altair charts, saved as `.png`, `.svg` or `.html` by `save`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from energylens.common.errors import EnergylensError, Problem, needs_extra

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from energylens.reports.subject import Subject
    from energylens.results.comparison import Comparison
    from energylens.results.result import Result
    from energylens.serving.advice.sweet_spots import SweetSpots
    from energylens.serving.plan import ServicePlan


def require() -> None:
    """Raise `EnergylensError` if what draws is not installed."""
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise EnergylensError(needs_extra(f"charts need the package `{error.name}`", "report")) from None


@dataclass(frozen=True)
class Charts:
    """Charts of the points that a subject holds; each returns an Altair chart."""

    subject: Subject

    def front(self, most: int = 2_000) -> Any:
        """Return joules per output token against latency; of fronts longer than `most` an even choice of points."""
        require()
        from energylens.reports.charts.front import front_chart

        return front_chart(self.subject, most)

    def breakdown(self) -> Any:
        """Return shares of the joules by cause: of the points of least energy, least product, least latency."""
        require()
        from energylens.reports.charts.breakdown import breakdown_chart

        return breakdown_chart(self.subject.causes())

    def operations(self) -> Any:
        """Return joules by operation, of the point of least energy; raise `EnergylensError` if not known."""
        require()
        from energylens.reports.charts.breakdown import operations_chart

        return operations_chart(self._known())

    def roofline(self) -> Any:
        """Return the operations of the point of least energy below their roofs; raise `EnergylensError`."""
        require()
        from energylens.reports.charts.roofline import roofline_chart

        operations, subject = self._known(), self.subject
        name = subject.frame["gpu"][subject.chosen()[0][1]]
        assert subject.plan is not None
        gpu = subject.plan.described("gpus", name)
        return roofline_chart(operations, float(gpu["memory"]["bandwidth_bytes_per_s"]))

    def changes(self) -> Any:
        """Return what single changes of the point of least energy save; raise `EnergylensError` if not known."""
        require()
        from energylens.reports.charts.levers import changes_chart

        if (changes := self.subject.changes) is None:
            raise EnergylensError(_unknown("single changes"))
        return changes_chart(changes)

    def known(self, most: int = 2_000) -> dict[str, Any]:
        """Return the charts by name, of those of which enough is known."""
        charts = {"front": self.front(most), "breakdown": self.breakdown()}
        for name in ("operations", "roofline", "changes"):
            with contextlib.suppress(EnergylensError):
                charts[name] = getattr(self, name)()
        return charts

    def _known(self) -> pl.DataFrame:
        if (operations := self.subject.operations) is None:
            raise EnergylensError(_unknown("operations"))
        return operations


@dataclass(frozen=True)
class FrontCharts(Charts):
    """Charts of a front."""

    best_per: pl.DataFrame | None

    def sweet_spots(self) -> Any:
        """Return joules per output token over lengths; raise `EnergylensError` unless the best of each were kept."""
        require()
        from energylens.reports.charts.sweet_spots import sweet_spots_chart

        lengths = ["prompt_tokens", "output_tokens"]
        best = self.best_per
        if best is None or best.select(lengths).is_duplicated().any() or best.height < 2:
            hint = 'keep them: best_per=["prompt_tokens", "output_tokens"], with several lengths'
            raise EnergylensError(Problem("the best of each pair of lengths was not kept", hint=hint, code="keep"))
        return sweet_spots_chart(best)


def _unknown(what: str) -> Problem:
    return Problem(f"{what} are known of fronts only", hint="give a result of explore, search or sweep", code="result")


@dataclass(frozen=True)
class ComparisonChart:
    """The chart of a comparison."""

    comparison: Comparison

    def waterfall(self) -> Any:
        """Return bars from the joules of one point to those of the other, cause by cause."""
        require()
        from energylens.reports.charts.waterfall import waterfall_chart

        return waterfall_chart(self.comparison)


@dataclass(frozen=True)
class LengthCharts:
    """The chart of sweet spots."""

    cells: pl.DataFrame

    def sweet_spots(self) -> Any:
        """Return joules per output token over prompt and output lengths."""
        require()
        from energylens.reports.charts.sweet_spots import sweet_spots_chart

        return sweet_spots_chart(self.cells)


def front_charts(result: Result) -> FrontCharts:
    """Return the charts of a front; raise `EnergylensError` if it has no point."""
    from energylens.reports.subject import of_result

    if not result.frame.height:
        raise EnergylensError(Problem("the front has no point to draw", hint=result.answer(), code="empty"))
    return FrontCharts(of_result(result), result.best_per)


def service_charts(plan: ServicePlan) -> Charts:
    """Return the charts of a service plan."""
    from energylens.reports.subject import of_service

    return Charts(of_service(plan.frame, plan.note, plan.plan_sha256))


def length_charts(spots: SweetSpots) -> LengthCharts:
    """Return the chart of sweet spots."""
    return LengthCharts(spots.cells)


def save_chart(chart: Any, path: Path) -> Path:
    """Write a chart as `.png`, `.svg` or `.html` that needs no network; raise `EnergylensError`."""
    import vl_convert

    from energylens.common.parquet_file import write_file

    spec = chart.to_dict()
    match path.suffix.lower():
        case ".png":
            data = vl_convert.vegalite_to_png(spec, scale=2)
        case ".svg":
            data = vl_convert.vegalite_to_svg(spec).encode()
        case ".html":
            data = vl_convert.vegalite_to_html(spec, bundle=True).encode()
        case other:
            problem = Problem(f"`{path}`: charts are not written as `{other}`", hint=_KINDS, code="write")
            raise EnergylensError(problem)
    return write_file(path, data)


_KINDS = "name it .png, .svg or .html"


def check_picture(path: Path) -> None:
    """Refuse a target of `save_chart` before any work is done for it."""
    from energylens.common.parquet_file import checked_target

    require()
    if path.suffix.lower() not in {".png", ".svg", ".html"}:
        raise EnergylensError(Problem(f"`{path}` is no kind of picture", hint=_KINDS, code="write"))
    checked_target(path)
