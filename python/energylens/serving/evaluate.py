"""Deployments under a workload: engines, how they batch, and how many there are, in steady state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens.common.errors import FrameError, Problem
from energylens.inputs.builder import Model
from energylens.inputs.plan import LoadedGpu, LoadedModel
from energylens.serving.checks import checked, checked_rate
from energylens.serving.names import resolved
from energylens.serving.steady_latency import latency
from energylens.serving.steady_state import Batching, Flow, Mix, closed_loop, open_loop
from energylens.serving.step_table import Engines, engine_columns, engines
from energylens.serving.sums import row_sums
from energylens.serving.workload import Workload, load_workload

Column = NDArray[np.float64]

SERVED: Final = (
    "gpus",
    "slots",
    "utilisation",
    "peak_utilisation",
    "running",
    "ttft_p50_s",
    "ttft_p90_s",
    "ttft_s",
    "tpot_s",
    "tpot_p90_s",
    "latency_s",
    "requests_per_s",
    "output_tokens_per_s",
    "power_w",
    "power_w_per_gpu",
    "busy_share",
    "idle_share",
    "found_share",
    "energy_per_request_j",
    "energy_per_output_token_j",
)
"""Result columns of a deployment."""

_CHUNK: Final = 600
"""Deployments worked out at a time: it bounds the memory of columns of deployments by rates by kinds of requests."""


Role = Literal["both", "prefill", "decode"]
"""What a deployment does of each request."""


def serve(
    points: pl.DataFrame,
    workload: str | Path | Workload,
    rate_per_s: float | None = None,
    *,
    role: Role = "both",
    models: Sequence[str | Path | Model | LoadedModel] = (),
    gpus: Sequence[str | Path | LoadedGpu] = (),
    threads: int | None = None,
) -> pl.DataFrame:
    """Return what deployments do under a workload in steady state, in the same order.

    Parameters
    ----------
    points
        One row a deployment. Columns of its engine: `model, gpu, tp, pp, dp, ep, weight_dtype, kv_dtype` and the run
        options (`inputs/axes.py`). Columns of its batching: `max_num_seqs` (256 requests at once), `token_budget` (8192
        tokens a step), `chunked` (true: prompts are read in parts along with decoding), `prefix_cache` (true),
        `draft_tokens` γ (0) proposed by the model `draft` (null: at no cost, as n-grams are), each accepted with the
        chance `acceptance` (0.7), and `replicas` (1).
    workload
        What `load_workload` takes.
    rate_per_s
        Requests a second of all replicas together. None: every slot is always taken, and `requests_per_s` is the
        capacity.
    role
        `both`; `prefill`: reads prompts and makes the first token only; `decode`: prompts arrive already prefilled.
    models, gpus
        Further specs that rows may name: paths, `Model` objects, or what `load_model` and `load_gpu` return.
    threads
        Threads of the core; all CPUs of the process, if None.

    Returns
    -------
    polars.DataFrame
        The columns of `points`, and results: `gpus` of all replicas; `slots` (requests that may run at once on an
        engine); `utilisation` (rate over capacity) and `peak_utilisation` (at the largest rate of the workload);
        `running` requests of an engine; `ttft_p50_s`, `ttft_p90_s`, `ttft_s` (mean); `tpot_s` (mean over requests),
        `tpot_p90_s`; `latency_s` (mean); `requests_per_s`, `output_tokens_per_s`; `power_w` of all GPUs, idle time
        included, and `power_w_per_gpu`; `busy_share` of the time, `idle_share` of the joules; `found_share` of prompt
        tokens in the prefix cache; `energy_per_request_j`, `energy_per_output_token_j`; `feasible`, `reason`. Results
        of what cannot run are null.

    Raises
    ------
    FrameError
        With every problem of the frame and the rate.
    SpecError
        With every problem of models, GPUs and workload.

    Examples
    --------
    >>> import polars as pl
    >>> points = pl.DataFrame({"model": "llama-3.1-8b", "gpu": "h100-sxm", "replicas": [1, 2]})
    >>> served = serve(points, "1024:256", rate_per_s=10.0)
    >>> served["gpus"].to_list(), served["utilisation"][0] > served["utilisation"][1]
    ([1, 2], True)

    Notes
    -----
    With λ requests a second of an engine, O output tokens and a mean step of s̄ seconds, `running = λ·(O − 1)·s̄`
    (Little's law); docs/service.md has the equations.
    """
    return states(points, workload, rate_per_s, role=role, models=models, gpus=gpus, threads=threads)[0]


def states(
    points: pl.DataFrame,
    workload: str | Path | Workload,
    rate_per_s: float | None,
    *,
    role: Role = "both",
    models: Sequence[str | Path | Model | LoadedModel] = (),
    gpus: Sequence[str | Path | LoadedGpu] = (),
    threads: int | None = None,
    caps: bool = True,
) -> tuple[pl.DataFrame, Column]:
    """Return what `serve` does, and the watts of the step that draws the most of those a cap was held against.

    They are NaN where no cap may bind. Without `caps` none is held against anything.
    """
    workload = load_workload(workload)
    workload = workload.first_tokens() if role == "prefill" else workload
    frame, models, gpus = resolved(checked(points), models, gpus)
    if rate_per_s is not None:
        checked_rate(workload, rate_per_s)
    names = engine_columns(frame)
    distinct = frame.select(names).unique(maintain_order=True)
    runnable = engines(distinct, models=models, gpus=gpus, threads=threads)
    rows = runnable.rows_of(frame)
    why = dict(zip(distinct.iter_rows(), runnable.reasons.to_list(), strict=True))
    reasons = [why[key] for key in frame.select(names).iter_rows()]
    drafts = _drafts(frame, runnable, gpus, models, threads)
    columns = {name: np.full(frame.height, np.nan) for name in (*SERVED, "step_w")}
    picked = np.flatnonzero(rows >= 0)
    for start in range(0, len(picked), _CHUNK):
        part = picked[start : start + _CHUNK]
        served, full = _served(runnable, frame[part], rows[part], workload, rate_per_s, drafts, role, caps)
        for name, values in served.items():
            columns[name][part] = values
        for at, reason in zip(part, full, strict=True):
            reasons[at] = reason
    step_w = columns.pop("step_w")
    bad = np.array([reason != "ok" for reason in reasons])
    unknown = np.array([reason not in {"ok", "overload"} for reason in reasons])
    keep = ("gpus", "utilisation", "peak_utilisation")
    results = {
        name: pl.Series(name, np.where(unknown | (bad & (name not in keep)), np.nan, values)).fill_nan(None)
        for name, values in columns.items()
    }
    results_frame = frame.with_columns(
        *(series.cast(pl.UInt32) if name == "gpus" else series for name, series in results.items()),
        pl.Series("feasible", ~bad),
        pl.Series("reason", reasons, dtype=pl.String),
    )
    return results_frame, step_w


def _drafts(
    frame: pl.DataFrame,
    runnable: Engines,
    gpus: Sequence[str | Path | LoadedGpu],
    models: Sequence[str | Path | Model | LoadedModel],
    threads: int | None,
) -> dict[str, Engines]:
    """Return engines of draft models on the GPUs of each engine, in the order of `found`."""
    names = frame.filter(pl.col("draft_tokens") > 0)["draft"].drop_nulls().unique(maintain_order=True).to_list()
    drafts: dict[str, Engines] = {}
    for name in names:
        same = runnable.frame.with_columns(
            pl.lit(name).alias("model"), pl.lit(1, dtype=pl.UInt32).alias("ep"),
            pl.lit(None, dtype=pl.String).alias("weight_dtype"),
        )  # fmt: skip
        draft = engines(same, models=models, gpus=gpus, threads=threads)
        if draft.height != runnable.height:
            reason = next(reason for reason in draft.reasons if reason != "ok")
            hint = "draft on GPUs that hold it, with a tp that divides its heads"
            raise FrameError(Problem(f"the draft model `{name}` cannot run ({reason})", hint=hint, code="draft"))
        drafts[name] = draft
    return drafts


@dataclass(frozen=True)
class Caches:
    """Room of engines for caches, in columns."""

    tokens: Column
    """Tokens that all caches of an engine hold."""
    each: Column
    """Tokens that those of one data-parallel rank hold: a request lies on one."""


def caches(
    runnable: Engines,
    rows: NDArray[np.int64],
    workload: Workload,
    budget: Column,
    drafts: Sequence[Engines | None] = (),
) -> Caches:
    """Return the room of engines for caches of requests of the mean length, less what draft models take."""
    lengths = (workload.prompt_tokens, workload.output_tokens)
    free, request = (values[rows] for values in runnable.cache(*lengths, budget, rows))
    for draft in {id(engine): engine for engine in drafts if engine is not None}.values():
        uses_draft = np.array([engine is draft for engine in drafts])
        left, more = (values[rows] for values in draft.cache(*lengths, np.ones(len(rows)), rows))
        free = free - np.where(uses_draft, draft.capacity()[rows] - draft.reserved()[rows] - left, 0.0)
        request = request + np.where(uses_draft, more, 0.0)
    each = np.maximum(free, 0.0) / np.maximum(request, 1e-9) * sum(lengths)
    return Caches(each * runnable.frame["dp"].cast(pl.Float64).to_numpy()[rows], each)


def _served(
    runnable: Engines,
    frame: pl.DataFrame,
    rows: NDArray[np.int64],
    workload: Workload,
    rate_per_s: float | None,
    drafts: dict[str, Engines],
    role: Role,
    caps: bool,
) -> tuple[dict[str, Column], list[str]]:
    """Return results and reasons of deployments whose engines can run."""
    kinds = workload.kinds
    lengths = [kinds[name].to_numpy() for name in ("prompt_tokens", "output_tokens", "weight")]
    mix = Mix(lengths[0], lengths[1], lengths[2], workload.crowded, workload.crowd)
    budget = frame["token_budget"].cast(pl.Float64).to_numpy()
    gamma = frame["draft_tokens"].cast(pl.Float64).to_numpy()
    drawing = [drafts.get(name) if n > 0 else None for name, n in zip(frame["draft"], gamma, strict=True)]
    room = caches(runnable, rows, workload, budget, drawing)
    held, most_running = room.tokens, frame["max_num_seqs"].cast(pl.Float64).to_numpy()
    slots = np.minimum(most_running, held / mix.context)
    fits = room.each >= workload.longest
    starved = budget < most_running * (gamma + 1.0)
    replicas = frame["replicas"].cast(pl.Float64).to_numpy()
    accepted = frame["acceptance"].cast(pl.Float64).to_numpy()
    made = np.where(accepted >= 1.0, gamma + 1.0, (1.0 - accepted ** (gamma + 1.0)) / np.maximum(1.0 - accepted, 1e-12))
    cached = frame["prefix_cache"].cast(pl.Boolean).to_numpy()
    slots = np.maximum(slots, 1.0)

    names = list(drafts)
    draft = [
        names.index(name) if n > 0 and name is not None else -1 for name, n in zip(frame["draft"], gamma, strict=True)
    ]
    how = Batching(
        rows, slots, budget, frame["chunked"].cast(pl.Boolean).to_numpy(), np.ones(len(rows)),
        gamma + 1.0, made, np.array(draft), [draft_engines.steps for draft_engines in drafts.values()],
    )  # fmt: skip
    cached &= role != "decode"
    unread = np.zeros(len(rows)) if role == "decode" else np.ones(len(rows))
    share = unread - np.where(cached, workload.prefix_hit_share(held * replicas), 0.0)
    factors, time_share = np.array(workload.rates).T
    many = 1 if rate_per_s is None else len(factors)
    at = np.repeat(np.arange(len(rows)), many)
    for _ in range(2 if workload.prefix_hits else 1):
        now = replace(how, read_share=share)
        flow = most = closed_loop(runnable.steps, now, mix)
        rate = most.rate_per_s if rate_per_s is None else np.full(len(rows), rate_per_s) / replicas
        if rate_per_s is not None:
            rates = served_rates(rate, most.rate_per_s, factors, time_share)
            flow = open_loop(runnable.steps, now.take(at), mix, rates.ravel())
        if workload.prefix_hits:
            # Room that running requests leave, prefixes they share counted once; requests go where their prefix is.
            running = row_sums(flow.running.reshape(-1, many), time_share if many > 1 else np.ones(1))
            left = held - np.minimum(running, slots) * (mix.context - mix.read * (1.0 - share))
            share = unread - np.where(cached, workload.prefix_hit_share(np.maximum(left, 0.0) * replicas), 0.0)
    weights = np.ones(1) if many == 1 else time_share
    shares = np.ones(len(rows)) if rate_per_s is None else (rates * time_share).ravel()
    columns = dict(vars(latency(runnable.steps, now.take(at), mix, flow, shares, many)))

    def mean(values: Column) -> Column:
        return row_sums(values.reshape(-1, many), weights)

    power = mean(flow.power_w) * replicas
    requests = rate * replicas
    utilisation = rate / most.rate_per_s
    gpus = runnable.steps.gpus[rows] * replicas
    full = (rate > most.rate_per_s * 1.0001) if rate_per_s is not None else np.zeros(len(rows), dtype=bool)
    peak = utilisation * (factors.max() if many > 1 else 1.0)
    idle = mean((1.0 - flow.busy_share) * runnable.steps.idle_w[rows[at]]) * replicas
    columns |= {
        "gpus": gpus,
        "slots": slots,
        "utilisation": utilisation,
        "peak_utilisation": peak,
        "running": mean(flow.running),
        "requests_per_s": requests,
        "output_tokens_per_s": requests * workload.output_tokens,
        "power_w": power,
        "power_w_per_gpu": power / gpus,
        "busy_share": mean(flow.busy_share),
        "idle_share": idle / power,
        "found_share": unread - share,
        "energy_per_request_j": power / requests,
        "energy_per_output_token_j": power / requests / workload.output_tokens,
    }
    columns["latency_s"] = columns["ttft_s"] + (workload.output_tokens - 1.0) * columns["tpot_s"]
    reasons = np.where(~fits, "memory", np.where(starved, "budget", np.where(full, "overload", "ok")))
    capped = [table for table in (runnable, *drafts.values()) if table.drawn is not None] if caps else []
    if capped:
        columns["step_w"] = (
            _step_w(runnable, list(drafts.values()), now.take(at), mix, flow, role).reshape(-1, many).max(axis=1)
        )
        cap_w = np.min([table.drawn.cap_w[rows] for table in capped if table.drawn is not None], axis=0)
        over = columns["step_w"] > cap_w * (1.0 + 1e-9)
        reasons = np.where((reasons == "ok") & over, "power", reasons)
    return columns, reasons.tolist()


def _step_w(runnable: Engines, drafts: Sequence[Engines], how: Batching, mix: Mix, flow: Flow, role: Role) -> Column:
    """Return the watts of the step that draws the most of those of steady state, NaN where no cap may bind.

    These are the step that only decodes, and those that read a prompt of each kind too.
    """
    count = len(how.rows)
    none, most = np.zeros(count), np.full(count, -np.inf)
    running = np.minimum(np.maximum(flow.running / np.maximum(flow.busy_share, 1e-9), 1.0), how.slots)
    decoding, context = running * how.tokens_per_step, mix.context / how.tokens_per_step
    if runnable.drawn is not None:
        if mix.decoded > 0:
            most = runnable.drawn.of(how.rows, decoding, context, none, none)
        mixed_decoding = np.where(how.chunked & (mix.decoded > 0), decoding, 0.0)
        for length in mix.prompt_tokens if role != "decode" else ():
            unread = np.maximum(length * how.read_share, 1.0)
            read = unread / np.ceil(unread / how.free(running))
            most = np.maximum(most, runnable.drawn.of(how.rows, mixed_decoding, context, read, np.full(count, length)))
        most[~np.isfinite(runnable.drawn.cap_w[how.rows])] = -np.inf
    for number, draft in enumerate(drafts):
        if draft.drawn is not None:
            some = draft.drawn.of(how.rows, running, np.full(count, mix.context), none, none)
            some[(how.draft != number) | ~np.isfinite(draft.drawn.cap_w[how.rows])] = -np.inf
            most = np.maximum(most, some)
    return np.where(np.isfinite(most), most, np.nan)


def served_rates(rate: Column, most: Column, factors: Column, time_share: Column) -> Column:
    """Return rates at which requests are served: those at which they come, but at most capacity; the rest is served
    later.

    Each is `min(capacity, x·factor·λ)`, with x such that all are served.
    """
    wanted = rate[:, None] * factors
    low, high = np.ones(len(rate)), np.maximum(1.0, most / np.maximum(wanted.min(axis=1), 1e-12))
    for _ in range(40):
        middle = (low + high) / 2.0
        short = row_sums(np.minimum(most[:, None], middle[:, None] * wanted), time_share) < rate
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    rates: Column = np.minimum(most[:, None], high[:, None] * wanted)
    return rates
