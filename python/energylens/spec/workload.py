"""The form of a workload file: kinds of requests or distributions of lengths, arrivals, prefixes that recur."""

from __future__ import annotations

import math
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from energylens.spec.form import Count, Form, NonNegative, PlainName, Positive, Share, Text, plain_name

MOST_TOKENS: Final = 1_000_000
"""Prompt or output tokens of the longest request."""


def _name(name: str) -> str:
    return plain_name(name, "workload")


def _tuples(value: object) -> object:
    return [tuple(row) if isinstance(row, list) else row for row in value] if isinstance(value, list) else value


class Lengths(Form):
    """A log-normal distribution of lengths, cut at `longest`."""

    mean: Positive
    """Mean tokens."""
    sd: NonNegative = 0.0
    """Standard deviation, tokens."""
    longest: Count | None = None
    """Tokens at which it is cut; a million, if left out."""

    @model_validator(mode="after")
    def _shorter(self) -> Lengths:
        longest = self.longest or MOST_TOKENS
        if longest > MOST_TOKENS:
            raise PydanticCustomError("lengths", f"the longest request has at most {MOST_TOKENS:,} tokens")
        if not 1 <= self.mean <= longest:
            raise PydanticCustomError("lengths", "a mean length is 1 or more, and not above the longest")
        # No distribution on [1, longest] with this mean has a larger deviation (Bhatia and Davis).
        most = math.sqrt((self.mean - 1.0) * (longest - self.mean))
        if self.sd > most:
            fault = f"lengths from 1 to {longest:,} with a mean of {self.mean:g} have an `sd` of at most {most:.4g}"
            raise PydanticCustomError("lengths", fault)
        return self


def _whole_tokens(length: float) -> float:
    # What is below 1 is refused with its own sentence, of the whole row.
    if length > MOST_TOKENS or (length >= 1 and length != int(length)):
        fault = f"tokens of a request are a whole number up to {MOST_TOKENS:,}, not {length:.12g}"
        raise PydanticCustomError("lengths", fault)
    return length


Tokens = Annotated[Positive, AfterValidator(_whole_tokens)]
Kinds = Annotated[list[tuple[Tokens, Tokens, Positive]], BeforeValidator(_tuples), Field(min_length=1)]
Curve = Annotated[list[tuple[NonNegative, NonNegative]], BeforeValidator(_tuples), Field(min_length=1)]


class Prefix(Form):
    """How much of the prompts caches find, by the tokens that they hold."""

    block_tokens: Count = 512
    """Tokens of a block; caches hold and find whole blocks."""
    found: Annotated[Curve, Field(examples=[[[1e5, 0.1], [1e6, 0.3]]])]
    """Rows of [tokens held, share of the prompt tokens found], rising."""

    @model_validator(mode="after")
    def _rising(self) -> Prefix:
        for before, after in zip(self.found, self.found[1:], strict=False):
            if after[0] <= before[0] or after[1] < before[1]:
                raise PydanticCustomError("rising", "`found` should rise: [tokens held, share found], more of both")
        if self.found[-1][1] > 1:
            raise PydanticCustomError("share", "a share found is at most 1")
        return self


class Crowd(Form):
    """Others that arrive up to 20 ms before a request, beyond chance: before which share, and how many there."""

    share: Share
    """Share of the requests before which others arrive."""
    others: Annotated[Positive, Field(le=10_000)]
    """Others before such a request, on average."""


class WorkloadSpec(Form):
    """A workload: `kinds` of requests, or distributions of `input` and `output`."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["kinds"]}, {"required": ["input", "output"]}]},
    )

    name: Annotated[PlainName, AfterValidator(_name)]
    """Name of the workload: letters, digits and `-._`."""
    source: Text
    """Where the numbers come from."""
    kinds: Annotated[Kinds | None, Field(examples=[[[420, 180, 0.7], [5200, 350, 0.3]]])] = None
    """Kinds of requests: rows of [prompt tokens, output tokens, share of the requests]."""
    input: Lengths | None = None
    """Prompt tokens of a request; given with `output` in place of `kinds`."""
    output: Lengths | None = None
    """Output tokens of a request; given with `input` in place of `kinds`."""
    rate_per_s: Positive | None = None
    """Requests a second, all engines together; engines are always full, if it is given nowhere."""
    rates: Annotated[Curve | None, Field(examples=[[[0.6, 0.5], [1.4, 0.5]]])] = None
    """Rows of [rate over its mean, share of the time at that rate]; steady arrivals, if left out."""
    crowd: Crowd | None = None
    """Requests that come together, beyond chance; none, if left out."""
    prefix: Prefix | None = None
    """Prefixes that recur and that caches find; none, if left out."""

    @model_validator(mode="after")
    def _whole(self) -> WorkloadSpec:
        given = self.input is not None and self.output is not None
        if (self.kinds is None) != given or (self.kinds is not None and (self.input or self.output)):
            raise PydanticCustomError("lengths", "give either `kinds`, or both `input` and `output`")
        if self.rates is not None:
            served = sum(rate * share for rate, share in self.rates)
            if served <= 0 or sum(share for _, share in self.rates) <= 0:
                raise PydanticCustomError("rates", "rates are above 0 for some share of the time")
            if not math.isfinite(served) or max(rate for rate, _ in self.rates) > 1e12 or served < 1e-12:
                raise PydanticCustomError("rates", "rates are multiples of their mean: write them near 1")
        if self.kinds is not None:
            if any(kind[0] < 1 or kind[1] < 1 for kind in self.kinds):
                raise PydanticCustomError("lengths", "a request has at least one prompt token and makes at least one")
            if not math.isfinite(sum(kind[2] for kind in self.kinds)):
                raise PydanticCustomError("lengths", "shares of `kinds` add up to more than a number can hold")
        return self
