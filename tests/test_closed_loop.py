"""The closed loop of experiment 002: limits that need no measurement."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parent.parent / "experiments/002-accuracy"))

from closed_loop import Load, Serving, steady_state


def load(concurrency: float = 8.0, **changes: float) -> Load:
    """Return one loop: 10 ms steps of which 4 are fixed, 50 ms prefills of which 10 are, 101 output tokens."""
    values = {
        "concurrency": concurrency, "slots": 1e9, "output_tokens": 101.0, "decode_s": 0.01, "decode_fixed_s": 0.004,
        "prefill_s": 0.05, "prefill_fixed_s": 0.01, "chunk_s": 0.04, "prefill_lanes": 1.0, "chunks": 1.0,
    } | changes  # fmt: skip
    return Load(**{name: np.array([value]) for name, value in values.items()}, apart=np.array([False]))


def test_one_request_waits_for_nothing() -> None:
    steady = steady_state(load(1.0), Serving(burst=0.5))
    np.testing.assert_allclose(steady.tpot_s, 0.01)
    np.testing.assert_allclose(steady.ttft_s, 0.05 + 1.5 * 0.01)
    np.testing.assert_allclose(steady.output_tokens_per_s, 101 / (steady.ttft_s + 1.0))


def test_prefills_of_others_share_the_steps() -> None:
    steady = steady_state(load(8.0), Serving(burst=0.0))
    decoding = 100 * steady.tpot_s
    expected = 0.01 + 7 * 0.05 * decoding / (steady.ttft_s + decoding) / 100
    np.testing.assert_allclose(steady.tpot_s, expected, rtol=1e-9)


def test_prefill_apart_disturbs_no_step_and_bounds_the_rate() -> None:
    apart = replace(load(1000.0), apart=np.array([True]))
    steady = steady_state(apart, Serving(burst=0.0))
    np.testing.assert_allclose(steady.tpot_s, 0.01)
    np.testing.assert_allclose(steady.output_tokens_per_s / 101, 1 / 0.04, rtol=1e-9)


def test_requests_without_a_slot_wait_outside() -> None:
    free, full = steady_state(load(8.0), Serving()), steady_state(load(16.0, slots=8.0), Serving())
    np.testing.assert_allclose(full.tpot_s, free.tpot_s)
    np.testing.assert_allclose(full.output_tokens_per_s, free.output_tokens_per_s)
    assert full.ttft_s > free.ttft_s


def test_fixed_times_shrink_in_a_graph_and_grow_in_eager_mode() -> None:
    steady = steady_state(load(1.0), Serving(graph_share=0.5, eager_share=3.0))
    np.testing.assert_allclose(steady.tpot_s, 0.008)
    np.testing.assert_allclose(steady.ttft_s, 0.05 + 0.02 + 1.5 * 0.008)
