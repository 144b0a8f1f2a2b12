"""What a command imports before it answers: help nothing heavy, a prediction of bundled specs no parser of YAML."""

import subprocess
import sys

import pytest

HEAVY = ("moocore", "numpy", "polars", "pydantic", "pymoo", "ruamel.yaml", "scipy")

SCRIPT = """
import sys
from energylens.cli import main
assert main(sys.argv[1].split()) == 0
print(*(name for name in sys.argv[2].split() if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("line", "without"),
    [
        ("--help", HEAVY),
        ("predict --help", HEAVY),
        ("serve-plan --help", HEAVY),
        ("--version", HEAVY),
        ("predict llama-3.1-8b", ("ruamel.yaml", "pymoo", "scipy", "altair")),
        ("gpus", ("ruamel.yaml", "pymoo", "scipy", "altair")),
    ],
)
def test_commands_import_what_they_need(line: str, without: tuple[str, ...]) -> None:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, line, " ".join(without)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stderr.split() == []
