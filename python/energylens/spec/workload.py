"""The form of a workload file: kinds of requests or distributions of lengths, arrivals, prefixes that recur."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from energylens.spec.form import Count, Form, NonNegative, Positive, Share, Text, plain_name


def _name(name: str) -> str:
    return plain_name(name, "workload")


def _tuples(value: object) -> object:
    return [tuple(row) if isinstance(row, list) else row for row in value] if isinstance(value, list) else value


class Lengths(Form):
    """A log-normal distribution of lengths, cut at `longest`."""

    mean: Positive
    sd: NonNegative = 0.0
    longest: Count | None = None

    @model_validator(mode="after")
    def _shorter(self) -> Lengths:
        if self.mean < 1 or (self.longest is not None and self.longest < self.mean):
            raise PydanticCustomError("lengths", "a mean length is 1 or more, and not above the longest")
        return self


Kinds = Annotated[list[tuple[Positive, Positive, Positive]], BeforeValidator(_tuples), Field(min_length=1)]
Curve = Annotated[list[tuple[NonNegative, NonNegative]], BeforeValidator(_tuples), Field(min_length=1)]


class Prefix(Form):
    """How much of the prompts caches find, by the tokens that they hold."""

    block_tokens: Count = 512
    found: Curve
    """Tokens held, and the share of prompt tokens found; rising."""

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
    others: Positive


class WorkloadSpec(Form):
    """A workload: `kinds` of requests, or distributions of `input` and `output`."""

    name: Annotated[Text, AfterValidator(_name)]
    source: Text
    kinds: Kinds | None = None
    """Prompt tokens, output tokens and share of the requests, one kind a row."""
    input: Lengths | None = None
    output: Lengths | None = None
    rate_per_s: Positive | None = None
    rates: Curve | None = None
    """Rates over their mean, and the share of the time at each."""
    crowd: Crowd | None = None
    prefix: Prefix | None = None

    @model_validator(mode="after")
    def _whole(self) -> WorkloadSpec:
        given = self.input is not None and self.output is not None
        if (self.kinds is None) != given or (self.kinds is not None and (self.input or self.output)):
            raise PydanticCustomError("lengths", "give either `kinds`, or both `input` and `output`")
        if self.rates is not None and sum(rate * share for rate, share in self.rates) <= 0:
            raise PydanticCustomError("rates", "rates are above 0 for some share of the time")
        if self.kinds is not None and any(kind[0] < 1 or kind[1] < 1 for kind in self.kinds):
            raise PydanticCustomError("lengths", "a request has at least one prompt token and makes at least one")
        return self
