"""What commands print reaches its reader whole, or an exit code says that it does not; nothing steers a terminal."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from energylens import EnergylensError
from energylens.calibrate.profile_file import ProfileFile
from energylens.cli import main, output
from energylens.cli.app import app
from energylens.cli.command import Command
from energylens.common.errors import MOST_LISTED, Problem
from energylens.inputs.bundled import bundled

ENERGYLENS = f"{sys.executable} -m energylens"
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = line.replace("energylens", ENERGYLENS, 1)
    variables = {**os.environ, **environment}
    return subprocess.run(["bash", "-c", command], capture_output=True, env=variables, timeout=60, check=False)


@FULL
@pytest.mark.parametrize("words", ["models", "--help", "--version", "predict llama-3.1-8b --json", "schema model"])
def test_a_full_disk_is_said_with_its_exit_code(words: str) -> None:
    done = shell(f"energylens {words} > /dev/full")
    assert done.returncode == 74
    assert done.stderr.decode() == (
        "error: cannot write to standard output: No space left on device\n"
        "hint: the answer is not whole; nothing was written\n"
    )


@FULL
def test_a_full_disk_leaves_the_files_written_and_says_so(tmp_path: Path) -> None:
    out = tmp_path / "one.parquet"
    done = shell(f"energylens predict llama-3.1-8b --out {out} > /dev/full")
    assert done.returncode == 74
    assert f"written before that: `{out}`" in done.stderr.decode()
    assert out.exists()


@FULL
@pytest.mark.parametrize(("words", "code"), [("models", 0), ("predict nonsense", 2)])
def test_messages_that_cannot_be_written_change_no_exit_code(words: str, code: int) -> None:
    assert shell(f"energylens {words} 2> /dev/full").returncode == code
    assert shell(f"energylens {words} 2>&-").returncode == code


def test_a_closed_standard_output_is_said() -> None:
    done = shell("energylens models >&-")
    assert done.returncode == 74
    assert done.stderr.decode().startswith("error: cannot write to standard output: it is closed\n")
    assert shell("energylens predict nonsense >&- 2>&-").returncode == 2


def test_files_do_not_take_the_numbers_of_closed_streams(tmp_path: Path) -> None:
    from energylens.common.parquet_file import read_parquet

    out = tmp_path / "one.parquet"
    assert shell(f"energylens predict llama-3.1-8b --out {out} <&- >&- 2>&-").returncode == 74
    assert read_parquet(out)[0].height == 1


def test_a_reader_that_has_enough_is_no_failure() -> None:
    done = shell("energylens explore llama-3.1-8b --json | head -c 1; echo ${PIPESTATUS[0]}")
    assert done.stdout.decode() == "{0\n"
    assert done.stderr == b""


def test_names_beyond_ascii_are_escaped_where_the_terminal_has_them_not(tmp_path: Path) -> None:
    path = tmp_path / "modèle-é.yaml"
    text = bundled("models")["llama-3.1-8b"].read_text(encoding="utf-8").replace("name: llama-3.1-8b", "name: modèle")
    path.write_text(text, encoding="utf-8")
    ascii_only = {"PYTHONIOENCODING": "ascii", "LANG": "C", "PYTHONUTF8": "0"}
    done = shell(f"energylens predict {path}", **ascii_only)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"mod\\xe8le on 1 x h100-sxm" in done.stdout
    done = shell("energylens predict $'nonsense-\\xff-é'", **ascii_only)
    assert done.returncode == 2
    assert b"unknown model `nonsense-\\udcff-" in done.stderr


HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202egnp.\u2066exe\x9b\rx"


@pytest.mark.parametrize(
    "words",
    [
        ["predict", HOSTILE],
        ["predict", "llama-3.1-8b", "--gpu", HOSTILE],
        ["explore", f"llama-3.1-8b,{HOSTILE}"],
        ["explore", "llama-3.1-8b", "--tp", HOSTILE],
        ["explore", "llama-3.1-8b", "--limit", HOSTILE],
        ["replay", "llama-3.1-8b", "--workload", HOSTILE],
        ["compare", HOSTILE, HOSTILE],
        ["export", f"{HOSTILE}.parquet"],
        ["report", HOSTILE],
        ["import-hf", HOSTILE],
        ["status", HOSTILE],
        ["calibrate", HOSTILE],
        [HOSTILE],
        [f"--{HOSTILE}"],
        ["models", HOSTILE],
    ],
    ids=lambda words: words[0] if words[0] != HOSTILE else "command",
)
def test_what_was_typed_steers_no_terminal(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert not set(HOSTILE) - set("]0;owned[2Jgnp.exe") & set(captured.err)
    if words[0] in ("report", "import-hf"):
        return  # they print no JSON
    assert main([*words, "--json"]) == 2
    captured = capsys.readouterr()
    assert "\\" in json.dumps(json.loads(captured.out)["errors"])
    assert captured.out.isascii()


@pytest.fixture
def steering(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a command that prints what a file may hold."""

    def shout() -> None:
        """Print. Example: energylens shout"""
        from energylens.common.format import table

        print(f"name: {HOSTILE}")
        print(table(["name", "set"], [[f"two\nlines{HOSTILE}", True], ["plain", False]]))
        print(HOSTILE, file=sys.stderr)

    monkeypatch.setitem(app.commands, "shout", Command("energylens shout", shout))
    yield


