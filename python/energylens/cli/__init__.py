"""The command line: the same words as the Python API."""

from __future__ import annotations

import os
import sys

from energylens.common.written import recorded, so_far

__all__ = ["main"]


@recorded()
def main(argv: list[str] | None = None) -> int:
    """Run a command; a user's mistake is a message on stderr and exit code 2, never a traceback."""
    from energylens.cli.app import run

    try:
        code = run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt as stop:
        print(str(stop) or f"interrupted; {so_far()}", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except Exception as error:
        if os.environ.get("ENERGYLENS_TRACEBACK"):
            raise
        print(f"error: internal error, {type(error).__name__}: {error}", file=sys.stderr)
        print("hint: this is a bug; ENERGYLENS_TRACEBACK=1 shows where", file=sys.stderr)
        code = 70
    if argv is None:
        raise SystemExit(code)
    return code
