"""Every point of a space, reduced to its front in the core."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from energylens import _core
from energylens.errors import Problem, SpaceError
from energylens.evaluation import checked_threads
from energylens.progress import progress
from energylens.result import Result, front_result
from energylens.space import Space

_FIRST_CHUNK = 1 << 15
_SECONDS_A_CHUNK = 0.25

MOST_POINTS = 10**10
"""Largest space that is explored point by point; it takes some twenty minutes on two cores."""


def explore(
    space: Space | None = None, *, threads: int | None = None, show_progress: bool = False, **axes: Any
) -> Result:
    """Return the exact front of a space by evaluating every point.

    Give a `Space`, or its fields: `explore(models="llama-3.1-70b", gpus=["h100-sxm", "b200"], limits=["tpot<=50ms"])`.
    The core is called for a quarter of a second at a time, so that Ctrl-C is heard. Raises `SpecError` or `SpaceError`.
    """
    space = Space(**axes) if space is None else replace(space, **axes) if axes else space
    threads = checked_threads(threads)
    if space.size > MOST_POINTS:
        hint = "use `search`, or fewer values"
        raise SpaceError(
            Problem(f"{space.size:,} points are too many to evaluate one by one", hint=hint, code="too-large")
        )
    core, text = space.plan.core, space.json
    objectives, bounds = space.signed_objectives, space.bounds
    indices: list[int] = []
    values: list[list[float]] = []
    counts = np.zeros(len(_core.REASONS), dtype=np.int64)
    outside, lo, chunk = 0, 0, _FIRST_CHUNK
    started = time.perf_counter()
    with progress("exploring", space.size, show_progress) as advance:
        while lo < space.size:
            hi = min(lo + chunk, space.size)
            before = time.perf_counter()
            found, rows, by_reason, beyond = core.front(text, lo, hi, objectives, bounds, threads)
            elapsed = time.perf_counter() - before
            indices += found.tolist()
            values += rows
            kept = _core.non_dominated(values)
            indices, values = [indices[i] for i in kept], [values[i] for i in kept]
            counts += np.asarray(by_reason)
            outside += beyond
            advance(hi - lo)
            lo = hi
            chunk = int(min(max(chunk * _SECONDS_A_CHUNK / max(elapsed, 1e-3), 1 << 12), 4 * chunk))
    seconds = time.perf_counter() - started
    by_reason_named = {name: int(n) for name, n in zip(_core.REASONS, counts, strict=True) if n}
    return front_result(
        space,
        np.asarray(sorted(indices), dtype=np.uint64),
        "exhaustive",
        space.size,
        by_reason_named,
        outside,
        seconds,
        threads,
    )
