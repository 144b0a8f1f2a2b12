"""Which files a command has written so far, so that what it says when it stops is true."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_SHOWN: Final = 3
_files: list[str] | None = None


@contextmanager
def recorded() -> Iterator[None]:
    """Take note of files while a command runs."""
    global _files
    before, _files = _files, []
    try:
        yield
    finally:
        _files = before


def note(path: Path) -> None:
    """Take note of a file that is in place."""
    if _files is not None and str(path) not in _files:
        _files.append(str(path))


def so_far() -> str:
    """Return in words what the command has written."""
    if not _files:
        return "nothing was written"
    names = ", ".join(f"`{name}`" for name in _files[:_SHOWN])
    more = f" and {len(_files) - _SHOWN:,} more" if len(_files) > _SHOWN else ""
    return f"written before that: {names}{more}"
