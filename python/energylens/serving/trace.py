"""Traces of requests: reads CSV, Parquet or JSON lines, with the column names of published traces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import polars as pl

from energylens.common.errors import EnergylensError, Problem, SpecError
from energylens.common.files import input_file
from energylens.common.memory import require_bytes
from energylens.common.tables import read_table, reason_of
from energylens.serving.trace_blocks import BLOCK_TOKENS, MOST_BLOCK_TOKENS, block_size, contradiction
from energylens.serving.trace_times import UNITS, Arrivals, NoArrivals, arrivals, by_name

NAMES: Final = {
    "arrival_s": (
        "arrival_s", "arrival_ms", "arrival_us", "arrival_ns", "arrival", "timestamp_s", "timestamp_ms",
        "timestamp_us", "timestamp_ns", "TIMESTAMP", "timestamp", "Timestamp",
    ),
    "prompt_tokens": (
        "prompt_tokens", "input_tokens", "input_length", "context_tokens", "ContextTokens", "Request tokens"
    ),
    "output_tokens": (
        "output_tokens", "output_length", "generated_tokens", "GeneratedTokens", "Response tokens", "completion_tokens"
    ),
    "blocks": ("blocks", "hash_ids", "block_hashes"),
}  # fmt: skip
"""Columns of a trace, and what published traces call them (Azure, Mooncake, BurstGPT, Bailian)."""

_BAILIAN: Final = "chat_id"
"""A column that of the published traces only Bailian's have: seconds, blocks of 16 tokens."""

_BAILIAN_BLOCK: Final = 16
_LONGEST: Final = 1_000_000
_ROW_BYTES: Final = 200
"""Memory of a request without blocks while a trace is read and a workload made of it."""


@dataclass(frozen=True)
class Trace:
    """Requests of a trace in the order of their arrival, and how the file was read.

    `requests`: `arrival_s` (null without times), `prompt_tokens`, `output_tokens`, and `blocks` where the trace has
    any. `notes` are sentences: what was inferred. `clock_s`: seconds after midnight of the first arrival, None where
    the trace has no dates; `clock`: whose midnight.
    """

    requests: pl.DataFrame
    block_tokens: int
    notes: Sequence[str]
    clock_s: float | None
    clock: str


def read_trace(path: str | Path, *, time_unit: str | None = None, block_tokens: int | None = None) -> pl.DataFrame:
    """Return requests in the order of their arrival: `arrival_s` (null without times), `prompt_tokens`,
    `output_tokens`, `blocks`.

    Timestamps so coarse that several requests share one (Mooncake's come every 3 s) are spread at random over the
    time to the next, always the same way. Raises `SpecError` with every problem.
    """
    return load_trace(path, time_unit=time_unit, block_tokens=block_tokens).requests


