"""Curves of collectives in a GPU profile, and how any coefficients were fitted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from energylens.spec.form import Count, Form, NonNegative, Positive, Text

Large = Annotated[Positive, Field(ge=1e6, le=1e20)]
"""Bytes, bytes/s or FLOP/s of a GPU."""


class Fit(Form):
    """How a set of coefficients was fitted: to what, and how far off it is on rows that were held out."""

    data: Text
    rows: Count
    held_out: Count | None = None
    mape_percent: NonNegative
    median_percent: NonNegative | None = None
    p90_percent: NonNegative | None = None
    bias_percent: float | None = None
    valid: dict[str, list[float]] | None = None
    notes: Text | None = None


class Curve(Form):
    """`t = alpha + root·√S + busfactor·S/bandwidth`, of messages of at most `max_bytes` S."""

    alpha_s: NonNegative
    root_s_per_sqrt_byte: NonNegative = 0.0
    bandwidth_bytes_per_s: Large
    max_bytes: Positive | None = None


def _sizes(table: object) -> object:
    return {str(size): curve for size, curve in table.items()} if isinstance(table, dict) else table


def _numbers_of_gpus(table: dict[str, Curve]) -> dict[str, Curve]:
    if bad := [size for size in table if not size.isdigit() or int(size) < 2]:
        raise ValueError(f"`by_gpus` is keyed by a number of GPUs of at least 2, found `{bad[0]}`")
    return table


class Implementation(Form):
    """One implementation of a collective, by number of GPUs."""

    name: Text
    max_bytes: Positive | None = None
    by_gpus: Annotated[dict[str, Curve], BeforeValidator(_sizes), Field(min_length=1)]
    source: Text
    fit: Fit | None = None

    _sizes_are_numbers = field_validator("by_gpus")(_numbers_of_gpus)


Implementations = Annotated[list[Implementation], Field(min_length=1)]


class Exchange(Form):
    """A way to send tokens to their experts' GPUs or back: a copy for each expert or GPU, bytes of an element."""

    name: Text
    phase: Literal["prefill", "decode"] | None = None
    copies: Literal["expert", "gpu"]
    bytes_per_element: Positive
    by_gpus: Annotated[dict[str, Curve], BeforeValidator(_sizes), Field(min_length=1)]
    source: Text
    fit: Fit | None = None

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
    all_gather: Implementations
    reduce_scatter: Implementations
    all_to_all: Implementations
    send_recv: Implementations
    dispatch: list[Exchange] = []
    combine: list[Exchange] = []

    @field_validator("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
    @classmethod
    def _unlimited(cls, found: list[Implementation]) -> list[Implementation]:
        def limited(one: Implementation) -> bool:
            return one.max_bytes is not None or any(curve.max_bytes is not None for curve in one.by_gpus.values())

        if all(limited(implementation) for implementation in found):
            raise ValueError("one implementation has to take messages of any size: leave out its `max_bytes`")
        return found
