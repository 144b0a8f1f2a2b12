"""How many requests to run at once (the advisor of arXiv 2503.08311), and replicas on the memory left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from energylens.common import show
from energylens.common.errors import InfeasibleError, Problem, SpaceError
from energylens.inputs.axis_lists import whole_numbers
from energylens.inputs.builder import Model
from energylens.inputs.columns import frame_of
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.plan import LoadedGpu, LoadedModel
from energylens.results.prediction import engine_problem
from energylens.serving.evaluate import serve
from energylens.serving.intervals import with_intervals
from energylens.serving.notes import traffic_notes
from energylens.serving.step_table import engine_columns, engines
from energylens.serving.workload import Workload, load_workload

BATCHES: Final = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Numbers of running requests that are compared."""

REFERENCE: Final = 32
"""Batch whose inter-token latency limits are multiples of."""

_MOST_BATCH: Final = 1_000_000
_MOST_SLOWDOWN: Final = 1e12


@dataclass(frozen=True)
class BatchAdvice:
    """A curve over running requests, and what to make of it.

    `curve`: `batch`, `output_tokens_per_s`, `tpot_s`, `power_w`, `energy_per_output_token_j` (with interval), `gain`
    g(B),
    `kept`. `batch` is the largest kept. `replicas`: what copies of the engine on the same GPUs give, a row each.
    """

    curve: pl.DataFrame
    batch: int
    replicas: pl.DataFrame
    epsilon: float
    slowdown: float
    notes: Sequence[str] = ()


def advise_batch(
    model: str | Path | Model | LoadedModel,
    gpu: str | Path | LoadedGpu = "h100-sxm",
    workload: str | Path | Workload = "1024:256",
    *,
    epsilon: float = 0.1,
    slowdown: float = 2.0,
    batches: Sequence[int] = BATCHES,
    **engine: Any,
) -> BatchAdvice:
    """Return how many requests to run at once on an engine that is always full.

    Parameters
    ----------
    model, gpu
        Bundled names, paths or loaded specs.
    workload
        What `load_workload` takes.
    epsilon
        Least throughput per running request, over that of one request alone, 0 to 1.
    slowdown
        Most inter-token latency, over that at 32 running requests; 1 or more.
    batches
        Numbers of running requests to compare.
    **engine
        Columns of a deployment: `tp`, `weight_dtype`, ...

    Returns
    -------
    BatchAdvice
        `batch` is the largest that keeps both; `curve` has every batch; `replicas` has what copies of the engine at
        that batch, as many as fit into the same GPUs, would give.

    Raises
    ------
    SpecError, FrameError, SpaceError
        With every problem of the specs, of the columns, of the numbers.
    InfeasibleError
        If nothing runs.

    Examples
    --------
    >>> advice = advise_batch("llama-3.1-8b", "h100-sxm", "1024:256", batches=[1, 32, 128])
    >>> advice.batch in (1, 32, 128)
    True

    Notes
    -----
    With throughput T(B) and inter-token latency ITL(B): `g(B) = T(B)/(B·T(1)) > epsilon` and `ITL(B) ≤
    slowdown·ITL(32)`. With u the share of a step in which the GPU works and not the host, R copies give `R/max(1, R·u)`
    times the tokens, or as many as the power limit allows; dynamic joules per token stay, static and waiting ones are
    shared.

    References
    ----------
    arXiv 2503.08311.
    """
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (epsilon, slowdown))
    if not (numbers and 0 <= epsilon < 1 and 1 <= slowdown <= _MOST_SLOWDOWN):
        hint = "epsilon is a share such as 0.1, slowdown a factor such as 2"
        fault = f"cannot advise with epsilon {show.shown(epsilon)} and slowdown {show.shown(slowdown)}"
        raise SpaceError(Problem(fault, hint=hint, code="advice"))
    requested = whole_numbers(batches, "batches", _MOST_BATCH)
    loaded, profile, workload = load_model(model), load_gpu(gpu), load_workload(workload)
    if workload.output_tokens <= 1:
        fault, hint = "requests of one output token decode nothing", "give a workload of longer outputs: 1024:256"
        raise SpaceError(Problem(fault, hint=hint, code="advice"))
    options: dict[str, Any] = {"models": [loaded], "gpus": [profile]}
    tried = sorted({1, REFERENCE, *requested})
    point = {"model": loaded.spec.name, "gpu": profile.spec.name} | engine
    points = frame_of(*(point | {"max_num_seqs": batch} for batch in tried))
    served = serve(points, workload, None, **options)
    fits = served.filter(pl.col("feasible") & (pl.col("slots") >= pl.col("max_num_seqs") - 0.5))
    if not fits.height:
        if (problem := engine_problem(loaded, profile, engine)) is not None:
            raise InfeasibleError(problem)
        why = str(served["reason"][0])
        why = "memory" if why == "ok" else why  # it runs, but not with so many at once
        hint = "use more GPUs (tp) or a narrower weight_dtype" if why == "memory" else "`energylens predict` says why"
        raise InfeasibleError(Problem(f"{loaded.spec.name} cannot run ({why})", hint=hint, code=why))
    curve = with_intervals(fits, workload, **options).rename({"max_num_seqs": "batch"})
    alone = float(curve["output_tokens_per_s"][0])
    usual = curve.filter(pl.col("batch") <= REFERENCE)["tpot_s"][-1]
    gain = pl.col("output_tokens_per_s") / (pl.col("batch") * alone)
    curve = curve.with_columns(gain=gain, kept=(gain > epsilon) & (pl.col("tpot_s") <= slowdown * usual))
    best = int(curve.filter(pl.col("kept"))["batch"].max())  # type: ignore[arg-type]
    shown = curve.select(
        "batch", "output_tokens_per_s", "tpot_s", "power_w", "energy_per_output_token_j",
        "energy_per_output_token_lo_j", "energy_per_output_token_hi_j", "gain", "kept",
    )  # fmt: skip
    replicas = _replicas(curve.filter(pl.col("batch") == best), workload, profile, options)
    return BatchAdvice(shown, best, replicas, epsilon, slowdown, tuple(traffic_notes(workload, None)))


