"""One budget of memory for everything whose size is decided by what a person gives."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from energylens.common.errors import EnergylensError, Problem

VARIABLE: Final = "ENERGYLENS_MEMORY"

_DEFAULT_SHARE: Final = 0.5
"""Share of the machine's memory that is used where nothing else is said: the other half is the caller's."""

_UNITS: Final = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30}
_FALLBACK_BYTES: Final = 4 * 10**9
_LEAST_BYTES: Final = 64 * 10**6


class MemoryBudgetError(EnergylensError, MemoryError):
    """Something would need more memory than the budget allows; nothing of it was begun."""


def budget_bytes() -> int:
    """Return how many bytes may be used: `ENERGYLENS_MEMORY` (`8GB`, `2GiB`, `50%`), or half of the machine's memory.

    The machine's memory is that of its control group, or of its address-space limit, where those are smaller. Raises
    `EnergylensError` if the variable cannot be read.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return int(machine_bytes() * _DEFAULT_SHARE)
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{0,9})?)\s*(%|[kmgt]?i?)b?", text.lower())
    share = match is not None and match[2] == "%"
    value = 0.0
    if match is not None and (share or match[2] in _UNITS):
        value = float(match[1]) * (machine_bytes() / 100.0 if share else _UNITS[match[2]])
    if value < _LEAST_BYTES:
        hint = f"write bytes or a share, as in {VARIABLE}=8GB or {VARIABLE}=50%; at least 64MB"
        raise EnergylensError(Problem(f"cannot read {VARIABLE}, found `{text[:40]}`", hint=hint, code="memory"))
    return int(value)


def require_bytes(needed: float, purpose: str, hint: str | None = None) -> None:
    """Raise `MemoryBudgetError` if `needed` bytes are beyond the budget.

    Parameters
    ----------
    needed
        Bytes that would be used, counted before any of them is.
    purpose
        What for, as the start of the message: "the trace `a.parquet` with 100,000,000 requests".
    hint
        What to do besides raising the budget.
    """
    budget = budget_bytes()
    if needed > budget:
        message = f"{purpose} would need {shown_bytes(needed)} of memory, and the budget is {shown_bytes(budget)}"
        raising = f"set {VARIABLE}={needed / 1e9 * 1.1:.0f}GB if this machine has that much"
        raise MemoryBudgetError(Problem(message, hint=f"{hint}; or {raising}" if hint else raising, code="memory"))


def shown_bytes(count: float) -> str:
    """Return a number of bytes in the unit that suits it."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.3g} {unit}"
    return f"{count / 1e3:,.3g} kB"


def machine_bytes() -> int:
    """Return the memory of this machine, or of the control group or limit that the process runs under."""
    limits = [_physical()]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(file).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft)
    except (ImportError, OSError, ValueError):
        pass
    return min(limit for limit in limits if limit > 0)


def _physical() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return _FALLBACK_BYTES
