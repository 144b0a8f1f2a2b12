"""Lengths such as `1024:256`: read, and what was meant where they are written otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from energylens.common.errors import SpecError
from energylens.serving.lengths import lengths
from energylens.serving.workload import load_workload


@pytest.mark.parametrize("text", ["1000:256", "1000x256", " 1000 : 256 ", "1000 x 256"])
def test_lengths_are_read(text: str) -> None:
    assert lengths(text) == ("1000", "256")
    assert load_workload(text).name == "1000:256"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1k:256", "write 1000:256"),
        ("1K:256", "write 1000:256"),
        ("1,000:256", "write 1000:256"),
        ("1_000:256", "write 1000:256"),
        ("1e3:256", "write 1000:256"),
        ("1.5k:0.5k", "write 1500:500"),
        ("1000.0:256", "write 1000:256"),
        ("1ki:256", "write 1024:256"),
        ("1000.5:256", "write 1024:256"),
        ("10,24:256", "write 1024:256"),
        ("-1:256", "write 1024:256"),
        ("0k:5", "write 1024:256"),
    ],
)
def test_lengths_are_integers(text: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_workload(text)
    (problem,) = caught.value.problems
    assert problem.message == f"`{text}` is not written as lengths: they are whole numbers of 1 or more"
    assert str(problem.hint).startswith(hint)


@pytest.mark.parametrize("text", ["1000-256", "1000/256", "1000*256", "1000->256", "1000 256", "1000X256", "1k/256"])
def test_lengths_have_a_colon_between(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_workload(text)
    (problem,) = caught.value.problems
    assert problem.message.endswith("is not written as lengths: prompt and output tokens with a colon between")
    assert problem.hint == "write 1000:256"


@pytest.mark.parametrize(
    ("text", "fault", "hint"),
    [
        ("1000:", "`1000:` has no output tokens", "write 1000:256, prompt"),
        ("1k:", "`1k:` has no output tokens", "write 1000:256, prompt"),
        (":256", "`:256` has no prompt tokens", "write 1024:256, prompt"),
        ("1000", "`1000` is one length", "write 1000:256"),
        ("1k", "`1k` is one length", "write 1000:256"),
        ("1000:256:3", "`1000:256:3` has more than two lengths", "write 1024:256"),
        ("0:5", "prompt tokens of a workload are 1 to 1,000,000, found 0", "write 1024:256"),
    ],
)
def test_what_lengths_lack_is_said(text: str, fault: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_workload(text)
    (problem,) = caught.value.problems
    assert problem.message.startswith(fault)
    assert str(problem.hint).startswith(hint)


@pytest.mark.parametrize("text", ["chatt", "a-1", "x:y", "1000:abc", ":", "", "2024-11.csv", "1-2.yaml", "1" * 5000])
def test_other_texts_are_no_lengths(text: str) -> None:
    try:
        assert lengths(text) is None
    except SpecError as error:
        pytest.fail(str(error))
    with pytest.raises(SpecError):
        load_workload(text)


def test_files_whose_names_look_like_lengths_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("1000-256.5").write_text("", encoding="utf-8")
    assert os.path.exists("1000-256.5")  # noqa: PTH110
    with pytest.raises(SpecError, match="cannot tell what"):
        load_workload("1000-256.5")
