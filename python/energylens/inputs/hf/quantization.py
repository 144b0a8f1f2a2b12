"""Number formats of a checkpoint's weights and cache, from its `quantization_config`.

Accepted forms: the config's own block (fp8, mxfp4, awq, gptq, compressed-tensors, modelopt) and the `quantization`
block of modelopt's hf_quant_config.json. Embedding, head and router stay bf16 in all of them.
"""

from __future__ import annotations

import re
from typing import Any, Final

from energylens.common.files import printable
from energylens.common.show import quoted
from energylens.inputs.hf import attention, feedforward
from energylens.inputs.hf.errors import InvalidConfig, UnsupportedArchitecture
from energylens.inputs.hf.shape import Shape

Config = dict[str, Any]

MODELOPT = {"FP8": "fp8", "FP8_PB_WO": "fp8_block", "NVFP4": "nvfp4", "W4A16_AWQ": "int4"}
ALIASES = {
    r"self_attn\.[qkv]_proj": "self_attn.qkv_proj",
    r"mlp\.(gate|up)_proj": "mlp.gate_up_proj",
    r"mlp\.shared_experts": "mlp.shared_expert",
    r"mlp\.experts": "block_sparse_moe.experts",
}
MOST_ENTRIES: Final = 10_000
"""Most excluded modules: a checkpoint that names each of its layers' has some hundreds."""
MOST_REPEATS: Final = 4
"""Most stars and other repeats of a pattern: the time to match it grows with their power."""
_NESTED = re.compile(r"\)[*+{]")
EXCLUSIONS = ("ignore", "exclude_modules", "modules_to_not_convert", "ignored_layers")


def dtypes(shape: Shape, config: Config | None) -> dict[str, str]:
    """Return the `dtypes` of a spec: a format by kind where it holds for all layers' weights, else by name."""
    quantised = _quantised(shape, config) if config else {}
    by_name = "bf16" in quantised.values()
    formats = set(quantised.values()) - {"bf16"}
    kind = formats.pop() if formats and not by_name else "bf16"
    out = {"weights": kind, "activations": "bf16", "cache": _cache(config or {}), "We": "bf16"}
    out |= {} if shape.tied else {"Wh": "bf16"}
    out |= {"Wr": "bf16"} if shape.experts else {}
    return out | ({weight: dtype for weight, dtype in quantised.items() if dtype != "bf16"} if by_name else {})


def weight_dtype(config: Config) -> str:
    """Return the format of the quantised weights."""
    method = str(config.get("quant_method") or "").lower()
    if config.get("quant_algo"):
        algorithm = str(config["quant_algo"]).upper()
        if algorithm in MODELOPT:
            return MODELOPT[algorithm]
        algorithm = printable(algorithm, 60)
        raise UnsupportedArchitecture(f"the quantisation {algorithm} has no single number format here")
    if method in ("fp8", "fbgemm_fp8"):
        return "fp8_block" if config.get("weight_block_size") else "fp8"
    if method == "mxfp4":
        return "mxfp4"
    if method in ("awq", "gptq"):
        bits = config.get("bits") or config.get("w_bit")
        if bits in (4, 8):
            return f"int{bits}"
    if config.get("config_groups"):
        return _grouped(config["config_groups"])
    raise UnsupportedArchitecture(
        f"the quantisation {printable(method, 60) or 'without quant_method'} has no number format here"
    )


def _grouped(groups: Any) -> str:
    """Format of compressed-tensors: one group of weights, with activations quantised or not as the format implies."""
    if not isinstance(groups, dict) or len(groups) != 1:
        raise UnsupportedArchitecture("quantisation in several config_groups has no single number format here")
    group = next(iter(groups.values()))
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict):
        raise InvalidConfig(["config_groups of quantization_config must hold a group with weights"])
    inputs = group.get("input_activations")
    kind, bits = weights.get("type"), weights.get("num_bits")
    if (kind, bits, inputs is None) == ("float", 8, False):
        return "fp8_block" if weights.get("strategy") == "block" else "fp8"
    if (kind, bits, inputs is None) == ("float", 4, False):
        return "nvfp4"
    if kind == "int" and bits in (4, 8) and inputs is None:
        return f"int{bits}"
    with_inputs = "with" if inputs else "without"
    raise UnsupportedArchitecture(
        f"{printable(f'{kind}{bits}', 60)} weights {with_inputs} quantised activations have no number format here"
    )


