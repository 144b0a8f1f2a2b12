"""How tokens choose experts, and which GPU holds which: the words for both, and counts measured by people."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from energylens.common.errors import Problem, SpecError, did_you_mean
from energylens.common.files import printable
from energylens.common.show import value_or_kind

DEFAULT: Final = "dirichlet:0.35"
"""Law of a spec that gives none (docs/physics.md, section 6).

Under it serving runs of mixtures of experts on H100, each model left out in turn, are predicted best of the laws that
experiments/006-moe-imbalance tries, with what is reported of experts hit.
"""

LAWS: Final[Mapping[str, tuple[str, float, float] | None]] = {
    "uniform": None,
    "balanced": None,
    "dirichlet": ("shape", 1e-3, 1e6),
    "zipf": ("exponent", 0.0, 10.0),
    "power_law": ("exponent", 0.0, 10.0),
}
"""Laws with the name of their number, its least and its greatest value."""

_MOST_COPIES: Final = 4096
_COPIES: Final = re.compile("0{0,9}[0-9]{1,4}")
MOST_EXPERTS: Final = 65_536
"""Most experts of a routed rank."""
_MOST_TOKENS: Final = 2**53
_WORDS: Final = "uniform, balanced, dirichlet:0.8, zipf:0.5, power_law:1.2 or counts:FILE"


@dataclass(frozen=True)
class Law:
    """A law of routing: its name as given, and what the core takes."""

    text: str
    law: str
    value: float | tuple[tuple[float, ...], ...] | None = None

    def canonical(self) -> dict[str, Any]:
        """Return the law as the plan holds it."""
        known = {"law": self.law}
        return known if self.value is None else known | {"value": self.value}


def problem(text: object) -> Problem | None:
    """Return what is wrong with the word for a law, files apart."""
    if not isinstance(text, str):
        return Problem(f"`{value_or_kind(text)}` is no law of routing", hint=f"write {_WORDS}", code="routing")
    name, colon, number = text.partition(":")
    if name == "counts" and number:
        return None
    if name not in (*LAWS, "counts"):
        hint = did_you_mean(name.lower(), LAWS) or f"write {_WORDS}"
        return Problem(f"`{value_or_kind(text)}` is no law of routing", hint=hint, code="routing")
    if name == "counts":
        return Problem("`counts` of which file?", hint="write counts:FILE", code="routing")
    bounds = LAWS[name]
    if bounds is None:
        wrong = f"`{name}` takes no number" if colon else None
        return Problem(wrong, hint=f"write {name}", code="routing") if wrong else None
    what, least, most = bounds
    try:
        value = math.nan if "_" in number else float(number)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        hint = f"give its {what}, from {least:g} to {most:g}, as in {name}:0.8"
        return Problem(f"cannot read the {what} of `{value_or_kind(text)}`", hint=hint, code="routing")
    return None


def read(text: str, folder: Path | None = None) -> Law:
    """Return the law of a word such as `dirichlet:0.8` or `counts:picks.csv`; raise `SpecError`."""
    if wrong := problem(text):
        raise SpecError(wrong)
    name, _, rest = text.partition(":")
    if name == "counts":
        return Law(text, "counts", counts((folder or Path()) / rest))
    return Law(text, name, None if LAWS[name] is None else float(rest))


def counts(path: Path) -> tuple[tuple[float, ...], ...]:
    """Return tokens of every expert by layer, from a CSV or Parquet file; raise `SpecError`.

    Columns are `expert` and `tokens`, or `token` and `expert` for one row a choice; `layer` if there are several.
    Experts are numbered from 0; those without tokens have a row with 0.
    """
    rows = _table(path)
    if "tokens" not in rows.columns and {"token", "expert"} <= set(rows.columns):
        rows = _counted(rows, path)
    wanted = [name for name in ("expert", "tokens") if name not in rows.columns]
    if wanted or not rows.height:
        hint = "give expert,tokens (or token,expert for one row a choice), and layer if there are several"
        fault = f"no column `{wanted[0]}`" if wanted else "no rows"
        raise SpecError(Problem(f"{fault} in the counts", hint=hint, where=str(path), code="form"))
    rows, problems = _whole(rows, ("layer", "expert", "tokens"), path)
    layers = rows.partition_by("layer", maintain_order=True) if "layer" in rows.columns else [rows]
    layers = [layer.sort("expert") for layer in layers]
    number = 1 + int(rows["expert"].max())  # type: ignore[arg-type]
    for layer in layers:
        which = f" of layer {layer['layer'][0]}" if "layer" in layer.columns else ""
        if layer["expert"].to_list() != list(range(number)):
            absent = sorted(set(range(number)) - set(layer["expert"].to_list()))
            fault = f"expert {absent[0]} has no row" if absent else "an expert has two rows"
            message = f"the counts{which} are not of {number} experts once each: {fault}"
            problems.append(
                Problem(message, hint="give 0 tokens where there are none", where=str(path), code="experts")
            )
    sums = {float(layer["tokens"].sum()) for layer in layers}
    if len(sums) > 1 or sums == {0.0}:
        fault = "there are no tokens" if sums == {0.0} else f"layers have {min(sums):,.0f} to {max(sums):,.0f} tokens"
        message = f"the counts do not sum up: {fault}"
        problems.append(Problem(message, hint="every layer has the same tokens", where=str(path), code="sum"))
    if problems:
        raise SpecError(problems)
    return tuple(tuple(float(n) for n in layer["tokens"].to_list()) for layer in layers)


def _table(path: Path) -> pl.DataFrame:
    from energylens.common.files import is_folder, is_there
    from energylens.common.tables import read_table

    if not is_there(path):
        raise SpecError(Problem("no such file of counts", where=printable(str(path)), code="no-file"))
    if is_folder(path):
        raise SpecError(Problem("a folder, not a file of counts", where=printable(str(path)), code="no-file"))
    return read_table(path, "file of counts", kind="parquet" if path.suffix == ".parquet" else "csv", code="form")


def _whole(rows: pl.DataFrame, names: Sequence[str], path: Path) -> tuple[pl.DataFrame, list[Problem]]:
    """Return the columns as whole numbers, and faults of negative ones; raise `SpecError` with all others."""
    problems, negatives = [], []
    for name in (name for name in names if name in rows.columns):
        column, whole = rows[name], False
        if column.dtype.is_numeric() and not column.null_count():
            wide = column.cast(pl.Float64)
            whole = bool((wide.is_finite() & (wide == wide.floor())).all())
        most = MOST_EXPERTS - 1 if name == "expert" else _MOST_TOKENS
        if not whole:
            message = f"column `{name}` of the counts is not made of whole numbers"
            problems.append(Problem(message, where=str(path), code="form"))
        elif negative := int((wide < 0).sum()):
            message = f"{negative} rows of the counts have a negative `{name}`"
            negatives.append(Problem(message, where=str(path), code="negative"))
            rows = rows.with_columns(pl.col(name).cast(pl.Float64).clip(-1e18, 1e18))
        elif (wide > most).any():
            message = f"column `{name}` of the counts goes beyond {most:,}"
            problems.append(Problem(message, where=str(path), code="form"))
    if problems:
        raise SpecError(problems)
    return rows.with_columns(pl.col(name).cast(pl.Int64) for name in names if name in rows.columns), negatives


def _counted(choices: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Return counts of a table with one row a choice; experts up to the last one chosen anywhere have 0 without."""
    choices, problems = _whole(choices, ("layer", "token", "expert"), path)
    if problems:
        raise SpecError(problems)
    keys = [name for name in ("layer", "expert") if name in choices.columns]
    each = choices.group_by(name for name in ("layer", "token") if name in choices.columns).agg(
        rows=pl.len(), experts=pl.col("expert").n_unique()
    )
    least, most = min(each["rows"], default=0), max(each["rows"], default=0)
    if (each["rows"] != each["experts"]).any():
        raise SpecError(Problem("a token takes an expert twice in the choices", where=str(path), code="form"))
    if least != most:
        raise SpecError(Problem(f"tokens take {least} to {most} experts in the choices", where=str(path), code="form"))
    every = pl.DataFrame({"expert": pl.int_range(int(choices["expert"].max() or 0) + 1, eager=True)})  # type: ignore[arg-type]
    if "layer" in keys:
        every = choices.select("layer").unique(maintain_order=True).join(every, how="cross")
    rows = every.join(choices.group_by(*keys).agg(tokens=pl.len()), on=keys, how="left")
    return rows.with_columns(pl.col("tokens").fill_null(0))


def placement_problem(text: object) -> Problem | None:
    """Return what is wrong with the word for a placement."""
    if text in ("contiguous", "balanced"):
        return None
    name, _, number = str(text).partition(":") if isinstance(text, str) else ("", "", "")
    if name == "replicated" and _COPIES.fullmatch(number) and 1 <= int(number) <= _MOST_COPIES:
        return None
    known = ["contiguous", "balanced", "replicated"]
    hint = "write contiguous, balanced, or replicated:32 for 32 more copies of the most popular experts"
    hint = hint if name in known else did_you_mean(name, known) or hint
    return Problem(f"`{value_or_kind(text)}` is no placement of experts", hint=hint, code="placement")


def placement_code(text: str) -> int:
    """Return a placement as the core takes it."""
    if text in ("contiguous", "balanced"):
        return int(text == "balanced")
    return 1 + int(text.partition(":")[2])


def placement_text(code: int) -> str:
    """Return the word for a placement that the core was given."""
    return ("contiguous", "balanced")[code] if code < 2 else f"replicated:{code - 1}"


def laws(values: Sequence[object]) -> list[str]:
    """Return the different laws among values of the axis, but for the spec's own."""
    return [str(value) for value in dict.fromkeys(values) if value is not None]
