"""The form of a point: one configuration of a model on a GPU, and how a server of it batches."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema

from energylens import _core
from energylens.common.errors import Problem, SpecError, did_you_mean
from energylens.inputs import run_options, texts
from energylens.inputs.columns import SPEC_WORD
from energylens.inputs.form import Count, Form, Share, Text
from energylens.inputs.plan import LARGEST, MAX_BATCHED_TOKENS
from energylens.inputs.run_options import Where


def _spec_value(value: object) -> object:
    """Return None for the word that results and commands have for it."""
    return None if isinstance(value, str) and value == SPEC_WORD else value


def _format(value: object) -> object:
    value = _spec_value(value)
    if isinstance(value, str) and value not in _core.DTYPES:
        hint = did_you_mean(value, _core.DTYPES)
        raise SpecError(Problem(f"unknown data type `{value}`", hint=hint, code="unknown-dtype"))
    return value


def _way(value: object, info: ValidationInfo) -> object:
    value = _spec_value(value) if info.field_name == "routing" else value
    if value is not None and (wrong := run_options.problem(value, info.field_name or "")):
        raise SpecError(wrong)
    return value


Format = Annotated[str | None, BeforeValidator(_format), WithJsonSchema({"enum": [*_core.DTYPES, None]})]
Degree = Annotated[Count, Field(le=1024)]
Size = Annotated[Count, Field(le=LARGEST)]
Way = BeforeValidator(_way)
Spec = BeforeValidator(_spec_value)
Law = Annotated[Text, Field(json_schema_extra=texts.LAW)]


class PointSpec(Form):
    """One configuration: fields as in `evaluate`, and of a server those of `serve`."""

    model: Annotated[Text, Field(json_schema_extra=texts.bundled_names("models"))]
    """A bundled model, or a path to a spec (looked for beside this file too)."""
    gpu: Annotated[Text, Field(json_schema_extra=texts.bundled_names("hardware"))]
    """A bundled GPU, `gpu@framework`, or a path to a profile (looked for beside this file too)."""
    weight_dtype: Format = None
    """Data type of the weights; the model's own, if left out."""
    kv_dtype: Format = None
    """Data type of the KV cache; the model's own, if left out."""
    tp: Degree = 1
    """Tensor parallelism, GPUs."""
    pp: Degree = 1
    """Pipeline stages."""
    dp: Degree = 1
    """Data parallelism of attention inside the engine, ranks."""
    ep: Degree = 1
    """Expert parallelism, ranks."""
    cp: Degree = 1
    """Context parallelism, ranks."""
    overlap_stages: Annotated[Degree | None, Spec] = None
    """Stages of compute beside which collectives run; 1 is none, as the model says if left out."""
    overlap_sms: Annotated[int, Field(ge=0, le=1024)] = 0
    """SMs that overlapped collectives take."""
    overlap_where: Where = "prefill"
    """Phases in which collectives are overlapped."""
    sequence_parallel: bool = False
    """Reduce-scatter and all-gather in place of all-reduce."""
    fused_norm: bool = False
    """Norms inside the all-reduce before them."""
    sm_clock_mhz: Annotated[Annotated[Count, Field(le=10_000)] | None, Spec] = None
    """Locked SM clock, MHz; as measured, if left out."""
    power_cap_w: Annotated[Annotated[Count, Field(le=20_000)] | None, Spec] = None
    """Cap on the power of each GPU, W; the board limit, if left out."""
    routing: Annotated[Law | None, Way] = None
    """Law by which tokens choose experts; the model's own, if left out."""
    placement: Annotated[Text, Way, Field(json_schema_extra=texts.PLACEMENT)] = "contiguous"
    """Which GPU holds which expert."""
    batch: Size = 1
    """Sequences running in the engine."""
    prompt_tokens: Size = 1024
    """Prompt tokens of each request."""
    output_tokens: Size = 256
    """Output tokens of each request."""
    max_batched_tokens: Size = MAX_BATCHED_TOKENS
    """Prompt tokens of one prefill pass."""
    max_num_seqs: Size | None = None
    """Sequences that may run at once in an engine; `batch`, if left out."""
    token_budget: Size | None = None
    """Tokens of a step, prompts included; `max_batched_tokens`, if left out."""
    chunked: bool = True
    """Prompts are read in parts beside decoding."""
    prefix_cache: bool = True
    """Prefixes are kept and found again."""
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