def _replicas(at: pl.DataFrame, workload: Workload, gpu: LoadedGpu, options: dict[str, Any]) -> pl.DataFrame:
    """Return what 1, 2, ... copies of an engine on its GPUs give."""
    row = at.row(0, named=True)
    runnable = engines(at.select(engine_columns(at)), **options)
    row_zero = np.zeros(1, dtype=np.int64)
    free, request = runnable.cache(
        workload.prompt_tokens, workload.output_tokens, np.array([float(row["token_budget"])]), row_zero
    )
    capacity = gpu.spec.memory.capacity_bytes
    needed = capacity - float(free[0]) + row["batch"] / row["dp"] * float(request[0])
    most = max(1, int(capacity / needed))
    host_s = gpu.profile.host_s + row["batch"] * float(runnable.steps.sample_s[0])
    step_s = row["batch"] / row["output_tokens_per_s"]
    busy = max(0.05, 1.0 - host_s / step_s)
    shared = float(row["share_static"] + row["share_waiting"])
    rows = []
    for copies in range(1, most + 1):
        more = copies / max(1.0, copies * busy)
        alone = row["energy_per_output_token_j"] * row["output_tokens_per_s"]
        limit = gpu.profile.tdp_w * row["gpus"]
        more = max(1.0, min(more, (limit - shared * alone) / ((1.0 - shared) * alone)))
        energy = row["energy_per_output_token_j"] * ((1.0 - shared) + shared / more)
        rows.append(
            {
                "replicas": copies,
                "output_tokens_per_s": row["output_tokens_per_s"] * more,
                "tpot_s": row["tpot_s"] * copies / more,
                "energy_per_output_token_j": energy,
                "power_w": energy * row["output_tokens_per_s"] * more,
                "gpu_busy_share": min(1.0, copies * busy),
            }
        )
        if copies * busy >= 1.0:
            break
    return pl.DataFrame(rows)
