"""Workloads: which requests come, how often, and what of their prompts has been seen before."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens import _core
from energylens.errors import Problem, SpecError, did_you_mean
from energylens.library import bundled, stamp
from energylens.service.coreset import coreset
from energylens.service.trace import BLOCK_TOKENS, read_trace
from energylens.spec.form import check
from energylens.spec.workload import Lengths, WorkloadSpec
from energylens.spec.yaml import Document

Column = NDArray[np.float64]

KINDS: Final = 32
"""Kinds of requests that stand for a workload."""

WINDOW_S: Final = 1.0
"""Seconds over which rates of arrival are counted."""

_MOMENT_S = 0.02
_RATES = 12
_MOST_WINDOWS = 10_000_000
_LONGEST = 1_000_000
_CONSTANT = re.compile(r"^\s*(\d+)\s*[:x]\s*(\d+)\s*$")
_CAPACITIES = [int(2**power) for power in np.arange(12, 27.5, 0.5)]


@dataclass(frozen=True)
class Workload:
    """Requests by kind, their arrivals, and prefixes that recur.

    `kinds`: `input_tokens`, `output_tokens`, `weight` (adding up to 1). `rates`: rates over their mean with the share
    of the time at each, `[(1, 1)]` for steady arrivals. `found`: tokens that caches hold and the share of prompt tokens
    found in them. `crowded`: the share of requests just before which others arrive beyond chance, `crowd`: how many.
    `requests`: those of a trace.
    """

    name: str
    source: str
    kinds: pl.DataFrame
    rate_per_s: float | None = None
    rates: Sequence[tuple[float, float]] = ((1.0, 1.0),)
    found: Sequence[tuple[float, float]] = ()
    block_tokens: int = BLOCK_TOKENS
    crowded: float = 0.0
    crowd: float = 0.0
    requests: pl.DataFrame | None = field(default=None, repr=False)

    @cached_property
    def input_tokens(self) -> float:
        """Mean prompt tokens."""
        return float((self.kinds["input_tokens"] * self.kinds["weight"]).sum())

    @cached_property
    def output_tokens(self) -> float:
        """Mean output tokens."""
        return float((self.kinds["output_tokens"] * self.kinds["weight"]).sum())

    @cached_property
    def longest(self) -> float:
        """Prompt and output tokens of the longest request."""
        rows = self.kinds if self.requests is None else self.requests
        return float((rows["input_tokens"] + rows["output_tokens"]).max())  # type: ignore[arg-type]

    def fewer(self, kinds: int, rates: int) -> Workload:
        """Return the workload with at most so many kinds of requests and rates of arrival, for a first look."""
        few = coreset(self.kinds, kinds) if self.kinds.height > kinds else self.kinds
        return replace(self, kinds=few, rates=tuple(_grouped(np.array(self.rates), rates)))

    def first_tokens(self) -> Workload:
        """Return the same requests, each making but its first token."""
        one = pl.lit(1.0).alias("output_tokens")
        requests = None if self.requests is None else self.requests.with_columns(one)
        return replace(self, kinds=self.kinds.with_columns(one), requests=requests)

    def share_found(self, tokens: Column) -> Column:
        """Return the share of prompt tokens found in caches that hold so many tokens."""
        if not self.found:
            return np.zeros_like(tokens)
        held, share = np.array(self.found).T
        told: Column = np.interp(np.log(np.maximum(tokens, 1.0)), np.log(np.maximum(held, 1.0)), share, left=0.0)
        return told

    def sample(self, number: int, rate_per_s: float, seed: int = 2026) -> pl.DataFrame:
        """Return requests to replay at a rate: those of the trace with its arrivals, or kinds drawn with Poisson
        arrivals.

        A trace is sped up or slowed down to the rate, and cut or repeated to so many requests.
        """
        if self.requests is not None and self.requests["arrival_s"].null_count() == 0:
            return _repeated(self.requests, number, rate_per_s)
        random = np.random.default_rng(seed)
        rows = self.kinds if self.requests is None else self.requests
        chance = rows["weight"].to_numpy() if "weight" in rows.columns else np.ones(rows.height)
        drawn = rows.drop("arrival_s", strict=False)[random.choice(rows.height, number, p=chance / chance.sum())]
        times = np.cumsum(random.exponential(1.0, number))
        if len(self.rates) > 1:
            # Stretches of WINDOW_S at one rate each, as many of each rate as its share, in random order.
            factors, share = np.array(self.rates).T
            windows = max(len(factors), round(number / rate_per_s / WINDOW_S))
            quota = np.floor(np.cumsum(share / share.sum()) * windows + 0.5).astype(int)
            order = random.permutation(np.repeat(factors, np.diff(quota, prepend=0)))
            edges = np.concatenate([[0.0], np.cumsum(order)])
            times = np.interp(times * edges[-1] / times[-1], edges, np.arange(len(edges)))
        times = _crowded(times - times[0], self.crowded, self.crowd, random)
        if number > 1:  # exactly the rate asked for
            times *= (number - 1) / rate_per_s / times[-1]
        return drawn.with_columns(arrival_s=pl.Series(times)).drop("weight", strict=False)


def _crowded(times: Column, share: float, others: float, random: np.random.Generator) -> Column:
    """Return arrivals with groups moved together, so that this share has others, on average so many, just before."""
    if share <= 0:
        return times
    size = max(2, round(2.0 * others))
    groups = np.flatnonzero(random.random(len(times)) < share / (size - 1))
    found = times.copy()
    for place in range(1, size):
        at = groups + place
        found[at[at < len(times)]] = times[groups[at < len(times)]]
    return np.sort(found)


def _repeated(requests: pl.DataFrame, number: int, rate_per_s: float) -> pl.DataFrame:
    """Return so many requests of a trace, cut or repeated, at a rate."""
    rounds = -(-number // requests.height)
    rows = requests[np.tile(np.arange(requests.height), rounds)[:number]]
    arrivals = requests["arrival_s"].to_numpy()
    if arrivals[-1] <= arrivals[0]:  # all at once: spread by chance
        random = np.random.default_rng(2026)
        return rows.with_columns(arrival_s=pl.Series(np.cumsum(random.exponential(1.0 / rate_per_s, number))))
    span = float(arrivals[-1]) * len(arrivals) / max(1, len(arrivals) - 1)
    times = np.concatenate([arrivals + turn * span for turn in range(rounds)])[:number]
    own = (len(arrivals) - 1) / float(arrivals[-1])
    return rows.with_columns(arrival_s=pl.Series(times * own / rate_per_s))


def load_workload(given: str | Path | Workload) -> Workload:
    """Return a workload from a name, lengths such as `1024:256`, a workload file or a trace; raise `SpecError`."""
    if isinstance(given, Workload):
        return given
    text = str(given)
    if match := _CONSTANT.match(text):
        return constant(int(match[1]), int(match[2]))
    known = bundled("workloads")
    path = known.get(text.lower(), Path(text))
    if path.suffix in {".yaml", ".yml"}:
        return _from_file(path, stamp(path))
    if path.suffix and path.suffix.lower() != text.lower():
        return _from_trace(path, stamp(path))
    hint = did_you_mean(text, known) or (
        "`energylens workloads` lists them; also 1024:256 (prompt:output), a .yaml, or a trace (.csv, .parquet, .jsonl)"
    )
    raise SpecError(Problem(f"unknown workload `{text}`", hint=hint, code="unknown-workload"))


def constant(input_tokens: int, output_tokens: int) -> Workload:
    """Return requests all alike; raise `SpecError` if lengths are not positive."""
    for name, tokens in (("prompt", input_tokens), ("output", output_tokens)):
        if not 1 <= tokens <= _LONGEST:
            fault = f"{name} tokens of a workload are 1 to {_LONGEST:,}, found {tokens}"
            raise SpecError(Problem(fault, hint="write 1024:256, prompt and output tokens", code="workload"))
    kinds = {"input_tokens": [float(input_tokens)], "output_tokens": [float(output_tokens)], "weight": [1.0]}
    return Workload(f"{input_tokens}:{output_tokens}", "all requests alike", pl.DataFrame(kinds))


@lru_cache(maxsize=64)
def _from_file(path: Path, _stamp: int) -> Workload:
    document = Document.read(path)
    return from_spec(check(WorkloadSpec, document.data, document, path.name))


@lru_cache(maxsize=8)
def _from_trace(path: Path, _stamp: int) -> Workload:
    return from_requests(read_trace(path), path.stem, str(path))


def from_spec(spec: WorkloadSpec) -> Workload:
    """Return the workload of a checked file."""
    if spec.kinds is not None:
        columns = np.array(spec.kinds, dtype=np.float64).T
        kinds = pl.DataFrame(dict(zip(("input_tokens", "output_tokens", "weight"), columns, strict=True)))
    else:
        assert spec.input is not None and spec.output is not None
        kinds = coreset(_drawn(spec.input, spec.output), KINDS)
    kinds = kinds.with_columns(pl.col("weight") / pl.col("weight").sum())
    rates = spec.rates or [(1.0, 1.0)]
    mean = sum(rate * share for rate, share in rates) / sum(share for _, share in rates)
    total = sum(share for _, share in rates)
    told = {"rates": tuple((rate / mean, share / total) for rate, share in rates), "rate_per_s": spec.rate_per_s}
    if spec.crowd is not None:
        told |= {"crowded": spec.crowd.share, "crowd": spec.crowd.others}
    if spec.prefix is not None:
        told |= {"found": tuple(spec.prefix.found), "block_tokens": spec.prefix.block_tokens}
    return Workload(spec.name, spec.source, kinds, **told)  # type: ignore[arg-type]


def _drawn(given: Lengths, made: Lengths) -> pl.DataFrame:
    """Return a grid of equally likely log-normal lengths with the means asked for."""
    from scipy.special import ndtri

    def lengths(own: Lengths) -> Column:
        sigma = np.sqrt(np.log1p((own.sd / own.mean) ** 2))
        nodes = ndtri((np.arange(64) + 0.5) / 64)
        drawn, scale = np.exp(sigma * nodes - sigma**2 / 2), own.mean
        for _ in range(30):  # the mean asked for, although lengths are cut
            found: Column = np.clip(np.round(scale * drawn), 1.0, own.longest or _LONGEST)
            scale *= own.mean / found.mean()
        return found

    first, second = np.meshgrid(lengths(given), lengths(made), indexing="ij")
    return pl.DataFrame({"input_tokens": first.ravel(), "output_tokens": second.ravel()})


def from_requests(requests: pl.DataFrame, name: str, source: str) -> Workload:
    """Return the workload of a trace: a coreset of its requests, its rates, and what caches of each size would find."""
    arrivals = requests["arrival_s"].to_numpy() if requests["arrival_s"].null_count() == 0 else np.zeros(1)
    span = float(arrivals[-1])
    rate = (len(arrivals) - 1) / span if span > 0 else None
    found = prefix_curve(requests) if "blocks" in requests.columns else []
    kinds = coreset(requests, KINDS)
    rates = rate_profile(arrivals) if rate else [(1.0, 1.0)]
    crowded, crowd = crowding(arrivals) if rate else (0.0, 0.0)
    return Workload(name, source, kinds, rate, tuple(rates), tuple(found), BLOCK_TOKENS, crowded, crowd, requests)


def rate_profile(arrivals: Column, window_s: float = WINDOW_S, number: int = _RATES) -> list[tuple[float, float]]:
    """Return rates over their mean, the share of the time at each: counts in windows, without what is chance.

    Counts of Poisson arrivals scatter too: deviations are shrunk by `√(1 - mean/variance)`.
    """
    window_s = max(window_s, float(arrivals[-1]) / _MOST_WINDOWS)
    counts, _ = np.histogram(arrivals, np.arange(0.0, arrivals[-1] + 1e-9, window_s))
    if len(counts) < number:
        return [(1.0, 1.0)]
    mean, variance = counts.mean(), counts.var()
    if variance <= mean:
        return [(1.0, 1.0)]
    rates = np.sort(mean + (counts - mean) * np.sqrt(1.0 - mean / variance))
    rates = np.maximum(rates, 0.01 * mean)
    return _grouped(np.stack([rates / rates.mean(), np.full(len(rates), 1.0 / len(rates))], axis=1), number)


def _grouped(rates: Column, number: int) -> list[tuple[float, float]]:
    """Return rates in groups that each hold about the same share of the requests."""
    rate, share = rates[np.argsort(rates[:, 0], kind="stable")].T
    held = np.cumsum(rate * share) / (rate * share).sum()
    group = np.minimum((held * number - 1e-9).astype(int), number - 1)
    told = []
    for one in np.unique(group):
        own = group == one
        told.append((float((rate[own] * share[own]).sum() / share[own].sum()), float(share[own].sum())))
    return told


def crowding(arrivals: Column) -> tuple[float, float]:
    """Return the share of requests up to 20 ms before which others arrive, and how many, beyond what is likely by
    chance.

    By chance are as many as the requests of the second make likely.
    """
    before = np.arange(len(arrivals)) - np.searchsorted(arrivals, arrivals - _MOMENT_S, "left")
    window_s = max(WINDOW_S, float(arrivals[-1]) / _MOST_WINDOWS)
    counts, _ = np.histogram(arrivals, np.arange(0.0, arrivals[-1] + 2.0 * window_s, window_s))
    likely = (counts[(arrivals / window_s).astype(int)] - 1.0) * _MOMENT_S / window_s
    by_chance = float(-np.expm1(-likely).mean())
    if by_chance > 0.9:
        return 0.0, 0.0
    share = (float((before > 0).mean()) - by_chance) / (1.0 - by_chance)
    others = float(before.mean() - likely.mean())
    return (share, max(1.0, others / share)) if share > 0.01 and others > 0 else (0.0, 0.0)


def prefix_curve(requests: pl.DataFrame, block_tokens: int = BLOCK_TOKENS) -> list[tuple[float, float]]:
    """Return the share of prompt tokens that least-recently-used caches find, by the tokens they hold.

    Every request looks up its blocks in order until one is missing; blocks of the last token are never found.
    """
    blocks, starts = flat_blocks(requests, block_tokens)
    found = _core.prefix_found(blocks, starts, block_tokens, _CAPACITIES)
    total = float(requests["input_tokens"].sum())
    curve = [(float(size), tokens / total) for size, tokens in zip(_CAPACITIES, found, strict=True)]
    last = next((at for at, (_, share) in enumerate(curve) if share >= curve[-1][1]), len(curve) - 1)
    return curve[: last + 1]


def flat_blocks(requests: pl.DataFrame, block_tokens: int = BLOCK_TOKENS) -> tuple[list[int], list[int]]:
    """Return the blocks of all requests in one list, and where each request's begin; none of last tokens."""
    most = ((pl.col("input_tokens") - 1.0) / block_tokens).floor().cast(pl.UInt32)
    held = requests.select(pl.col("blocks").list.head(most))["blocks"]
    starts = np.concatenate([[0], np.cumsum(held.list.len().to_numpy())]).astype(np.int64)
    flat = held.explode(empty_as_null=False).drop_nulls()
    return flat.to_list(), starts.tolist()


def workloads() -> pl.DataFrame:
    """Return the bundled workloads: name, mean lengths, requests a second, share of prompts found again, source."""
    rows: list[dict[str, Any]] = []
    for name in bundled("workloads"):
        own = load_workload(name)
        rows.append(
            {
                "workload": name,
                "input_tokens": own.input_tokens,
                "output_tokens": own.output_tokens,
                "rate_per_s": own.rate_per_s,
                "largest_rate": max(rate for rate, _ in own.rates),
                "found": own.found[-1][1] if own.found else None,
                "source": own.source,
            }
        )
    return pl.DataFrame(rows)
