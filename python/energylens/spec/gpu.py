"""The form of a GPU profile: data sheet sections, and coefficients with their sources."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from energylens.spec.curves import Collectives, Fit, Large
from energylens.spec.form import Count, Form, NonNegative, Positive, Share, Text

Technology = Literal["HBM2", "HBM2e", "HBM3", "HBM3e", "GDDR6", "GDDR6X", "GDDR7"]


class Memory(Form):
    """Device memory."""

    capacity_bytes: Large
    bandwidth_bytes_per_s: Large
    technology: Technology | None = None
    reserve_bytes: NonNegative = 2e9
    source: Text | None = None


class Peaks(Form):
    """Dense peaks in FLOP/s by arithmetic; `vector` is fp32 outside the tensor cores."""

    bf16: Large
    fp8: Large | None = None
    fp4: Large | None = None
    vector: Large


class Compute(Form):
    """Compute units."""

    sms: Annotated[Count, Field(le=100_000)]
    peak_flops: Peaks
    source: Text | None = None


class Clock(Form):
    """SM clocks, voltages and idle power by clock, where published."""

    max_mhz: Positive
    base_mhz: Positive | None = None
    voltage_mv: list[tuple[Any, Any]] | None = None
    idle_w: list[tuple[Any, Any]] | None = None
    source: Text

    @field_validator("voltage_mv", "idle_w", mode="before")
    @classmethod
    def _pairs(cls, table: object) -> object:
        return [tuple(row) if isinstance(row, list) else row for row in table] if isinstance(table, list) else table

    @field_validator("voltage_mv", "idle_w")
    @classmethod
    def _rising(cls, table: list[tuple[Any, Any]] | None) -> list[tuple[Any, Any]] | None:
        numbers = all(isinstance(x, (int, float)) and x > 0 for row in table or [] for x in row)
        if table is not None and (not numbers or any(a[0] >= b[0] for a, b in pairwise(table))):
            raise ValueError("a clock table is a list of [MHz, value] pairs of positive numbers with rising clocks")
        return table


class Power(Form):
    """Board limit, draw of a loaded GPU that waits, draw without work."""

    tdp_w: Annotated[Positive, Field(le=1e5)]
    static_w: Positive | None = None
    idle_w: Positive | None = None
    source: Text | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Power:
        for name, watts in (("static_w", self.static_w), ("idle_w", self.idle_w)):
            if watts is not None and watts > 0.9 * self.tdp_w:
                raise ValueError(f"`{name}` {watts:g} is not well below `tdp_w` {self.tdp_w:g}")
        return self


class Contention(Form):
    """How much slower kernels and collectives go on while both run: at 1/(1 + this) of their pace."""

    compute: NonNegative = 0.0
    communication: NonNegative = 0.0
    source: Text | None = None


class Link(Form):
    """Links between GPUs: per direction and GPU inside a node, and to the network."""

    kind: Text = "nvlink"
    gpus_per_node: Count = 8
    bandwidth_bytes_per_s: Large
    net_bandwidth_bytes_per_s: Large = 25e9
    net_alpha_s: NonNegative = 1e-5
    net_reduction: bool = False
    sms_to_saturate: Positive | None = None
    sms_sharpness: Annotated[Positive, Field(ge=0.25, le=64)] | None = None
    contention: Contention | None = None
    source: Text | None = None


class Stretch(Form):
    """Kernel seconds in a serving step over those of the same kernel alone, by class."""

    gemm: Annotated[Positive, Field(ge=0.2, le=5)] = 1.0
    attention: Annotated[Positive, Field(ge=0.2, le=5)] = 1.0
    grouped_gemm: Annotated[Positive, Field(ge=0.2, le=5)] = 1.0


class Host(Form):
    """Seconds of a pass in which the GPU waits for the host, and of each of its sequences (sampling, bookkeeping)."""

    host_s: NonNegative
    sequence_s: NonNegative = 0.0
    stretch: Stretch | None = None
    task_input_tokens: dict[str, Positive] | None = None
    source: Text
    fit: dict[str, Fit] | None = None


def _tile(tile: object) -> object:
    """Return a tile as (rows, columns, share of the reached rate), the share 1 if left out."""
    return (*tile, 1.0)[:3] if isinstance(tile, list) and len(tile) in {2, 3} else tile


def _tiles(tiles: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    if any(n & (n - 1) for tile in tiles for n in tile[:2]):
        raise ValueError("a tile is [rows, columns] or [rows, columns, share], rows and columns powers of two")
    return tiles


Tile = Annotated[tuple[Count, Count, Share], BeforeValidator(_tile)]
TileList = Annotated[list[Tile], Field(min_length=1), AfterValidator(_tiles)]


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError(f"`sharpness` is 1, 2, 4, 8 or 16, found `{value}`")
    return value


class TimeSet(Form):
    """`t = t0 + (t_c^p + t_m^p)^(1/p)` of one kernel class, with what its products and attention add (physics.md)."""

    t0_s: NonNegative
    compute_efficiency: Annotated[Positive, Field(le=4)] = 1.0
    memory_efficiency: Share
    root_s_per_sqrt_byte: NonNegative = 0.0
    sharpness: Annotated[Count, Field(le=16)] = 4
    tiles: TileList | None = None
    depth_0: NonNegative = 0.0
    split_s: NonNegative = 0.0
    quantise_bytes: NonNegative = 0.0
    expert_s: NonNegative = 0.0
    routed_bytes: NonNegative = 0.0
    padding_rows: NonNegative = 0.0
    idle_experts: Annotated[float, Field(ge=0, le=1)] = 0.0
    sequence_head_s: NonNegative = 0.0
    head_dim_power: NonNegative = 0.0
    length_factor: NonNegative = 0.0
    wave_depth: NonNegative = 0.0
    pad_rows: Count = 1
    source: Text
    fit: Fit | None = None

    _power = field_validator("sharpness")(_power_of_two)


class Tiles(Form):
    """Output tiles a matrix product may choose from, where its own coefficients name none."""

    shapes: TileList
    source: Text


class ByFormat(Form):
    """Time coefficients by format of the weights; what is missing is served by its arithmetic, then by `bf16`."""

    bf16: TimeSet
    fp8: TimeSet | None = None
    fp8_block: TimeSet | None = None
    int8: TimeSet | None = None
    fp4: TimeSet | None = None
    nvfp4: TimeSet | None = None
    mxfp4: TimeSet | None = None
    int4: TimeSet | None = None


def _any_cache(sets: object) -> object:
    return {"bf16": sets} if isinstance(sets, dict) and "t0_s" in sets else sets


class ByCache(Form):
    """Time coefficients by number format of the KV cache; `bf16` serves what is missing."""

    bf16: TimeSet
    fp8: TimeSet | None = None


Attention = Annotated[ByCache, BeforeValidator(_any_cache)]


class Kernels(Form):
    """Time coefficients by kernel class."""

    tiles: Tiles | None = None
    gemm: ByFormat
    grouped_gemm: ByFormat
    attention_prefill: Attention
    attention_decode: Attention
    elementwise: TimeSet


class FlopEnergy(Form):
    """Joules per FLOP by arithmetic."""

    bf16: NonNegative
    fp8: NonNegative | None = None
    fp4: NonNegative | None = None
    vector: NonNegative


class Energy(Form):
    """Joules per FLOP and per byte; watts of a loaded GPU that waits, and more while kernels or collectives run."""

    static_w: Positive | None = None
    active_w: NonNegative = 0.0
    communication_w: NonNegative = 0.0
    sequence_j: NonNegative = 0.0

    flop_j: FlopEnergy
    on_chip_j_per_byte: NonNegative
    hbm_weight_j_per_byte: NonNegative
    hbm_kv_j_per_byte: NonNegative
    hbm_activation_j_per_byte: NonNegative
    link_j_per_byte: NonNegative
    source: Text
    fit: dict[str, Fit] | None = None
    prior: dict[str, Any] | None = None


class Uncertainty(Form):
    """Relative standard deviations: of joules by cause, and of all joules of a kind of model."""

    compute: NonNegative
    hbm_weights: NonNegative
    hbm_kv: NonNegative
    hbm_activations: NonNegative
    communication: NonNegative
    static: NonNegative
    waiting: NonNegative
    common: NonNegative
    routed: NonNegative
    narrow: NonNegative
    source: Text


class Range(Form):
    """The largest values that measurements behind the fits reach; beyond them a result is `extrapolated`."""

    batch: Positive
    context_tokens: Positive
    gpus: Positive
    source: Text


class Framework(Form):
    """What differs under another serving framework; chosen as `gpu@framework`."""

    kernels: Kernels
    collectives: Collectives | None = None
    host: Host | None = None


class GpuSpec(Form):
    """One GPU type; sections from `host` on may be left out and then follow from the data sheet."""

    name: Text
    source: Text
    trust: Literal["measured", "calibrated", "published", "modelled"] = "modelled"
    memory: Memory
    compute: Compute
    power: Power
    link: Link
    clock: Clock | None = None
    host: Host | None = None
    kernels: Kernels | None = None
    energy: Energy | None = None
    collectives: Collectives | None = None
    uncertainty: Uncertainty | None = None
    range: Range | None = None
    frameworks: dict[str, Framework] | None = None
