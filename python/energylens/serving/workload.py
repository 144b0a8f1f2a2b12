"""Workloads: which requests come, how often, and what of their prompts has been seen before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens.common.errors import Problem, SpecError, did_you_mean
from energylens.common.files import input_file, printable
from energylens.common.process import check_process
from energylens.inputs.bundled import bundled
from energylens.inputs.form import check
from energylens.inputs.library import stamp
from energylens.inputs.workload import MOST_TOKENS, Lengths, WorkloadSpec
from energylens.inputs.yaml import Document
from energylens.serving.arrivals import WINDOW_S, crowded, grouped, repeated
from energylens.serving.arrivals import crowding as crowding
from energylens.serving.arrivals import rate_profile as rate_profile
from energylens.serving.coreset import coreset
from energylens.serving.hours import hours_of
from energylens.serving.lengths import lengths
from energylens.serving.prefixes import flat_blocks as flat_blocks
from energylens.serving.prefixes import prefix_curve as prefix_curve
from energylens.serving.trace import Trace, checked_options, load_trace
from energylens.serving.trace_blocks import BLOCK_TOKENS

Column = NDArray[np.float64]

KINDS: Final = 32
"""Kinds of requests that stand for a workload."""

_MOST_DIGITS: Final = 12


@dataclass(frozen=True)
class Workload:
    """Requests by kind, their arrivals, and prefixes that recur.

    Attributes
    ----------
    name, source
        What it is called, and where it comes from.
    kinds
        Columns `prompt_tokens`, `output_tokens` and `weight` (adding up to 1).
    rate_per_s
        Default requests a second; None if it has none.
    rates
        Rates over their mean with the share of the time at each; `[(1, 1)]` for steady arrivals.
    prefix_hits
        Tokens that caches hold, and the share of prompt tokens that they then find.
    block_tokens
        Tokens of a prefix block.
    crowded, crowd
        The share of requests just before which others arrive beyond chance, and how many do.
    requests
        Those of a trace: `arrival_s`, `prompt_tokens`, `output_tokens`, and `blocks` where it has any; else None.
    notes
        Sentences on what was inferred of a trace.
    hours, clock
        The share of the time and of the output tokens in each of the 24 hours of the day, where a trace has dates, and
        whose midnight they count from.

    Examples
    --------
    >>> load_workload("1024:256").prompt_tokens
    1024.0
    """

    name: str
    source: str
    kinds: pl.DataFrame
    rate_per_s: float | None = None
    rates: Sequence[tuple[float, float]] = ((1.0, 1.0),)
    prefix_hits: Sequence[tuple[float, float]] = ()
    block_tokens: int = BLOCK_TOKENS
    crowded: float = 0.0
    crowd: float = 0.0
    requests: pl.DataFrame | None = field(default=None, repr=False)
    notes: Sequence[str] = ()
    hours: Sequence[tuple[float, float]] = field(default=(), repr=False)
    clock: str = ""

    @cached_property
    def prompt_tokens(self) -> float:
        """Mean prompt tokens."""
        return float((self.kinds["prompt_tokens"] * self.kinds["weight"]).sum())

    @cached_property
    def output_tokens(self) -> float:
        """Mean output tokens."""
        return float((self.kinds["output_tokens"] * self.kinds["weight"]).sum())

    @cached_property
    def longest(self) -> float:
        """Prompt and output tokens of the longest request."""
        rows = self.kinds if self.requests is None else self.requests
        return float((rows["prompt_tokens"] + rows["output_tokens"]).max())  # type: ignore[arg-type]

    def fewer(self, kinds: int, rates: int) -> Workload:
        """Return the workload with at most so many kinds of requests and rates of arrival, for a first look."""
        few = coreset(self.kinds, kinds) if self.kinds.height > kinds else self.kinds
        return replace(self, kinds=few, rates=tuple(grouped(np.array(self.rates), rates)))

    def first_tokens(self) -> Workload:
        """Return the same requests, each making but its first token."""
        single_token = pl.lit(1.0).alias("output_tokens")
        requests = None if self.requests is None else self.requests.with_columns(single_token)
        return replace(self, kinds=self.kinds.with_columns(single_token), requests=requests)

    def prefix_hit_share(self, tokens: Column) -> Column:
        """Return the share of prompt tokens found in caches that hold so many tokens."""
        if not self.prefix_hits:
            return np.zeros_like(tokens)
        held, share = np.array(self.prefix_hits).T
        shares: Column = np.interp(np.log(np.maximum(tokens, 1.0)), np.log(np.maximum(held, 1.0)), share, left=0.0)
        return shares

    def sample(self, number: int, rate_per_s: float, seed: int = 2026) -> pl.DataFrame:
        """Return requests to replay at a rate: those of the trace with its arrivals, or kinds drawn with Poisson
        arrivals.

        A trace is sped up or slowed down to the rate, and cut or repeated to so many requests.
        """
        if self.requests is not None and self.requests["arrival_s"].null_count() == 0:
            return repeated(self.requests, number, rate_per_s)
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
        times = crowded(times - times[0], self.crowded, self.crowd, random)
        if number > 1:  # exactly the requested rate
            times *= (number - 1) / rate_per_s / times[-1]
        return drawn.with_columns(arrival_s=pl.Series(times)).drop("weight", strict=False)


def load_workload(
    source: str | Path | Workload, *, time_unit: str | None = None, block_tokens: int | None = None
) -> Workload:
    """Return a workload from a name, lengths, a workload file or a trace.

    Parameters
    ----------
    source
        A bundled name (`azure-conv`), lengths of all requests (`1024:256`, prompt and output tokens), a workload file
        (.yaml), or a trace (.csv, .parquet, .jsonl); a `Workload` is returned as it is.
    time_unit
        Unit of a trace's arrivals, where they are numbers that do not say it: s, ms, us or ns.
    block_tokens
        Tokens of a trace's prefix blocks, where their numbers do not show it.

    Returns
    -------
    Workload

    Raises
    ------
    SpecError
        With every problem of the file, or the bundled names nearest to an unknown one.

    Examples
    --------
    >>> workload = load_workload("azure-conv")
    >>> workload.kinds.columns
    ['prompt_tokens', 'output_tokens', 'weight']
    """
    check_process()
    checked_options(time_unit, block_tokens)
    text = str(source)
    known = bundled("workloads")
    tokens = None if isinstance(source, Workload) or text.lower() in known else lengths(text)
    path = known.get(text.lower(), Path(text)) if not isinstance(source, Workload) and tokens is None else Path()
    if path.suffix and path.suffix.lower() not in {".yaml", ".yml", text.lower()}:
        input_file(path, "trace")
        return _from_trace(path, stamp(path), time_unit, block_tokens)
    if time_unit is not None or block_tokens is not None:
        hint = "they are of a trace: leave them out"
        fault = "a unit of time and a size of blocks are read with a trace alone"
        raise SpecError(Problem(fault, hint=hint, code="workload"))
    if isinstance(source, Workload):
        return source
    if tokens is not None:
        return constant(*tokens)
    if path.suffix.lower() in {".yaml", ".yml"}:
        input_file(path, "workload")
        return _from_file(path, stamp(path))
    hint = did_you_mean(text, known) or (
        "`energylens workloads` lists them; also 1024:256 (prompt:output), a .yaml, or a trace (.csv, .parquet, .jsonl)"
    )
    raise SpecError(Problem(f"unknown workload `{printable(text)}`", hint=hint, code="unknown-workload"))


def constant(prompt_tokens: int | str, output_tokens: int | str) -> Workload:
    """Return requests all alike; raise `SpecError` if lengths are not positive."""
    for name, tokens in (("prompt", prompt_tokens), ("output", output_tokens)):
        if len(str(tokens)) > _MOST_DIGITS or not 1 <= int(tokens) <= MOST_TOKENS:
            fault = f"{name} tokens of a workload are 1 to {MOST_TOKENS:,}, found {str(tokens)[:40]}"
            raise SpecError(Problem(fault, hint="write 1024:256, prompt and output tokens", code="workload"))
    prompt_tokens, output_tokens = int(prompt_tokens), int(output_tokens)
    kinds = {"prompt_tokens": [float(prompt_tokens)], "output_tokens": [float(output_tokens)], "weight": [1.0]}
    return Workload(f"{prompt_tokens}:{output_tokens}", "all requests alike", pl.DataFrame(kinds))


@lru_cache(maxsize=64)
def _from_file(path: Path, _stamp: int) -> Workload:
    document = Document.read(path)
    return from_spec(check(WorkloadSpec, document.data, document, path.name))


@lru_cache(maxsize=8)
def _from_trace(path: Path, _stamp: int, time_unit: str | None, block_tokens: int | None) -> Workload:
    return from_trace(load_trace(path, time_unit=time_unit, block_tokens=block_tokens), path.stem, str(path))


def from_spec(spec: WorkloadSpec) -> Workload:
    """Return the workload of a checked file."""
    notes: list[str] = []
    if spec.kinds is not None:
        columns = np.array(spec.kinds, dtype=np.float64).T
        kinds = pl.DataFrame(dict(zip(("prompt_tokens", "output_tokens", "weight"), columns, strict=True)))
    else:
        assert spec.input is not None and spec.output is not None
        drawn = _drawn(spec.input, spec.output)
        kinds = coreset(drawn, KINDS)
        notes = [_narrower(drawn, name, spec) for name in ("input", "output")]
    kinds = kinds.with_columns(pl.col("weight") / pl.col("weight").sum())
    rates = spec.rates or [(1.0, 1.0)]
    mean = sum(rate * share for rate, share in rates) / sum(share for _, share in rates)
    total = sum(share for _, share in rates)
    arrivals: dict[str, Any] = {"rates": tuple((rate / mean, share / total) for rate, share in rates)}
    arrivals |= {"rate_per_s": spec.rate_per_s, "notes": tuple(filter(None, notes))}
    if spec.crowd is not None:
        arrivals |= {"crowded": spec.crowd.share, "crowd": spec.crowd.others}
    if spec.prefix is not None:
        arrivals |= {"prefix_hits": tuple(spec.prefix.found), "block_tokens": spec.prefix.block_tokens}
    return Workload(spec.name, spec.source, kinds, **arrivals)


def _narrower(drawn: pl.DataFrame, name: Literal["input", "output"], spec: WorkloadSpec) -> str:
    """Return a warning where lengths that stand for a distribution scatter much less than it: its tail is too long."""
    lengths = spec.input if name == "input" else spec.output
    column = "prompt_tokens" if name == "input" else "output_tokens"
    scatter = float(drawn[column].std(ddof=0) or 0.0)  # type: ignore[arg-type]
    if lengths is None or scatter >= 0.75 * lengths.sd:
        return ""
    return f"`{name}` has an sd of {lengths.sd:g}; the lengths that stand for it, cut and rounded, one of {scatter:.3g}"


def _drawn(prompts: Lengths, outputs: Lengths) -> pl.DataFrame:
    """Return a grid of equally likely log-normal lengths with the requested means."""
    from scipy.special import ndtri

    def lengths(target: Lengths) -> Column:
        sigma = np.sqrt(np.log1p((target.sd / target.mean) ** 2))
        nodes = ndtri((np.arange(64) + 0.5) / 64)
        drawn, scale = np.exp(sigma * nodes - sigma**2 / 2), target.mean
        for _ in range(30):  # the requested mean, although lengths are cut
            clipped: Column = np.clip(np.round(scale * drawn), 1.0, target.longest or MOST_TOKENS)
            scale *= target.mean / clipped.mean()
        return clipped

    first, second = np.meshgrid(lengths(prompts), lengths(outputs), indexing="ij")
    return pl.DataFrame({"prompt_tokens": first.ravel(), "output_tokens": second.ravel()})


def from_trace(trace: Trace, name: str, source: str) -> Workload:
    """Return the workload of a trace, with what was inferred of it and the hours of the day that it covers."""
    workload = from_requests(trace.requests, name, source, trace.block_tokens)
    hours: tuple[tuple[float, float], ...] = ()
    if trace.clock_s is not None:
        arrival_s, output_tokens = (trace.requests[name].to_numpy() for name in ("arrival_s", "output_tokens"))
        hours = hours_of(arrival_s, output_tokens, trace.clock_s)
    return replace(workload, notes=tuple(trace.notes), hours=hours, clock=trace.clock)


def from_requests(requests: pl.DataFrame, name: str, source: str, block_tokens: int = BLOCK_TOKENS) -> Workload:
    """Return the workload of a trace: a coreset of its requests, its rates, and what caches of each size would find."""
    arrivals = requests["arrival_s"].to_numpy() if requests["arrival_s"].null_count() == 0 else np.zeros(1)
    span = float(arrivals[-1])
    rate = (len(arrivals) - 1) / span if span > 0 else None
    curve = prefix_curve(requests, block_tokens) if "blocks" in requests.columns else []
    kinds = coreset(requests, KINDS)
    rates = rate_profile(arrivals) if rate else [(1.0, 1.0)]
    share, others = crowding(arrivals) if rate else (0.0, 0.0)
    return Workload(name, source, kinds, rate, tuple(rates), tuple(curve), block_tokens, share, others, requests)


def workloads() -> pl.DataFrame:
    """Return the bundled workloads: name, mean lengths, requests a second, share of prompts found again, source."""
    rows: list[dict[str, Any]] = []
    for name in bundled("workloads"):
        workload = load_workload(name)
        rows.append(
            {
                "workload": name,
                "prompt_tokens": workload.prompt_tokens,
                "output_tokens": workload.output_tokens,
                "rate_per_s": workload.rate_per_s,
                "largest_rate": max(rate for rate, _ in workload.rates),
                "found": workload.prefix_hits[-1][1] if workload.prefix_hits else None,
                "source": workload.source,
            }
        )
    return pl.DataFrame(rows)
