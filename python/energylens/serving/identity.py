"""What identifies an answer: the SHA-256 of all that it depends on, and its arguments as text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from energylens.inputs.axis_lists import listed
from energylens.serving.workload import Workload


def answer_sha256(
    plan_sha256: str, workload: Workload, rate_per_s: float | None, limits: Sequence[str], others: Any
) -> str:
    """Return the SHA-256 of all that an answer depends on: specs, traffic, limits, and what was tried."""
    kinds = workload.kinds if workload.requests is None else workload.requests
    traffic = [
        workload.name,
        _rows_sha256(kinds),
        list(workload.rates),
        list(workload.prefix_hits),
        workload.crowded,
        workload.crowd,
    ]
    if "blocks" in kinds.columns:
        traffic.append(workload.block_tokens)
    content = [plan_sha256, traffic, rate_per_s, [str(limit) for limit in listed(limits)], others]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


def _rows_sha256(rows: pl.DataFrame) -> str:
    """Return the SHA-256 of requests as CSV, lists of blocks written with `;` between."""
    # The name that the column had when the first plans were written: the same question keeps its hash.
    rows = rows.rename({"prompt_tokens": "input_tokens"})
    lists = [name for name, kind in rows.schema.items() if isinstance(kind, pl.List)]
    text = rows.with_columns(pl.col(name).cast(pl.List(pl.String)).list.join(";") for name in lists).write_csv()
    return hashlib.sha256(text.encode()).hexdigest()


def argument_texts(model: Any, workload: Any, gpus: Sequence[Any], rate_per_s: float | None) -> dict[str, Any]:
    """Return the arguments of a plan as text, so that a report can run it again; null where they were objects."""

    def text(argument: Any) -> str | None:
        return str(argument) if isinstance(argument, (str, Path)) else None

    names = {"model": text(model), "workload": text(workload), "gpus": [text(gpu) for gpu in gpus]}
    return names | {"rate_per_s": rate_per_s}
