"""Specs from Hugging Face configs.

`spec_from_hf` reads the config.json of a checkpoint (https://huggingface.co/docs/transformers, configuration classes)
and returns the spec of its text decoder; `write_yaml` renders it. What a spec leaves out: biases, attention sinks,
correction terms of the router and its scoring, multi-token-prediction layers, and the vision or audio part of wrapped
models. A rotary embedding of part of a head is charged for the whole head. A soft cap c·tanh(x/c) is written as a
sigmoid: tanh is a shifted sigmoid, and softmax and sampling do not see the shift.
"""

from __future__ import annotations

from typing import Any

from energylens.common.show import quoted
from energylens.inputs.hf import blocks
from energylens.inputs.hf.architecture import architecture, family, not_counted, text_config, unsupported
from energylens.inputs.hf.errors import InvalidConfig, UnsupportedArchitecture
from energylens.inputs.hf.families import READERS
from energylens.inputs.hf.fields import MOST, Fields
from energylens.inputs.hf.quantization import dtypes
from energylens.inputs.hf.text import write_yaml

__all__ = ["InvalidConfig", "UnsupportedArchitecture", "not_counted", "spec_from_hf", "write_yaml"]

_LEFT_OUT = {
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    }
}
"""What wrapped configs leave out, by family: the defaults of the family's configuration class."""


def spec_from_hf(
    config: dict[str, Any],
    name: str | None = None,
    *,
    repository: str | None = None,
    parameters: float | None = None,
) -> dict[str, Any]:
    """Return the spec of the text part of a model.

    Parameters
    ----------
    config
        The fields of its config.json.
    name
        Name of the spec, or a repository (ORG/NAME); the model type, if left out.
    repository
        Repository that the spec names as its source.
    parameters
        Published count of parameters.

    Returns
    -------
    dict
        The fields of a model spec, as `write_yaml` writes them and `load_model` reads them.

    Raises
    ------
    InvalidConfig
        If fields are absent, of a wrong kind or size, or contradict each other: with every problem.
    UnsupportedArchitecture
        If the model holds a piece that has no equation. Both are `SpecError`.

    Examples
    --------
    >>> spec = spec_from_hf({
    ...     "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 4096,
    ...     "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000,
    ... }, name="meta-llama/Llama-2-7b")
    >>> spec["name"], spec["ranks"]["d"]
    ('llama-2-7b', 4096)
    """
    if not isinstance(config, dict):
        raise InvalidConfig([f"a config is a mapping of fields, not {type(config).__name__}"])
    if parameters is not None and not (isinstance(parameters, (int, float)) and 0 < parameters < 1e18):
        raise InvalidConfig([f"parameters must be a number above 0 and below 1e18, not {quoted(parameters)}"])
    family_name = family(config)
    reader = READERS[family_name]
    text, wrapped = text_config(config)
    fields = Fields(text)
    if wrapped:
        fields.assume(**_LEFT_OUT.get(family_name, {}))
    try:
        shape = reader(fields)
        fields.check()
        formats = dtypes(shape, fields.mapping("quantization_config"))
        fields.check()
    except UnsupportedArchitecture as error:
        raise unsupported(architecture(config), f"is not expressed: {error}") from error
    sizes = {rank: size["extent"] if isinstance(size, dict) else size for rank, size in blocks.ranks(shape).items()}
    if large := [
        f"sizes make a rank `{rank}` of {quoted(n)}: at most {MOST:,}" for rank, n in sizes.items() if n > MOST
    ]:
        raise InvalidConfig(large)
    repository = repository or (name if name and "/" in name else None)
    origin = f"{repository}, config.json" if repository else f"config.json of a {architecture(config)}"
    towers = not_counted(config)
    part = " (its text part)" if wrapped else ""
    if towers:
        part = f" (its text part; the {' and the '.join(towers)} tower is not counted)"
    spec: dict[str, Any] = {
        "name": (name or str(text.get("model_type"))).rsplit("/", 1)[-1].lower(),
        "source": f"Hugging Face {origin}{part}",
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
