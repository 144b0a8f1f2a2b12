"""Specs from Hugging Face configs.

`spec_from_hf` reads the config.json of a checkpoint (https://huggingface.co/docs/transformers, configuration classes)
and returns the spec of its text decoder; `write_yaml` renders it. What a spec leaves out: biases, attention sinks,
correction terms of the router and its scoring, multi-token-prediction layers, and the vision or audio part of wrapped
models. A rotary embedding of part of a head is charged for the whole head. A soft cap c·tanh(x/c) is written as a
sigmoid: tanh is a shifted sigmoid, and softmax and sampling do not see the shift.
"""

from __future__ import annotations

from typing import Any

from energylens.spec.hf import blocks
from energylens.spec.hf.architecture import architecture, family, text_config, unsupported
from energylens.spec.hf.errors import InvalidConfig, UnsupportedArchitecture
from energylens.spec.hf.families import READERS
from energylens.spec.hf.fields import Fields
from energylens.spec.hf.quantization import dtypes
from energylens.spec.hf.text import write_yaml

__all__ = ["InvalidConfig", "UnsupportedArchitecture", "spec_from_hf", "write_yaml"]


def spec_from_hf(
    config: dict[str, Any],
    name: str | None = None,
    *,
    repository: str | None = None,
    parameters: float | None = None,
) -> dict[str, Any]:
    """Return the spec of a config; `name` may be a repository (ORG/NAME), `parameters` is the published count."""
    if not isinstance(config, dict):
        raise InvalidConfig([f"a config is a mapping of fields, not {type(config).__name__}"])
    reader = READERS[family(config)]
    text, wrapped = text_config(config)
    fields = Fields(text)
    try:
        shape = reader(fields)
        fields.check()
        formats = dtypes(shape, fields.mapping("quantization_config"))
        fields.check()
    except UnsupportedArchitecture as error:
        raise unsupported(architecture(config), f"is not expressed: {error}") from error
    repository = repository or (name if name and "/" in name else None)
    origin = f"{repository}, config.json" if repository else f"config.json of a {architecture(config)}"
    spec: dict[str, Any] = {
        "name": (name or str(text.get("model_type"))).rsplit("/", 1)[-1].lower(),
        "source": f"Hugging Face {origin}" + (" (its text part)" if wrapped else ""),
    }
    if parameters is not None:
        spec["parameters"] = float(parameters)
    spec |= {
        "ranks": blocks.ranks(shape),
        "blocks": blocks.blocks(shape),
        "cache": blocks.cache(shape),
        "mask": blocks.mask(shape),
        "dtypes": formats,
        "shard": blocks.shard(shape),
    }
    return spec | ({"tied": ["We"]} if shape.tied else {})