def load_trace(path: str | Path, *, time_unit: str | None = None, block_tokens: int | None = None) -> Trace:
    """Return a trace with what was inferred of it; raise `SpecError` with every problem.

    Parameters
    ----------
    path
        A CSV, Parquet or JSON lines file.
    time_unit
        Unit of arrivals that are numbers: s, ms, us or ns. None: what their name, their size and the form of the trace
        say; `SpecError` where these do not decide.
    block_tokens
        Tokens of a prefix block. None: the power of two that explains how many blocks each prompt has.
    """
    path = Path(path)
    checked_options(time_unit, block_tokens)
    rows = _table(path)
    names = {name: by_name(known, rows.columns) for name, known in NAMES.items()}
    unused = [name for name in rows.columns if name not in names.values()]
    problems = [
        _problem(path, f"the trace has no column `{name}`", _hint(name, unused))
        for name in ("prompt_tokens", "output_tokens")
        if names[name] is None
    ]
    unread = [name for name in rows.columns if any(part in name.lower() for part in ("time", "arriv", "stamp"))]
    if names["arrival_s"] is None and unread:
        hint = "call it `arrival_s`, in seconds, or `timestamp_ms`; drop it if it is none"
        problems.append(_problem(path, f"column `{unread[0]}` may be the arrivals, but is not read", hint))
    if not rows.height:
        problems.append(_problem(path, "the trace has no requests", "give at least one row"))
    if problems:
        raise SpecError(problems)
    tokens: dict[str, pl.Series] = {}
    for name in ("prompt_tokens", "output_tokens"):
        column, faults = _tokens(path, rows[str(names[name])], 1 if name == "output_tokens" else 0)
        problems += faults
        tokens[name] = column
    blocks, faults = (None, []) if names["blocks"] is None else _lists(path, rows[names["blocks"]])
    problems += faults
    size, note = BLOCK_TOKENS, ""
    if blocks is not None and not problems:
        usual = _BAILIAN_BLOCK if _BAILIAN in rows.columns else BLOCK_TOKENS
        size, note = block_tokens or usual, ""
        if block_tokens is not None:
            fit = contradiction(blocks, tokens["prompt_tokens"], block_tokens)
            if isinstance(fit, str):
                note = fit
            else:
                problems.append(_problem(path, fit.message, fit.hint, fit.row))
        else:
            known = block_size(blocks, tokens["prompt_tokens"], usual)
            if isinstance(known, str):
                problems.append(_problem(path, known, "say how many: --block-tokens 16 (in Python block_tokens=16)"))
            else:
                size, note = known
    read = _arrivals(path, rows, names["arrival_s"], size if blocks is not None else None, time_unit)
    if isinstance(read, Problem):
        problems.append(read)
    if problems or isinstance(read, Problem):
        raise SpecError(problems)
    frame = pl.DataFrame(
        {
            "arrival_s": pl.Series([None] * rows.height, dtype=pl.Float64) if read is None else pl.Series(read.seconds),
            "prompt_tokens": tokens["prompt_tokens"].cast(pl.Float64).clip(1.0, None),
            "output_tokens": tokens["output_tokens"].cast(pl.Float64),
        }
    )
    frame = frame if blocks is None else frame.with_columns(_numbered(blocks))
    notes = [text for text in (read.note if read else "", note) if text]
    return Trace(frame, size, notes, read.clock_s if read else None, read.clock if read else "")


def checked_options(time_unit: str | None, block_tokens: int | None) -> None:
    """Raise `SpecError` if a unit of time or a size of blocks is none."""
    problems = []
    if time_unit is not None and time_unit not in UNITS:
        hint = f"use {', '.join(UNITS)}"
        problems.append(Problem(f"`{time_unit}` is no unit of time of a trace", hint=hint, code="trace"))
    is_whole_number = isinstance(block_tokens, int) and not isinstance(block_tokens, bool)
    if block_tokens is not None and not (is_whole_number and 1 <= block_tokens <= MOST_BLOCK_TOKENS):
        fault = f"prefix blocks hold 1 to {MOST_BLOCK_TOKENS:,} tokens, found {block_tokens}"
        problems.append(Problem(fault, hint="servers use 16, 64 or 512", code="trace"))
    if problems:
        raise SpecError(problems)


def _problem(path: Path, message: str, hint: str | None = None, row: int | None = None) -> Problem:
    return Problem(message, hint=hint, where=str(path) if row is None else f"{path}: row {row + 1}", code="trace")


def _hint(name: str, unused: list[str]) -> str:
    """Return the names that a column of a trace may have, after one that is nearly written so."""
    matches = (get_close_matches(known, unused, n=1, cutoff=0.75) for known in NAMES[name])
    near = next(filter(None, matches), None)
    return f"{f'rename `{near[0]}`: ' if near else ''}known are {', '.join(f'`{known}`' for known in NAMES[name])}"


def _parquet(path: Path) -> pl.DataFrame:
    rows = int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())  # a small file may hold many
    require_bytes(rows * _ROW_BYTES, f"the trace `{path}` with {rows:,} requests", "give a part of it")
    return read_table(path, "trace", kind="parquet", code="trace")


_SUFFIXES: Final[dict[str, Callable[[Path], pl.DataFrame]]] = {
    ".csv": lambda path: pl.read_csv(path, infer_schema_length=None),
    ".parquet": _parquet,
    ".jsonl": lambda path: pl.read_ndjson(path, infer_schema_length=None),
    ".ndjson": lambda path: pl.read_ndjson(path, infer_schema_length=None),
}


def _table(path: Path) -> pl.DataFrame:
    reader = _SUFFIXES.get(path.suffix.lower())
    if reader is None:
        hint = f"a trace ends in {', '.join(_SUFFIXES)}"
        raise SpecError(Problem(f"cannot tell what `{path}` is", hint=hint, code="trace"))
    try:
        input_file(path, "trace")
        return reader(path)
    except pl.exceptions.NoDataError:
        raise SpecError(_problem(path, "the trace has no requests", "give at least one row")) from None
    except EnergylensError:
        raise
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise SpecError(Problem(f"cannot read the trace `{path}`: {reason_of(error)}", code="trace")) from None


