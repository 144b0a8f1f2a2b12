"""Which lengths are cheap: joules per output token over prompts and outputs, and their surface (arXiv 2602.05695)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens.common import views
from energylens.common.errors import InfeasibleError, Problem
from energylens.engine.evaluate import evaluate
from energylens.inputs.axes import LARGEST
from energylens.inputs.axis_lists import whole_numbers
from energylens.inputs.builder import Model
from energylens.inputs.columns import frame_of
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.plan import LoadedGpu, LoadedModel
from energylens.results.prediction import engine_problem
from energylens.serving.least_squares import nonnegative_least_squares
from energylens.serving.sums import row_sums

LENGTHS: Final = (64, 128, 256, 512, 1024, 2048, 4096)
"""Prompt and output tokens of the cells, those of the paper."""

TERMS: Final = ("1", "input", "input²", "output", "input·output", "output²")
"""Terms of a request's joules."""


@dataclass(frozen=True)
class SweetSpots:
    """Joules per output token by cell, and the surface through them.

    `cells`: `prompt_tokens`, `output_tokens`, `energy_per_output_token_j`, `fitted_j`. `coefficients`: joules of each
    of `TERMS`. `error_percent`: mean relative error of the surface over the cells.
    """

    cells: pl.DataFrame
    coefficients: dict[str, float]
    error_percent: float

    @property
    def plot(self) -> views.LengthCharts:
        """Its chart: `sweet_spots()`."""
        charts: views.LengthCharts = views.charts(self)
        return charts

    @property
    def best(self) -> dict[str, Any]:
        """The cell of least joules per output token."""
        return self.cells.sort("energy_per_output_token_j").row(0, named=True)

    @property
    def worst(self) -> dict[str, Any]:
        """The cell of most."""
        return self.cells.sort("energy_per_output_token_j", descending=True).row(0, named=True)

    def best_output_tokens(self, prompt_tokens: float) -> float:
        """Return where the surface is lowest along the output: `√((c₀ + c₁·i + c₂·i²)/c₅)`, or infinity."""
        c = [self.coefficients[term] for term in TERMS]
        ahead = c[0] + c[1] * prompt_tokens + c[2] * prompt_tokens**2
        return float(np.sqrt(ahead / c[5])) if c[5] > 0 else float("inf")


def sweet_spots(
    model: str | Path | Model | LoadedModel,
    gpu: str | Path | LoadedGpu = "h100-sxm",
    *,
    batch: int = 1,
    prompt_tokens: Sequence[int] = LENGTHS,
    output_tokens: Sequence[int] = LENGTHS,
    **engine: Any,
) -> SweetSpots:
    """Return joules per output token over prompt and output lengths, of batches that start together.

    Parameters
    ----------
    model, gpu
        Bundled names, paths or loaded specs.
    batch
        Requests of a batch.
    prompt_tokens, output_tokens
        Lengths to combine; pairs that do not fit into memory are left out.
    **engine
        Columns of a point: `tp`, `weight_dtype`, ...

    Returns
    -------
    SweetSpots
        The cells, and the surface fitted through them.

    Raises
    ------
    SpecError, FrameError
        With every problem of the specs, of the columns.
    InfeasibleError
        If no pair of lengths fits.

    Examples
    --------
    >>> spots = sweet_spots("llama-3.1-8b", batch=32, prompt_tokens=[128, 1024], output_tokens=[128, 1024])
    >>> spots.cells.height, spots.best["prompt_tokens"]
    (4, 128)

    Notes
    -----
    The joules of a request are fitted as `E = c₀ + c₁·i + c₂·i² + c₃·o + c₄·i·o + c₅·o²` (i prompt and o output
    tokens), coefficients not negative, weights relative; per output token it is `E/o`.

    References
    ----------
    arXiv 2602.05695.
    """
    loaded, profile = load_model(model), load_gpu(gpu)
    point = {"model": loaded.spec.name, "gpu": profile.spec.name, "batch": batch} | engine
    sides = (("prompt_tokens", prompt_tokens), ("output_tokens", output_tokens))
    prompts, outputs = (dict.fromkeys(whole_numbers(values, name, LARGEST)) for name, values in sides)
    lengths = [(i, o) for i in prompts for o in outputs]
    rows = [point | {"prompt_tokens": i, "output_tokens": o} for i, o in lengths]
    evaluated = evaluate(frame_of(*rows), models=[loaded], gpus=[profile])
    feasible = evaluated.filter(pl.col("feasible"))
    if not feasible.height:
        if (problem := engine_problem(loaded, profile, engine)) is not None:
            raise InfeasibleError(problem)
        fault = f"{loaded.spec.name} runs at none of these lengths ({evaluated['reason'][0]})"
        raise InfeasibleError(
            Problem(fault, hint="use more GPUs (tp), or a smaller batch", code=str(evaluated["reason"][0]))
        )
    prompt_lengths, output_lengths = (
        feasible[name].cast(pl.Float64).to_numpy() for name in ("prompt_tokens", "output_tokens")
    )
    joules = feasible["energy_per_request_j"].to_numpy()
    coefficients = surface(prompt_lengths, output_lengths, joules)
    fitted = row_sums(terms(prompt_lengths, output_lengths), coefficients) / output_lengths
    cells = feasible.select(
        "prompt_tokens", "output_tokens", "energy_per_output_token_j", "energy_prefill_j", "energy_decode_j"
    )
    error = float(100.0 * np.abs(fitted * output_lengths / joules - 1.0).mean())
    by_term = dict(zip(TERMS, coefficients.tolist(), strict=True))
    return SweetSpots(cells.with_columns(pl.Series("fitted_j", fitted)), by_term, error)


def terms(prompts: NDArray[np.float64], outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the terms of requests' joules, a row each."""
    return np.stack([np.ones_like(prompts), prompts, prompts**2, outputs, prompts * outputs, outputs**2], axis=1)


def surface(
    prompts: NDArray[np.float64], outputs: NDArray[np.float64], joules: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the non-negative coefficients of the terms with the least relative error."""
    rows = terms(prompts, outputs) / joules[:, None]
    scale = np.sqrt(np.add.reduce(rows * rows, axis=0))
    coefficients: NDArray[np.float64] = nonnegative_least_squares(rows / scale, np.ones(len(joules))) / scale
    return coefficients