@pytest.mark.usefixtures("steering")
def test_what_files_hold_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shout"]) == 0
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert r"\x1b]0;owned\x07\x1b[2J\u202egnp.\u2066exe\x9b\rx" in text
        assert "\x1b" not in text
    assert captured.out.count("\n") == 5
    assert r"two\nlines" in captured.out
    assert captured.out.splitlines()[-1].split() == ["plain", "off"]


def test_documents_stay_as_they_are_but_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, shown in ((io.StringIO(), "a\u202eb\n"), (Terminal(), "a\\u202eb\n")):
        output.Guard(stream, True).document("a\u202eb\n")
        assert stream.getvalue() == shown
    assert output.escaped("a\tb\nπ · é 日本\xa0", "utf-8") == "a\tb\nπ · é 日本\xa0"
    assert output.escaped("π", "latin-1") == "\\u03c0"


def test_long_lists_of_problems_are_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Problem(f"fault {i}") for i in range(MOST_LISTED + 5)]

    def fail() -> None:
        """Fail. Example: energylens fail"""
        raise EnergylensError(many)

    monkeypatch.setitem(app.commands, "fail", Command("energylens fail", fail))
    assert main(["fail"]) == 2
    assert "--json" not in capsys.readouterr().err
    with pytest.raises(EnergylensError) as raised:
        fail()
    text = raised.value.render()
    assert text.count("error: ") == 50
    assert text.endswith(f"... and {MOST_LISTED - 45:,} more problems")
    told = raised.value.as_dict()
    assert (len(told["errors"]), told["more"]) == (MOST_LISTED, 5)  # type: ignore[arg-type]
    assert EnergylensError(many[:50]).as_dict() == {"errors": [problem.as_dict() for problem in many[:50]]}


def test_breaking_off_between_files_says_which_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from energylens.common import parquet_file

    first: list[Path] = []
    real = parquet_file.write_file

    def stopped(path: Path, data: bytes) -> Path:
        if first:
            raise KeyboardInterrupt
        first.append(path)
        return real(path, data)

    monkeypatch.setattr(parquet_file, "write_file", stopped)
    assert main(["schema", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == f"interrupted; written before that: `{first[0]}`\n"
    assert [path.name for path in tmp_path.iterdir()] == [first[0].name]


@FULL
def test_a_profile_that_cannot_be_written_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(__file__).parent.parent / "data" / "hf" / "qwen3-8b.json"
    assert main(["import-hf", str(config), "--out", "/dev/full/x.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot ")
    profile = ProfileFile(bundled("hardware")["h100-sxm"])
    with pytest.raises(EnergylensError, match=r"cannot write `/dev/full/x\.yaml`"):
        profile.write(Path("/dev/full/x.yaml"))


@pytest.mark.parametrize("to", ["vllm", "sglang", "trtllm", "dynamo"])
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("--x", "`--x` would be read as an option, not as the name of weights"),
        ("-rf", "`-rf` would be read as an option"),
        ("", "the name of the weights is empty"),
        ("a\nb", "characters that cannot be printed: `a\\nb`"),
        ("a\x1b[2J", "characters that cannot be printed"),
        ("a\u202eb", "characters that cannot be printed"),
    ],
    ids=["option", "dash", "empty", "lines", "escape", "bidi"],
)
def test_names_of_weights_that_a_server_would_misread_are_refused(
    name: str, fault: str, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "llama-3.1-8b; gpu=h100-sxm", "--to", to, f"--model={name}"]) == 2
    assert fault in capsys.readouterr().err
    draft = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "draft": name or " ", "draft_tokens": 2}
    from energylens import export

    with pytest.raises(EnergylensError, match="weights"):
        export(draft, to)


@pytest.mark.parametrize("name", ["./--x", 'meta llama\'s $(id) `id` ; rm -rf ~ "q" é', "a'b"])
def test_names_of_weights_are_one_word_of_a_script(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "llama-3.1-8b; gpu=h100-sxm", "--model", name]) == 0
    script = capsys.readouterr().out.replace("exec vllm", "printf '%s\\n'")
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().splitlines()[:2] == ["serve", name]