def _tokens(path: Path, column: pl.Series, least: int) -> tuple[pl.Series, list[Problem]]:
    """Return a column of tokens as numbers, and what is wrong with it: its first fault, and how many there are."""
    name = column.name
    value = column
    if column.dtype == pl.String:
        value = column.str.strip_chars().cast(pl.Float64, strict=False)
        wrong = value.is_null()
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            fault = f"column `{name}` should hold numbers of tokens, found {_shown(column[row])}"
            return column, [_problem(path, fault, f"{int(wrong.sum()):,} of {len(wrong):,} rows are wrong", row)]
    elif not column.dtype.is_numeric():
        return column, [
            _problem(path, f"column `{name}` should hold numbers of tokens, found {_shown(column[0])}", None, 0)
        ]
    value = value.cast(pl.Float64)
    bad = ~((value >= least) & (value <= _LONGEST) & (value == value.floor())).fill_null(False)
    if not bad.any():
        return value, []
    row = int(bad.arg_max() or 0)
    zero = least == 1 and value[row] == 0
    hint = "drop requests that made nothing" if zero else f"{int(bad.sum()):,} of {len(bad):,} rows are wrong"
    said = "at least one token is made" if zero else f"it should be a whole number from {least} to {_LONGEST:,}"
    return value, [_problem(path, f"`{name}` is {column[row]}: {said}", hint, row)]


def _shown(value: Any) -> str:
    text = str(value)
    return "nothing" if value is None else f"`{text if len(text) <= 60 else text[:57] + '...'}`"


def _arrivals(
    path: Path, rows: pl.DataFrame, name: str | None, size: int | None, time_unit: str | None
) -> Arrivals | Problem | None:
    """Return the arrivals of a trace, what is wrong with them, or None where it has none."""
    if name is None:
        if time_unit is None:
            return None
        return _problem(path, "the trace has no arrivals to have a unit of time", "leave --time-unit out")
    usual = None
    if _BAILIAN in rows.columns or "Request tokens" in rows.columns:
        usual = "s"
    elif size == BLOCK_TOKENS and {"input_length", "output_length", "hash_ids"} <= set(rows.columns):
        usual = "ms"  # Mooncake's traces count milliseconds and do not say so
    read = arrivals(rows[name], usual, time_unit)
    return _problem(path, read.message, read.hint, read.row) if isinstance(read, NoArrivals) else read


def _lists(path: Path, blocks: pl.Series) -> tuple[pl.Series, list[Problem]]:
    """Return lists of blocks, also of texts such as `[1, 2]` or `1;2` and of single numbers, and what is wrong."""
    kind = blocks.dtype
    if kind.is_integer():
        return blocks.cast(pl.String).str.extract_all(r"[0-9]+"), []
    if kind == pl.String:
        return blocks.str.extract_all(r"[0-9A-Za-z]+"), []
    if isinstance(kind, pl.Array):
        blocks = blocks.arr.to_list()
    inner = blocks.dtype.inner if isinstance(blocks.dtype, pl.List) else None
    if kind == pl.Null:
        return pl.Series(blocks.name, [[]] * len(blocks), dtype=pl.List(pl.String)), []
    if inner is None or not (inner in (pl.String, pl.Null) or inner.is_integer()):
        row = int(blocks.is_not_null().arg_max() or 0)
        fault = f"column `{blocks.name}` should hold lists of blocks, found {_shown(blocks[row])}"
        return blocks, [_problem(path, fault, "write them as [1, 2], or as text: 1;2", row)]
    return blocks, []


def _numbered(blocks: pl.Series) -> pl.Series:
    """Number blocks from 0 in the order of their first use."""
    flat = (
        blocks.explode(empty_as_null=False, keep_nulls=False)
        if blocks.list.len().sum()
        else pl.Series([], dtype=pl.String)
    )
    known = {value: number for number, value in enumerate(flat.unique(maintain_order=True).drop_nulls().to_list())}
    numbered = [
        list(dict.fromkeys(known[v] for v in row_blocks or [] if v is not None)) for row_blocks in blocks.to_list()
    ]
    return pl.Series("blocks", numbered, dtype=pl.List(pl.UInt32))
