"""Error figures, by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from energylens.common.accuracy import coverage, errors, picks, spearman

POSITIVE = st.floats(0.01, 1e6)


def test_errors_by_hand() -> None:
    account = errors([110.0, 90.0, 200.0], [100.0, 100.0, 100.0])
    assert account.rows == 3
    assert account.mape_percent == pytest.approx(40.0)
    assert account.median_percent == pytest.approx(10.0)
    assert account.bias_percent == pytest.approx(100 / 3)
    assert account.p90_percent == pytest.approx(82.0)


@given(st.lists(POSITIVE, min_size=1, max_size=30))
def test_what_is_measured_has_no_error(values: list[float]) -> None:
    account = errors(values, values)
    assert (account.mape_percent, account.median_percent, account.p90_percent, account.bias_percent) == (0, 0, 0, 0)


@given(st.lists(POSITIVE, min_size=3, max_size=30, unique=True))
def test_rank_correlation_depends_on_order_alone(values: list[float]) -> None:
    # Doubling loses no bit, so no two values become one.
    assert spearman([v * 2.0 for v in values], values) == pytest.approx(1.0)
    assert spearman([math.exp(r) for r in rankdata(values)], values) == pytest.approx(1.0)
    assert spearman([-v for v in values], values) == pytest.approx(-1.0)


def test_equal_values_share_a_rank() -> None:
    assert spearman([5.0, 1.0, 5.0, 7.0], [2.0, 1.0, 3.0, 4.0]) == pytest.approx(9 / math.sqrt(90))
    assert math.isnan(spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))


def test_coverage_by_hand() -> None:
    assert coverage([1, 1, 3], [2, 2, 4], [1.5, 3.0, 3.0]) == pytest.approx(200 / 3)


def test_a_pick_is_right_if_it_is_allowed_and_nearly_the_cheapest() -> None:
    cost, latency = [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)], [(0.03, 0.03), (0.02, 0.02), (0.01, 0.01)]
    assert picks(cost, latency, 0.03, 0.0) is True
    assert picks(cost, latency, 0.005, 0.0) is None
    assert picks(cost, [(1.0, 0.01)] * 3, 0.02, 0.0) is False
    too_slow = [(0.03, 0.04), (0.02, 0.02), (0.01, 0.01)]
    assert picks(cost, too_slow, 0.03, 0.0) is False
    dearer = [(1.0, 2.05), (2.0, 2.0), (3.0, 3.0)]
    assert picks(dearer, latency, 0.03, 0.0) is False
    assert picks(dearer, latency, 0.03, 0.05) is True
