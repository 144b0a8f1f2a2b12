"""Rooms of the package in the order of a journey, and imports that run one way: down the order, and in no ring."""

import ast
from importlib import import_module
from pathlib import Path

from energylens.cli import commands
from energylens.cli.app import app
from energylens.cli.command import App, Command
from rings import rings

PACKAGE = Path(__file__).parent.parent / "python/energylens"

ROOMS = (
    "common",
    "inputs",
    "engine",
    "results",
    "searches",
    "sweeps",
    "serving",
    "exports",
    "measurement",
    "calibrate",
    "reports",
    "cli",
)
"""A room imports itself and those before it."""

UPWARD: set[tuple[str, str]] = set()
"""Imports of files up the order, each with its reason; at most ten."""

MOST_TOP_LEVEL = 5


def modules() -> dict[str, Path]:
    """Return the files of the package by the name they are imported by."""
    files = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imports() -> dict[str, set[str]]:
    """Return which files each file imports, in functions and for type checkers too.

    The package's own names are left out: it imports all that is public, at first use.
    """
    files = modules()
    found: dict[str, set[str]] = {name: set() for name in files if name != "energylens"}
    for name in found:
        for node in ast.walk(ast.parse(files[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                members = (f"{node.module}.{alias.name}" for alias in node.names)
                targets = {member if member in files else node.module for member in members}
            elif isinstance(node, ast.Import):
                targets = {alias.name for alias in node.names}
            else:
                continue
            found[name] |= {target for target in targets if target in found and target != name}
    return found


def test_every_file_stands_in_a_room() -> None:
    top = {path.name for path in PACKAGE.glob("*.py")}
    assert len(top) <= MOST_TOP_LEVEL, top
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(ROOMS)


def test_imports_run_down_the_order_of_rooms() -> None:
    order = {room: place for place, room in enumerate(ROOMS)}

    def place(name: str) -> int:
        return order.get(name.split(".")[1], len(ROOMS))

    upward = {(name, to) for name, targets in imports().items() for to in targets if place(to) > place(name)}
    assert upward == UPWARD
    assert len(UPWARD) <= 10


def test_no_files_import_each_other_in_a_ring() -> None:
    example = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert [set(ring) for ring in rings(example)] == [{"b", "c"}]
    assert rings(imports()) == []


def test_the_registry_names_the_module_of_every_command() -> None:
    commands.register()
    found = {}
    for name, command in app.commands.items():
        inner = next(iter(command.commands.values())) if isinstance(command, App) else command
        assert isinstance(inner, Command)
        found[name] = inner.run.__module__.removeprefix("energylens.cli.")
    assert found == commands.MODULES


def test_every_view_of_a_result_is_there() -> None:
    from energylens.common import views

    for functions in views._VIEWS.values():
        for module, function in functions.values():
            assert callable(getattr(import_module(f"energylens.reports.{module}"), function))