def _cache(config: Config) -> str:
    """The cache is fp8 where the checkpoint brings scales for it."""
    scheme = config.get("kv_cache_quant_algo") or config.get("kv_cache_scheme")
    if isinstance(scheme, dict):
        return "fp8" if (scheme.get("type"), scheme.get("num_bits")) == ("float", 8) else "bf16"
    return "fp8" if scheme == "FP8" else "bf16"


def _quantised(shape: Shape, config: Config) -> dict[str, str]:
    """Format of every layer weight; one whose layers differ is refused."""
    dtype = weight_dtype(config)
    entries = dict.fromkeys(str(entry) for name in EXCLUSIONS for entry in _entries(config, name))
    patterns = [re.compile(_pattern(entry)) for entry in entries]
    out: dict[str, str] = {}
    for weight, (module, layers) in _modules(shape).items():
        names = {module} | {re.sub(rf"^{ours}", other, module) for ours, other in ALIASES.items()}
        unquantised = sum(
            any(pattern.match(f"model.layers.{layer}.{name}") for pattern in patterns for name in names)
            for layer in (layers if patterns else ())
        )
        if 0 < unquantised < len(layers):
            text = f"{module} is quantised in {len(layers) - unquantised} of {len(layers)} layers"
            raise UnsupportedArchitecture(f"{text}, and a weight has one number format here")
        out[weight] = "bf16" if unquantised else dtype
    return out


def _modules(shape: Shape) -> dict[str, tuple[str, list[int]]]:
    """Module and layers of every layer weight that a checkpoint may quantise."""
    every = list(range(len(shape.kinds)))
    out = {weight: (module, every) for weight, module in attention.modules(shape.attention).items()}
    plain = [layer for layer in every if not shape.kinds[layer].routed]
    routed = [layer for layer in every if shape.kinds[layer].routed]
    if shape.dense:
        modules = feedforward.dense_modules(shape.dense, shape.experts is not None)
        out |= {weight: (module, plain) for weight, module in modules.items()}
    if shape.experts:
        out |= {w: (module, routed) for w, module in feedforward.expert_modules(shape.experts).items()}
    return out


def _entries(config: Config, name: str) -> list[Any]:
    entries = config.get(name) or []
    if not isinstance(entries, list):
        raise InvalidConfig([f"{name} of quantization_config must be a list, not {quoted(entries)}"])
    if len(entries) > MOST_ENTRIES:
        raise InvalidConfig([f"{name} of quantization_config has {len(entries):,} entries, at most {MOST_ENTRIES:,}"])
    return entries


def _pattern(entry: str) -> str:
    """Regular expression of an excluded module: a whole name, a trailing part of it, or a pattern with stars."""
    if (
        len(entry) > 500
        or sum(map(entry.count, "*+{")) > MOST_REPEATS
        or (entry[:3] == "re:" and _NESTED.search(entry))
    ):
        raise InvalidConfig([f"{quoted(entry)} in quantization_config is too long a pattern, or has too many repeats"])
    if entry.startswith("re:"):
        try:
            return re.compile(entry[3:]).pattern
        except (re.error, OverflowError, RecursionError) as error:
            message = f"{quoted(entry)} in quantization_config is no regular expression: {error}"
            raise InvalidConfig([message]) from error
    start = entry.find("layers.")
    text = re.escape(entry[start:] if start > 0 else entry).replace(r"\*", ".*")
    return rf"(?:.*\.)?{text}(?:\..*)?$"
