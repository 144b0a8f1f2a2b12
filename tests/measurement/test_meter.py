"""Energy of a window: the counter between its steps, the samples as a check, what makes a row suspect."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from energylens.measurement.backend import Samples, Window
from energylens.measurement.meter import MOST_APART, SETTLE_S, read


def window(
    watts: float, seconds: float = 2.5, every: float = 0.1, phase: float = 0.0, shown: float = 1.0, reasons: int = 0
) -> Window:
    """Return 100 calls at constant watts, a counter that steps, and samples that show a share of the watts."""
    time = np.arange(-0.2, seconds + 0.2, 0.01)
    counter = (1e3 * watts * (np.floor((time + phase) / every) * every + 10)).astype(int)
    number = len(time)
    samples = Samples(
        time.tolist(), counter.tolist(), [int(1e3 * watts * shown)] * number, [1980] * number, [2619] * number,
        [55] * number, [reasons] * number,
    )  # fmt: skip
    return Window(100, seconds, 0.0, seconds, [samples])


@given(st.floats(80, 1000), st.floats(0.02, 0.2), st.floats(0, 0.2))
def test_the_counter_tells_the_watts_whatever_its_step_and_phase(watts: float, every: float, phase: float) -> None:
    result = read(window(watts, every=every, phase=phase))
    assert result.suspect is None
    # A step is seen up to a sample late: 10 ms of over a second and a half at either end.
    assert result.power_w == pytest.approx(watts, rel=0.015)
    assert result.seconds == pytest.approx(0.025)
    assert result.joules == pytest.approx(0.025 * watts, rel=0.015)
    assert result.power_integrated_w == pytest.approx(watts, rel=1e-3)


@given(st.floats(0.5, 1.5))
def test_counter_and_samples_that_differ_are_suspect(shown: float) -> None:
    result = read(window(300, shown=shown))
    if abs(shown - 1) > MOST_APART + 0.02:
        assert result.suspect is not None and "differ by" in result.suspect
    if abs(shown - 1) < MOST_APART - 0.02:
        assert result.suspect is None


def test_what_comes_before_the_window_and_while_it_settles_is_not_counted() -> None:
    plain = window(400)
    default = plain.samples[0]
    early = [mj if at >= SETTLE_S else 0 for at, mj in zip(default.time_s, default.counter_mj, strict=True)]
    changed = replace(plain, samples=[replace(default, counter_mj=early)])
    assert read(changed).power_w == pytest.approx(read(plain).power_w)


@pytest.mark.parametrize(
    ("reasons", "throttle", "suspect"),
    [
        (0x04, "power", None),
        (0x20, "thermal", "heat held"),
        (0x40, "thermal", "heat held"),
        (0x08, "hardware", "machine"),
    ],
)
def test_reasons_of_the_clock_are_reported(reasons: int, throttle: str, suspect: str | None) -> None:
    result = read(window(690, reasons=reasons))
    assert result.throttle == throttle
    assert (result.suspect is None) if suspect is None else suspect in str(result.suspect)


def test_a_reason_that_shows_for_a_moment_is_none() -> None:
    plain = window(400)
    default = plain.samples[0]
    moment = [0x4 | 0x40 if 1.0 <= at < 1.1 else 0 for at in default.time_s]
    result = read(replace(plain, samples=[replace(default, reasons=moment)]))
    assert (result.throttle, result.suspect) == ("", None)


def test_a_counter_that_stands_still_is_suspect() -> None:
    result = read(window(300, seconds=0.8))
    assert result.suspect is not None and "counter moved over" in result.suspect
    assert result.power_integrated_w is None


def test_several_gpus_give_their_mean() -> None:
    low, high = window(200), window(400)
    both = replace(low, samples=[*low.samples, *high.samples])
    assert read(both).power_w == pytest.approx(300, rel=0.01)
