"""Curves of collectives in a GPU profile, and how any coefficients were fitted."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, field_validator

from energylens.common.files import printable
from energylens.inputs.form import Count, Form, NonNegative, Positive, Seconds, SecondsPerRoot, Text

Large = Annotated[Positive, Field(ge=1e6, le=1e20)]
"""Bytes, bytes/s or FLOP/s of a GPU."""


class Fit(Form):
    """How a set of coefficients was fitted: to what, and how far off it is on rows that were held out."""

    data: Text
    """What the coefficients were fitted to, and when."""
    rows: Count
    """Rows of measurements that the errors below are of."""
    held_out: Count | None = None
    """Rows that the fit did not see, where that is another number."""
    mape_percent: NonNegative
    """Mean absolute relative error, %."""
    median_percent: NonNegative | None = None
    """Median absolute relative error, %."""
    p90_percent: NonNegative | None = None
    """90th percentile of the absolute relative error, %."""
    bias_percent: float | None = None
    """Mean signed relative error, %; above 0 where predictions are too high."""
    valid: dict[str, list[float]] | None = None
    """Least and greatest value of each quantity in the data."""
    notes: Text | None = None
    """Anything else to know about the fit."""


class Curve(Form):
    """Seconds of a message of S bytes: `t = alpha + root·√S + busfactor·S/bandwidth`."""

    alpha_s: Seconds
    """Seconds of a message of no bytes."""
    root_s_per_sqrt_byte: SecondsPerRoot = 0.0
    """Seconds for each square root of a byte of the message."""
    bandwidth_bytes_per_s: Large
    """Bytes a second, of the message's bytes times the operation's bus factor."""
    max_bytes: Annotated[Positive, Field(le=1e18)] | None = None
    """Bytes of the longest message that the curve holds for; any, if left out."""


def _sizes(table: object) -> object:
    return {str(size): curve for size, curve in table.items()} if isinstance(table, dict) else table


def _numbers_of_gpus(table: dict[str, Curve]) -> dict[str, Curve]:
    if bad := [size for size in table if not _GPUS.fullmatch(size) or int(size) < 2]:
        raise ValueError(f"`by_gpus` is keyed by a number of GPUs of at least 2, found `{printable(bad[0], 60)}`")
    return table


_GPUS: Final = re.compile("0{0,9}[0-9]{1,6}")


ByGpus = Annotated[
    dict[str, Curve],
    BeforeValidator(_sizes),
    Field(min_length=1, max_length=1000, json_schema_extra={"propertyNames": {"pattern": "^0*([2-9]|[1-9][0-9]+)$"}}),
]


class Implementation(Form):
    """One implementation of a collective, by number of GPUs."""

    name: Text
    """Name of the implementation, such as `nccl` or `custom`."""
    max_bytes: Annotated[Positive, Field(le=1e18)] | None = None
    """Bytes of the longest message that it takes; any, if left out."""
    by_gpus: ByGpus
    """Its curve for each number of GPUs inside a node, 2 or more."""
    source: Text
    """Where the numbers come from."""
    fit: Fit | None = None
    """How they were fitted."""

    _sizes_are_numbers = field_validator("by_gpus")(_numbers_of_gpus)


Implementations = Annotated[list[Implementation], Field(min_length=1, max_length=100)]


class Exchange(Form):
    """A way to send tokens to their experts' GPUs or back: a copy for each expert or GPU, bytes of an element."""

    name: Text
    """Name of the way, such as `deepep_low_latency`."""
    phase: Literal["prefill", "decode"] | None = None
    """Phase it is used in; both, if left out."""
    copies: Literal["expert", "gpu"]
    """What a token is sent to: each of its experts, or each GPU that has some of them."""
    bytes_per_element: Annotated[Positive, Field(le=1000)]
    """Bytes of one element of a token on its way."""
    by_gpus: ByGpus
    """Its curve for each number of GPUs inside a node, 2 or more; without `max_bytes`."""
    source: Text
    """Where the numbers come from."""
    fit: Fit | None = None
    """How they were fitted."""

    _sizes_are_numbers = field_validator("by_gpus")(_numbers_of_gpus)

    @field_validator("by_gpus")
    @classmethod
    def _whole(cls, table: dict[str, Curve]) -> dict[str, Curve]:
        if any(curve.max_bytes is not None for curve in table.values()):
            raise ValueError("a way to send tokens takes any number of them: leave out `max_bytes`")
        return table


class Collectives(Form):
    """Implementations by operation; without ways of its own, what is sent to experts goes by `all_to_all`."""

    all_reduce: Implementations
    """Ways to sum a tensor over GPUs; of those that take a message, the fastest is used."""
    all_gather: Implementations
    """Ways to put the parts of a tensor together on every GPU."""
    reduce_scatter: Implementations
    """Ways to sum a tensor over GPUs and leave a part on each."""
    all_to_all: Implementations
    """Ways in which every GPU sends a part to every other."""
    send_recv: Implementations
    """Ways to send from one GPU to another: between pipeline stages, around rings."""
    dispatch: Annotated[list[Exchange], Field(max_length=100)] = []
    """Ways to send tokens to the GPUs of their experts; the first of the phase is used."""
    combine: Annotated[list[Exchange], Field(max_length=100)] = []
    """Ways to bring the experts' results back; the first of the phase is used."""

    @field_validator("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
    @classmethod
    def _unlimited(cls, implementations: list[Implementation]) -> list[Implementation]:
        def limited(entry: Implementation) -> bool:
            return entry.max_bytes is not None or any(curve.max_bytes is not None for curve in entry.by_gpus.values())

        if all(limited(implementation) for implementation in implementations):
            raise ValueError("one implementation has to take messages of any size: leave out its `max_bytes`")
        return implementations
