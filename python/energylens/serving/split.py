"""Prefill and decode apart: each on GPUs, a mesh and a clock of its own, with the cache sent across."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from energylens import _core
from energylens.common import views
from energylens.common.errors import Problem, SpaceError, did_you_mean
from energylens.common.show import shown
from energylens.engine.evaluate import checked_threads
from energylens.engine.space import Limit, Space
from energylens.engine.trust import Account
from energylens.inputs.axis_lists import listed
from energylens.inputs.builder import Model
from energylens.inputs.plan import MAX_BATCHED_TOKENS
from energylens.inputs.run_options import RUNNING
from energylens.results.words import pair_words, why_not
from energylens.searches.exhaustive import explore

MOST_POINTS = 4_000_000
"""Points of one side, all of which are evaluated."""

RESULTS = ("ttft_s", "tpot_s", "latency_s", "energy_per_request_j", "energy_per_output_token_j")
"""Columns of a pair that are shown first."""

LIMITED = (
    *RESULTS,
    "transfer_s",
    *(f"energy_{part}_per_request_j" for part in ("prefill", "decode", "transfer")),
    *("prefill_gpus", "decode_gpus"),
)
"""Columns of a pair that limits may bound: all numbers but `prefill_engines`, in which a slower side may be better."""


@dataclass(frozen=True)
class Split:
    """The Pareto front, by energy and latency, of pairs of a prefill and a decode configuration, the cheapest first.

    Columns `prefill_*` and `decode_*` are the two configurations; `energy_*_per_request_j` their joules and those of
    sending the cache, `transfer_s` the time that takes (added to `ttft_s`); `prefill_engines` how many prefill engines
    keep one decode engine busy. `together` is the cheapest configuration that does both, within the same limits, for a
    batch of requests that start together: its TTFT is that of the whole batch.
    """

    frame: pl.DataFrame
    together: dict[str, Any] | None
    plan_sha256: str
    model: str
    trust: Mapping[str, Account]
    arguments: Mapping[str, Any]
    why_none: Problem | None = None
    """Which pair is nearest to the limits, where none keeps them."""

    @property
    def best(self) -> dict[str, Any] | None:
        """The cheapest pair."""
        return self.frame.row(0, named=True) if self.frame.height else None

    def answer(self) -> str:
        """Return the one-line answer."""
        return views.answer(self)

    @property
    def note(self) -> dict[str, Any]:
        """What its file says about where it comes from."""
        note = {"kind": "pairs", "answer": self.answer(), "model": self.model, "trust": dict(self.trust)}
        return note | {"asked": dict(self.arguments), "limits": list(self.arguments["limits"])}

    def write(self, path: str | Path) -> Path:
        """Write the pairs as Parquet with its arguments in the metadata, and return the path."""
        from energylens.results.parquet import write_parquet

        return write_parquet(self.frame, path, self.plan_sha256, self.note)


def split(
    model: str | Path | Model,
    *,
    prefill: Mapping[str, Any],
    decode: Mapping[str, Any],
    prompt_tokens: int = 1024,
    output_tokens: int = 256,
    limits: Sequence[str] = (),
    max_batched_tokens: int = MAX_BATCHED_TOKENS,
    threads: int | None = None,
) -> Split:
    """Return the Pareto front of all pairs of a prefill and a decode configuration, by energy and latency of a request.

    Parameters
    ----------
    model
        Bundled name, path, or `Model`.
    prefill, decode
        Axes of each side, as `Space` takes them (`gpus`, `tp`, `batch`, `sm_clock_mhz`, ...).
    prompt_tokens, output_tokens
        Lengths of the requests.
    limits
        Texts such as `ttft<=1s` on the results of a pair.
    max_batched_tokens
        Most prompt tokens of one prefill pass.
    threads
        Threads of the core; all CPUs of the process, if None.

    Returns
    -------
    Split
        `best` is the pair of least joules, `together` the cheapest configuration that does both.

    Raises
    ------
    SpecError
        With every problem of the model and the GPUs.
    SpaceError
        With every problem of axes and limits.

    Examples
    --------
    >>> pairs = split("llama-3.1-8b", prefill={"gpus": "h100-sxm"}, decode={"gpus": "h100-sxm", "batch": [1, 16, 64]})
    >>> pairs.best["decode_batch"]
    64

    Notes
    -----
    `E = E_prefill/B_p + E_decode/B_d + E_transfer` and `TTFT = ttft_p + alpha_net + K/min(n_p·net_p, n_d·net_d)`, K
    being the bytes of a request's cache, n GPUs, net their network bandwidth and B batches; the transfer costs
    `link_j_per_byte/2` a byte on either side. Both sides are assumed busy: `prefill_engines` keep one decode engine so.
    """
    bounds = [Limit.parse(text, LIMITED) for text in listed(limits)]
    threads = checked_threads(threads)
    if problems := _problems("prefill", prefill) + _problems("decode", decode):
        raise SpaceError(problems)
    for name, tokens in (("prompt_tokens", prompt_tokens), ("output_tokens", output_tokens)):
        if not isinstance(tokens, int) or isinstance(tokens, bool):
            raise SpaceError(
                Problem(f"a split takes one number of `{name}`, found `{shown(tokens)}`", code="axis-value")
            )
    if output_tokens == 1:
        fault, hint = "one output token leaves nothing to decode", "give 2 or more: the first comes from prefill"
        raise SpaceError(Problem(fault, hint=hint, code="axis-value"))
    lengths = {"prompt_tokens": prompt_tokens, "max_batched_tokens": max_batched_tokens}
    spaces = (
        Space(models=model, **{**prefill, **lengths, "output_tokens": 1}),
        Space(models=model, **{**decode, **lengths, "output_tokens": output_tokens}),
    )
    first, then = _side("prefill", spaces[0], threads), _side("decode", spaces[1], threads)
    cache_dtype = spaces[0].plan.models[0].spec.canonical()["dtypes"].get("cache", "bf16")
    formats = [pl.col(f"{side}_kv_dtype").fill_null(cache_dtype) for side in ("prefill", "decode")]
    pairs = first.join(then, how="cross").filter(formats[0] == formats[1])
    if not pairs.height:
        hint = "give both sides the same kv_dtype"
        raise SpaceError(Problem("no prefill and decode configuration share a cache format", hint=hint, code="split"))
    transfer = pl.max_horizontal("prefill_alpha_s", "decode_alpha_s") + pl.col(
        "prefill_cache_bytes"
    ) / pl.min_horizontal("prefill_net", "decode_net")
    sent = pl.col("prefill_cache_bytes") * (pl.col("prefill_byte_j") + pl.col("decode_byte_j")) / 2
    rate = pl.col("decode_batch") / ((output_tokens - 1) * pl.col("tpot_s"))
    pairs = (
        pairs.with_columns(transfer_s=transfer, energy_transfer_per_request_j=sent)
        .with_columns(ttft_s=pl.col("prefill_s") + pl.col("transfer_s"))
        .with_columns(
            latency_s=pl.col("ttft_s") + (output_tokens - 1) * pl.col("tpot_s"),
            energy_per_request_j=pl.sum_horizontal(
                "energy_prefill_per_request_j", "energy_decode_per_request_j", "energy_transfer_per_request_j"
            ),
            prefill_engines=rate * pl.col("prefill_s") / pl.col("prefill_batch"),
        )
        .with_columns(energy_per_output_token_j=pl.col("energy_per_request_j") / output_tokens)
    )
    every = pairs
    for limit in bounds:
        pairs = pairs.filter(pl.col(limit.column).is_between(limit.lowest, limit.highest))
    why_none = None if pairs.height else _why_none(every, bounds)
    hidden = [
        f"{side}_{name}" for side in ("prefill", "decode") for name in ("net", "alpha_s", "cache_bytes", "byte_j")
    ]
    front = _front(pairs, "energy_per_request_j", "latency_s").drop(*hidden, "prefill_s")
    results = [*RESULTS, *(name for name in front.columns if name.startswith("energy_") and name not in RESULTS)]
    rest = [name for name in front.columns if name not in results]
    together = _together(model, (prefill, decode), lengths, output_tokens, bounds, threads)
    plans = "".join(space.plan.sha256 for space in spaces)
    arguments: dict[str, Any] = {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
    arguments["limits"] = [str(limit) for limit in bounds]
    for side, space in zip(("prefill", "decode"), spaces, strict=True):
        arguments[side] = {name: values for name, values in space.axes.items() if values != [RUNNING.get(name, ...)]}
    sha256 = hashlib.sha256((plans + json.dumps(arguments, default=str)).encode()).hexdigest()
    trust = {name: trust_account for space in spaces for name, trust_account in space.trust.items()}
    frame = front.select(*rest, *results)
    return Split(frame, together, sha256, spaces[0].plan.model_names[0], trust, arguments, why_none)


def _why_none(pairs: pl.DataFrame, bounds: Sequence[Limit]) -> Problem:
    """Return why no pair keeps the limits: the nearest, which limit, and by how much."""
    from energylens.results.nearest import nearest_row, refused

    nearest = nearest_row(pairs, bounds)
    within = ", ".join(map(str, bounds))
    return refused(f"no pair of configurations keeps {within}", nearest, pair_words(dict(nearest.row)), bounds)


SIDE_AXES = ("gpus", "tp", "pp", "dp", "ep", "batch", "weight_dtype", "kv_dtype", *RUNNING)
"""Axes of one side."""


def _problems(side: str, axes: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with the axes of one side."""
    if not isinstance(axes, Mapping):
        hint = 'give axes by name: {"gpus": "h100-sxm", "tp": 4}'
        return [Problem(f"{side} is not a {type(axes).__name__}", hint=hint, code="axis-value")]
    problems = [
        Problem(f"unknown axis `{shown(name)}` of {side}", hint=did_you_mean(name, SIDE_AXES), code="unknown-axis")
        for name in axes
        if name not in SIDE_AXES
    ]
    gpus = axes.get("gpus")
    if gpus is None or (isinstance(gpus, Sized) and not len(gpus)):
        problems.append(Problem(f"{side} names no GPU", hint="begin it with gpus=h100-sxm", code="axis-value"))
    return problems


