"""Every Markdown file in `cases/` is a test: files it shows are written, commands it shows are run, output must match.

A fence ```yaml my-model.yaml writes that file. A fence ```console holds `$ energylens ...` lines, each followed by what
it prints on standard error and output, and by `[exit N]` if N is not 0. Lines `...` stand for any number of lines.
With UPDATE_CASES=1 in the environment, output that does not match is written into the file, to be read and committed.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from pathlib import Path

import pytest

from energylens.cli import main

CASES = sorted((Path(__file__).parent / "cases").glob("*.md"))
FENCE = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(command: str) -> str:
    words = shlex.split(command)
    assert words[0] == "energylens", command
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words[1:])
    text = err.getvalue() + out.getvalue()
    return text.rstrip("\n") + (f"\n[exit {code}]" if code else "")


def pattern(expected: str) -> re.Pattern[str]:
    lines = [r"(?:.*\n)*?" if line == "..." else re.escape(line) + "\n" for line in expected.splitlines()]
    return re.compile("".join(lines))


@pytest.mark.parametrize("case", CASES, ids=[case.stem for case in CASES])
def test_case(case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran, text = 0, case.read_text(encoding="utf-8")
    failures: list[str] = []
    for language, name, body in FENCE.findall(text):
        if language == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command, _, expected = part.partition("\n")
                output = run(command)
                if not pattern(expected.rstrip("\n")).fullmatch(output + "\n"):
                    failures.append(f"$ {command}\n{output}\n")
                    text = text.replace(f"$ {part}", f"$ {command}\n{output}\n", 1)
                ran += 1
        elif name:
            Path(name).write_text(body, encoding="utf-8")
    assert ran, "a case runs at least one command"
    if failures and os.environ.get("UPDATE_CASES"):
        case.write_text(text, encoding="utf-8")
    elif failures:
        pytest.fail("output differs:\n\n" + "\n".join(failures), pytrace=False)
