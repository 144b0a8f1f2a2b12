"""Seconds and joules of the steps of an engine, as lines of a grid that steady state and replay both read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens.engine.evaluate import evaluate
from energylens.inputs.builder import Model
from energylens.inputs.library import load_gpu
from energylens.inputs.plan import LARGEST, LoadedGpu, LoadedModel
from energylens.inputs.run_options import RUNNING
from energylens.serving.fixed_concurrency import ample, bare

Column = NDArray[np.float64]

ENGINE: Final = ("model", "gpu", "weight_dtype", "kv_dtype", "tp", "pp", "dp", "ep", *RUNNING)
"""Columns that say what an engine is."""

_PIECE = 128
_TOKENS = np.concatenate(
    [
        [1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 112, 128, 256, 384, 512, 640, 768],
        [1024, 1280, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 32768],
    ]
)
_SEQUENCES = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048])
_CONTEXTS = np.array([1, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072])
_LENGTHS = np.array([128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072])
_BUDGET = 8192


@dataclass(frozen=True)
class Steps:
    """Steps of engines, one a row; all GPUs of an engine together.

    A step that decodes B sequences at mean context t and reads p prompt tokens takes
    `base_s(B + p) + decode_s(B, t) + sample_s·(B + prompts that end) + p·attend_s(length)`, joules alike: `base` is
    that of all kernels at so many tokens that attend to little, `decode` what B sequences attend to, `attend` what
    prompt tokens do, a mean over the prompt.
    """

    tokens: Column
    base_s: Column
    base_j: Column
    sequences: Column
    contexts: Column
    decode_s: Column
    decode_j: Column
    sample_s: Column
    sample_j: Column
    lengths: Column
    attend_s: Column
    attend_j: Column
    idle_w: Column
    gpus: Column
    lanes: Column
    """Data-parallel ranks times pipeline stages: a prompt is read on one of them."""

    def of(self, rows: NDArray[np.int64], decoding: Column, context: Column, read: Column) -> tuple[Column, Column]:
        """Return seconds and joules of steps, each on the engine of its row, without what prompts attend to."""
        base = _line(self.tokens[rows], decoding + read)
        first, second = _line(self.sequences[rows], np.maximum(decoding, 1e-9)), _line(self.contexts[rows], context)
        some = np.minimum(1.0, decoding)

        def value(base_of: Column, decode_of: Column) -> Column:
            told: Column = _mix(base_of[rows], base) + some * _mix_two(decode_of[rows], first, second)
            return told

        seconds, joules = value(self.base_s, self.decode_s), value(self.base_j, self.decode_j)
        return seconds + decoding * self.sample_s[rows], joules + decoding * self.sample_j[rows]

    def attending(self, rows: NDArray[np.int64], length: Column) -> tuple[Column, Column]:
        """Return mean seconds and joules that a token of prompts of such a length takes for what it attends to."""
        at = _line(self.lengths[rows], length)
        return _mix(self.attend_s[rows], at), _mix(self.attend_j[rows], at)

    def of_core(self, row: int) -> dict[str, Any]:
        """Return the steps of one engine as the core takes them."""
        single = {"sample_s", "sample_j"}
        lists = ("tokens", "base_s", "base_j", "sequences", "contexts", "decode_s", "decode_j")
        told = {name: getattr(self, name)[row].ravel().tolist() for name in (*lists, "lengths", "attend_s", "attend_j")}
        return told | {name: float(getattr(self, name)[row]) for name in single}


Place = tuple[NDArray[np.int64], NDArray[np.int64], Column]


def _line(lines: Column, value: Column) -> Place:
    """Return where values lie between rising lines, one row of lines a value: before, after, and how far."""
    before = np.clip((lines <= value[:, None]).sum(axis=1) - 1, 0, lines.shape[1] - 2)
    rows = np.arange(len(value))
    low, high = lines[rows, before], lines[rows, before + 1]
    return before, before + 1, np.maximum(0.0, (value - low) / (high - low))


def _mix(values: Column, place: Place) -> Column:
    before, after, part = place
    rows = np.arange(len(part))
    low = values[rows, before]
    found: Column = low + part * (values[rows, after] - low)
    return found


def _mix_two(values: Column, first: Place, second: Place) -> Column:
    rows = np.arange(len(first[2]))
    left, right, part = second

    def along(line: NDArray[np.int64]) -> Column:
        low = values[rows, line, left]
        found: Column = low + part * (values[rows, line, right] - low)
        return found

    low = along(first[0])
    found: Column = low + first[2] * (along(first[1]) - low)
    return found


@dataclass(frozen=True)
class Engines:
    """Engines that can run, one a row of `frame`, with their steps and the memory they have for caches."""

    frame: pl.DataFrame
    steps: Steps
    reasons: pl.Series
    """Why rows of the frame given cannot run at all, `ok` for those that are in `frame`, in the order given."""
    models: Sequence[str | Path | Model | LoadedModel] = ()
    gpus: Sequence[str | Path | LoadedGpu] = ()

    @property
    def height(self) -> int:
        """Number of engines."""
        return self.frame.height

    def rows_of(self, deployments: pl.DataFrame) -> NDArray[np.int64]:
        """Return the row of the engine of each deployment, -1 where that cannot run."""
        names = engine_columns(deployments)
        place = {key: at for at, key in enumerate(self.frame.select(names).iter_rows())}
        return np.array([place.get(key, -1) for key in deployments.select(names).iter_rows()], dtype=np.int64)

    def cache(
        self, input_tokens: float, output_tokens: float, token_budget: Column, rows: NDArray[np.int64]
    ) -> tuple[Column, Column]:
        """Return bytes of a GPU free for caches beside weights and work on a full step, and those one request takes.

        One of each engine: `token_budget` is that of deployments on the engines of `rows`, the largest counting.
        Bytes are of the fullest GPU; a data-parallel rank holds its own requests.
        """
        prompt, output = max(1, round(input_tokens)), max(1, round(output_tokens))
        largest = np.ones(self.height)
        np.maximum.at(largest, rows, token_budget)
        request = self._memory(2, prompt, output, prompt) - self._memory(1, prompt, output, prompt)
        free = np.zeros(self.height)
        for budget in np.unique(largest):
            size = int(budget)
            one, two = self._memory(1, size, 1, size), self._memory(2, size, 1, size)
            own = largest == budget
            free[own] = (self.capacity() - (2.0 * one - two))[own]
        return free, request

    def capacity(self) -> Column:
        """Return bytes of a GPU."""
        sizes = {one.spec.name: one.spec.memory.capacity_bytes for one in _gpus_of(self.frame, self.gpus)}
        return np.array([sizes[name] for name in self.frame["gpu"]])

    def reserved(self) -> Column:
        """Return bytes of a GPU kept free for the driver and graphs."""
        kept = {one.spec.name: one.spec.memory.reserve_bytes for one in _gpus_of(self.frame, self.gpus)}
        return np.array([kept[name] for name in self.frame["gpu"]])

    def _memory(self, each: int, prompt: int, output: int, budget: int) -> Column:
        """Return bytes of the fullest GPU with so many requests a data-parallel rank, read one at a time."""
        points = self.frame.select(engine_columns(self.frame)).with_columns(
            (each * pl.col("dp")).alias("batch").cast(pl.UInt32),
            pl.lit(prompt, dtype=pl.UInt32).alias("prompt_tokens"),
            pl.lit(output, dtype=pl.UInt32).alias("output_tokens"),
        )
        roomy = [ample(loaded) for loaded in _gpus_of(points, self.gpus)]
        found = evaluate(points, models=self.models, gpus=roomy, max_batched_tokens=budget)
        return found["memory_bytes_per_gpu"].to_numpy()


def engine_columns(frame: pl.DataFrame) -> list[str]:
    """Return the columns of a frame that say what its engines are."""
    return [name for name in ENGINE if name in frame.columns]


def _gpus_of(points: pl.DataFrame, gpus: Sequence[str | Path | LoadedGpu]) -> list[LoadedGpu]:
    own = {loaded.spec.name: loaded for loaded in map(load_gpu, gpus)}
    return [own.get(name) or load_gpu(name) for name in points["gpu"].unique(maintain_order=True)]


def engines(
    points: pl.DataFrame,
    *,
    models: Sequence[str | Path | Model | LoadedModel] = (),
    gpus: Sequence[str | Path | LoadedGpu] = (),
    threads: int | None = None,
) -> Engines:
    """Return the engines of points (columns as in `evaluate`, without batch and lengths) that can run.

    Raises `FrameError` or `SpecError`.
    """
    names = engine_columns(points)
    given = points.select(names).with_columns(
        pl.lit(1, dtype=pl.UInt32).alias(name) for name in ("tp", "pp", "dp", "ep") if name not in names
    )
    known = _gpus_of(given, gpus)
    options: dict[str, Any] = {"models": models, "threads": threads}
    smallest = given.with_columns(pl.col("dp").alias("batch"), prompt_tokens=pl.lit(1), output_tokens=pl.lit(1))
    told = evaluate(smallest, gpus=known, **options)
    kept = given.filter(told["feasible"])
    reasons = told["reason"]
    if not kept.height:
        return Engines(kept, _none(), reasons, models, gpus)
    ranks = (kept["dp"].cast(pl.Int64) * kept["pp"].cast(pl.Int64)).to_numpy()
    height = kept.height
    plain, real = [bare(loaded) for loaded in known], [ample(loaded) for loaded in known]
    # Engines of which a step draws more than a cap that no clocks are known for.
    bound = np.zeros(height, dtype=np.bool_)

    def asked(
        batch: NDArray[np.int64], prompt: NDArray[np.int64], output: int, profiles: list[LoadedGpu]
    ) -> pl.DataFrame:
        """Evaluate all engines at all lines; batches and prompts are tables of engines by lines."""
        lines = batch.shape[1]
        repeated = kept[np.repeat(np.arange(height), lines)].with_columns(
            pl.Series("batch", batch.ravel()).cast(pl.UInt32),
            pl.Series("prompt_tokens", np.broadcast_to(prompt, batch.shape).ravel()).cast(pl.UInt32),
            pl.lit(output, dtype=pl.UInt32).alias("output_tokens"),
        )
        found = evaluate(repeated, gpus=profiles, max_batched_tokens=LARGEST, **options)
        bound[:] |= (found["reason"] == "power").to_numpy().reshape(batch.shape).any(axis=1)
        return found

    static, clocks = _idle(kept, known)
    gpu_count = told.filter(told["feasible"])["gpus"].cast(pl.Float64).to_numpy()
    idle_w = gpu_count * static * clocks
    stages = kept["pp"].cast(pl.Float64).to_numpy()

    def read(pieces: NDArray[np.int64], length: NDArray[np.int64]) -> tuple[Column, Column]:
        """Return seconds and joules of reading so many prompts of a length a rank, in a pipeline that stays full."""
        found = asked(ranks[:, None] * pieces, length, 1, plain)
        shape = (height, pieces.shape[-1])
        seconds, joules = (found[name].to_numpy().reshape(shape) for name in ("ttft_s", "energy_prefill_j"))
        full = (stages / (2 * stages - 1))[:, None]
        return seconds * full, joules - idle_w[:, None] * seconds * (1.0 - full)

    base_s, base_j = read(np.maximum(1, _TOKENS // _PIECE)[None, :], np.minimum(_TOKENS, _PIECE)[None, :])
    tokens = (ranks[:, None] * _TOKENS[None, :]).astype(np.float64)
    long_s, long_j = read(np.ones((1, len(_LENGTHS)), dtype=np.int64), _LENGTHS[None, :])
    read_tokens = ranks[:, None] * _LENGTHS[None, :].astype(np.float64)
    rows = np.arange(height)

    def base_at(values: Column, counts: Column) -> Column:
        told = [_mix(values, _line(tokens, counts[:, line])) for line in range(counts.shape[1])]
        return np.stack(told, axis=1)

    attend_s = np.maximum(0.0, long_s - base_at(base_s, read_tokens)) / read_tokens
    attend_j = np.maximum(0.0, long_j - base_at(base_j, read_tokens)) / read_tokens
    sequences = kept["dp"].cast(pl.Float64).to_numpy()[:, None] * _SEQUENCES[None, :]
    cells = (np.repeat(_SEQUENCES, len(_CONTEXTS)), np.tile(_CONTEXTS, len(_SEQUENCES)))
    batch = kept["dp"].cast(pl.Int64).to_numpy()[:, None] * cells[0][None, :]
    stepped = asked(batch, cells[1][None, :], 2, plain)
    shape = (height, len(_SEQUENCES), len(_CONTEXTS))
    decode_s = stepped["tpot_s"].to_numpy().reshape(shape) - base_at(base_s, sequences)[:, :, None]
    decode_j = stepped["energy_decode_step_j"].to_numpy().reshape(shape) - base_at(base_j, sequences)[:, :, None]
    many = kept["dp"].cast(pl.Int64).to_numpy()[:, None] * 256
    with_samples, without = (asked(many, np.array([[1024]]), 2, profiles) for profiles in (real, plain))

    if bound.any():
        runs = told["feasible"].to_numpy().copy()
        runs[runs] = ~bound
        rest = engines(given.filter(runs), models=models, gpus=gpus, threads=threads) if runs.any() else None
        capped = pl.Series(told["feasible"].to_numpy() & ~runs)
        reasons = pl.Series("reason", ["power"] * len(runs), reasons.dtype).zip_with(capped, reasons)
        return Engines(given.filter(runs), rest.steps if rest else _none(), reasons, models, gpus)

    def sampled(name: str) -> Column:
        found: Column = (with_samples[name].to_numpy() - without[name].to_numpy()) / many[rows, 0]
        return np.maximum(0.0, found)

    wide = np.ones((height, 1))
    steps = Steps(
        tokens=tokens,
        base_s=base_s,
        base_j=base_j,
        sequences=sequences,
        contexts=wide * _CONTEXTS,
        decode_s=decode_s,
        decode_j=decode_j,
        sample_s=sampled("tpot_s"),
        sample_j=sampled("energy_decode_step_j"),
        lengths=wide * np.concatenate([[0.0], _LENGTHS]),
        attend_s=np.concatenate([0.0 * wide, attend_s], axis=1),
        attend_j=np.concatenate([0.0 * wide, attend_j], axis=1),
        idle_w=idle_w,
        gpus=gpu_count,
        lanes=ranks.astype(np.float64),
    )
    return Engines(kept, steps, reasons, models, gpus)


def _idle(kept: pl.DataFrame, known: Sequence[LoadedGpu]) -> tuple[Column, Column]:
    """Return watts of a GPU that waits at its full clock, and the share of them at the engine's own clock."""
    told = {loaded.spec.name: loaded for loaded in known}
    static = np.array([told[name].profile.static_w for name in kept["gpu"]])
    share = np.ones(kept.height)
    if "sm_clock_mhz" in kept.columns:
        for row, (name, clock) in enumerate(kept.select("gpu", "sm_clock_mhz").iter_rows()):
            table = told[name].spec.clock
            if clock is not None and table is not None and table.idle_w:
                lines = np.array(table.idle_w, dtype=np.float64)
                share[row] = np.interp(clock, lines[:, 0], lines[:, 1]) / np.interp(
                    table.max_mhz, lines[:, 0], lines[:, 1]
                )
    return static, share


def _none() -> Steps:
    empty = np.zeros((0, 2))
    cube, column = np.zeros((0, 2, 2)), np.zeros(0)
    return Steps(
        empty, empty, empty, empty, empty, cube, cube, column, column, empty, empty, empty, column, column, column
    )