def _side(side: str, space: Space, threads: int) -> pl.DataFrame:
    """Return the Pareto front of one side by time and energy of a request."""
    if space.size > MOST_POINTS:
        hint = f"give at most {MOST_POINTS:,}: fewer values of its axes"
        raise SpaceError(Problem(f"{space.size:,} {side} configurations are too many", hint=hint, code="too-large"))
    indices = np.arange(space.size, dtype=np.uint64)
    wanted = ["ttft_s", "tpot_s", "energy_prefill_j", "energy_decode_j", "gpus"]
    columns = space.plan.core.evaluate_space(space.json, indices, wanted, threads)
    reasons = columns.pop("reason")
    runs = reasons == 0
    if not runs.any():
        counts = dict(zip(_core.REASONS, np.bincount(reasons, minlength=len(_core.REASONS)).tolist(), strict=True))
        fault = f"no {side} configuration runs: {why_not({name: n for name, n in counts.items() if n})}"
        raise SpaceError(Problem(fault, hint="change or widen its axes", code="infeasible"))
    frame = pl.concat(
        [space.points(indices[runs]), pl.DataFrame({k: v[runs] for k, v in columns.items()})], how="horizontal"
    )
    time, joules = ("ttft_s", "energy_prefill_j") if side == "prefill" else ("tpot_s", "energy_decode_j")
    per_request = f"energy_{side}_per_request_j"
    frame = frame.with_columns((pl.col(joules) / pl.col("batch")).alias(per_request), pl.col("gpus").cast(pl.UInt32))
    candidates = pl.concat([_front(part, per_request, time) for part in frame.partition_by("kv_dtype", "gpu", "gpus")])
    gpus = {gpu.spec.name: gpu.profile.sections for gpu in space.plan.gpus}
    prompt = float(listed(space.prompt_tokens)[0])
    core = space.plan.core
    cache = {dtype: core.cache_bytes(0, dtype, prompt) for dtype in candidates["kv_dtype"].unique().to_list()}
    link = [gpus[name]["link"] for name in candidates["gpu"].to_list()]
    candidates = candidates.with_columns(
        net=pl.Series([item["net_bandwidth_bytes_per_s"] for item in link], dtype=pl.Float64) * candidates["gpus"],
        alpha_s=pl.Series([item["net_alpha_s"] for item in link], dtype=pl.Float64),
        byte_j=pl.Series(
            [gpus[name]["energy"]["link_j_per_byte"] for name in candidates["gpu"].to_list()], dtype=pl.Float64
        ),
        cache_bytes=pl.Series([cache[dtype] for dtype in candidates["kv_dtype"].to_list()], dtype=pl.Float64),
    )
    described = candidates.drop(
        "model", "prompt_tokens", "output_tokens", "energy_prefill_j", "energy_decode_j", per_request, time
    )
    dropped = "tpot_s" if side == "prefill" else "ttft_s"
    described = described.drop(dropped).rename(lambda name: f"{side}_{name}")
    named = candidates.select(pl.col(time).alias("prefill_s" if side == "prefill" else "tpot_s"), per_request)
    return pl.concat([described, named], how="horizontal")


def _front(frame: pl.DataFrame, cost: str, time: str) -> pl.DataFrame:
    """Return the Pareto front of rows by two columns, the cheapest first."""
    ordered = frame.sort(cost, time, maintain_order=True)
    best_before = pl.col(time).cum_min().shift(1, fill_value=float("inf"))
    return ordered.filter(pl.col(time) < best_before)


def _together(
    model: str | Path | Model,
    sides: Sequence[Mapping[str, Any]],
    lengths: Mapping[str, int],
    output_tokens: int,
    bounds: Sequence[Limit],
    threads: int,
) -> dict[str, Any] | None:
    """Return the cheapest configuration of either side's axes that does both within the limits."""
    best = []
    limits = [str(limit) for limit in bounds if limit.column in RESULTS]
    for side in sides:
        space = Space(models=model, **{**side, **lengths, "output_tokens": output_tokens})
        result = explore(space, limits=limits, objectives=["energy_per_request_j"], threads=threads)
        best += [result.best] if result.best else []
    return min(best, key=lambda row: float(row["energy_per_request_j"]), default=None)
