"""Help as lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence


def sentence(text: str) -> str:
    """Return the first paragraph of a docstring as one line."""
    return " ".join(text.split("\n\n")[0].split())


def filled(text: str, width: int) -> list[str]:
    """Return a text in lines of a width."""
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def columns(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Return names with their explanations beside them."""
    left = min(max(len(name) for name, _ in rows), 34) + 4
    lines = []
    for name, explanation in rows:
        wrapped = textwrap.wrap(explanation, max(30, width - left), break_on_hyphens=False) or [""]
        first = f"  {name}".ljust(left)
        if len(first) > left:
            lines.append(first)
            first = " " * left
        lines += [first + wrapped[0], *(" " * left + line for line in wrapped[1:])]
    return lines
