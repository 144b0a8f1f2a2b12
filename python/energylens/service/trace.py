"""Traces of requests: CSV, Parquet or JSON lines, with the names that published traces use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens.errors import Problem, SpecError

Column = NDArray[np.float64]

NAMES: Final = {
    "arrival_s": ("arrival_s", "arrival", "timestamp_s", "timestamp_ms", "TIMESTAMP", "timestamp", "Timestamp"),
    "input_tokens": (
        "input_tokens", "input_length", "context_tokens", "ContextTokens", "Request tokens", "prompt_tokens"
    ),
    "output_tokens": (
        "output_tokens", "output_length", "generated_tokens", "GeneratedTokens", "Response tokens", "completion_tokens"
    ),
    "blocks": ("blocks", "hash_ids", "block_hashes"),
}  # fmt: skip
"""Columns of a trace, and what published traces call them (Azure, Mooncake, BurstGPT)."""

BLOCK_TOKENS: Final = 512
"""Tokens of a prefix block, as in the Mooncake traces."""

_LONGEST = 1_000_000
_TICK_S = 10.0
_LONGEST_S = 10 * 365 * 86400.0
_SUFFIXES: Final[dict[str, Callable[[Path], pl.DataFrame]]] = {
    ".csv": pl.read_csv,
    ".parquet": pl.read_parquet,
    ".jsonl": pl.read_ndjson,
    ".ndjson": pl.read_ndjson,
}


def read_trace(path: str | Path) -> pl.DataFrame:
    """Return requests in the order of their arrival: `arrival_s` (null without times), `input_tokens`,
    `output_tokens`, `blocks`.

    Timestamps so coarse that several requests share one (Mooncake's come every 3 s) are spread at random over the
    time to the next, always the same way. Raises `SpecError` with every problem.
    """
    path = Path(path)
    rows = _table(path)
    found = {name: next((own for own in known if own in rows.columns), None) for name, known in NAMES.items()}
    problems = [
        _problem(path, f"the trace has no column `{name}`", _hint(name, rows.columns))
        for name in ("input_tokens", "output_tokens")
        if found[name] is None
    ]
    unread = [name for name in rows.columns if any(part in name.lower() for part in ("time", "arriv", "stamp"))]
    if found["arrival_s"] is None and unread:
        hint = "call it `arrival_s`, in seconds, or `timestamp_ms`; drop it if it is none"
        problems.append(_problem(path, f"column `{unread[0]}` may be the arrivals, but is not read", hint))
    if not rows.height:
        problems.append(_problem(path, "the trace has no requests", "give at least one row"))
    if problems:
        raise SpecError(problems)
    told: dict[str, pl.Series] = {}
    for name in ("input_tokens", "output_tokens"):
        column = rows[str(found[name])]
        problems += _bad_tokens(path, column, 1 if name == "output_tokens" else 0)
        told[name] = column
    arrivals, late = _arrivals(path, rows, found["arrival_s"])
    problems += late
    blocks = rows[found["blocks"]] if found["blocks"] else None
    if blocks is not None and not isinstance(blocks.dtype, pl.List):
        blocks = _split(path, blocks, problems)
    if problems:
        raise SpecError(problems)
    frame = pl.DataFrame(
        {
            "arrival_s": pl.Series(np.full(rows.height, np.nan) if arrivals is None else arrivals),
            "input_tokens": told["input_tokens"].cast(pl.Float64).clip(1.0, None),
            "output_tokens": told["output_tokens"].cast(pl.Float64),
        }
    ).with_columns(pl.col("arrival_s").fill_nan(None))
    return frame if blocks is None else frame.with_columns(_numbered(blocks))


def _problem(path: Path, message: str, hint: str | None = None, row: int | None = None) -> Problem:
    return Problem(message, hint=hint, where=str(path) if row is None else f"{path}: row {row + 1}", code="trace")


def _hint(name: str, columns: list[str]) -> str:
    near = get_close_matches(name, columns, n=1, cutoff=0.75)
    return f"{f'rename `{near[0]}`: ' if near else ''}known are {', '.join(f'`{known}`' for known in NAMES[name])}"


def _table(path: Path) -> pl.DataFrame:
    reader = _SUFFIXES.get(path.suffix.lower())
    if reader is None:
        hint = f"a trace ends in {', '.join(_SUFFIXES)}"
        raise SpecError(Problem(f"cannot tell what `{path}` is", hint=hint, code="trace"))
    try:
        return reader(path)
    except pl.exceptions.NoDataError:
        raise SpecError(_problem(path, "the trace has no requests", "give at least one row")) from None
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise SpecError(Problem(f"cannot read the trace `{path}`: {reason}", code="trace")) from None


def _bad_tokens(path: Path, column: pl.Series, least: int) -> list[Problem]:
    """Return what is wrong with a column of tokens, its first fault told and all of them counted."""
    name = column.name
    if not column.dtype.is_numeric():
        return [_problem(path, f"column `{name}` should hold numbers of tokens, found {column.dtype}")]
    value = column.cast(pl.Float64)
    bad = ~((value >= least) & (value <= _LONGEST) & (value == value.floor())).fill_null(False)
    if not bad.any():
        return []
    row = int(bad.arg_max() or 0)
    zero = least == 1 and column[row] == 0
    hint = "drop requests that made nothing" if zero else f"{int(bad.sum()):,} of {len(bad):,} rows are wrong"
    said = "at least one token is made" if zero else f"it should be a whole number from {least} to {_LONGEST:,}"
    return [_problem(path, f"`{name}` is {column[row]}: {said}", hint, row)]


def _arrivals(path: Path, rows: pl.DataFrame, name: str | None) -> tuple[Column | None, list[Problem]]:
    if name is None:
        return None, []
    column = rows[name]
    if column.dtype.is_numeric() and name.lower() == "timestamp" and len(column):
        # Seconds since 1970 are about 1.8e9; larger ones count parts of a second.
        largest = float(column.cast(pl.Float64).abs().max() or 0.0)  # type: ignore[arg-type]
        parts = next((parts for above, parts in ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3)) if largest > above), 1.0)
        column = column.cast(pl.Float64) / parts
    if column.dtype == pl.String:
        with suppress(pl.exceptions.PolarsError):
            column = column.str.to_datetime(strict=False)
    if column.dtype.is_temporal():
        column = (column - column.min()).dt.total_microseconds() / 1e6
    if not column.dtype.is_numeric() or column.null_count() or not column.cast(pl.Float64).is_finite().all():
        return None, [_problem(path, f"column `{name}` should hold times, in seconds or as dates")]
    # Mooncake's traces count milliseconds and do not say so; no other has lists of blocks.
    blocks = any(own in rows.columns for own in NAMES["blocks"])
    milliseconds = name.endswith("_ms") or (name == "timestamp" and blocks and column.cast(pl.Float64).max() < 1e9)  # type: ignore[operator]
    seconds = column.cast(pl.Float64).to_numpy() * (1e-3 if milliseconds else 1.0)
    if seconds.max() - seconds.min() > _LONGEST_S:
        days = (seconds.max() - seconds.min()) / 86400
        hint = "give arrivals in seconds, as `arrival_s`, or in milliseconds, as `timestamp_ms`"
        return None, [_problem(path, f"column `{name}` spans {days:,.0f} days", hint)]
    late = np.flatnonzero(np.diff(seconds) < 0)
    if late.size:
        row = int(late[0]) + 1
        message = f"`{name}` is {rows[name][row]}, before the {rows[name][row - 1]} of the row above"
        return None, [_problem(path, message, "sort the trace by arrival", row)]
    return _spread(seconds - seconds[0]), []


def _spread(seconds: Column) -> Column:
    """Spread requests of one coarse timestamp over the time to the next, where these are ticks of a few seconds."""
    moments, of = np.unique(seconds, return_inverse=True)
    if len(moments) < 2 or len(seconds) < 2 * len(moments):
        return seconds
    usual = float(np.median(np.diff(moments)))
    if usual > _TICK_S:
        return seconds
    gaps = np.minimum(np.append(np.diff(moments), usual), usual)
    random = np.random.default_rng(2026).random(len(seconds))
    found: Column = np.sort(seconds + random * gaps[of], kind="stable")
    found -= found[0]
    return found


def _split(path: Path, blocks: pl.Series, problems: list[Problem]) -> pl.Series:
    """Read lists of blocks written as text, `[1, 2]` or `1;2`."""
    if blocks.dtype != pl.String:
        problems.append(_problem(path, f"column `{blocks.name}` should hold lists of blocks, found {blocks.dtype}"))
        return blocks
    return blocks.str.extract_all(r"[0-9A-Za-z]+")


def _numbered(blocks: pl.Series) -> pl.Series:
    """Number blocks from 0 in the order of their first use."""
    flat = (
        blocks.explode(empty_as_null=False, keep_nulls=False)
        if blocks.list.len().sum()
        else pl.Series([], dtype=pl.String)
    )
    known = {value: number for number, value in enumerate(flat.unique(maintain_order=True).drop_nulls().to_list())}
    numbered = [list(dict.fromkeys(known[v] for v in own or [] if v is not None)) for own in blocks.to_list()]
    return pl.Series("blocks", numbered, dtype=pl.List(pl.UInt32))
