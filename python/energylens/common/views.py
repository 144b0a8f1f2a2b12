"""How a result is shown: one table from the class of a result to the functions of `reports` that show it.

Results and services import no report: they ask here, and the report is imported at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, Protocol, cast

_REPORTS: Final = "energylens.reports"

# Class of a result: view: module of `reports` and its function, which takes the result.
_VIEWS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Prediction": {"answer": ("text.prediction", "headline"), "text": ("text.prediction", "prediction_text")},
    "Result": {"answer": ("text.answer", "sentence"), "charts": ("charts", "front_charts")},
    "Comparison": {"charts": ("charts", "ComparisonChart")},
    "ServicePlan": {"answer": ("text.service", "plan_sentence"), "charts": ("charts", "service_charts")},
    "PoolPlan": {"answer": ("text.service", "pools_sentence")},
    "Split": {"answer": ("text.split", "split_sentence")},
    "SweetSpots": {"charts": ("charts", "length_charts")},
}


class PointCharts(Protocol):
    """Charts of the points of a result; each returns an Altair chart."""

    def front(self, most: int = 2_000) -> Any:
        """Return joules per output token against latency; of fronts longer than `most` an even choice of points."""

    def breakdown(self) -> Any:
        """Return shares of the joules by cause: of the points of least energy, least product, least latency."""

    def operations(self) -> Any:
        """Return joules by operation, of the point of least energy; raise `EnergylensError` if not known."""

    def roofline(self) -> Any:
        """Return the operations of the point of least energy below their roofs; raise `EnergylensError`."""

    def changes(self) -> Any:
        """Return what single changes of the point of least energy save; raise `EnergylensError` if not known."""


class LengthCharts(Protocol):
    """The chart of joules over request lengths."""

    def sweet_spots(self) -> Any:
        """Return joules per output token over prompt and output lengths."""


class FrontCharts(PointCharts, LengthCharts, Protocol):
    """Charts of a front."""


class WaterfallChart(Protocol):
    """The chart of a comparison."""

    def waterfall(self) -> Any:
        """Return bars from the joules of one point to those of the other, cause by cause."""


def answer(result: object) -> str:
    """Return the one-line answer of a result."""
    return cast(str, _view(result, "answer"))


def text(result: object) -> str:
    """Return the whole of a result as text."""
    return cast(str, _view(result, "text"))


def charts(result: object) -> Any:
    """Return the charts of a result; raise `EnergylensError` if it has nothing to draw."""
    return _view(result, "charts")


def _view(result: object, view: str) -> Any:
    module, function = _VIEWS[type(result).__name__][view]
    return getattr(import_module(f"{_REPORTS}.{module}"), function)(result)
