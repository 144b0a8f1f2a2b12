"""The form of a point: one configuration of a model on a GPU, and how a server of it batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, create_model

from energylens import _core
from energylens.common.errors import SpecError
from energylens.inputs import axis_values, texts
from energylens.inputs.axes import AXES, LARGEST, Axis, Where
from energylens.inputs.axis_text import is_default
from energylens.inputs.form import Count, Form, Share, Text
from energylens.inputs.plan import MAX_BATCHED_TOKENS


def _checked(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str) and AXES[info.field_name or ""].nullable and is_default(value):
        return None
    if isinstance(value, str) and (wrong := axis_values.problem(value, info.field_name or "")):
        raise SpecError(wrong)
    return value


def _unset(value: object) -> object:
    """Return None for the word that stands for it."""
    return None if isinstance(value, str) and is_default(value) else value


Checked = BeforeValidator(_checked)
Format = Annotated[str | None, Checked, WithJsonSchema({"enum": [*_core.DTYPES, None]})]
Law = Annotated[Annotated[Text, Field(json_schema_extra=texts.LAW)] | None, Checked]
Placement = Annotated[Text, Checked, Field(json_schema_extra=texts.PLACEMENT)]
Size = Annotated[Count, Field(le=LARGEST)]


def _field(axis: Axis) -> tuple[Any, Any]:
    """Return the field of an axis: its type, and its default with its description."""
    more = " (looked for from this file's folder too)" if axis.required else ""
    more = f"; {axis.unset}, if left out" if axis.unset else more
    about = Field(... if axis.required else axis.default, description=f"{axis.description}{more}.")
    match axis.kind:
        case "name":
            kind: Any = Annotated[Text, Field(json_schema_extra=texts.bundled_names(texts.FOLDERS[axis.name]))]
        case "format":
            kind = Format
        case "switch":
            kind = bool
        case "phase":
            kind = Where
        case "law":
            kind = Law
        case "placement":
            kind = Placement
        case _:
            count = Count if axis.least else int
            kind = Annotated[count, Field(ge=axis.least, le=axis.most)]
            kind = Annotated[kind | None, BeforeValidator(_unset)] if axis.nullable else kind
    return kind, about


if TYPE_CHECKING:
    AxisFields = Form
else:
    AxisFields = create_model("AxisFields", __base__=Form, **{name: _field(axis) for name, axis in AXES.items()})


class PointSpec(AxisFields):
    """One configuration: fields as in `evaluate`, and of a server those of `serve`."""

    max_batched_tokens: Size = MAX_BATCHED_TOKENS
    """Prompt tokens of one prefill pass."""
    max_num_seqs: Size | None = None
    """Sequences that may run at once in an engine; `batch`, if left out."""
    token_budget: Size | None = None
    """Tokens of a step, prompts included; `max_batched_tokens`, if left out."""
    chunked: bool = True
    """Prompts are read in parts while others decode (chunked prefill)."""
    prefix_cache: bool = True
    """Prefixes are cached and reused."""
    draft: Annotated[Text | None, Field(json_schema_extra=texts.bundled_names("models"))] = None
    """Model that proposes tokens; n-grams, if left out."""
    draft_tokens: Annotated[int, Field(ge=0, le=64)] = 0
    """Tokens proposed in each step; 0 is no speculation."""
    acceptance: Share = 0.7
    """Chance that a proposed token is accepted."""
    replicas: Annotated[Count, Field(le=10_000)] = 1
    """Engines."""

    def columns(self) -> dict[str, Any]:
        """Return the fields that `evaluate` takes, by column."""
        return {name: getattr(self, name) for name in AXES}

    def server(self) -> dict[str, Any]:
        """Return the fields of a server."""
        return {name: value for name, value in self if name in SERVER_FIELDS}


SERVER_FIELDS = (
    "max_num_seqs",
    "token_budget",
    "chunked",
    "prefix_cache",
    "draft",
    "draft_tokens",
    "acceptance",
    "replicas",
)
"""Fields that say how a server batches."""
