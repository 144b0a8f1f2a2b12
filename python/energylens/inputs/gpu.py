"""The form of a GPU profile: data sheet sections, and coefficients with their sources."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from energylens.inputs.curves import Collectives, Fit, Large
from energylens.inputs.form import (
    Bytes,
    Count,
    Deviation,
    Factor,
    Form,
    Joules,
    JoulesPer,
    Positive,
    Seconds,
    Text,
    Watts,
)  # fmt: skip
from energylens.inputs.kernels import Kernels as Kernels

Technology = Literal["HBM2", "HBM2e", "HBM3", "HBM3e", "GDDR6", "GDDR6X", "GDDR7"]


class Memory(Form):
    """Device memory."""

    capacity_bytes: Large
    """Bytes of device memory, as the driver reports it."""
    bandwidth_bytes_per_s: Large
    """Peak bandwidth, bytes/s."""
    technology: Technology | None = None
    """Memory technology; it sets the joules per byte where no `energy` is given."""
    reserve_bytes: Bytes = 2e9
    """Bytes that driver, context and graphs keep from models."""
    source: Text | None = None
    """Where the numbers come from."""


class Peaks(Form):
    """Dense peaks in FLOP/s by arithmetic; `vector` is fp32 outside the tensor cores."""

    bf16: Large
    """FLOP/s in bf16 (fp16, and formats that compute in bf16)."""
    fp8: Large | None = None
    """FLOP/s in fp8; left out where the GPU has none."""
    fp4: Large | None = None
    """FLOP/s in fp4; left out where the GPU has none."""
    vector: Large
    """FLOP/s in fp32 outside the tensor cores."""


class Compute(Form):
    """Compute units."""

    sms: Annotated[Count, Field(le=100_000)]
    """Streaming multiprocessors (SMs, or compute units)."""
    peak_flops: Peaks
    """Dense peaks, FLOP/s."""
    source: Text | None = None
    """Where the numbers come from."""


_PAIR = {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}, "minItems": 2, "maxItems": 2}
ByClock = Annotated[
    list[tuple[Any, Any]],
    Field(max_length=1000),
    WithJsonSchema({"type": "array", "items": _PAIR, "maxItems": 1000}),
]
_MOST_BY_CLOCK = 1e5
"""Largest clock, voltage or power of a table, MHz, mV or W."""


class Clock(Form):
    """SM clocks, voltages and idle power by clock, where published."""

    max_mhz: Annotated[Positive, Field(ge=1, le=1e5)]
    """Highest SM clock, MHz, that of all other numbers of the profile."""
    base_mhz: Annotated[Positive, Field(le=1e5)] | None = None
    """Base SM clock, MHz; no result depends on it."""
    voltage_mv: ByClock | None = None
    """Voltage by SM clock: rows of [MHz, mV], with rising clocks."""
    idle_w: ByClock | None = None
    """Watts of a GPU that waits, by SM clock: rows of [MHz, W], with rising clocks."""
    source: Text
    """Where the numbers come from."""

    @field_validator("voltage_mv", "idle_w", mode="before")
    @classmethod
    def _pairs(cls, table: object) -> object:
        return [tuple(row) if isinstance(row, list) else row for row in table] if isinstance(table, list) else table

    @field_validator("voltage_mv", "idle_w")
    @classmethod
    def _rising(cls, table: list[tuple[Any, Any]] | None) -> list[tuple[Any, Any]] | None:
        numbers = all(isinstance(x, (int, float)) and 0 < x <= _MOST_BY_CLOCK for row in table or [] for x in row)
        if table is not None and (not numbers or any(a[0] >= b[0] for a, b in pairwise(table))):
            message = "a clock table is a list of [MHz, value] pairs of positive numbers with rising clocks"
            raise ValueError(f"{message}, none above {_MOST_BY_CLOCK:,.0f}")
        return table


class Power(Form):
    """Board limit, draw of a loaded GPU that waits, draw without work."""

    tdp_w: Annotated[Positive, Field(ge=1, le=1e5)]
    """Board limit, W."""
    static_w: Positive | None = None
    """Draw of a GPU with a model loaded that waits, W; a fifth of `tdp_w` if left out."""
    idle_w: Positive | None = None
    """Draw without any work, W; no result depends on it."""
    source: Text | None = None
    """Where the numbers come from."""

    @model_validator(mode="after")
    def _ordered(self) -> Power:
        for name, watts in (("static_w", self.static_w), ("idle_w", self.idle_w)):
            if watts is not None and watts > 0.9 * self.tdp_w:
                raise ValueError(f"`{name}` {watts:g} is not well below `tdp_w` {self.tdp_w:g}")
        return self


class Contention(Form):
    """How much slower kernels and collectives go on while both run: at 1/(1 + this) of their pace."""

    compute: Factor = 0.0
    """Relative slow-down of kernels that run alongside a collective."""
    communication: Factor = 0.0
    """Relative slow-down of collectives that run alongside a kernel."""
    source: Text | None = None
    """Where the numbers come from."""


class Link(Form):
    """Links between GPUs: per direction and GPU inside a node, and to the network."""

    kind: Annotated[Text, Field(examples=["nvlink4", "nvlink5", "pcie4", "infinity-fabric"])] = "nvlink"
    """Kind of the links inside a node; one that begins with `pcie` gets the rules of PCIe, others those of NVLink."""
    gpus_per_node: Annotated[Count, Field(le=100_000)] = 8
    """GPUs that these links connect."""
    bandwidth_bytes_per_s: Large
    """Bandwidth inside a node per direction and GPU, bytes/s."""
    net_bandwidth_bytes_per_s: Large = 25e9
    """Bandwidth to the network per direction and GPU, bytes/s."""
    net_alpha_s: Seconds = 1e-5
    """Seconds of one hop between nodes."""
    net_reduction: bool = False
    """Whether the switches of the network add up (SHARP), so that an all-reduce crosses it once."""
    sms_to_saturate: Annotated[Positive, Field(ge=1e-3, le=1e5)] | None = None
    """SMs with which a collective reaches its bandwidth; 0.14 of all if left out."""
    sms_sharpness: Annotated[Positive, Field(ge=0.25, le=64)] | None = None
    """Sharpness of the knee of bandwidth over SMs; a plain corner if left out."""
    contention: Contention | None = None
    """Slow-down where kernels and collectives run at once; none if left out."""
    source: Text | None = None
    """Where the numbers come from."""


class Stretch(Form):
    """Kernel seconds in a serving step over those of the same kernel alone, by class."""

    gemm: Annotated[Positive, Field(ge=0.2, le=5)] = 1.0
    """Factor on the seconds of dense matrix products."""
    attention: Annotated[Positive, Field(ge=0.2, le=5)] = 1.0
    """Factor on the seconds of attention, prefill and decode."""
    grouped_gemm: Annotated[Positive, Field(ge=0.2, le=5)] = 1.0
    """Factor on the seconds of experts' matrix products."""


