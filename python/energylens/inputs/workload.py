"""The form of a workload file: kinds of requests or distributions of lengths, arrivals, prefixes that recur."""

from __future__ import annotations

import math
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from energylens.inputs.form import Count, Form, NonNegative, PlainName, Positive, Share, Text, plain_name


def _name(name: str) -> str:
    return plain_name(name, "workload")


def _tuples(value: object) -> object:
    return [tuple(row) if isinstance(row, list) else row for row in value] if isinstance(value, list) else value


LONGEST: Final = 10_000_000
"""Longest prompt or output, tokens: the longest contexts that are served."""
MOST_TOKENS: Final = 1_000_000
"""Tokens at which lengths are cut where nothing else is said."""
_MOST_ROWS: Final = 10_000
"""Most kinds, rates or points of a curve: more requests than that are a trace."""

Tokens = Annotated[Positive, Field(le=LONGEST)]
Weight = Annotated[Positive, Field(ge=1e-9, le=1e9)]
"""A share of something; shares may add up to any sum."""
Rate = Annotated[Positive, Field(ge=1e-9, le=1e9)]


class Lengths(Form):
    """A log-normal distribution of lengths, cut at `longest`."""

    mean: Tokens
    """Mean tokens."""
    sd: Annotated[NonNegative, Field(le=LONGEST)] = 0.0
    """Standard deviation, tokens."""
    longest: Annotated[Count, Field(le=LONGEST)] | None = None
    """Tokens at which it is cut; a million, if left out."""

    @model_validator(mode="after")
    def _shorter(self) -> Lengths:
        longest = self.longest or MOST_TOKENS
        if not 1 <= self.mean <= longest:
            raise PydanticCustomError("lengths", "a mean length is 1 or more, and not above the longest")
        # No distribution on [1, longest] with this mean has a larger deviation (Bhatia and Davis).
        most = math.sqrt((self.mean - 1.0) * (longest - self.mean))
        if self.sd > most:
            fault = f"lengths from 1 to {longest:,} with a mean of {self.mean:g} have an `sd` of at most {most:.4g}"
            raise PydanticCustomError("lengths", fault)
        return self


_Rows = Field(min_length=1, max_length=_MOST_ROWS)
_Most = Annotated[NonNegative, Field(le=1e15)]


def _whole(length: float) -> float:
    # What is below 1 is refused with its own sentence, of the whole row.
    if length >= 1 and length != int(length):
        fault = f"tokens of a request are a whole number, not {length:.12g}"
        raise PydanticCustomError("lengths", fault)
    return length


_WholeTokens = Annotated[Tokens, AfterValidator(_whole)]
Kinds = Annotated[list[tuple[_WholeTokens, _WholeTokens, Weight]], BeforeValidator(_tuples), _Rows]
Curve = Annotated[list[tuple[_Most, Annotated[NonNegative, Field(le=1e9)]]], BeforeValidator(_tuples), _Rows]


class Prefix(Form):
    """How much of the prompts caches find, by the tokens that they hold."""

    block_tokens: Annotated[Count, Field(le=LONGEST)] = 512
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
    others: Annotated[Positive, Field(le=1e6)]
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
    rate_per_s: Rate | None = None
    """Requests a second, all engines together; engines are always full, if it is given nowhere."""
    rates: Annotated[Curve | None, Field(examples=[[[0.6, 0.5], [1.4, 0.5]]])] = None
    """Rows of [rate over its mean, share of the time at that rate]; steady arrivals, if left out."""
    crowd: Crowd | None = None
    """Requests that come together, beyond chance; none, if left out."""
    prefix: Prefix | None = None
    """Prefixes that recur and that caches find; none, if left out."""

    @model_validator(mode="after")
    def _whole(self) -> WorkloadSpec:
        lengths = self.input is not None and self.output is not None
        if (self.kinds is None) != lengths or (self.kinds is not None and (self.input or self.output)):
            raise PydanticCustomError("lengths", "give either `kinds`, or both `input` and `output`")
        if self.rates is not None:
            served = sum(rate * share for rate, share in self.rates)
            if served <= 0:
                raise PydanticCustomError("rates", "rates are above 0 for some share of the time")
            if served < 1e-12 or max(rate for rate, _ in self.rates) > 1e12:
                raise PydanticCustomError("rates", "rates are multiples of their mean: write them near 1")
        if self.kinds is not None and any(kind[0] < 1 or kind[1] < 1 for kind in self.kinds):
            raise PydanticCustomError("lengths", "a request has at least one prompt token and makes at least one")
        return self
