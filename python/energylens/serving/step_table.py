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
from energylens.inputs.axes import LARGEST
from energylens.inputs.builder import Model
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.plan import LoadedGpu, LoadedModel
from energylens.inputs.run_options import RUNNING
from energylens.serving.caps import PIECE, Drawn, drawn, in_range, uncapped
from energylens.serving.fixed_concurrency import ample, bare
from energylens.serving.steps import Steps, between, interpolated

Column = NDArray[np.float64]

ENGINE: Final = ("model", "gpu", "weight_dtype", "kv_dtype", "tp", "pp", "dp", "ep", *RUNNING)
"""Columns that say what an engine is."""

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
class Engines:
    """Engines that can run, one a row of `frame`, with their steps and the memory they have for caches."""

    frame: pl.DataFrame
    steps: Steps
    reasons: pl.Series
    """Why rows of the requested frame cannot run at all, in its order; `ok` for those that are in `frame`."""
    models: Sequence[str | Path | Model | LoadedModel] = ()
    gpus: Sequence[str | Path | LoadedGpu] = ()
    drawn: Drawn | None = None
    """Watts of steps, where some may draw more than a cap whose effect is not known; none if no step does."""

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
        self, prompt_tokens: float, output_tokens: float, token_budget: Column, rows: NDArray[np.int64]
    ) -> tuple[Column, Column]:
        """Return bytes of a GPU free for caches besides weights and work on a full step, and those one request takes.

        One of each engine: `token_budget` is that of deployments on the engines of `rows`, the largest counting.
        Bytes are of the fullest GPU; a data-parallel rank holds its own requests.
        """
        prompt, output = max(1, round(prompt_tokens)), max(1, round(output_tokens))
        largest = np.ones(self.height)
        np.maximum.at(largest, rows, token_budget)
        request = self._memory(2, prompt, output, prompt) - self._memory(1, prompt, output, prompt)
        free = np.zeros(self.height)
        for budget in np.unique(largest):
            size = int(budget)
            single_bytes, double_bytes = self._memory(1, size, 1, size), self._memory(2, size, 1, size)
            has_budget = largest == budget
            free[has_budget] = (self.capacity() - (2.0 * single_bytes - double_bytes))[has_budget]
        return free, request

    def capacity(self) -> Column:
        """Return bytes of a GPU."""
        sizes = {loaded.spec.name: loaded.spec.memory.capacity_bytes for loaded in _gpus_of(self.frame, self.gpus)}
        return np.array([sizes[name] for name in self.frame["gpu"]])

    def reserved(self) -> Column:
        """Return bytes of a GPU reserved for the driver and graphs."""
        sizes = {loaded.spec.name: loaded.spec.memory.reserve_bytes for loaded in _gpus_of(self.frame, self.gpus)}
        return np.array([sizes[name] for name in self.frame["gpu"]])

    def _memory(self, each: int, prompt: int, output: int, budget: int) -> Column:
        """Return bytes of the fullest GPU with so many requests a data-parallel rank, read one at a time."""
        frame = uncapped(self.frame, _gpus_of(self.frame, self.gpus))
        points = frame.select(engine_columns(frame)).with_columns(
            (each * pl.col("dp")).alias("batch").cast(pl.UInt32),
            pl.lit(prompt, dtype=pl.UInt32).alias("prompt_tokens"),
            pl.lit(output, dtype=pl.UInt32).alias("output_tokens"),
        )
        roomy = [ample(loaded) for loaded in _gpus_of(points, self.gpus)]
        evaluated = evaluate(points, models=self.models, gpus=roomy, max_batched_tokens=budget)
        return evaluated["memory_bytes_per_gpu"].to_numpy()


def engine_columns(frame: pl.DataFrame) -> list[str]:
    """Return the columns of a frame that say what its engines are."""
    return [name for name in ENGINE if name in frame.columns]


