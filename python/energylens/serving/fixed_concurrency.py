"""The mean step at a known number of running requests, new prompts read along with the decode steps.

It is what measured runs are compared with, since these state their batch size; no queue, no latency of requests. From
arrival rates to batch sizes and waiting times: `steady_state`. Columns are those of measured runs (`input_tokens`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from energylens import _core
from energylens.engine.evaluate import evaluate
from energylens.inputs.builder import Model
from energylens.inputs.library import load_gpu, resolved
from energylens.inputs.plan import LoadedGpu, LoadedModel
from energylens.inputs.run_options import RUNNING

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Column = NDArray[np.float64]

_POINT_COLUMNS = ("model", "gpu", "weight_dtype", "kv_dtype", "tp", "pp", "dp", "ep", *RUNNING)
_AMPLE_BYTES = 1e18
Z_80 = 1.281_551_565_544_6
"""Standard deviations to either side of the mean between which four values in five of a normal distribution lie."""


def steps(points: pl.DataFrame) -> tuple[Column, Column, Column]:
    """Return prompts that start in a step, and (sequences, context) of a step that reads some along with its decoding.

    With B running requests of `input_tokens` + `output_tokens`, a step starts λ = B/output prompts (Poisson). The share
    w = 1 - exp(-λ) of the steps starts any, and then λ/w, with p = λ/w·input tokens; such a step is taken as a decode
    step of n = B + p sequences whose mean context B·(input + output/2)/n leaves the bytes of cache read as they are.
    """
    batch, prompt, output = (
        points[name].cast(pl.Float64).to_numpy() for name in ("batch", "input_tokens", "output_tokens")
    )
    starting = batch / output
    together = batch + starting / reading(starting) * prompt
    return starting, together, batch * (prompt + output / 2) / together


def reading(starting: Column) -> Column:
    """Return the share of steps that start a prompt: 1 - exp(-λ)."""
    share: Column = -np.expm1(-starting)
    return share


def steady_state(
    points: pl.DataFrame,
    *,
    models: Sequence[str | Path | Model | LoadedModel] = (),
    gpus: Sequence[str | Path | LoadedGpu] = (),
    threads: int | None = None,
) -> pl.DataFrame:
    """Return the mean step, power and joules at constant concurrency, for each point.

    Points: as in `evaluate`, but with `batch` (mean running requests), `input_tokens` and `output_tokens` (means) as
    real numbers. Results: `itl_s` (median inter-token latency), `step_s` (mean step, with and without prompts),
    `output_tokens_per_s = batch/step_s`, `power_w_per_gpu`, `energy_per_output_token_j` with its interval
    `energy_per_output_token_lo_j`, `_hi_j`, `extrapolated`, and `share_<cause>` of the joules.
    Whether the requests fit in memory is not checked.
    The median step reads no prompt while fewer than ln 2 start in one; beyond, it approaches the step that does.
    """
    by_name = {loaded.spec.name: loaded for loaded in map(load_gpu, gpus)}
    names = points["gpu"].unique(maintain_order=True).to_list()
    chosen, renamed = resolved(names, by_name, load_gpu, "GPU")
    points = points.with_columns(pl.col("gpu").replace_strict(renamed))
    known = {loaded.spec.name: loaded for loaded in chosen}
    roomy = [bare(loaded) for loaded in known.values()]
    starting, together, context = steps(points)
    batch = points["batch"].cast(pl.Float64).to_numpy()
    inputs, outputs = (points[name].cast(pl.Float64).to_numpy() for name in ("input_tokens", "output_tokens"))
    mixed = _sampled(_decode(points, together, context, models, roomy, threads), batch, known)
    alone = _sampled(_decode(points, batch, inputs + outputs / 2, models, roomy, threads), batch, known)

    share = reading(starting)

    def mean(name: str) -> Column:
        mean_values: Column = (1.0 - share) * alone[name].to_numpy() + share * mixed[name].to_numpy()
        return mean_values

    step_s, energy_j = mean("tpot_s"), mean("energy_decode_step_j")
    median = np.maximum(0.0, 1.0 - math.log(2.0) / np.maximum(starting, 1e-300))
    alone_s, mixed_s = alone["tpot_s"].to_numpy(), mixed["tpot_s"].to_numpy()
    gpu_count = mixed["gpus"].to_numpy()
    causes = {cause: mean(f"energy_decode_{cause}_j") for cause in _core.CAUSES}
    half = Z_80 * _deviation(mixed, causes, energy_j, {loaded.spec.name: loaded for loaded in roomy})
    half *= np.where(alone["extrapolated"].to_numpy(), 2.0, 1.0)
    return pl.DataFrame(
        {
            "itl_s": alone_s + (mixed_s - alone_s) * median,
            "step_s": step_s,
            "output_tokens_per_s": batch / step_s,
            "power_w_per_gpu": energy_j / step_s / gpu_count,
            "energy_per_output_token_j": energy_j / batch,
            "energy_per_output_token_lo_j": energy_j / (1.0 + half / energy_j) / batch,
            "energy_per_output_token_hi_j": (energy_j + half) / batch,
            "extrapolated": alone["extrapolated"],
        }
        | {f"share_{cause}": joules / energy_j for cause, joules in causes.items()}
    )


def ample(loaded: LoadedGpu) -> LoadedGpu:
    """Return a profile of memory without end."""
    spec = loaded.spec
    memory = spec.memory.model_copy(update={"capacity_bytes": _AMPLE_BYTES})
    return LoadedGpu(spec.model_copy(update={"memory": memory}), loaded.document)


def bare(loaded: LoadedGpu) -> LoadedGpu:
    """Return a profile of ample memory that samples for nothing: tokens of prompts are not sampled from."""
    spec = ample(loaded).spec
    changes: dict[str, object] = {}
    if spec.host is not None:
        changes["host"] = spec.host.model_copy(update={"sequence_s": 0.0})
    if spec.energy is not None:
        changes["energy"] = spec.energy.model_copy(update={"sequence_j": 0.0})
    return LoadedGpu(spec.model_copy(update=changes), loaded.document)


def _sampled(step: pl.DataFrame, batch: Column, gpus: dict[str, LoadedGpu]) -> pl.DataFrame:
    """Return steps with the seconds and joules of sampling for `batch` sequences added, within the power limit."""
    sections = [gpus[name].profile.sections for name in step["gpu"]]

    def value(section: str, name: str) -> Column:
        return np.array([float(section_of[section].get(name, 0.0)) for section_of in sections])

    held = batch / step["dp"].to_numpy()
    sampling_s = held * value("host", "sequence_s")
    compute_j = held * value("energy", "sequence_j") + sampling_s * value("energy", "active_w")
    seconds = step["tpot_s"].to_numpy() + sampling_s
    everything = step["gpus"].to_numpy()
    static_j = sampling_s * value("power", "static_w")
    energy_j = step["energy_decode_step_j"].to_numpy() + everything * (compute_j + static_j)
    most_j = everything * value("power", "tdp_w") * seconds
    drawn = np.minimum(1.0, most_j / energy_j)
    added = {"compute": compute_j, "static": static_j}
    return step.with_columns(
        pl.Series("tpot_s", seconds),
        pl.Series("energy_decode_step_j", energy_j * drawn),
        *(
            pl.Series(name, (step[name].to_numpy() + everything * added.get(cause, 0.0)) * drawn)
            for cause in _core.CAUSES
            if (name := f"energy_decode_{cause}_j")
        ),
    )


def _decode(
    points: pl.DataFrame,
    sequences: Column,
    context: Column,
    models: Sequence[str | Path | Model | LoadedModel],
    gpus: Sequence[LoadedGpu],
    threads: int | None,
) -> pl.DataFrame:
    """Return one decode step of so many sequences at a mean context, with its joules by cause."""
    frame = points.select(name for name in _POINT_COLUMNS if name in points.columns).with_columns(
        pl.Series("batch", np.maximum(1.0, np.round(sequences))).cast(pl.UInt32),
        pl.Series("prompt_tokens", np.maximum(1.0, np.round(context - 1.0))).cast(pl.UInt32),
        pl.lit(2, dtype=pl.UInt32).alias("output_tokens"),
    )
    return evaluate(frame, models=models, gpus=gpus, breakdown=True, threads=threads)


def _deviation(frame: pl.DataFrame, causes: dict[str, Column], energy_j: Column, gpus: dict[str, LoadedGpu]) -> Column:
    """Return standard deviations of a step's joules: those the core gives a whole batch, scaled by its causes.

    The core's interval is that of prompt and step together. That of the step alone follows from the relative deviations
    of the profile: √(Σ (σ_c·E_c)² + σ²·E²), where σ² is what the interval of the whole leaves after its own causes.
    """
    batch_j = frame["energy_j"].to_numpy()
    variance = np.zeros(frame.height)
    batch_variance = np.zeros(frame.height)
    for cause in _core.CAUSES:
        deviations = np.array([relative(gpus[name], cause) for name in frame["gpu"]])
        step = frame[f"energy_decode_{cause}_j"].to_numpy()
        variance += (deviations * causes[cause]) ** 2
        batch_variance += (deviations * (step + frame[f"energy_prefill_{cause}_j"].to_numpy())) ** 2
    spread = (frame["energy_hi_j"].to_numpy() - batch_j) / np.where(frame["extrapolated"].to_numpy(), 2.0, 1.0) / Z_80
    common = np.maximum(0.0, spread**2 - batch_variance) / batch_j**2
    deviation: Column = np.sqrt(variance + common * energy_j**2)
    return deviation


def relative(loaded: LoadedGpu, cause: str) -> float:
    """Return the relative deviation of a profile's joules of a cause."""
    uncertainty = loaded.profile.sections.get("uncertainty")
    return float((uncertainty or UNMEASURED)[cause])


UNMEASURED = {
    "compute": 0.25,
    "hbm_weights": 0.25,
    "hbm_kv": 0.25,
    "hbm_activations": 0.25,
    "communication": 0.5,
    "static": 0.25,
    "waiting": 0.5,
}
"""Relative deviations by cause that the core takes for a profile without `uncertainty`."""
