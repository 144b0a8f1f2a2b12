"""Damages files of results in every way that a disk, an editor or another program may: the same on every run."""

from __future__ import annotations

import copy
import datetime
import io
import json
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

Damage = Callable[[random.Random, bytes], bytes]

SEAL = "energylens.data_sha256"
LENGTH = "energylens.data_bytes"

ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 10**30, 1e308, "", "x", "\x1b[31m", "x" * 100_000, "\ud800", [], [[]], [None], ["x"],
    [1, "x"], {}, {"x": 1}, {"": None}, [{"name": "x"}], "NaN", "2026-01-01", -0.0, 2**53 + 1, ["a"] * 1000,
]  # fmt: skip
"""Values of the wrong kind for most fields, and some of the right one."""


def parts(data: bytes) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return the frame of a file and its metadata without their SHA-256, which no changed file may have."""
    metadata = pl.read_parquet_metadata(io.BytesIO(data))
    return pl.read_parquet(io.BytesIO(data)), {
        key: value for key, value in metadata.items() if key.startswith("energylens.") and key not in (SEAL, LENGTH)
    }


def packed(frame: pl.DataFrame, metadata: dict[str, str]) -> bytes:
    """Return the file of a frame and its metadata."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, metadata=metadata)
    return buffer.getvalue()


def flipped(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 3, 20])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(len(data))]


def blanked(draw: random.Random, data: bytes) -> bytes:
    start = draw.randrange(len(data))
    length = min(draw.choice([1, 16, 512, 4096]), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def grown(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + draw.randbytes(draw.choice([1, 8, 100])) + data[at:]


def column_changed(draw: random.Random, data: bytes) -> bytes:
    """Drop, rename or retype a column."""
    frame, metadata = parts(data)
    name = draw.choice(frame.columns)
    column, height = frame[name], frame.height
    values: list[pl.Series] = [
        pl.Series(name, ["x"] * height), pl.Series(name, [None] * height), pl.Series(name, [[1.0]] * height),
        pl.Series(name, [{"a": 1}] * height), pl.Series(name, [True] * height), pl.Series(name, [b"x"] * height),
        pl.Series(name, [datetime.date(2026, 1, 1)] * height), pl.Series(name, [Decimal("1.5")] * height),
        pl.Series(name, ["x"] * height, dtype=pl.Categorical), pl.Series(name, [1] * height, dtype=pl.Int128),
        pl.Series(name, [-1] * height), pl.Series(name, [2**63] * height, dtype=pl.UInt64),
        pl.Series(name, [0.5] * height), pl.Series(name, ["y" * 1_000_000] * height),
        column.cast(pl.String), column.cast(pl.Float32, strict=False), column.cast(pl.Int64, strict=False),
    ]  # fmt: skip
    kind = draw.randrange(4)
    if kind == 0:
        return packed(frame.drop(name), metadata)
    if kind == 1:
        return packed(frame.rename({name: draw.choice(["x", name.upper(), f"{name}_s", ""])}), metadata)
    return packed(frame.with_columns(draw.choice(values).alias(name)), metadata)


def value_changed(draw: random.Random, data: bytes) -> bytes:
    """Put one value of a row out of range, or leave no row."""
    frame, metadata = parts(data)
    if draw.random() < 0.05:
        return packed(frame.clear(), metadata)
    name = draw.choice(frame.columns)
    values = frame[name].to_list()
    odd: list[Any] = [None]
    if frame[name].dtype.is_float():
        odd += [float("nan"), float("inf"), float("-inf"), -1.0, 0.0, 1e308, 5e-324]
    elif frame[name].dtype == pl.UInt32:
        odd += [0, 3, 1025, 2**32 - 1]
    elif frame[name].dtype == pl.String:
        odd += ["", "x", "\x1b[31m", "llama-3.1-8b", "counts:x", "zipf:1e9", "replicated:7", "x" * 1_000_000]
    values[draw.randrange(len(values))] = draw.choice(odd)
    dtype = pl.String if isinstance(frame[name].dtype, pl.Enum) else frame[name].dtype
    return packed(frame.with_columns(pl.Series(name, values, dtype=dtype)), metadata)


def note_changed(draw: random.Random, data: bytes) -> bytes:
    """Delete or replace a field of the note, at any depth."""
    frame, metadata = parts(data)
    note = json.loads(metadata["energylens.note"])
    node: Any = note
    for _ in range(draw.choice([1, 1, 2, 3, 4, 6])):
        keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw.choice(keys)
        if not isinstance(node[key], (dict, list)) or not node[key]:
            break
        parent, node = node, node[key]
    else:
        node = parent
        key = next(key for key in keys if parent[key] is parent[key])
    if draw.random() < 0.3:
        del node[key]
    elif draw.random() < 0.2 and isinstance(node, dict):
        node[draw.choice(["x", "", "kind"])] = draw.choice(ODD)
    else:
        node[key] = copy.deepcopy(draw.choice(ODD))
    return packed(frame, metadata | {"energylens.note": json.dumps(note)})


def metadata_changed(draw: random.Random, data: bytes) -> bytes:
    """Delete a part of the metadata, or make it something else than what it is."""
    frame, metadata = parts(data)
    key = draw.choice(list(metadata))
    texts = ["", "x", "{", "[]", "1", "null", '{"kind": NaN}', '{"kind": 1e999}', "[" * 5000, '{"a": ' * 5000, "\x00"]
    texts += [metadata[key][:-1], metadata[key].replace("front", "service"), metadata[key].replace("0", "1")]
    texts += [metadata[key].replace(".", ".5"), metadata[key].replace(":", ": -"), f'{{"kind": {"9" * 5000}}}']
    if draw.random() < 0.25:
        return packed(frame, {name: value for name, value in metadata.items() if name != key})
    return packed(frame, metadata | {key: draw.choice(texts)})


BYTES: list[Damage] = [flipped, cut, blanked, grown]
FIELDS: list[Damage] = [column_changed, value_changed, note_changed, note_changed, metadata_changed]


def damaged(seed: int, data: bytes, kinds: list[Damage]) -> bytes:
    """Return a file with one damage, drawn by the seed."""
    draw = random.Random(seed)
    return draw.choice(kinds)(draw, data)


def made(folder: Path, name: str, data: bytes) -> Path:
    """Return a file of these bytes."""
    path = folder / name
    path.write_bytes(data)
    return path
