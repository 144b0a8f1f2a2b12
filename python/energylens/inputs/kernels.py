"""Time coefficients of kernels in a GPU profile, by class and number format."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from energylens.inputs.curves import Fit
from energylens.inputs.form import Count, Efficiency, Factor, Form, NonNegative, Seconds, SecondsPerRoot, Share, Text


def _tile(tile: object) -> object:
    """Return a tile as (rows, columns, share of the reached rate), the share 1 if left out."""
    return (*tile, 1.0)[:3] if isinstance(tile, list) and len(tile) in {2, 3} else tile


def _tiles(tiles: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    if any(n & (n - 1) for tile in tiles for n in tile[:2]):
        raise ValueError("a tile is [rows, columns] or [rows, columns, share], rows and columns powers of two")
    return tiles


_Side = Annotated[Count, Field(le=65_536)]
Tile = Annotated[
    tuple[_Side, _Side, Annotated[Share, Field(ge=1e-6)]],
    BeforeValidator(_tile),
    Field(json_schema_extra={"minItems": 2}),
]
TileList = Annotated[list[Tile], Field(min_length=1, max_length=1000), AfterValidator(_tiles)]


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError(f"`sharpness` is 1, 2, 4, 8 or 16, found `{value}`")
    return value


class TimeSet(Form):
    """`t = t0 + (t_c^p + t_m^p)^(1/p)` of one kernel class, with what its products and attention add (physics.md)."""

    t0_s: Seconds
    """Seconds of a kernel with nothing to do (launch and tail)."""
    compute_efficiency: Annotated[Efficiency, Field(le=4)] = 1.0
    """Share of the peak FLOP/s that matrix work reaches, on top of the share of its tile."""
    memory_efficiency: Annotated[Share, Field(ge=1e-6)]
    """Share of the memory bandwidth that traffic reaches."""
    root_s_per_sqrt_byte: SecondsPerRoot = 0.0
    """Seconds for each square root of a byte of traffic."""
    sharpness: Annotated[Count, Field(le=16, json_schema_extra={"enum": [1, 2, 4, 8, 16]})] = 4
    """p of the sum of compute and memory time: 1 adds them, 16 is nearly the longer one."""
    tiles: TileList | None = None
    """Output tiles, [rows, columns] or [rows, columns, share of the rate]; those of `kernels.tiles` if left out."""
    depth_0: Factor = 0.0
    """Depth (elements of K) that every tile takes on top of its depth."""
    split_s: Seconds = 0.0
    """Additional seconds where the depth of a product is split over SMs."""
    quantise_bytes: Factor = 0.0
    """Bytes of traffic to quantise each element of the input, in a kernel of its own."""
    expert_s: Seconds = 0.0
    """Seconds of each expert that the busiest GPU works on."""
    routed_bytes: Factor = 0.0
    """Bytes of traffic for each element of the tokens sent to experts, once a kernel."""
    padding_rows: Factor = 0.0
    """Rows that each expert is padded by; they cost joules, no time."""
    idle_experts: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the experts without tokens that the kernel works on all the same."""
    sequence_head_s: Seconds = 0.0
    """Seconds of decode attention for each sequence and KV head."""
    head_dim_power: Annotated[NonNegative, Field(le=8)] = 0.0
    """Power of (head dimension/128) by which the rate of attention grows."""
    length_factor: Factor = 0.0
    """Additional work of prefill attention for each visible token: in tokens of 128 rows on every SM."""
    wave_depth: Factor = 0.0
    """Additional work of prefill attention for each wave of tiles over the SMs: in the same unit."""
    pad_rows: Annotated[Count, Field(le=1_000_000)] = 1
    """Rows that prefill attention pads the new tokens to a multiple of."""
    source: Text
    """Where the numbers come from."""
    fit: Fit | None = None
    """How they were fitted."""

    _power = field_validator("sharpness")(_power_of_two)


class Tiles(Form):
    """Output tiles a matrix product may choose from, where its own coefficients name none."""

    shapes: TileList
    """Tiles: [rows, columns] or [rows, columns, share of the rate reached]."""
    source: Text
    """Where they come from."""


class ByFormat(Form):
    """Time coefficients by format of the weights; what is missing is served by its arithmetic, then by `bf16`."""

    bf16: TimeSet
    """Of bf16 weights, and whatever has no set of its own."""
    fp8: TimeSet | None = None
    """Of fp8 weights, and formats that compute in fp8 and have no set of their own."""
    fp8_block: TimeSet | None = None
    """Of fp8 weights scaled by block."""
    int8: TimeSet | None = None
    """Of int8 weights."""
    fp4: TimeSet | None = None
    """Of formats that compute in fp4 and have no set of their own."""
    nvfp4: TimeSet | None = None
    """Of nvfp4 weights."""
    mxfp4: TimeSet | None = None
    """Of mxfp4 weights."""
    int4: TimeSet | None = None
    """Of int4 weights."""


def _any_cache(sets: object) -> object:
    return {"bf16": sets} if isinstance(sets, dict) and "t0_s" in sets else sets


class ByCache(Form):
    """Time coefficients by number format of the KV cache; `bf16` serves what is missing."""

    bf16: TimeSet
    """Of bf16 caches, and whatever has no set of its own."""
    fp8: TimeSet | None = None
    """Of fp8 caches."""


Attention = Annotated[ByCache, BeforeValidator(_any_cache, json_schema_input_type=TimeSet | ByCache)]


class Kernels(Form):
    """Time coefficients by kernel class."""

    tiles: Tiles | None = None
    """Tiles for sets of `gemm` and `grouped_gemm` that name none."""
    gemm: ByFormat
    """Dense matrix products, by format of the weights."""
    grouped_gemm: ByFormat
    """Experts' matrix products, by format of the weights."""
    attention_prefill: Attention
    """Attention in prefill: one set, or one for each format of the cache."""
    attention_decode: Attention
    """Attention in decode: one set, or one for each format of the cache."""
    elementwise: TimeSet
    """Everything else: norms, activations, embeddings."""