class Host(Form):
    """Seconds of a pass in which the GPU waits for the host, and of each of its sequences (sampling, bookkeeping)."""

    host_s: Seconds
    """Seconds of each pass in which the GPU waits for the host."""
    sequence_s: Seconds = 0.0
    """Seconds of each sequence of a pass."""
    stretch: Stretch | None = None
    """Factors on kernels in a serving step over the same kernels alone; 1 if left out."""
    task_input_tokens: dict[str, Positive] | None = None
    """Mean prompt tokens of the measured runs by task; read only by calibration and validation."""
    source: Text
    """Where the numbers come from."""
    fit: dict[str, Fit] | None = None
    """How they were fitted, by quantity."""


class FlopEnergy(Form):
    """Joules per FLOP by arithmetic."""

    bf16: JoulesPer
    """J/FLOP in bf16 (fp16, and formats that compute in bf16)."""
    fp8: JoulesPer | None = None
    """J/FLOP in fp8."""
    fp4: JoulesPer | None = None
    """J/FLOP in fp4."""
    vector: JoulesPer
    """J/FLOP outside the tensor cores."""


class Energy(Form):
    """Joules per FLOP and per byte; watts of a loaded GPU that waits, and more while kernels or collectives run."""

    static_w: Annotated[Positive, Field(le=1e5)] | None = None
    """Draw of a GPU with a model loaded that waits, W; it replaces the one of `power`."""
    active_w: Watts = 0.0
    """Additional watts while kernels run."""
    communication_w: Watts = 0.0
    """Additional watts while the GPU waits for collectives."""
    sequence_j: Joules = 0.0
    """Joules of each sequence of a pass."""
    flop_j: FlopEnergy
    """Joules per FLOP by arithmetic."""
    on_chip_j_per_byte: JoulesPer
    """Joules per byte made and read inside a kernel."""
    hbm_weight_j_per_byte: JoulesPer
    """Joules per byte of weights read from device memory."""
    hbm_kv_j_per_byte: JoulesPer
    """Joules per byte of KV cache read or written."""
    hbm_activation_j_per_byte: JoulesPer
    """Joules per byte of activations read or written."""
    link_j_per_byte: JoulesPer
    """Joules per byte of a collective's message, for each GPU."""
    source: Text
    """Where the numbers come from."""
    fit: dict[str, Fit] | None = None
    """How they were fitted, by kernel family."""
    prior: dict[str, Any] | None = None
    """This section as it was before the fit to serving runs; no result depends on it."""


