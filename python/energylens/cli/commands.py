"""The registry of commands: which module holds each, so that a command line imports no command but its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from energylens.cli.app import app, emit
from energylens.common.errors import EnergylensError

MODULES: Final = {
    "advise": "advise",
    "calibrate": "calibrate",
    "collectives": "collectives",
    "compare": "compare",
    "demo": "explore",
    "explore": "explore",
    "export": "export",
    "gpus": "library",
    "import-hf": "library",
    "measure": "measure",
    "merge": "sweep",
    "models": "library",
    "predict": "predict",
    "replay": "service",
    "report": "report",
    "routing": "routing",
    "schema": "schema",
    "search": "explore",
    "serve-plan": "service",
    "serve-pools": "service",
    "show": "library",
    "split": "split",
    "status": "sweep",
    "sweep": "sweep",
    "validate": "validate",
    "workloads": "service",
}
"""Module of each command in `energylens.cli`; importing it registers the command."""


def run(words: Sequence[str]) -> int:
    """Parse and run; return the exit code: 0 done, 2 a mistake in what was given."""
    register(words[0] if words else "")
    try:
        app(words)
    except EnergylensError as error:
        print(error.render(), file=sys.stderr)
        if "--json" in words:
            emit(error.as_dict())
        return 2
    return 0


def register(command: str = "") -> None:
    """Register a command; all of them where the name is none, so that help lists them and hints know them."""
    for module in sorted({MODULES[command]} if command in MODULES else set(MODULES.values())):
        import_module(f"energylens.cli.{module}")
