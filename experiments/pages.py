"""What the experiments' pages share: tables, sentences that must stay true, results kept and compared."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from polars.testing import assert_frame_equal


def must(holds: object, sentence: str) -> None:
    """Stop if a sentence of template.md is no longer true."""
    if not holds:
        sys.exit(f"no longer true: {sentence}")


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def settled(folder: Path, readme: str, tables: Mapping[str, pl.DataFrame], check: bool) -> bool:
    """Write README.md and the tables as CSV, six digits each; with `check`, stop unless they are written already.

    Returns whether pictures are to be drawn.
    """
    for name, table in tables.items():
        retained = table.with_columns(pl.col(pl.Float64).round_sig_figs(6))
        if check:
            assert_frame_equal(pl.read_csv(folder / f"{name}.csv"), retained, check_dtypes=False, rel_tol=1e-5)
        else:
            retained.write_csv(folder / f"{name}.csv")
    if check:
        must((folder / "README.md").read_text(encoding="utf-8") == readme, "README.md is what a fresh run writes")
        print("the committed results equal a fresh run")
    else:
        (folder / "README.md").write_text(readme, encoding="utf-8")
    return not check


def rounded(node: Any, number: Callable[[float], float | None]) -> Any:
    """Return plain data with every float as `number` has it."""
    if isinstance(node, dict):
        return {key: rounded(value, number) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [rounded(value, number) for value in node]
    return number(node) if isinstance(node, float) else node


def differences(old: Any, new: Any, close: Callable[[float, float], bool], path: str = "") -> list[str]:
    """Return where two results differ, numbers that are not close among them."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return [line for key in old for line in differences(old[key], new[key], close, f"{path}/{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        both = enumerate(zip(old, new, strict=True))
        return [line for i, (a, b) in both for line in differences(a, b, close, f"{path}/{i}")]
    number = (int, float)
    same = old == new or (isinstance(old, number) and isinstance(new, number) and close(old, new))
    return [] if same else [f"{path}: committed {old!r}, now {new!r}"]
