"""How far predictions are from measurements: relative errors, ranks, best choices, intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Errors:
    """Relative errors `100·(predicted/measured - 1)` in percent, over a number of rows."""

    rows: int
    mape_percent: float
    median_percent: float
    p90_percent: float
    bias_percent: float

    def as_dict(self) -> dict[str, float]:
        """Return the fields by name."""
        return asdict(self)


def errors_text(errors: Errors) -> str:
    """Return an error in percent as mean / median / 90th percentile (bias)."""
    typical = f"{errors.mape_percent:.1f} / {errors.median_percent:.1f} / {errors.p90_percent:.0f}"
    return f"{typical} ({errors.bias_percent:+.0f})"


def errors(predicted: ArrayLike, measured: ArrayLike) -> Errors:
    """Return mean, median and 90th percentile of the absolute relative error, and its signed mean (bias)."""
    signed = 100.0 * (np.asarray(predicted, float) / np.asarray(measured, float) - 1.0)
    if signed.size == 0:
        return Errors(0, *[float("nan")] * 4)
    size = np.abs(signed)
    return Errors(
        signed.size,
        float(size.mean()),
        float(np.median(size)),
        float(np.percentile(size, 90)),
        float(signed.mean()),
    )


def spearman(predicted: ArrayLike, measured: ArrayLike) -> float:
    """Return Spearman's rank correlation; not a number for fewer than three rows or constant values."""
    from scipy.stats import rankdata  # type: ignore[import-untyped, unused-ignore]

    a, b = rankdata(np.asarray(predicted, float)), rankdata(np.asarray(measured, float))
    if a.size < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def coverage(low: ArrayLike, high: ArrayLike, measured: ArrayLike) -> float:
    """Return the percentage of measurements within their interval."""
    actual = np.asarray(measured, float)
    inside = (np.asarray(low, float) <= actual) & (actual <= np.asarray(high, float))
    return float(100.0 * inside.mean()) if inside.size else float("nan")


def picks(
    cost: Sequence[tuple[float, float]],
    latency: Sequence[tuple[float, float]],
    limit_s: float,
    tolerance: float,
    latency_tolerance: float = 0.0,
) -> bool | None:
    """Return whether the row predicted to be cheapest within a latency limit is the one measured to be.

    `cost` and `latency` hold (predicted, measured) of each row. A pick counts if its measured cost is within
    `tolerance` of the best one's, and its measured latency within `latency_tolerance` of the limit: repeats of one run
    differ by that much. None where fewer than two rows measure within the limit.
    """
    rows = list(zip(cost, latency, strict=True))
    allowed = [c[1] for c, t in rows if t[1] <= limit_s]
    believed = [(c[0], c[1], t[1]) for c, t in rows if t[0] <= limit_s]
    if len(allowed) < 2:
        return None
    if not believed:
        return False
    _, measured, seconds = min(believed)
    return seconds <= (1.0 + latency_tolerance) * limit_s and measured <= (1.0 + tolerance) * min(allowed)
