"""The root of the command line, which commands register with, and JSON output."""

from __future__ import annotations

import json
from typing import Any

from energylens import _core
from energylens.cli.command import App


def _version() -> str:
    return f"energylens {_core.__version__}" + (" (debug build)" if _core.DEBUG_BUILD else "")


app = App(
    name="energylens",
    help="Which way of serving a language model costs the fewest joules within its latency limits.",
    version=_version,
)


def emit(data: Any) -> None:
    """Print JSON."""
    print(json.dumps(data, indent=2, allow_nan=False, default=str))