def _gpus_of(points: pl.DataFrame, gpus: Sequence[str | Path | LoadedGpu]) -> list[LoadedGpu]:
    by_name = {loaded.spec.name: loaded for loaded in map(load_gpu, gpus)}
    return [by_name.get(name) or load_gpu(name) for name in points["gpu"].unique(maintain_order=True)]


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
    requested = points.select(names).with_columns(
        pl.lit(1, dtype=pl.UInt32).alias(name) for name in ("tp", "pp", "dp", "ep") if name not in names
    )
    known = _gpus_of(requested, gpus)
    options: dict[str, Any] = {"models": models, "threads": threads}
    smallest = requested.with_columns(pl.col("dp").alias("batch"), prompt_tokens=pl.lit(1), output_tokens=pl.lit(1))
    smallest_results = evaluate(smallest, gpus=known, **options)
    # A cap is held against the steps that there will be, not against those of which lines are made here.
    if (over := (smallest_results["reason"] == "power").to_numpy() & in_range(requested, known)).any():
        free = evaluate(uncapped(smallest, known), gpus=known, **options)
        mask = pl.Series(over)
        smallest_results = smallest_results.select(
            pl.when(mask).then(free[name]).otherwise(smallest_results[name]).alias(name)
            for name in smallest_results.columns
        )
    runnable = requested.filter(smallest_results["feasible"])
    reasons = smallest_results["reason"]
    if not runnable.height:
        return Engines(runnable, _none(), reasons, models, gpus)
    ranks = (runnable["dp"].cast(pl.Int64) * runnable["pp"].cast(pl.Int64)).to_numpy()
    height = runnable.height
    plain, real = [bare(loaded) for loaded in known], [ample(loaded) for loaded in known]
    # Engines of which a step at some line draws more than a cap that no clocks are known for.
    bound = np.zeros(height, dtype=np.bool_)

    def evaluate_lines(
        batch: NDArray[np.int64], prompt: NDArray[np.int64], output: int, profiles: list[LoadedGpu]
    ) -> pl.DataFrame:
        """Evaluate all engines at all lines; batches and prompts are tables of engines by lines."""
        lines = batch.shape[1]
        repeated = runnable[np.repeat(np.arange(height), lines)].with_columns(
            pl.Series("batch", batch.ravel()).cast(pl.UInt32),
            pl.Series("prompt_tokens", np.broadcast_to(prompt, batch.shape).ravel()).cast(pl.UInt32),
            pl.lit(output, dtype=pl.UInt32).alias("output_tokens"),
        )
        results = evaluate(repeated, gpus=profiles, max_batched_tokens=LARGEST, **options)
        bound[:] |= (results["reason"] == "power").to_numpy().reshape(batch.shape).any(axis=1)
        return results

    static, clocks = _idle(runnable, known)
    gpu_count = smallest_results.filter(smallest_results["feasible"])["gpus"].cast(pl.Float64).to_numpy()
    idle_w = gpu_count * static * clocks
    stages = runnable["pp"].cast(pl.Float64).to_numpy()

    def read(pieces: NDArray[np.int64], length: NDArray[np.int64]) -> tuple[Column, Column]:
        """Return seconds and joules of reading so many prompts of a length a rank, in a pipeline that stays full."""
        results = evaluate_lines(ranks[:, None] * pieces, length, 1, plain)
        shape = (height, pieces.shape[-1])
        seconds, joules = (results[name].to_numpy().reshape(shape) for name in ("ttft_s", "energy_prefill_j"))
        full = (stages / (2 * stages - 1))[:, None]
        return seconds * full, joules - idle_w[:, None] * seconds * (1.0 - full)

    base_s, base_j = read(np.maximum(1, _TOKENS // PIECE)[None, :], np.minimum(_TOKENS, PIECE)[None, :])
    tokens = (ranks[:, None] * _TOKENS[None, :]).astype(np.float64)
    long_s, long_j = read(np.ones((1, len(_LENGTHS)), dtype=np.int64), _LENGTHS[None, :])
    read_tokens = ranks[:, None] * _LENGTHS[None, :].astype(np.float64)
    rows = np.arange(height)

    def base_at(values: Column, counts: Column) -> Column:
        smallest_results = [interpolated(values, between(tokens, counts[:, line])) for line in range(counts.shape[1])]
        return np.stack(smallest_results, axis=1)

    attend_s = np.maximum(0.0, long_s - base_at(base_s, read_tokens)) / read_tokens
    attend_j = np.maximum(0.0, long_j - base_at(base_j, read_tokens)) / read_tokens
    sequences = runnable["dp"].cast(pl.Float64).to_numpy()[:, None] * _SEQUENCES[None, :]
    cells = (np.repeat(_SEQUENCES, len(_CONTEXTS)), np.tile(_CONTEXTS, len(_SEQUENCES)))
    batch = runnable["dp"].cast(pl.Int64).to_numpy()[:, None] * cells[0][None, :]
    stepped = evaluate_lines(batch, cells[1][None, :], 2, plain)
    shape = (height, len(_SEQUENCES), len(_CONTEXTS))
    decode_s = stepped["tpot_s"].to_numpy().reshape(shape) - base_at(base_s, sequences)[:, :, None]
    decode_j = stepped["energy_decode_step_j"].to_numpy().reshape(shape) - base_at(base_j, sequences)[:, :, None]
    many = runnable["dp"].cast(pl.Int64).to_numpy()[:, None] * 256
    with_samples, without = (evaluate_lines(many, np.array([[1024]]), 2, profiles) for profiles in (real, plain))

    if bound.any():
        rest = engines(uncapped(runnable, known), models=models, gpus=gpus, threads=threads)
        specs = {"models": [load_model(name) for name in models], "gpus": known}
        return Engines(runnable, rest.steps, reasons, models, gpus, drawn(rest.steps, runnable, bound, specs))

    def sampled(name: str) -> Column:
        results: Column = (with_samples[name].to_numpy() - without[name].to_numpy()) / many[rows, 0]
        return np.maximum(0.0, results)

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
    return Engines(runnable, steps, reasons, models, gpus)


def _idle(engines_frame: pl.DataFrame, known: Sequence[LoadedGpu]) -> tuple[Column, Column]:
    """Return watts of a GPU that waits at its full clock, and the share of them at the engine's own clock."""
    by_name = {loaded.spec.name: loaded for loaded in known}
    static = np.array([by_name[name].profile.static_w for name in engines_frame["gpu"]])
    share = np.ones(engines_frame.height)
    if "sm_clock_mhz" in engines_frame.columns:
        for row, (name, clock) in enumerate(engines_frame.select("gpu", "sm_clock_mhz").iter_rows()):
            table = by_name[name].spec.clock
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
