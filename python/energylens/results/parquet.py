"""Parquet files of points and results, which say the unit of every column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from energylens.common import parquet_file
from energylens.engine.result_columns import unit


def parquet_bytes(
    frame: pl.DataFrame, plan_sha256: str, note: dict[str, Any] | None = None, *, sealed: bool = False
) -> bytes:
    """Return a frame as a Parquet file that says what it holds; the same frame and note give the same bytes.

    With `sealed` its metadata has the SHA-256 of its data and its other metadata, which `read_parquet` checks.
    """
    units = {name: known for name in frame.columns if (known := unit(name))}
    return parquet_file.parquet_bytes(frame, plan_sha256, note, units=units, sealed=sealed)


def write_parquet(frame: pl.DataFrame, path: str | Path, plan_sha256: str, note: dict[str, Any] | None = None) -> Path:
    """Write a frame under a temporary name, then rename; raise `EnergylensError` if that cannot be done.

    The file carries a SHA-256 of what it holds, so that a damaged one is not read as another result.
    """
    return parquet_file.write_file(path, parquet_bytes(frame, plan_sha256, note, sealed=True))
