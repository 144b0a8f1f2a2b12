"""The command line: the same words as the Python API."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run a command; a user's mistake is a message on stderr and exit code 2, never a traceback."""
    from energylens.cli.app import run

    try:
        code = run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    if argv is None:
        raise SystemExit(code)
    return code
