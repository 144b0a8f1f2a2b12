"""Which files were put in place: what a message says that stays where something was broken off or failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from energylens.common.files import printable

_MOST_NAMED: Final = 4

_files: list[Path] = []
_count = 0
_depth = 0


@contextmanager
def recorded() -> Iterator[None]:
    """Remember the files that are written within, for `words`; an inner one goes on with the record of the outer."""
    global _count, _depth
    if _depth == 0:
        _files.clear()
        _count = 0
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def record(path: Path) -> None:
    """Remember a file that has its name, within `recorded`."""
    global _count
    if _depth == 0 or path in _files:
        return
    _count += 1
    if len(_files) < _MOST_NAMED:
        _files.append(path)


def words() -> str:
    """Return what was written: `nothing was written`, or the files that stay."""
    if _depth == 0 or _count == 0:
        return "nothing was written"
    names = ", ".join(f"`{printable(str(path))}`" for path in _files)
    more = f" and {_count - len(_files):,} more" if _count > len(_files) else ""
    return f"these were written before, whole: {names}{more}"
