"""Names whose bytes Python could not decode: read as UTF-8 where they are that, escaped where not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from energylens.cli.output import escaped
from energylens.common.errors import Problem
from energylens.common.files import printable
from energylens.common.readable import readable


def undecoded(raw: bytes) -> str:
    """Return what an argument of these bytes is under an ASCII locale."""
    return raw.decode("ascii", "surrogateescape")


@pytest.mark.parametrize("name", ["modèle", "模型.yaml", "a-é-b", "🦙", "plain"])
def test_names_in_utf_8_are_read(name: str) -> None:
    text = undecoded(name.encode())
    assert readable(text) == printable(text) == name
    assert escaped(text) == name
    assert Problem(f"no `{text}`").render() == f"error: no `{name}`"
    assert Problem("no", where=text).as_dict()["file"] == name


def test_bytes_that_are_no_utf_8_are_escaped() -> None:
    text = undecoded("é".encode() + b"-\xff-" + "日".encode()[:2])
    assert printable(text) == "é-\\udcff-\\udce6\\udc97"
    assert printable("\ud800") == "\\ud800"
    assert Problem(text).render() == "error: é-\\udcff-\\udce6\\udc97"


def test_bytes_that_steer_a_terminal_are_escaped_still() -> None:
    hostile = undecoded("\u202e\x9b2J".encode())
    assert printable(hostile) == "\\u202e\\x9b2J"
    assert escaped(hostile) == "\\u202e\\x9b2J"
    assert "\u202e" not in Problem(hostile).render()


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "日本.yaml"],
        ["predict", "llama-3.1-8b", "--gpu", "日本.yaml"],
        ["serve-plan", "llama-3.1-8b", "--workload", "日本.csv"],
        ["serve-plan", "llama-3.1-8b", "--workload", "日本"],
        ["compare", "日本.parquet", "日本.parquet"],
        ["sweep", "run", "日本.yaml"],
        ["explore", "llama-3.1-8b", "--tp", "日本"],
        ["explore", "llama-3.1-8b", "--out", "日本.csv"],
        ["calibrate", "日本"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "日本"), ("ascii", "\\u65e5\\u672c")])
def test_names_are_readable_under_an_ascii_locale(words: list[str], encoding: str, shown: str, tmp_path: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-m", "energylens", *(word.encode() for word in words)],
        env={**os.environ, **plain},
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert shown in done.stderr.decode(encoding)
    assert "udce6" not in done.stderr.decode(encoding)
