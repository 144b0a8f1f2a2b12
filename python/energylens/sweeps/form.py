"""The forms of what lies in a sweep's folder: manifest, shards, and what says that they are merged."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from energylens.inputs.file_forms import Counts, Digest, Limits, Many, PlanForm, Sources, Trust, WrittenForm
from energylens.inputs.form import Form, Text

MOST_SHARDS = 10_000_000
"""Most shards of a sweep."""

Whole = Annotated[float, Field(ge=1, le=2**32 - 1, multiple_of=1, allow_inf_nan=False)]
Position = Annotated[int, Field(ge=0, le=2**32 - 1)]
Some = Field(min_length=1)


class SpaceContent(Form):
    """Axes of a sweep's manifest, as the core takes them: models, GPUs and laws by position, 0 for what is left out."""

    model: Annotated[list[Position], Some]
    gpu: Annotated[list[Position], Some]
    tp: Annotated[list[Position], Some]
    pp: Annotated[list[Position], Some]
    dp: Annotated[list[Position], Some]
    ep: Annotated[list[Position], Some]
    weight_dtype: Annotated[list[str | None], Some]
    kv_dtype: Annotated[list[str | None], Some]
    batch: Annotated[list[Whole], Some]
    prompt_tokens: Annotated[list[Whole], Some]
    output_tokens: Annotated[list[Whole], Some]
    cp: Annotated[list[Position], Some] | None = None
    overlap_stages: Annotated[list[Position], Some] | None = None
    overlap_sms: Annotated[list[Position], Some] | None = None
    overlap_where: Annotated[list[str], Some] | None = None
    sequence_parallel: Annotated[list[bool], Some] | None = None
    fused_norm: Annotated[list[bool], Some] | None = None
    sm_clock_mhz: Annotated[list[Position], Some] | None = None
    power_cap_w: Annotated[list[Position], Some] | None = None
    routing: Annotated[list[Position], Some] | None = None
    placement: Annotated[list[Position], Some] | None = None


class KeepContent(Form):
    """What is kept of a sweep."""

    epsilon: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None
    top: Annotated[int, Field(ge=0, le=1_000_000)]
    best_per: list[Text]
    distributions: list[Text]
    rows: Literal["none", "feasible", "all"]


class ShardsContent(Form):
    """How a sweep is cut."""

    points: Annotated[int, Field(ge=1, le=2**63)]
    count: Annotated[int, Field(ge=1, le=MOST_SHARDS)]
    step: Annotated[int, Field(ge=1, le=2**63)]


class SweepContent(WrittenForm):
    """The content of a sweep, whose SHA-256 is its name."""

    format: int
    energylens: Text
    physics: Text
    plan: PlanForm
    space: SpaceContent
    limits: Limits
    objectives: Annotated[list[Text], Field(min_length=1, max_length=6)]
    keep: KeepContent
    shards: ShardsContent

    @model_validator(mode="after")
    def _fits_together(self) -> SweepContent:
        for axis, items in (("model", self.plan.models), ("gpu", self.plan.gpus)):
            if getattr(self.space, axis) != list(range(len(items))):
                raise ValueError(f"the {axis}s of the space are not those of the plan")
        if any(law > len(self.plan.routings) for law in self.space.routing or ()):
            raise ValueError("the plan lacks a law of routing of the space")
        units = -(-self.shards.points // self.shards.step)
        if self.shards.count > units:
            raise ValueError(f"there are {self.shards.count:,} shards of {units:,} parts")
        return self


class ManifestForm(WrittenForm):
    """The manifest of a sweep."""

    name: Text
    sweep_sha256: Digest
    trust: Trust
    sources: Sources
    sweep: SweepContent


class SuccessForm(WrittenForm):
    """What says that a sweep is merged."""

    sweep_sha256: str
    points: Many
    by_reason: Counts
    outside_limits: Many
    files: dict[Text, Digest]


class RowsNote(WrittenForm):
    """What a shard's file says of its file of rows."""

    rows: Many
    bytes: Many
    sha256: Digest


class ShardNote(WrittenForm):
    """What a shard's file says besides what it kept."""

    sweep: Digest
    lo: Many
    hi: Many
    by_reason: list[Many]
    outside: Many
    digest: Digest
    rows: RowsNote | None = None
