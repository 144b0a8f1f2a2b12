"""The command line: JSON, files, exit codes, interruption, and a quick start."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from energylens.cli import main
from energylens.cli.app import app
from energylens.cli.command import App, Command
from energylens.common.parquet_file import read_parquet
from energylens.common.progress import progress
from energylens.engine.result_columns import RESULTS
from energylens.inputs.axes import POINT_DEFAULTS

PREDICT = ["predict", "llama-3.1-70b", "--gpu", "h100-sxm", "--tp", "4", "--batch", "64"]
SIZES = ["--prompt-tokens", "512", "--output-tokens", "256"]


def test_predict_json_has_all_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PREDICT, *SIZES, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {*POINT_DEFAULTS, *RESULTS, "feasible", "reason", "energy_by_cause_j", "kernels", "trust"} <= set(data)
    assert sum(data["energy_by_cause_j"]["decode"].values()) == pytest.approx(data["energy_decode_j"])
    assert data["plan_sha256"]


def test_predict_writes_a_parquet_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "one.parquet"
    assert main([*PREDICT, "--out", str(out)]) == 0
    assert read_parquet(out)[0]["tpot_s"][0] > 0
    assert "wrote" in capsys.readouterr().err


def test_demo_prints_a_front_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "front.parquet"
    assert main(["demo", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("least energy within ttft_s <= 10, tpot_s <= 0.05, gpus <= 8: ")
    match = re.search(r"exhaustive: ([\d,]+) configurations", printed)
    assert match and int(match[1].replace(",", "")) >= 10_000
    assert "trust: " in printed
    frame, _ = read_parquet(out)
    assert frame.height > 10
    assert (frame["tpot_s"] <= 0.05).all()


def test_explore_json_and_nothing_written_on_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "front.parquet"
    assert main(["explore", "llama-3.1-8b", "--slo", "tpot=20ms", "--json", "--out", str(out)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["points"] == 80
    assert data["front"][0]["feasible"]
    assert main(["explore", "llama-3.1-8b", "--slo", "tpot=1us", "--json", "--out", str(tmp_path / "no.parquet")]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["errors"][0]["code"] == "limits"
    assert captured.err.startswith("error: no configuration")
    assert [path.name for path in tmp_path.iterdir()] == ["front.parquet"]


def test_search_finds_a_front(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "qwen3-30b-a3b", "--tp", "1:8", "--batch", "1:64", "--generations", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "exhaustive"
    assert main(["search", "qwen3-30b-a3b", "--tp", "1:8", "--method", "pymoo", "--generations", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "pymoo nsga2"


def test_explore_keeps_more_than_the_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reductions = ["--top", "3", "--best-per", "tp", "--distribution", "tpot_s", "--epsilon", "0.05"]
    assert main(["explore", "llama-3.1-8b", *reductions, "--out", str(tmp_path / "front.parquet")]) == 0
    printed = capsys.readouterr().out
    assert "best of each group:" in printed
    assert "quantiles, to within 1/128:" in printed
    names = ["front.best_per.parquet", "front.distributions.parquet", "front.parquet", "front.top.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert main(["explore", "llama-3.1-8b", "--best-per", "tq"]) == 2
    assert "unknown axis `tq` in `best_per`" in capsys.readouterr().err


def test_lists_and_shows(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["models"],
        ["gpus"],
        ["gpus", "b200"],
        ["show", "deepseek-v3"],
        ["show", "deepseek-v3", "--explain"],
    ):
        assert main(arguments) == 0
        assert capsys.readouterr().out
        if "--explain" not in arguments:
            assert main([*arguments, "--json"]) == 0
            assert json.loads(capsys.readouterr().out)


def test_import_hf_writes_a_spec_that_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(__file__).parent / "data" / "hf" / "qwen3-8b.json"
    out = tmp_path / "mine.yaml"
    assert main(["import-hf", str(config), "--name", "mine", "--out", str(out)]) == 0
    assert "8.19" in capsys.readouterr().err
    assert main(["predict", str(out), "--batch", "4"]) == 0


def test_import_hf_refuses_kindly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"architectures": ["MambaForCausalLM"], "model_type": "mamba"}')
    assert main(["import-hf", str(config), "--out", str(tmp_path / "no.yaml")]) == 2
    assert "MambaForCausalLM" in capsys.readouterr().err
    config.write_text("{")
    assert main(["import-hf", str(config)]) == 2
    assert "is not JSON" in capsys.readouterr().err
    config.write_text("[]")
    assert main(["import-hf", str(config)]) == 2
    assert main(["import-hf", str(tmp_path / "absent.json")]) == 2
    assert not (tmp_path / "no.yaml").exists()


def commands(group: App, words: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Command]]:
    listed: list[tuple[tuple[str, ...], Command]] = []
    for name, entry in group.commands.items():
        listed += commands(entry, (*words, name)) if isinstance(entry, App) else [((*words, name), entry)]
    return listed


with contextlib.redirect_stdout(io.StringIO()):
    main(["--version"])  # registers every command


@pytest.mark.parametrize(
    ("words", "command"), commands(app), ids=lambda part: " ".join(part) if type(part) is tuple else ""
)
def test_every_help_has_an_example_that_can_be_read(
    words: tuple[str, ...], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Example: energylens {' '.join(words)}" in printed
    example = shlex.split(" ".join(command.help.split()).partition("Example: energylens ")[2])
    ran: list[object] = []
    Command(command.path, functools.wraps(command.run)(lambda *args, **named: ran.append((args, named))))(
        example[len(words) :]
    )
    assert ran
    for option in command.options:
        assert option.help, option.shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("predikt", "unknown command `predikt`\nhint: did you mean `predict`?"),
        ("--verison", "unknown option `--verison`"),
        ("predict llama-3.1-8b --tq 2", "unknown option `--tq`\nhint: did you mean `--tp`?"),
        ("predict llama-3.1-8b --tp", "`--tp` needs a value"),
        ("predict llama-3.1-8b --tp 2 --tp 4", "`--tp` is given twice"),
        ("predict llama-3.1-8b --batch 2.5", "`--batch` needs a whole number, found `2.5`"),
        ("predict", "`MODEL` is missing"),
        ("predict llama-3.1-8b llama-3.1-70b", "unexpected argument `llama-3.1-70b`"),
        ("sweep llama-70b-decode", "`--out` is missing"),
        ("advise batches", "unknown command `batches`"),
        ("serve-plan llama-3.1-8b --workload chat --rate fast", "`--rate` needs a number, found `fast`"),
    ],
)
def test_a_wrong_line_is_an_error(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}")
    assert "hint: " in captured.err
    assert main([*line.split(), "--json"]) == 2
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert "command-line" in {error["code"] for error in errors}


def test_all_mistakes_of_a_line_are_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--tp", "2", "--tp", "4", "--batch", "many", "--nonsense"]) == 2
    assert capsys.readouterr().err.count("error: ") == 4


def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("energylens.common.progress._PATIENCE_S", 0.0)
    monkeypatch.setattr("energylens.common.progress._EVERY_S", 0.0)
    with progress("exploring", 10, True) as advance:
        advance(5)
    assert not terminal.getvalue()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    with progress("exploring", 10, True) as advance:
        advance(5)
    assert "5 of 10" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("energylens 0.")


def test_ctrl_c_stops_within_a_second() -> None:
    space = ["--tp", "1:32", "--pp", "1:32", "--batch", "1:2000", "--prompt-tokens", "1:4000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "energylens", "explore", "llama-3.1-70b", *space],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # At work, however slowly it started: beyond what its imports take.
    stat = Path(f"/proc/{process.pid}/stat")
    for _ in range(300 if stat.exists() else 50):
        time.sleep(0.1)
        used = stat.read_text(encoding="utf-8").rpartition(")")[2].split()[11:13] if stat.exists() else []
        if sum(map(int, used)) > 4 * os.sysconf("SC_CLK_TCK"):
            break
    assert process.poll() is None, process.communicate()
    start_s = time.perf_counter()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert time.perf_counter() - start_s < 1.5
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "interrupted; nothing was written" in err


def test_importing_is_light() -> None:
    heavy = "('polars', 'numpy', 'pymoo', 'pydantic', 'ruamel')"
    code = f"import sys, energylens; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
