"""Committed results of every experiment are what a fresh run gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENTS = sorted((Path(__file__).parent.parent / "experiments").glob("[0-9]*/run.py"))


@pytest.mark.parametrize("script", EXPERIMENTS, ids=[script.parent.name for script in EXPERIMENTS])
def test_results_are_current(script: Path) -> None:
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_experiment_is_listed() -> None:
    index = (Path(__file__).parent.parent / "experiments" / "README.md").read_text(encoding="utf-8")
    assert EXPERIMENTS
    assert all(f"({script.parent.name}/README.md)" in index for script in EXPERIMENTS)
