"""Workloads: bundled ones, coresets, rates, prefixes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energylens.common.errors import SpecError
from energylens.inputs.bundled import bundled
from energylens.serving.coreset import binned, coreset, moments
from energylens.serving.workload import (
    constant,
    crowding,
    load_workload,
    prefix_curve,
    rate_profile,
    workloads,
)

STATED = {  # mean prompt and output tokens, as the sources state them
    "burstgpt": (256.8, 35.1),
    "chat": (1631.58, 105.51),
    "code-completion": (2511.28, 22.69),
    "summarization": (838.49, 64.0),
    "reasoning": (200.0, 7010.0),
    "azure-conv": (1154.7, 211.13),
    "azure-code": (2047.85, 27.88),
    "mooncake-conversation": (12035.06, 342.62),
}


def test_bundled_workloads_have_the_means_their_sources_state() -> None:
    assert set(bundled("workloads")) == set(STATED)
    for row in workloads().iter_rows(named=True):
        stated_tokens, made = STATED[row["workload"]]
        assert row["prompt_tokens"] == pytest.approx(stated_tokens, rel=0.01), row["workload"]
        assert row["output_tokens"] == pytest.approx(made, rel=0.015), row["workload"]
        assert row["source"]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 50_000), st.integers(1, 5_000)), min_size=1, max_size=300), st.integers(1, 64))
def test_a_coreset_keeps_weights_and_lengths(rows: list[tuple[int, int]], number: int) -> None:
    requests = pl.DataFrame(rows, schema=["prompt_tokens", "output_tokens"], orient="row")
    few = coreset(requests, number)
    assert few.height <= max(number, 1)
    assert few["weight"].sum() == pytest.approx(1.0)
    assert (few["weight"] > 0).all()
    pairs = set(map(tuple, few.select("prompt_tokens", "output_tokens").rows()))
    assert pairs <= {(float(i), float(o)) for i, o in rows}


def test_a_coreset_of_many_kinds_keeps_the_moments() -> None:
    random = np.random.default_rng(5)
    requests = pl.DataFrame(
        {
            "prompt_tokens": np.ceil(random.lognormal(6.5, 1.0, 4000)),
            "output_tokens": np.ceil(random.lognormal(4.5, 1.2, 4000)),
        }
    )
    few = coreset(requests, 32)
    wanted = moments(requests["prompt_tokens"].to_numpy(), requests["output_tokens"].to_numpy()).mean(axis=1)
    held = moments(few["prompt_tokens"].to_numpy(), few["output_tokens"].to_numpy()) @ few["weight"].to_numpy()
    np.testing.assert_allclose(held, wanted, rtol=0.01)


def test_bins_round_up_and_drop_what_is_longer() -> None:
    requests = pl.DataFrame({"prompt_tokens": [33.0, 64.0, 9000.0, 5.0], "output_tokens": [8.0, 9.0, 5.0, 600.0]})
    assert binned(requests).rows() == [(64.0, 8.0, 1.0), (64.0, 16.0, 1.0)]


def test_rates_have_a_mean_of_one_and_poisson_arrivals_are_steady() -> None:
    random = np.random.default_rng(3)
    steady = np.cumsum(random.exponential(0.2, 20_000))
    profile = rate_profile(steady)
    assert max(rate for rate, _ in profile) < 1.3
    bursts = np.sort(np.concatenate([steady, 100 + random.random(3000) * 20, 900 + random.random(3000) * 20]))
    profile = rate_profile(bursts)
    assert max(rate for rate, _ in profile) > 5
    assert sum(rate * share for rate, share in profile) == pytest.approx(1.0)
    assert sum(share for _, share in profile) == pytest.approx(1.0)


def test_crowds_are_those_beyond_chance() -> None:
    random = np.random.default_rng(4)
    steady = np.cumsum(random.exponential(0.1, 10_000))
    assert crowding(steady) == (0.0, 0.0)
    pairs = np.sort(np.concatenate([steady, steady[::5] + 0.001, steady[::5] + 0.002]))
    share, others = crowding(pairs)
    assert share == pytest.approx(0.25, abs=0.05)
    assert others == pytest.approx(1.5, abs=0.3)


def test_prefix_curves_rise_to_all_that_recurs() -> None:
    blocks = [[0, i % 5 + 1, i % 3 + 10 * (i % 5 + 1)] for i in range(60)]
    requests = pl.DataFrame({"prompt_tokens": [1600.0] * 60, "output_tokens": [1.0] * 60, "blocks": blocks})
    curve = prefix_curve(requests)
    shares = [share for _, share in curve]
    assert shares == sorted(shares)
    different = len({block for request_blocks in blocks for block in request_blocks})
    assert shares[-1] == pytest.approx((180 - different) * 512 / (60 * 1600.0))


def test_a_sample_has_the_requested_rate() -> None:
    for name in ("azure-conv", "burstgpt"):
        rows = load_workload(name).sample(20_000, 7.0)
        assert rows.height == 20_000
        assert (rows["arrival_s"].diff().drop_nulls() >= 0).all()
        assert 20_000 / rows["arrival_s"][-1] == pytest.approx(7.0, rel=0.05)


def test_traces_are_workloads(tmp_path: Path) -> None:
    rows = pl.DataFrame({"arrival_s": np.arange(50) * 0.5, "prompt_tokens": [100] * 50, "output_tokens": [9] * 50})
    rows.write_csv(tmp_path / "own.csv")
    load = load_workload(tmp_path / "own.csv")
    assert load.rate_per_s == pytest.approx(2.0)
    assert (load.prompt_tokens, load.output_tokens) == (100.0, 9.0)
    fast = load.sample(120, 8.0)
    assert fast.height == 120
    assert 119 / fast["arrival_s"][-1] == pytest.approx(8.0, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("azure-con", "did you mean `azure-conv`"),
        ("0:5", "1 to 1,000,000, found 0"),
        ("5:0", "output tokens"),
        ("nothing.csv", "cannot read the trace"),
        ("nothing.yaml", "cannot read"),
    ],
)
def test_what_is_no_workload_is_an_error(text: str, said: str) -> None:
    with pytest.raises(SpecError) as raised:
        load_workload(text)
    assert said in raised.value.render()


def test_a_user_workload(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nsource: me\nkinds: [[100, 10, 3], [50, 20, 1]]\nrate_per_s: 2\n", encoding="utf-8")
    load = load_workload(path)
    assert load.prompt_tokens == pytest.approx(87.5)
    assert load.rate_per_s == 2.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kinds: [[0.5, 10, 1]]", "at least one prompt token"),
        ("kinds: []", "`kinds` is empty"),
        ("input: {mean: 5}", "give either `kinds`, or both"),
        ("kinds: [[1, 1, 1]]\nprefix: {found: [[10, 0.5], [5, 0.6]]}", "should rise"),
        ("kinds: [[1, 1, 1]]\nrate_per_s: -3", "greater than 0"),
        ("kinds: [[1, 1, 1]]\nrat: 3", "unknown field"),
    ],
)
def test_faults_of_a_workload_file_have_a_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nsource: me\n{text}\n", encoding="utf-8")
    with pytest.raises(SpecError) as raised:
        load_workload(path)
    assert said in raised.value.render()
    assert "mine.yaml" in raised.value.render()


def test_constant_lengths() -> None:
    assert constant(7, 3).kinds.rows() == [(7.0, 3.0, 1.0)]
