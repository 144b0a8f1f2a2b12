"""Progress on standard error, on a terminal, for work over two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PATIENCE_S = 2.0
_EVERY_S = 0.2
_WIDTH = 30


@contextmanager
def progress(what: str, total: int, wanted: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told of steps done; nothing is shown before two seconds or off a terminal."""
    if not wanted or not sys.stderr.isatty():
        yield lambda _done: None
        return
    # On the command line standard error escapes control characters; the bar needs its own.
    put = getattr(sys.stderr, "put", sys.stderr.write)
    started = time.perf_counter()
    done, shown_at, widest = 0, started + _PATIENCE_S - _EVERY_S, 0

    def advance(steps: int) -> None:
        nonlocal done, shown_at, widest
        done += steps
        now = time.perf_counter()
        if now - shown_at >= _EVERY_S:
            line = bar(what, done, total, now - started)
            widest, shown_at = max(widest, len(line)), now
            put(f"\r{line.ljust(widest)}")
            sys.stderr.flush()

    try:
        yield advance
    finally:
        if widest:
            put(f"\r{' ' * widest}\r")
            sys.stderr.flush()


def bar(what: str, done: int, total: int, elapsed_s: float) -> str:
    """Return how far work is, and about how long the rest takes."""
    share = min(1.0, done / max(total, 1))
    filled = round(share * _WIDTH)
    left = f", {elapsed_s * (1 - share) / share:,.0f} s left" if share > 0 else ""
    return f"{what} [{'#' * filled}{'.' * (_WIDTH - filled)}] {done:,} of {total:,}{left}"
