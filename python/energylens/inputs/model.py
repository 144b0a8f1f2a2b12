"""The form of a model spec: ranks, blocks of kernels of equations, cache, masks, formats, shard map, overlap."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from energylens import _core
from energylens.common.files import printable
from energylens.inputs import routing, texts
from energylens.inputs.axes import Where
from energylens.inputs.form import Count, Form, PlainName, Positive, Text, plain_name

MOST_VALUES: Final = 2**32 - 1
"""Most values of a rank, and of tokens of a window."""
MOST_BLOCKS, MOST_KERNELS, MOST_EQUATIONS = 1_000, 1_000, 1_000
"""Most blocks of a model, kernels of a block and equations of a kernel; all together have at most ten thousand."""
_MOST_TOGETHER: Final = 10_000

AXES: Final = ("tp", "dp", "ep", "moe_tp", "pp", "none")
"""Mesh axes that may split a rank, and none."""

KINDS: Final[Mapping[str, str]] = {
    "weights": "Data type of weights that have none of their own.",
    "activations": "Data type of activations that have none of their own.",
    "cache": "Data type of cached tensors that have none of their own.",
}
"""Kinds of tensors."""


_MOST_EXPERTS: Final = routing.MOST_EXPERTS
Experts = Annotated[Count, Field(le=_MOST_EXPERTS)]


class Rank(Form):
    """Extent of a rank; `active` makes it routed: one token meets that many of its values.

    They are all in `active_groups` of its `groups`, if these are given.
    """

    extent: Annotated[Count, Field(le=MOST_VALUES)]
    """Values of the rank."""
    active: Experts | None = None
    """Values that one token meets, which makes it the rank of routed experts."""
    routing: Annotated[Text, Field(json_schema_extra=texts.LAW)] = routing.DEFAULT
    """Law by which tokens choose experts."""
    groups: Experts | None = None
    """Groups of experts, in order, for node-limited routing."""
    active_groups: Experts | None = None
    """Groups that a token's experts all lie in."""

    @field_validator("routing")
    @classmethod
    def _law(cls, text: str) -> str:
        if wrong := routing.problem(text):
            raise ValueError(f"{wrong.message}; {wrong.hint}")
        return text

    @model_validator(mode="after")
    def _experts(self) -> Rank:
        if self.active is not None and self.extent > _MOST_EXPERTS:
            raise ValueError(f"a routed rank has at most {_MOST_EXPERTS:,} values, found {self.extent:,}")
        return self


class Mask(Form):
    """Causal attention, over a sliding `window` of tokens if one is given."""

    window: Annotated[Count, Field(le=MOST_VALUES)] | None = None
    """Tokens that a token attends to, itself included; all before it, if left out."""


class Overlap(Form):
    """A kernel cut into `stages`, its collective running alongside on `sms` SMs."""

    stages: Annotated[Count, Field(le=1024)]
    """Stages that the rows of the kernel are cut into."""
    sms: Annotated[Count, Field(le=1024)]
    """SMs that the collective takes meanwhile."""
    where: Where = "both"
    """Phases in which it is overlapped."""


def _equation(text: str) -> str:
    if len(text) > _LONGEST_EQUATION:
        raise ValueError(f"an equation has at most {_LONGEST_EQUATION:,} characters, found {len(text):,}")
    return text


_LONGEST_EQUATION: Final = 2000
Equation = Annotated[Text, AfterValidator(_equation)]


class Kernel(Form):
    """One launch: its equations, and the phase it is limited to."""

    equations: Annotated[list[Equation], Field(max_length=MOST_EQUATIONS)]
    """Equations such as `Y[b,s,d] = O[b,s,h,e] * Wo[h,e,d]`, in their order."""
    phase: Literal["prefill", "decode"] | None = None
    """Phase it runs in; both, if left out."""


def _rank(value: object) -> object:
    return value if isinstance(value, dict) else {"extent": value}


def _mask(value: object) -> object:
    if value == "causal":
        return {}
    if isinstance(value, str):
        raise ValueError(f"unknown mask `{printable(value, 60)}`; write `causal` or `{{window: 4096}}`")
    return value


def _kernel(value: object) -> object:
    if isinstance(value, str):
        return {"equations": [value]}
    return {"equations": value} if isinstance(value, list) else value


