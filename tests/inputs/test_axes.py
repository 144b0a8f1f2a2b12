"""The table of axes: everything that knows an axis reads it there, and one more row is all that Python needs."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import energylens
from energylens import _core
from energylens.engine.space import Space
from energylens.inputs import axis_values
from energylens.inputs.axes import AXES, FIELDS, RUNNING
from energylens.inputs.schema import schema
from energylens.results.point import read_point
from energylens.sweeps.job import Job

PACKAGE = Path(energylens.__file__).parent

TABLE = "inputs/axes.py"

NAMED_FOR_A_REASON = {
    "calibrate/": "measured tables have columns of this name",
    "exports/": "each server has its own flag for an axis",
    "measurement/": "measured tables have columns of this name",
    "results/words.py": "reasons in words",
    "serving/caps.py": "caps are compared with watts",
    "serving/deployments.py": "caps are compared with watts",
    "serving/advice/levers.py": "what is worth changing next",
    "serving/step_table.py": "watts of a GPU that waits at a locked clock",
    "results/sensitivity.py": "what is worth changing next",
    "results/prediction.py": "why a configuration does not run, and how to fix it",
    "inputs/routing.py": "placements of experts have this name too",
    "engine/expert_loads.py": "a result column has this name",
    "cli/service.py": "options of a deployment are a selection",
    "cli/routing.py": "options of the command are a selection",
    "reports/subject.py": "the mesh in words",
    "reports/text/": "sentences",
    "inputs/axis_values.py": "a kind of values",
    "inputs/run_options.py": "a kind of values",
    "inputs/point.py": "a kind of values",
    "inputs/texts.py": "a kind of values",
    "sweeps/form.py": "a kind of values",
}
"""Files that name run options besides the table, and why: they do something with that one axis."""


def test_the_table_has_the_axes_of_the_core_in_its_order() -> None:
    assert list(AXES) == _core.AXES


@pytest.mark.parametrize("name", [name for name in RUNNING if name != "routing"])
def test_run_options_are_named_in_the_table_alone_but_for_a_reason(name: str) -> None:
    for path in PACKAGE.rglob("*.py"):
        file = path.relative_to(PACKAGE).as_posix()
        if file == TABLE or any(file.startswith(known) for known in NAMED_FOR_A_REASON):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_name = isinstance(node, ast.Constant) and node.value == name
            is_argument = isinstance(node, (ast.arg, ast.keyword)) and node.arg == name
            assert not is_name and not is_argument, f"{file}:{getattr(node, 'lineno', 0)} names the axis `{name}`"


@pytest.mark.parametrize("word", ["default", "own"])
def test_default_leaves_a_value_to_the_spec_and_older_files_say_own(word: str) -> None:
    nullable = [name for name, axis in AXES.items() if axis.nullable]
    assert nullable == [
        "weight_dtype", "kv_dtype", "overlap_stages", "sm_clock_mhz", "power_cap_w", "routing",
    ]  # fmt: skip
    assert all(axis_values.parse(word, name) == [None] for name in nullable)
    space = Space(models="llama-3.1-8b", gpus="h100-sxm", weight_dtype=f"{word},fp8", sm_clock_mhz=[word, 1200])
    assert (space.axes["weight_dtype"], space.axes["sm_clock_mhz"]) == ([None, "fp8"], [None, 1200])
    axes = {"models": "llama-3.1-8b", "gpus": "h100-sxm", "kv_dtype": word, "routing": [word]}
    assert Job({"name": "any", "space": axes}).space.axes["kv_dtype"] == [None]
    assert read_point(f"llama-3.1-8b; gpu=h100-sxm; weight_dtype={word}").row["weight_dtype"] is None


def test_schemas_and_units_come_from_the_table() -> None:
    point = schema("point")["properties"]
    sweep = schema("sweep")["$defs"]["SpaceForm"]["properties"]
    assert list(point)[: len(AXES)] == list(AXES)
    assert list(sweep)[: len(FIELDS)] == list(FIELDS)
    assert point["power_cap_w"]["anyOf"][0]["maximum"] == AXES["power_cap_w"].most
    assert all(axis.help in point[name]["description"] for name, axis in AXES.items())


ROW = """
    prefill_clock_mhz: Any = _axis(
        "count",
        "Locked SM clock of prefill in MHz",
        unset="the clock of decode",
        unit="MHz",
        most=10_000,
        run_option=True,
        label="prefill {} MHz",
    )
"""

USE = """
import polars as pl
from energylens import Space, evaluate
from energylens.cli import main
from energylens.common.errors import FrameError, SpaceError
from energylens.engine.result_columns import unit
from energylens.inputs.run_options import for_core, words
from energylens.inputs.schema import schema

point = {"model": ["llama-3.1-8b"], "gpu": ["h100-sxm"]}
assert evaluate(pl.DataFrame(point | {"prefill_clock_mhz": [1200]}))["prefill_clock_mhz"].to_list() == [1200]
for wrong, error in (
    (lambda: evaluate(pl.DataFrame(point | {"prefill_clock_mhz": [0]})), FrameError),
    (lambda: Space(models="llama-3.1-8b", gpus="h100-sxm", prefill_clock_mhz="default,20000").json, SpaceError),
):
    try:
        wrong()
    except error as caught:
        assert "10,000" in str(caught), caught
    else:
        raise AssertionError("bounds are not kept")
assert unit("prefill_clock_mhz") == "MHz"
assert words({"prefill_clock_mhz": 1200}) == ["prefill 1200 MHz"]
assert for_core({"prefill_clock_mhz": 1200})["prefill_clock_mhz"] == 1200
assert "prefill_clock_mhz" in schema("point")["properties"]
assert "prefill_clock_mhz" in schema("sweep")["$defs"]["SpaceForm"]["properties"]
for command in ("predict", "explore", "search"):
    main([command, "--help"])
"""


def test_a_row_of_the_table_is_all_that_python_needs(tmp_path: Path) -> None:
    package = tmp_path / "energylens"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    table = package / TABLE
    text = table.read_text(encoding="utf-8")
    before = "    power_cap_w: Any = _axis("
    assert before in text
    table.write_text(text.replace(before, f"{ROW.strip(chr(10))}\n{before}"), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--prefill-clock-mhz") == 3


def test_a_frame_with_every_axis_is_taken() -> None:
    point = {name: axis.default for name, axis in AXES.items()} | {"model": "llama-3.1-8b", "gpu": "h100-sxm"}
    frame = energylens.evaluate(pl.DataFrame([point], schema_overrides={"power_cap_w": pl.UInt32}))
    assert set(AXES) <= set(frame.columns)
