"""The form of a point: one configuration of a model on a GPU, and how a server of it batches."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo

from energylens import _core, running
from energylens.errors import Problem, SpecError, did_you_mean
from energylens.plan import LARGEST, MAX_BATCHED_TOKENS
from energylens.running import Where
from energylens.spec.form import Count, Form, Share, Text


def _format(value: object) -> object:
    if isinstance(value, str) and value not in _core.DTYPES:
        hint = did_you_mean(value, _core.DTYPES)
        raise SpecError(Problem(f"unknown data type `{value}`", hint=hint, code="unknown-dtype"))
    return value


def _way(value: object, info: ValidationInfo) -> object:
    if value is not None and (wrong := running.problem(value, info.field_name or "")):
        raise SpecError(wrong)
    return value


Format = Annotated[str | None, BeforeValidator(_format)]
Degree = Annotated[Count, Field(le=1024)]
Size = Annotated[Count, Field(le=LARGEST)]
Way = BeforeValidator(_way)


class PointSpec(Form):
    """One configuration: fields as in `evaluate`, and of a server those of `serve`."""

    model: Text
    gpu: Text
    weight_dtype: Format = None
    kv_dtype: Format = None
    tp: Degree = 1
    pp: Degree = 1
    dp: Degree = 1
    ep: Degree = 1
    cp: Degree = 1
    overlap_stages: Degree | None = None
    overlap_sms: Annotated[int, Field(ge=0, le=1024)] = 0
    overlap_where: Where = "prefill"
    sequence_parallel: bool = False
    fused_norm: bool = False
    sm_clock_mhz: Annotated[Count, Field(le=10_000)] | None = None
    power_cap_w: Annotated[Count, Field(le=20_000)] | None = None
    routing: Annotated[Text | None, Way] = None
    placement: Annotated[Text, Way] = "contiguous"
    batch: Size = 1
    prompt_tokens: Size = 1024
    output_tokens: Size = 256
    max_batched_tokens: Size = MAX_BATCHED_TOKENS
    max_num_seqs: Size | None = None
    token_budget: Size | None = None
    chunked: bool = True
    prefix_cache: bool = True
    draft: Text | None = None
    draft_tokens: Annotated[int, Field(ge=0, le=64)] = 0
    acceptance: Share = 0.7
    replicas: Annotated[Count, Field(le=10_000)] = 1

    def columns(self) -> dict[str, Any]:
        """Return the fields that `evaluate` takes, by column."""
        kept = set(SERVER_FIELDS) | {"max_batched_tokens"}
        return {name: value for name, value in self if name not in kept}

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
