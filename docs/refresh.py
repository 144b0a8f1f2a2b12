"""Pages that are written by scripts: write them anew, or say that they are out of date."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def update(pages: Mapping[Path, str], script: str) -> int:
    """Write the pages that changed, or with `--check` name them; return the exit code."""
    out_of_date = 0
    for page, after in pages.items():
        before = page.read_text(encoding="utf-8") if page.exists() else ""
        if before != after and "--check" in sys.argv[1:]:
            print(f"{page} is out of date: run python docs/{script}")
            out_of_date = 1
        elif before != after:
            page.parent.mkdir(exist_ok=True)
            page.write_text(after, encoding="utf-8")
    return out_of_date


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])