Ranks = Annotated[
    dict[str, Annotated[Rank, BeforeValidator(_rank, json_schema_input_type=Count | Rank)]],
    Field(json_schema_extra={"propertyNames": {"pattern": "^[ac-ru-zA-Z]$"}}),
]
Masks = dict[str, Annotated[Mask, BeforeValidator(_mask, json_schema_input_type=Literal["causal"] | Mask)]]
Kernels = dict[str, Annotated[Kernel, BeforeValidator(_kernel, json_schema_input_type=Text | list[Text] | Kernel)]]
Shard = Annotated[
    dict[str, Annotated[Text, Field(json_schema_extra={"enum": list(AXES)})]],
    Field(json_schema_extra={"propertyNames": {"pattern": "^([a-ru-zA-Z]|repeat)$"}}),
]
Dtype = Annotated[Text, Field(json_schema_extra={"enum": _core.DTYPES})]
Dtypes = Annotated[
    dict[str, Dtype],
    Field(
        json_schema_extra={
            "properties": {kind: {"description": text, "enum": list(_core.DTYPES)} for kind, text in KINDS.items()},
            "required": list(KINDS),
        }
    ),
]


class Block(Form):
    """Kernels, repeated; shard, mask and overlap entries here replace the model's."""

    name: Text
    """Name of the block."""
    repeat: Annotated[Count, Field(le=100_000)] = 1
    """How many times it runs in one pass (layers)."""
    kernels: Annotated[Kernels, Field(max_length=MOST_KERNELS)]
    """Kernels by name: an equation, a list of them (one launch), or `{phase: ..., equations: [...]}`."""
    shard: Shard = {}
    """Mesh axis of a rank, in place of the model's."""
    mask: Masks = {}
    """Mask of the scores of an attention kernel, by tensor, in place of the model's."""
    overlap: dict[str, Overlap] = {}
    """Kernels that run alongside their collective, in place of the model's."""


class ModelSpec(Form):
    """A model as a graph of einsums."""

    name: PlainName
    """Name of the model: letters, digits and `-._`."""
    source: Text | None = None
    """Where the architecture comes from."""
    parameters: Annotated[Positive, Field(le=1e18)] | None = None
    """Published count of parameters, shown next to the counted one."""
    ranks: Ranks
    """Extent of every rank, by its letter; b, s, t (sequences, new and visible tokens) are given by the step."""
    blocks: Annotated[list[Block], Field(max_length=MOST_BLOCKS)]
    """Blocks of kernels, in the order in which they run."""
    cache: Annotated[list[Text], Field(examples=[["K", "V"]])] = []
    """Tensors kept for later tokens: made along s, read along t."""
    mask: Masks = {}
    """Mask of the scores of an attention kernel, by tensor."""
    dtypes: Dtypes = {"weights": "bf16", "activations": "bf16", "cache": "bf16"}
    """Data types of weights, activations and cache, and of single tensors by name."""
    shard: Shard = {}
    """Mesh axis that splits a rank, by rank, in this order; `repeat` stands for the layers."""
    overlap: dict[str, Overlap] = {}
    """Kernels that run in stages alongside their collective, by kernel."""
    tied: list[Text] = []
    """Weights that blocks share."""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return plain_name(name, "model")

    @field_validator("blocks")
    @classmethod
    def _limited(cls, blocks: list[Block]) -> list[Block]:
        equations = sum(len(kernel.equations) for block in blocks for kernel in block.kernels.values())
        if equations > _MOST_TOGETHER:
            raise ValueError(f"a model has at most {_MOST_TOGETHER:,} equations, found {equations:,}")
        return blocks

    @staticmethod
    def _routed(rank: Rank, folder: Path | None) -> dict[str, Any]:
        law = {} if rank.active is None else {"routing": routing.read(rank.routing, folder).canonical()}
        groups = {"groups": rank.groups, "active_groups": rank.active_groups}
        return law | {name: number for name, number in groups.items() if number is not None}

    def canonical(self, folder: Path | None = None) -> dict[str, Any]:
        """Return the spec as the plan holds it: every shorthand written out, mappings with an order as lists.

        Files that it names are looked for in `folder`.
        """

        def masks(spec: Masks) -> dict[str, Any]:
            return {tensor: {"window": mask.window} for tensor, mask in spec.items()}

        def overlaps(spec: dict[str, Overlap]) -> dict[str, Any]:
            return {kernel: {"stages": o.stages, "sms": o.sms, "where": o.where} for kernel, o in spec.items()}

        return {
            "name": self.name,
            "ranks": {
                name: {"extent": rank.extent, "active": rank.active, **self._routed(rank, folder)}
                for name, rank in self.ranks.items()
            },
            "blocks": [
                {
                    "name": block.name,
                    "repeat": block.repeat,
                    "kernels": [
                        {"name": name, "equations": kernel.equations, "phase": kernel.phase}
                        for name, kernel in block.kernels.items()
                    ],
                    "shard": [[rank, axis] for rank, axis in block.shard.items()],
                    "mask": masks(block.mask),
                    "overlap": overlaps(block.overlap),
                }
                for block in self.blocks
            ],
            "cache": self.cache,
            "mask": masks(self.mask),
            "dtypes": dict(self.dtypes),
            "shard": [[rank, axis] for rank, axis in self.shard.items()],
            "overlap": overlaps(self.overlap),
            "tied": self.tied,
        }
