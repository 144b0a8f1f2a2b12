"""Whether frames can be worked with in this process: Polars' threads do not follow a fork."""

from __future__ import annotations

import os

from energylens.common.errors import EnergylensError, Problem

_first_process: int | None = None
"""Process in which a call that works with frames was made first."""


def check_process() -> None:
    """Raise `EnergylensError` in a forked process whose parent has worked with frames: a call there would never end.

    Polars keeps a pool of threads from its first use on. A process made by `fork` has the pool, but none of its
    threads (https://docs.pola.rs/user-guide/misc/multiprocessing/).
    """
    global _first_process
    here = os.getpid()
    if _first_process is None:
        _first_process = here
    if _first_process != here:
        message = "this process was forked from one that had used energylens: the threads of Polars do not exist in it"
        hint = 'use another start method: multiprocessing.get_context("spawn") or "forkserver"'
        raise EnergylensError(Problem(message, hint=hint, code="fork"))
