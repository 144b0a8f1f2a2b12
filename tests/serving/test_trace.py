"""Traces: the names they use, and every fault told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from energylens.common.errors import SpecError
from energylens.serving.trace import read_trace


def write(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(SpecError) as raised:
        read_trace(path)
    return [problem.render() for problem in raised.value.problems]


@pytest.mark.parametrize(
    ("header", "times"),
    [
        ("TIMESTAMP,ContextTokens,GeneratedTokens", ["2023-11-16 18:15:46.68", "2023-11-16 18:15:50.99"]),
        ("arrival_s,input_tokens,output_tokens", ["5.0", "9.31"]),
        ("Timestamp,Request tokens,Response tokens", ["5", "9"]),
        ("timestamp_ms,input_length,output_length", ["5000", "9310"]),
    ],
)
def test_published_names_are_known(tmp_path: Path, header: str, times: list[str]) -> None:
    requests = read_trace(write(tmp_path, f"{header}\n{times[0]},374,44\n{times[1]},396,109\n"))
    assert requests["arrival_s"][0] == 0.0
    assert requests["arrival_s"][1] == pytest.approx(4.31, abs=0.35)
    assert requests["prompt_tokens"].to_list() == [374.0, 396.0]
    assert requests["output_tokens"].to_list() == [44.0, 109.0]


def test_json_lines_and_prefixes(tmp_path: Path) -> None:
    lines = ['{"timestamp": 0, "input_length": 1100, "output_length": 3, "hash_ids": [7, 9]}'] * 2
    requests = read_trace(write(tmp_path, "\n".join(lines), "trace.jsonl"))
    assert requests["blocks"].to_list() == [[0, 1], [0, 1]]
    text = "input_tokens,output_tokens,blocks\n1100,3,a;b\n1100,3,[a;c]\n"
    assert read_trace(write(tmp_path, text))["blocks"].to_list() == [[0, 1], [0, 2]]


def test_without_times_there_are_none(tmp_path: Path) -> None:
    assert read_trace(write(tmp_path, "input_tokens,output_tokens\n5,5\n"))["arrival_s"].null_count() == 1


def test_coarse_times_are_spread(tmp_path: Path) -> None:
    rows = "\n".join(f"{3000 * (i // 20)},10,10" for i in range(200))
    requests = read_trace(write(tmp_path, f"timestamp_ms,input_tokens,output_tokens\n{rows}"))["arrival_s"].to_numpy()
    assert len(np.unique(requests)) == 200
    assert (np.diff(requests) >= 0).all()
    assert 27 < requests[-1] <= 30
    again = read_trace(tmp_path / "trace.csv")["arrival_s"].to_numpy()
    np.testing.assert_array_equal(requests, again)


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    messages = faults(write(tmp_path, "arrival_s,input_tokens,output_tokens\n4,10,0\n2,-3,5\n3,4,5\n"))
    assert len(messages) == 3
    assert "`input_tokens` is -3: it should be a whole number from 0 to 1,000,000" in messages[0]
    assert "trace.csv: row 2" in messages[0]
    assert "`output_tokens` is 0: at least one token is made" in messages[1]
    assert "`arrival_s` is 2, before the 4 of the row above" in messages[2]
    assert "hint: sort the trace by arrival" in messages[2]


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("input_tokens,output_tokens\n", "trace.csv", "the trace has no requests"),
        ("", "trace.csv", "the trace has no requests"),
        ("a,b\n1,2\n", "trace.csv", "the trace has no column `prompt_tokens`"),
        ("input_tokens,output_tokens\nx,2\n", "trace.csv", "should hold numbers of tokens"),
        ("input_tokens,output_tokens\n1.5,2\n", "trace.csv", "`input_tokens` is 1.5"),
        ("arrival_s,input_tokens,output_tokens\nnever,1,2\n", "trace.csv", "should hold times"),
        ("x", "trace.txt", "cannot tell what"),
        ("x", "trace.parquet", "cannot read the trace"),
        ("input_tokens,output_tokens,blocks\n1,2,3.5\n", "trace.csv", "lists of blocks"),
    ],
)
def test_faults(tmp_path: Path, text: str, name: str, said: str) -> None:
    messages = faults(write(tmp_path, text, name))
    assert any(said in message for message in messages)
    assert all("Traceback" not in message for message in messages)


def test_a_missing_trace_is_an_error(tmp_path: Path) -> None:
    assert "cannot read the trace" in faults(tmp_path / "none.csv")[0]


def test_a_column_nearly_named_is_hinted_at(tmp_path: Path) -> None:
    messages = faults(write(tmp_path, "input_token,output_tokens\n1,2\n"))
    assert "input_token" in messages[0]


def test_faults_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pl.DataFrame({"input_tokens": [1, None], "output_tokens": [1, 1]}).write_parquet(path)
    assert "`input_tokens` is None" in faults(path)[0]
