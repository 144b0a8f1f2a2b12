"""Requests replayed one by one through continuous batching, on the same steps as the steady state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens import _core
from energylens.common.errors import EnergylensError, FrameError, InfeasibleError, Problem
from energylens.common.memory import require_bytes
from energylens.inputs.builder import Model
from energylens.inputs.library import load_gpu
from energylens.inputs.plan import LoadedGpu, LoadedModel
from energylens.serving.caps import CapBinds, Reading, binds, replay_w
from energylens.serving.checks import checked, checked_rate
from energylens.serving.evaluate import Role, caches
from energylens.serving.names import resolved, single_deployment
from energylens.serving.notes import FEW_REQUESTS, few_words, traffic_notes
from energylens.serving.replay_values import values_of, windowed
from energylens.serving.step_table import Engines, engine_columns, engines
from energylens.serving.workload import Workload, flat_blocks, load_workload

MOST_REQUESTS = 20_000_000
"""Requests of one replay; some five seconds of one core and a gigabyte a million or so."""

_REQUEST_BYTES = 1_000
"""Memory of a request while it is replayed, without its blocks."""

_OVERLOAD_SAMPLE = 20
"""Times the requests that run at once, from which on a rate below that of arrivals means overload."""


@dataclass(frozen=True)
class Replay:
    """What became of requests: a row each in `requests` (null times where one was refused), and sums in `values`.

    `notes` are sentences on how the traffic was read: what was inferred of a trace, a rate changed, few requests.
    `deployment` has all its columns, models and GPUs by the names of their specs.
    """

    requests: pl.DataFrame
    values: dict[str, Any]
    notes: Sequence[str] = ()
    deployment: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def overloaded(self) -> bool:
        """Whether requests came faster than they were served: the last waits much longer than the first."""
        # A few requests take longer to finish than to come, however idle the engine is.
        late = self.values["requests_per_s"] < 0.9 * self.offered_per_s
        return late and len(self.requests) >= _OVERLOAD_SAMPLE * max(1.0, float(self.values["running"]))

    @property
    def offered_per_s(self) -> float:
        """Requests a second that arrived; those served, if all came at once."""
        arrivals = self.requests["arrival_s"]
        span = float(arrivals[-1] - arrivals[0])
        return (len(arrivals) - 1) / span if span > 0 else float(self.values["requests_per_s"])


def replay(
    deployment: Mapping[str, Any],
    workload: str | Path | Workload,
    rate_per_s: float | None = None,
    *,
    requests: int | None = None,
    models: Sequence[str | Path | Model | LoadedModel] = (),
    gpus: Sequence[str | Path | LoadedGpu] = (),
) -> Replay:
    """Return what becomes of every request on a deployment, each replica scheduled as vLLM does it.

    Parameters
    ----------
    deployment
        Columns of `serve` with their values; models and GPUs by bundled names, paths or loaded specs.
    workload
        What `load_workload` takes.
    rate_per_s
        Requests a second of all replicas together. A trace is sped up or slowed down to it; the workload's default, if
        None.
    requests
        How many to replay: a trace is cut or repeated. All of a trace, else 20,000, if None.
    models, gpus
        Further specs that the deployment may name.

    Returns
    -------
    Replay
        `requests` has a row for each: `arrival_s`, `prompt_tokens`, `output_tokens`, `ttft_s`, `tpot_s`, `latency_s`.
        `values` has the results of `serve`, with `ttft_p99_s`, `steps`, `preempted`, `refused`, and the 80 % intervals
        of the 90th percentiles that so many requests leave: `ttft_p90_lo_s`, `ttft_p90_hi_s`, `tpot_p90_lo_s`,
        `tpot_p90_hi_s` (None: no bound).

    Raises
    ------
    FrameError
        With every problem of the deployment and the rate. Speculation is not replayed.
    SpecError
        With every problem of models, GPUs and workload.
    InfeasibleError
        If the engine cannot run.

    Examples
    --------
    >>> replayed = replay({"model": "llama-3.1-8b", "gpu": "h100-sxm"}, "1024:256", rate_per_s=4.0, requests=500)
    >>> replayed.requests.height, replayed["refused"], replayed["ttft_p50_s"] < 0.1
    (500, 0, True)

    Notes
    -----
    A step takes a token of every running request, then prompts in the order of their arrival in what is left of the
    token budget. Requests are admitted while caches have room; where they run out, the latest goes back to the queue.
    Replicas take requests in turn, or, with a prefix cache, those whose prefix they have read (docs/service.md).
    """
    points, models, gpus = single_deployment(deployment, models, gpus)
    frame, models, gpus = resolved(checked(points), models, gpus)
    workload = load_workload(workload)
    runnable = engines(frame.select(engine_columns(frame)), models=models, gpus=gpus)
    if not runnable.height:
        raise InfeasibleError(cannot_run(str(runnable.reasons[0])))
    rate = checked_rate(workload, rate_per_s, needed=True)
    assert rate is not None
    available = 20_000 if workload.requests is None else workload.requests.height
    number = available if requests is None else requests
    is_whole_number = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
    if not (is_whole_number and 1 <= number <= MOST_REQUESTS):
        raise EnergylensError(
            Problem(f"a replay takes 1 to {MOST_REQUESTS:,} requests, found {number}", code="requests")
        )
    require_bytes(number * _REQUEST_BYTES, f"a replay of {number:,} requests", "replay fewer: --requests 100000")
    room = caches(runnable, np.zeros(1, dtype=np.int64), workload, frame["token_budget"].cast(pl.Float64).to_numpy())
    result = replayed(runnable, 0, frame.row(0, named=True), workload, rate, number, room.tokens[0])
    notes = traffic_notes(workload, rate, None if workload.requests is None else number)
    if number < FEW_REQUESTS and not (workload.requests is not None and workload.requests.height < FEW_REQUESTS):
        notes.append(few_words(number, "replayed"))
    return replace(result, notes=tuple(notes), deployment=frame.row(0, named=True))


def cannot_run(reason: str) -> Problem:
    """Return why a deployment cannot run."""
    from energylens.results.words import why_not

    said = why_not({reason: 1}).removeprefix("1 ")
    hint = "`energylens predict` with the same engine says more"
    return Problem(f"this deployment cannot run: configurations like it {said}", hint=hint, code=reason)


def replayed(
    runnable: Engines,
    row: int,
    deployment: Mapping[str, Any],
    workload: Workload,
    rate_per_s: float,
    number: int,
    held: float,
    role: Role = "both",
    only: int | None = None,
    warm_s: float = 0.0,
    prefix_hit_share: float = 0.0,
) -> Replay:
    """Return the replay of one deployment on an engine that is known to run, with caches of `held` tokens.

    With `only`, so many of its replicas are replayed, and sums are scaled to all. With `warm_s`, what happens before
    and after the last arrival is left out. `found_share` of each prompt is found where the requests have no blocks.
    Raises `CapBinds` where a step may draw more than a cap and its effect is not known.
    """
    if deployment["draft_tokens"] > 0:
        raise FrameError(Problem("speculation is not replayed", hint="set draft_tokens to 0", code="draft"))
    requests = workload.sample(number, rate_per_s)
    reads = role != "decode"
    if not reads:  # the first token comes with the cache
        requests = requests.filter(pl.col("output_tokens") > 1).with_columns(pl.col("output_tokens") - 1)
    replicas = int(deployment["replicas"])
    prefixes = "blocks" in requests.columns and bool(deployment["prefix_cache"]) and reads
    engine = {
        "most_running": int(deployment["max_num_seqs"]),
        "token_budget": int(deployment["token_budget"]),
        "cache_tokens": int(held),
        "chunked": bool(deployment["chunked"]),
        "reads": reads,
        "block_tokens": workload.block_tokens,
        "prefix_hit_share": 0.0 if prefixes or not reads else float(prefix_hit_share),
        "lanes": int(deployment["dp"]) * int(deployment["pp"]),
        "idle_w": float(runnable.steps.idle_w[row]),
        "warm_s": warm_s,
    }
    steps = runnable.steps.of_core(row)
    parts, sums, inputs = [], [], []
    turns = _by_prefix(requests, replicas) if prefixes else np.arange(requests.height) % replicas
    for turn in range(replicas if only is None else min(only, replicas)):
        share = requests.filter(pl.Series(turns == turn))
        if not share.height:
            continue
        blocks, starts = flat_blocks(share, workload.block_tokens) if prefixes else ([], [])
        prompts, outputs = (share[name].cast(pl.UInt32).to_numpy() for name in ("prompt_tokens", "output_tokens"))
        inputs.append((share["arrival_s"].to_numpy(), prompts, outputs, blocks, starts))
        engine_replay = _core.replay(steps, engine, *inputs[-1])
        engine_replay["began_s"] = float(share["arrival_s"][0])
        made = share["output_tokens"].to_numpy()
        after, since = (
            (made - 1.0, engine_replay["done_s"] - engine_replay["first_s"])
            if reads
            else (made, engine_replay["done_s"])
        )
        per_token = np.where(after < 1.0, np.nan, since / np.maximum(after, 1.0))
        parts.append(
            share.drop("blocks", strict=False).with_columns(
                pl.Series("ttft_s", engine_replay["first_s"]).fill_nan(None),
                pl.Series("latency_s", engine_replay["done_s"]).fill_nan(None),
                pl.Series("tpot_s", per_token).fill_nan(None),
            )
        )
        sums.append(engine_replay)
    if not parts:
        fault = f"workload `{workload.name}` leaves nothing to {role if role != 'both' else 'serve'}"
        raise EnergylensError(Problem(fault, hint="requests of one output token need no decode pool", code="workload"))
    done = pl.concat(parts)
    _check_cap(runnable, row, steps, engine, inputs)
    values = values_of(done, sums, engine["idle_w"], float(runnable.steps.gpus[row]), replicas)
    if warm_s > 0:
        began = min(engine_sums["began_s"] for engine_sums in sums)
        values |= windowed(done.filter(pl.col("arrival_s") >= began + warm_s), sums, values["gpus"] / replicas)
        # Sums are those of the replicas replayed; all do the same.
        values |= {
            name: values[name] * replicas / len(sums) for name in ("power_w", "output_tokens_per_s", "requests_per_s")
        }
    return Replay(done.sort("arrival_s", maintain_order=True), values)


def _check_cap(
    runnable: Engines, row: int, steps: Mapping[str, Any], engine: Mapping[str, Any], inputs: Sequence[tuple[Any, ...]]
) -> None:
    """Raise `CapBinds` if a step of a replay may draw more than a cap whose effect is not known."""
    if runnable.drawn is None or not np.isfinite(runnable.drawn.cap_w[row]):
        return
    unpaid = dict(engine) | {"idle_w": 0.0}
    reads, prefixes = bool(engine["reads"]), any(len(blocks) for *_, blocks, _ in inputs)
    lengths = [float(end) for _, prompts, *_ in inputs for end in (prompts.min(), prompts.max())]
    shortest = 1.0 if prefixes else max(1.0, math.floor(min(lengths) * (1.0 - float(engine["prefix_hit_share"]))))
    mixes = bool(engine["chunked"]) and reads
    reading = Reading(int(engine["token_budget"]), mixes, shortest, max(lengths) if reads else 0.0)

    def joules(marked: dict[str, Any]) -> float:
        return sum(float(_core.replay(marked, unpaid, *arrays)["energy_j"]) for arrays in inputs)

    lowest = replay_w(runnable.drawn, row, steps, reading, joules)
    if lowest is not None:
        cap, gpus = float(runnable.drawn.cap_w[row]), [load_gpu(gpu) for gpu in runnable.gpus]
        raise CapBinds(binds(str(runnable.frame["gpu"][row]), cap, lowest, "a step of this replay", gpus), lowest)


_MOST_OVER_FAIR_SHARE = 1.25
"""Tokens of a replica over its fair share, beyond which requests go elsewhere though their prefix is there."""


def _by_prefix(requests: pl.DataFrame, replicas: int) -> NDArray[np.int64]:
    """Return the replica of each request: that which read its prefix beyond a first block, if it has not had too much.

    Others go to the replica with the fewest tokens so far.
    """
    turns = np.zeros(requests.height, dtype=np.int64)
    if replicas == 1:
        return turns
    reader: dict[int, int] = {}
    assigned = np.zeros(replicas)
    tokens = (requests["prompt_tokens"] + requests["output_tokens"]).to_numpy()
    for at, blocks in enumerate(requests["blocks"].to_list()):
        replica = next((reader[block] for block in reversed(blocks[1:]) if block in reader), None)
        if replica is None or assigned[replica] > _MOST_OVER_FAIR_SHARE * (assigned.sum() + tokens[at]) / replicas:
            replica = int(assigned.argmin())
        turns[at] = replica
        assigned[replica] += tokens[at]
        reader.update(dict.fromkeys(blocks, replica))
    return turns
