"""The README's commands and examples run, and print what it shows."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from math import ceil
from pathlib import Path

import pytest

from energylens.cli import main
from energylens.inputs.library import load_gpu

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_demo_evaluates_as_many_points_as_the_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["demo"]) == 0
    (count,) = re.findall(r"explores ([\d,]+) configurations", README)
    assert f"exhaustive: {count} configurations" in out.getvalue()
    assert (tmp_path / "out" / "demo" / "front.parquet").exists()


def test_the_commands_run_and_the_first_prints_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 4
    outputs = []
    for command in commands:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main(shlex.split(command)[1:]) == 0, command
        outputs.append([line.rstrip() for line in out.getvalue().splitlines()])
    (_, shown) = blocks("text")
    for line in shown.splitlines():
        assert line in ("...", "") or line in outputs[0], line
    assert {"front.parquet", "report.html"} <= {path.name for path in tmp_path.iterdir()}


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(code, {})
    assert (tmp_path / "front.parquet").exists()


def test_figures_are_those_of_the_experiments() -> None:
    folder = ROOT / "experiments"
    page = (ROOT / "docs" / "how-to" / "plan-a-service.md").read_text(encoding="utf-8")
    advisor = (folder / "008-batch-advisor" / "README.md").read_text(encoding="utf-8")
    (near, wrong), *_ = re.findall(r"in (\d+ of \d+) cases, and joules per token are (\d+) % wrong", advisor)
    assert f"in {near} cases" in " ".join(page.split())
    assert f"joules per token are {wrong} % off" in page
    rows = json.loads((folder / "012-steady-state" / "results.json").read_text(encoding="utf-8"))["rows"]
    apart = max(abs(row["energy_per_output_token_j_error_percent"]) for row in rows)
    assert f"Joules of both agree within {ceil(apart)} %" in page
    tails = sorted(abs(row["ttft_p90_s_error_percent"]) for row in rows)
    middle = (tails[len(tails) // 2 - 1] + tails[len(tails) // 2]) / 2
    assert f"P90 TTFT within {middle:.0f} % in the median and {tails[-1]:.0f} % at worst" in page


def test_the_data_sheet_example_loads(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    (tmp_path / "my-gpu.yaml").write_text(text, encoding="utf-8")
    assert load_gpu(tmp_path / "my-gpu.yaml").trust == "modelled"


@pytest.mark.parametrize(
    "page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments/README.md"]
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_the_tables_of_the_calibration_page_are_current() -> None:
    script = ROOT / "docs" / "write_tables.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
