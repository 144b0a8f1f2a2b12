"""The forms of what lies in a sweep's folder: manifest, shards, and what says that they are merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, create_model, model_validator

from energylens.inputs.axes import AXES, Axis, Kind
from energylens.inputs.file_forms import Counts, Digest, Limits, Many, PlanForm, Sources, Trust, WrittenForm
from energylens.inputs.form import Form, Text

MOST_SHARDS = 10_000_000
"""Most shards of a sweep."""

IntegralNumber = Annotated[float, Field(ge=1, le=2**32 - 1, multiple_of=1, allow_inf_nan=False)]
Position = Annotated[int, Field(ge=0, le=2**32 - 1)]
Some = Field(min_length=1)


_OF_CORE: Final[Mapping[Kind, Any]] = {
    "name": Position,
    "format": str | None,
    "count": Position,
    "size": IntegralNumber,
    "switch": bool,
    "phase": str,
    "law": Position,
    "placement": Position,
}
"""Types of the values of axes as the core takes them."""


def _positions(axis: Axis) -> tuple[Any, Any]:
    kind: Any = _OF_CORE[axis.kind]
    values: Any = Annotated[list[kind], Some]
    return (values | None, None) if axis.run_option else (values, ...)


if TYPE_CHECKING:
    AxisPositions = Form
else:
    AxisPositions = create_model(
        "AxisPositions", __base__=Form, **{name: _positions(axis) for name, axis in AXES.items()}
    )


class SpaceContent(AxisPositions):
    """Axes of a sweep's manifest, as the core takes them: models, GPUs and laws by position, 0 for what is left out."""

    def of(self, axis: str) -> list[Any]:
        """Return the values of an axis; none if they are the default alone."""
        return getattr(self, axis) or []


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
            if self.space.of(axis) != list(range(len(items))):
                raise ValueError(f"the {axis}s of the space are not those of the plan")
        if any(law > len(self.plan.routings) for law in self.space.of("routing")):
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
    """The note of a shard's file: its range, counts and digests."""

    sweep: Digest
    lo: Many
    hi: Many
    by_reason: list[Many]
    outside: Many
    digest: Digest
    rows: RowsNote | None = None