class Uncertainty(Form):
    """Relative standard deviations: of joules by cause, and of all joules of a kind of model."""

    compute: Deviation
    """Of the joules of FLOPs and on-chip traffic."""
    hbm_weights: Deviation
    """Of the joules of reading weights."""
    hbm_kv: Deviation
    """Of the joules of the KV cache."""
    hbm_activations: Deviation
    """Of the joules of activations."""
    communication: Deviation
    """Of the joules of collectives."""
    static: Deviation
    """Of the static joules while kernels run."""
    waiting: Deviation
    """Of the static joules while nothing runs."""
    common: Deviation
    """Of all joules, of any model."""
    routed: Deviation
    """Of all joules of a model with routed experts, in addition."""
    narrow: Deviation
    """Of all joules of a model with weights below 1.5 bytes an element, in addition."""
    source: Text
    """Where the numbers come from."""


class Range(Form):
    """The largest values that measurements behind the fits reach; beyond them a result is `extrapolated`."""

    batch: Annotated[Positive, Field(le=1e12)]
    """Largest batch, sequences."""
    context_tokens: Annotated[Positive, Field(le=1e12)]
    """Longest request, prompt and output tokens."""
    gpus: Annotated[Positive, Field(le=1e12)]
    """Most GPUs of an engine."""
    source: Text
    """Where the numbers come from."""


class Framework(Form):
    """What differs under another serving framework; chosen as `gpu@framework`."""

    kernels: Kernels
    """Time coefficients of its kernels."""
    collectives: Collectives | None = None
    """Its collectives; those of the profile if left out."""
    host: Host | None = None
    """Its host times; if left out those of the profile, without `stretch`."""


class GpuSpec(Form):
    """One GPU type; sections from `host` on may be left out and then follow from the data sheet."""

    name: Text
    """Name of the GPU type."""
    source: Text
    """Where the data sheet's numbers come from."""
    trust: Literal["measured", "calibrated", "published", "modelled"] = "modelled"
    """How far the numbers are trusted; `modelled` whenever a rule had to fill in any."""
    memory: Memory
    """Device memory."""
    compute: Compute
    """SMs and peaks."""
    power: Power
    """Board limit and draws without work."""
    link: Link
    """Links between GPUs."""
    clock: Clock | None = None
    """SM clocks, with voltages and idle power; without the tables clocks cannot be locked nor power capped."""
    host: Host | None = None
    """Seconds that the host takes; by rule if left out."""
    kernels: Kernels | None = None
    """Time coefficients of kernels; by rule if left out."""
    energy: Energy | None = None
    """Joules and watts; by rule if left out."""
    collectives: Collectives | None = None
    """Curves of collectives; by rule if left out."""
    uncertainty: Uncertainty | None = None
    """Relative deviations that make 80 % intervals of joules; wide ones if left out."""
    range: Range | None = None
    """What measurements behind the fits reach; without limits if left out."""
    frameworks: Annotated[dict[str, Framework], Field(max_length=100)] | None = None
    """What differs under other serving frameworks, by name (`trtllm`, `sglang`)."""
