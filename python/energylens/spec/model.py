"""The form of a model spec: ranks, blocks of kernels of equations, cache, masks, formats, shard map, overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from energylens import routing
from energylens.running import Where
from energylens.spec.form import Count, Form, Positive, Text, plain_name


class Rank(Form):
    """Extent of a rank; `active` makes it routed: one token meets that many of its values.

    They are all in `active_groups` of its `groups`, if these are given.
    """

    extent: Count
    active: Count | None = None
    routing: Text = routing.DEFAULT
    groups: Count | None = None
    active_groups: Count | None = None

    @field_validator("routing")
    @classmethod
    def _law(cls, text: str) -> str:
        if wrong := routing.problem(text):
            raise ValueError(f"{wrong.message}; {wrong.hint}")
        return text


class Mask(Form):
    """Causal attention, over a sliding `window` of tokens if one is given."""

    window: Count | None = None


class Overlap(Form):
    """A kernel cut into `stages`, its collective beside it on `sms` SMs."""

    stages: Annotated[Count, Field(le=1024)]
    sms: Annotated[Count, Field(le=1024)]
    where: Where = "both"


class Kernel(Form):
    """One launch: its equations, and the phase it is limited to."""

    equations: list[Text]
    phase: Literal["prefill", "decode"] | None = None


def _rank(value: object) -> object:
    return value if isinstance(value, dict) else {"extent": value}


def _mask(value: object) -> object:
    if value == "causal":
        return {}
    if isinstance(value, str):
        raise ValueError(f"unknown mask `{value}`; write `causal` or `{{window: 4096}}`")
    return value


def _kernel(value: object) -> object:
    if isinstance(value, str):
        return {"equations": [value]}
    return {"equations": value} if isinstance(value, list) else value


Ranks = dict[str, Annotated[Rank, BeforeValidator(_rank)]]
Masks = dict[str, Annotated[Mask, BeforeValidator(_mask)]]
Kernels = dict[str, Annotated[Kernel, BeforeValidator(_kernel)]]


class Block(Form):
    """Kernels, repeated; shard, mask and overlap entries here replace the model's."""

    name: Text
    repeat: Annotated[Count, Field(le=100_000)] = 1
    kernels: Kernels
    shard: dict[str, Text] = {}
    mask: Masks = {}
    overlap: dict[str, Overlap] = {}


class ModelSpec(Form):
    """A model as a graph of einsums."""

    name: Text
    source: Text | None = None
    parameters: Positive | None = None
    ranks: Ranks
    blocks: list[Block]
    cache: list[Text] = []
    mask: Masks = {}
    dtypes: dict[str, Text] = {"weights": "bf16", "activations": "bf16", "cache": "bf16"}
    shard: dict[str, Text] = {}
    overlap: dict[str, Overlap] = {}
    tied: list[Text] = []

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return plain_name(name, "model")

    @staticmethod
    def _routed(rank: Rank, folder: Path | None) -> dict[str, Any]:
        law = {} if rank.active is None else {"routing": routing.read(rank.routing, folder).canonical()}
        groups = {"groups": rank.groups, "active_groups": rank.active_groups}
        return law | {name: number for name, number in groups.items() if number is not None}

    def canonical(self, folder: Path | None = None) -> dict[str, Any]:
        """Return the spec as the plan holds it: every shorthand written out, mappings with an order as lists.

        Files that it names are looked for in `folder`.
        """

        def masks(own: Masks) -> dict[str, Any]:
            return {tensor: {"window": mask.window} for tensor, mask in own.items()}

        def overlaps(own: dict[str, Overlap]) -> dict[str, Any]:
            return {kernel: {"stages": o.stages, "sms": o.sms, "where": o.where} for kernel, o in own.items()}

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
