"""How far the joules of deployments are trusted: the intervals of the steps they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from energylens import _core
from energylens.inputs.builder import Model
from energylens.inputs.library import load_gpu
from energylens.inputs.plan import LoadedGpu, LoadedModel
from energylens.serving.caps import uncapped
from energylens.serving.fixed_concurrency import Z_80, relative, steady_state
from energylens.serving.step_table import engine_columns
from energylens.serving.workload import Workload


def with_intervals(
    frame: pl.DataFrame,
    workload: Workload,
    *,
    models: Sequence[str | Path | Model | LoadedModel] = (),
    gpus: Sequence[str | Path | LoadedGpu] = (),
) -> pl.DataFrame:
    """Return deployments with the 80 % interval of their joules per token, `extrapolated`, and shares of joules by
    cause.

    Deviations are those of a step at the mean batch and context (docs/physics.md, section 10), relative to its joules.
    """
    if not frame.height:
        return frame
    named = {loaded.spec.name: loaded for loaded in map(load_gpu, gpus)}
    busy = 1.0 - frame["idle_share"].to_numpy()
    while_busy = frame["running"].to_numpy() / np.maximum(frame["busy_share"].to_numpy(), 1e-9)
    points = frame.select(engine_columns(frame)).with_columns(
        pl.Series("batch", np.maximum(frame["dp"].cast(pl.Float64).to_numpy(), while_busy)),
        pl.lit(max(1.0, workload.prompt_tokens)).alias("input_tokens"),
        pl.lit(max(1.0, workload.output_tokens)).alias("output_tokens"),
    )
    known = [named.get(name) or load_gpu(name) for name in frame["gpu"].unique(maintain_order=True)]
    steady = steady_state(uncapped(points, known), models=models, gpus=gpus)
    mean = steady["energy_per_output_token_j"].to_numpy()
    high = busy * (steady["energy_per_output_token_hi_j"].to_numpy() / mean - 1.0)
    # What engines draw while they wait is as uncertain as what is static.
    static = np.array([relative(named.get(name) or load_gpu(name), "static") for name in frame["gpu"]])
    wide = np.hypot(high, Z_80 * static * (1.0 - busy))
    energy = frame["energy_per_output_token_j"].to_numpy()
    shares = {cause: steady[f"share_{cause}"].to_numpy() * busy for cause in _core.CAUSES}
    shares["static"] = shares["static"] + 1.0 - busy
    return frame.with_columns(
        pl.Series("energy_per_output_token_lo_j", energy / (1.0 + wide)),
        pl.Series("energy_per_output_token_hi_j", energy * (1.0 + wide)),
        steady["extrapolated"],
        *(pl.Series(f"share_{cause}", values) for cause, values in shares.items()),
    )
