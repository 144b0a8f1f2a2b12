"""The command line: the same words as the Python API."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from energylens.cli.output import Guard

__all__ = ["main"]

_COLLECTED_AFTER = 50_000
"""New objects after which the interpreter looks for garbage."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; a user's mistake is a message on stderr and exit code 2, never a traceback.

    Exit codes are those of docs/reference/exit-codes.md. Without `argv` the words are those of the process, which ends.
    """
    from energylens.cli import output

    if argv is None:
        # Nothing that imports make is garbage: collecting while they run costs a tenth of a short command's time.
        gc.set_threshold(_COLLECTED_AFTER)
        output.open_descriptors()
    with output.guarded() as (out, err):
        code = _finished(sys.argv[1:] if argv is None else argv, out)
        err.flush()
    if argv is None:
        output.discard()
        # The system takes back all memory at once: without this the interpreter first looks through it for garbage.
        gc.freeze()
        raise SystemExit(code)
    return code


def _finished(words: list[str], out: Guard) -> int:
    """Run a command and hand over what it printed; return the exit code."""
    from energylens.cli.commands import run
    from energylens.cli.output import FAILED, OutputError, ReaderGoneError
    from energylens.common.written import recorded, so_far

    with recorded():
        try:
            code = run(words)
            out.flush()
        except KeyboardInterrupt as stop:
            print(str(stop) or f"interrupted; {so_far()}", file=sys.stderr)
            return 130
        except ReaderGoneError:
            return 0
        except OutputError as error:
            print(f"error: cannot write to standard output: {error.strerror}", file=sys.stderr)
            print(f"hint: the answer is not whole; {so_far()}", file=sys.stderr)
            return FAILED
        except Exception as error:
            if os.environ.get("ENERGYLENS_TRACEBACK"):
                raise
            print(f"error: internal error, {type(error).__name__}: {error}", file=sys.stderr)
            print("hint: this is a bug; ENERGYLENS_TRACEBACK=1 shows where", file=sys.stderr)
            return 70
        return code
