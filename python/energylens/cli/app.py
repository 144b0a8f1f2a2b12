"""The root of the command line, and how mistakes are told."""

from __future__ import annotations

import json
import sys
from typing import Any

from energylens import _core
from energylens.cli.command import App
from energylens.common.errors import EnergylensError


def _version() -> str:
    return f"energylens {_core.__version__}" + (" (debug build)" if _core.DEBUG_BUILD else "")


app = App(
    name="energylens",
    help="Which way of serving a language model costs the fewest joules within its latency limits.",
    version=_version,
)


def run(argv: list[str]) -> int:
    """Parse and run; return the exit code: 0 done, 2 a mistake in what was given."""
    from energylens.cli import (  # noqa: F401  (each registers its commands)
        advise,
        calibrate,
        collectives,
        compare,
        explore,
        export,
        library,
        measure,
        predict,
        report,
        routing,
        schema,
        service,
        split,
        sweep,
        validate,
    )

    try:
        app(argv)
    except EnergylensError as error:
        print(error.render(), file=sys.stderr)
        if "--json" in argv:
            emit(error.as_dict())
        return 2
    return 0


def emit(data: Any) -> None:
    """Print JSON."""
    print(json.dumps(data, indent=2, allow_nan=False, default=str))
