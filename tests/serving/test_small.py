"""Few requests, few kinds, and sizes beyond reason: right answers with their uncertainty, or clear errors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energylens.cli import main
from energylens.common.errors import EnergylensError, SpecError
from energylens.common.memory import MemoryBudgetError
from energylens.inputs.library import load_gpu
from energylens.serving.coreset import coreset
from energylens.serving.deployments import deployments
from energylens.serving.notes import p90_interval, p90_ranks, traffic_notes
from energylens.serving.plan import serve_plan
from energylens.serving.replay import replay
from energylens.serving.workload import load_workload

DEPLOYMENT = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}


def workload(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(f"name: mine\nsource: me\nrate_per_s: 3\n{text}\n", encoding="utf-8")
    return path


def test_ranks_of_the_90th_percentile_hold_it_four_times_in_five() -> None:
    assert p90_ranks(1) == (0, None)
    assert p90_ranks(3) == (1, None)
    # 0.9^21 > 0.1 > 0.9^22: only from 22 values on is the largest above it often enough.
    assert p90_ranks(21)[1] is None
    assert p90_ranks(22)[1] == 21
    random = np.random.default_rng(1)
    for count in (22, 40, 200, 2000):
        low, high = p90_ranks(count)
        assert low is not None and high is not None
        drawn = np.sort(random.random((4000, count)), axis=1)
        inside = ((drawn[:, low] <= 0.9) & (drawn[:, high] >= 0.9)).mean()
        assert 0.79 < inside < 0.97 if count < 50 else 0.78 < inside < 0.88
    assert p90_interval(np.array([3.0, np.nan, 1.0, 2.0])) == (2.0, None)
    assert p90_interval(np.array([])) == (None, None)


def test_percentiles_of_few_requests_are_said_to_be_coarse(tmp_path: Path, capsys: Any) -> None:
    trace = tmp_path / "three.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,300,9\n1,700,9\n2,900,9\n", encoding="utf-8")
    said = "the trace has 3 requests: percentiles of fewer than 50 are coarse"
    replayed = replay(DEPLOYMENT, trace)
    assert replayed.notes == (said,)
    assert replayed["ttft_p90_lo_s"] == sorted(replayed.requests["ttft_s"])[1]
    assert replayed["ttft_p90_hi_s"] is None
    assert said in serve_plan("llama-3.1-8b", trace, gpus="h100-sxm", tp=1, token_budget=8192, replicas=1).note["notes"]
    command = ["replay", "llama-3.1-8b", "--workload", str(trace)]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert f"note: {said}" in text
    assert "note: 80 % intervals by the number of requests alone: P90 TTFT " in text
    assert " to any; P90 TPOT " in text
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [said]
    assert replay(DEPLOYMENT, "512:16", 2.0, requests=7).notes == (
        "replayed 7 requests: percentiles of fewer than 50 are coarse",
    )
    many = replay(DEPLOYMENT, "512:16", 2.0, requests=500)
    assert many.notes == ()
    assert many["ttft_p90_lo_s"] <= many["ttft_p90_s"] <= many["ttft_p90_hi_s"]


def test_a_rate_that_is_not_the_traces_is_said(tmp_path: Path) -> None:
    trace = tmp_path / "steady.csv"
    rows = "\n".join(f"{i * 0.5},300,9" for i in range(101))
    trace.write_text(f"arrival_s,input_tokens,output_tokens\n{rows}\n", encoding="utf-8")
    load = load_workload(trace)
    assert traffic_notes(load, load.rate_per_s) == []
    assert traffic_notes(load, 6.4) == ["the trace is sped up 3.2x: from 2 to 6.4 requests/s"]
    assert traffic_notes(load, 0.5) == ["the trace is slowed down 4x: from 2 to 0.5 requests/s"]
    replayed = replay(DEPLOYMENT, load, 6.4, requests=303)
    assert replayed.notes == (
        "the trace is sped up 3.2x: from 2 to 6.4 requests/s",
        "requests replayed: 303, by repeating its 101",
    )
    assert replay(DEPLOYMENT, load, requests=60).notes == ("requests replayed: the first 60 of its 101",)


def test_traces_without_times_and_of_one_moment_are_said(tmp_path: Path) -> None:
    for header, row, said in (
        ("input_tokens,output_tokens", "300,9", "the trace has no times: arrivals are drawn by chance at the rate"),
        ("arrival_s,input_tokens,output_tokens", "5,300,9", "all requests of the trace arrive at one moment"),
    ):
        trace = tmp_path / f"{len(header)}.csv"
        trace.write_text("\n".join([header, *[row] * 60]) + "\n", encoding="utf-8")
        assert replay(DEPLOYMENT, trace, 2.0).notes[0].startswith(said)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 50_000), st.integers(1, 5_000), st.integers(1, 9)), min_size=1, max_size=32),
    st.integers(32, 40),
)
def test_a_coreset_of_as_many_as_there_are_is_all_of_them(rows: list[tuple[int, int, int]], number: int) -> None:
    requests = pl.DataFrame(
        [(i, o) for i, o, times in rows for _ in range(times)], schema=["prompt_tokens", "output_tokens"], orient="row"
    )
    few = coreset(requests, number)
    assert few.height == requests.unique().height
    for name in ("prompt_tokens", "output_tokens"):
        assert (few[name] * few["weight"]).sum() == pytest.approx(requests[name].mean())


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("kinds: [[1, 1, 1]]", (1.0, 1.0)),
        ("kinds: [[1000, 10, 1.0e-9], [10, 1000, 1]]", (10.0, 1000.0)),
        ("kinds: [[7, 3, 5]]", (7.0, 3.0)),
        ("input: {mean: 1}\noutput: {mean: 1}", (1.0, 1.0)),
        ("input: {mean: 5, sd: 0, longest: 5}\noutput: {mean: 2, sd: 1}", (5.0, 2.0)),
    ],
)
def test_few_kinds_are_served_as_they_are(tmp_path: Path, text: str, means: tuple[float, float], capsys: Any) -> None:
    path = workload(tmp_path, text)
    load = load_workload(path)
    assert (load.prompt_tokens, load.output_tokens) == pytest.approx(means, rel=0.01)
    replayed = replay(DEPLOYMENT, load, requests=300)
    assert replayed.requests["prompt_tokens"].mean() == pytest.approx(means[0], rel=0.05)
    for command in (["serve-plan", "--gpu", "h100-sxm", "--tp", "1"], ["advise", "levers"]):
        name = ["llama-3.1-8b", "--workload", str(path), "--replicas", "1", "--token-budget", "8192"]
        at = 2 if command[0] == "advise" else 1
        assert main([*command[:at], *name, *command[at:]]) == 0
        printed = capsys.readouterr()
        assert "nan" not in printed.out
        assert "Warning" not in printed.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kinds: [[1, 1, 0]]", "should be greater than 0, found `0`"),
        ("kinds: [[1, 1, 1.0e+308], [2, 2, 1.0e+308]]", "should be less than or equal to 1000000000"),
        ("kinds: [[5000000000, 1, 1]]", "should be less than or equal to 10000000, found `5000000000`"),
        ("kinds: [[1.5, 1, 1]]", "tokens of a request are a whole number, not 1.5"),
        ("input: {mean: 100, sd: 1.0e+302}\noutput: {mean: 10}", "`sd` should be less than or equal to 10000000"),
        ("input: {mean: 100, sd: 10000}\noutput: {mean: 10}", "have an `sd` of at most 9949"),
        ("input: {mean: 5, sd: 2, longest: 5}\noutput: {mean: 10}", "have an `sd` of at most 0"),
        ("input: {mean: 1.0e-9}\noutput: {mean: 10}", "a mean length is 1 or more"),
        ("input: {mean: 2.0e+6}\noutput: {mean: 10}", "a mean length is 1 or more, and not above the longest"),
        (
            "input: {mean: 9, longest: 5000000000}\noutput: {mean: 10}",
            "`longest` should be less than or equal to 10000000",
        ),
        ("kinds: [[1, 1, 1]]\ncrowd: {share: 0.5, others: 1.0e+300}", "less than or equal to 1000000"),
        ("kinds: [[1, 1, 1]]\nrates: [[1.0e+13, 1], [1.0e+13, 1]]", "write them near 1"),
        ("kinds: [[1, 1, 1]]\nrates: [[1.0e-300, 1]]", "write them near 1"),
        ("kinds: [[1, 1, 1]]\nrates: [[1, 0]]", "above 0 for some share of the time"),
    ],
)
def test_workloads_that_nobody_has_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SpecError) as error:
        load_workload(workload(tmp_path, text))
    assert said in error.value.render()
    assert "mine.yaml:" in error.value.render()


def test_a_tail_that_the_lengths_do_not_have_is_said(tmp_path: Path) -> None:
    load = load_workload(workload(tmp_path, "input: {mean: 100, sd: 9000}\noutput: {mean: 10, sd: 5}"))
    assert len(load.notes) == 1
    assert load.notes[0].startswith("`input` has an sd of 9000; the lengths that stand for it, cut and rounded, one of")
    assert not load_workload(workload(tmp_path, "input: {mean: 800, sd: 600}\noutput: {mean: 200, sd: 150}")).notes


@pytest.mark.parametrize("requests", [0, -1, 10**12, 1.5, True, "5"])
def test_replays_of_no_number_of_requests(requests: Any) -> None:
    with pytest.raises(EnergylensError, match="takes 1 to"):
        replay(DEPLOYMENT, "128:8", 1.0, requests=requests)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1e-300, 1e300, float("nan"), float("inf"), "5", None])
def test_rates_that_are_none(rate: Any) -> None:
    with pytest.raises(EnergylensError, match="no rate of arrival"):
        replay(DEPLOYMENT, "128:8", rate)


def test_a_replay_beyond_the_memory_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENERGYLENS_MEMORY", "200MB")
    with pytest.raises(MemoryBudgetError, match="a replay of 5,000,000 requests would need"):
        replay(DEPLOYMENT, "128:8", 1.0, requests=5_000_000)


@pytest.mark.parametrize("text", ["4294967297:5", "5:99999999999999999999999", "1" * 5000 + ":1", "0:5"])
def test_lengths_that_no_request_has(text: str) -> None:
    with pytest.raises(SpecError, match="of a workload are 1 to 1,000,000") as error:
        load_workload(text)
    assert len(error.value.render()) < 300


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"tp": 2**40}, "axis `tp` needs whole numbers from 1 to 1,024, found `1099511627776`"),
        ({"tp": [1, -1]}, "axis `tp` needs whole numbers from 1 to 1,024, found `-1`"),
        ({"max_num_seqs": -1}, "axis `max_num_seqs`"),
        ({"token_budget": 1.5}, "axis `token_budget`"),
        ({"acceptance": "high"}, "axis `acceptance` is a number from 0 to 1, found `high`"),
        ({"chunked": "on"}, "axis `chunked` is true or false, found `on`"),
        ({"weight_dtype": 8}, "axis `weight_dtype` is a name, or none for the default, found `8`"),
        ({"draft": [{}]}, "axis `draft` is a name"),
        ({"tp": True}, "axis `tp` needs whole numbers"),
        ({"pp": list(range(1, 1000)), "max_num_seqs": list(range(1, 10_000)), "tp": list(range(1, 999)),
          "dp": list(range(1, 999)), "ep": list(range(1, 999)), "replicas": list(range(1, 9999))}, "are too many"),
    ],
)  # fmt: skip
def test_axes_out_of_their_bounds(axes: dict[str, Any], said: str) -> None:
    with pytest.raises(EnergylensError) as error:
        deployments("llama-3.1-8b", [load_gpu("h100-sxm")], axes)
    assert said in error.value.render()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a\0b.csv", "its name has a NUL character"),
        ("a\0b.yaml", "its name has a NUL character"),
        ("x" * 300 + ".csv", "its name is too long"),
        ("folder.csv", "it is a folder"),
        ("fifo.jsonl", "it is a FIFO"),
        ("dangling.parquet", "which is not there"),
    ],
)
def test_files_that_are_no_trace(tmp_path: Path, name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo("fifo.jsonl")
    (tmp_path / "dangling.parquet").symlink_to("nothing")
    with pytest.raises(SpecError) as error:
        load_workload(name)
    assert said in error.value.render()
    assert "\0" not in error.value.render()
