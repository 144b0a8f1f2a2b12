"""Readers from config fields to the shape of a decoder, one for each family of architectures.

Field names and their meaning: the configuration classes of Hugging Face transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from energylens.common.files import printable
from energylens.common.show import quoted
from energylens.inputs.hf.errors import UnsupportedArchitecture
from energylens.inputs.hf.fields import Fields
from energylens.inputs.hf.shape import Dense, Experts, Grouped, Kind, Latent, Shape

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_pytorch_tanh": "gelu",
}
MOST_LAYERS: Final = 10_000
"""Most layers: the deepest published model has some 130."""
MOST_EXPERTS: Final = 65_536
EVERY_HEAD = {"llama", "phi3", "nemotron"}
LAYER_TYPES = {"full_attention", "sliding_attention"}


def llama(fields: Fields) -> Shape:
    """Llama, Mistral and Phi-3: grouped-query attention and a gated network; a sliding window holds for all layers."""
    count = _layers(fields)
    windows = _windows(fields, [_window(fields)] * count)
    return _decoder(fields, _grouped(fields), windows, dense=_dense(fields))


def qwen(fields: Fields) -> Shape:
    """Qwen2 and MiMo: as Llama, with a window only in the layers after `max_window_layers`, and only if switched on."""
    return _decoder(fields, _grouped(fields), _qwen_windows(fields), dense=_dense(fields))


def qwen3(fields: Fields) -> Shape:
    """Qwen3: as Qwen2, with queries and keys normed per head."""
    return _decoder(fields, _grouped(fields, qk_norm=True, head_dim=128), _qwen_windows(fields), dense=_dense(fields))


def qwen2_moe(fields: Fields) -> Shape:
    """Qwen2-MoE: routed experts next to one shared expert behind a sigmoid gate."""
    shared = fields.integer("shared_expert_intermediate_size")
    experts = _experts(fields, "num_experts", shared=shared, shared_gate=True)
    return _qwen_moe(fields, _grouped(fields), experts)


def qwen3_moe(fields: Fields) -> Shape:
    """Qwen3-MoE: routed experts without a shared one."""
    return _qwen_moe(fields, _grouped(fields, qk_norm=True), _experts(fields, "num_experts"))


def mixtral(fields: Fields) -> Shape:
    """Mixtral: every layer routed; the experts' width is `intermediate_size`."""
    windows = _windows(fields, [_window(fields)] * _layers(fields))
    experts = _experts(fields, "num_local_experts", width="intermediate_size")
    return _decoder(fields, _grouped(fields), windows, experts=experts, routed=[True] * len(windows))


def gpt_oss(fields: Fields) -> Shape:
    """gpt-oss: routed experts with swiglu, and sliding and full attention in turn."""
    window = fields.integer("sliding_window")
    default: list[int | None] = [None if layer % 2 else window for layer in range(_layers(fields))]
    windows = _windows(fields, default)
    experts = _experts(fields, "num_local_experts", width="intermediate_size", activation="swiglu")
    return _decoder(fields, _grouped(fields, head_dim=64), windows, experts=experts, routed=[True] * len(windows))


def glm4_moe(fields: Fields) -> Shape:
    """GLM-4.5: grouped-query attention, dense layers first, then routed and shared experts."""
    attention = _grouped(fields, qk_norm=fields.flag("use_qk_norm"))
    windows: list[int | None] = [None] * _layers(fields)
    return _leading_dense(fields, attention, windows)


def deepseek(fields: Fields) -> Shape:
    """DeepSeek-V2, DeepSeek-V3 and Kimi-K2: latent attention, dense layers first, then routed and shared experts."""
    low = fields.integer("q_lora_rank") if "q_lora_rank" in fields else None
    attention = Latent(
        heads=fields.integer("num_attention_heads"),
        nope=fields.integer("qk_nope_head_dim"),
        rope=fields.integer("qk_rope_head_dim"),
        value=fields.integer("v_head_dim"),
        q_lora=low,
        kv_lora=fields.integer("kv_lora_rank"),
    )
    windows: list[int | None] = [None] * _layers(fields)
    return _leading_dense(fields, attention, windows)


def gemma(fields: Fields) -> Shape:
    """Gemma: as Llama, with a scaled embedding, gelu and tied tables."""
    windows: list[int | None] = [None] * _layers(fields)
    return _decoder(
        fields, _grouped(fields, head_dim=256), windows, dense=_dense(fields, "gelu"), scaled=True, tied=True
    )


def gemma2(fields: Fields) -> Shape:
    """Gemma 2: norms after each branch, sliding and full attention in turn, soft caps on scores and logits."""
    window = fields.integer("sliding_window")
    default: list[int | None] = [None if layer % 2 else window for layer in range(_layers(fields))]
    return _sandwiched(fields, _grouped(fields, head_dim=256), default)


def gemma3(fields: Fields) -> Shape:
    """Gemma 3: as Gemma 2, with queries and keys normed and one full layer in every `sliding_window_pattern`.

    Wrapped configs leave out what equals the defaults of the configuration class.
    """
    fields.assume(num_attention_heads=8, num_key_value_heads=4, vocab_size=262208)
    window = fields.integer("sliding_window")
    every = fields.integer("sliding_window_pattern", "_sliding_window_pattern", default=6)
    default: list[int | None] = [window if (layer + 1) % every else None for layer in range(_layers(fields))]
    return _sandwiched(fields, _grouped(fields, qk_norm=True, head_dim=256), default)


def nemotron(fields: Fields) -> Shape:
    """Nemotron-4 and Minitron: as Llama, with a network of two matrices around a squared relu."""
    if fields.raw("hidden_act") not in (None, "relu2"):
        fields.problem(f"hidden_act must be relu2, not {quoted(fields.raw('hidden_act'))}")
    windows: list[int | None] = [None] * _layers(fields)
    dense = Dense(fields.integer("intermediate_size"), "relu2", gated=False)
    return _decoder(fields, _grouped(fields), windows, dense=dense)


READERS: dict[str, Callable[[Fields], Shape]] = {
    "llama": llama,
    "mistral": llama,
    "phi3": llama,
    "qwen2": qwen,
    "qwen2_vl_text": qwen,
    "qwen2_5_vl_text": qwen,
    "mimo": qwen,
    "qwen3": qwen3,
    "qwen3_vl_text": qwen3,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
    "qwen3_vl_moe_text": qwen3_moe,
    "mixtral": mixtral,
    "gpt_oss": gpt_oss,
    "glm4_moe": glm4_moe,
    "deepseek_v2": deepseek,
    "deepseek_v3": deepseek,
    "kimi_k2": deepseek,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
    "nemotron": nemotron,
}


def _layers(fields: Fields) -> int:
    return fields.integer("num_hidden_layers", most=MOST_LAYERS)


def _window(fields: Fields) -> int | None:
    return fields.integer("sliding_window") if "sliding_window" in fields else None


def _windows(fields: Fields, default: list[int | None]) -> list[int | None]:
    """Window of every layer: from `layer_types` where given, else the family's default."""
    types = fields.items("layer_types", len(default))
    if types is None:
        return default
    if wrong := [kind for kind in types if not isinstance(kind, str)]:
        fields.problem(f"layer_types must hold names, not {quoted(wrong[0])}")
        return default
    unknown = sorted(set(types) - LAYER_TYPES)
    if unknown:
        raise UnsupportedArchitecture(
            f"layers of type {', '.join(printable(kind, 60) for kind in unknown[:5])} have no equation here"
        )
    if "sliding_attention" not in types:
        return [None] * len(types)
    window = fields.integer("sliding_window")
    return [window if kind == "sliding_attention" else None for kind in types]


def _qwen_windows(fields: Fields) -> list[int | None]:
    count = _layers(fields)
    default: list[int | None] = [None] * count
    if fields.flag("use_sliding_window"):
        window = fields.integer("sliding_window")
        full = fields.integer("max_window_layers", least=0)
        default = [None if layer < full else window for layer in range(count)]
    return _windows(fields, default)


def _activation(fields: Fields, default: str | None = None) -> str:
    """Name of the activation in the equation language."""
    value = fields.raw("hidden_activation", "hidden_act") or default
    if value is None:
        fields.problem("hidden_act is missing")
        return "silu"
    if not isinstance(value, str):
        fields.problem(f"hidden_act must be a name, not {quoted(value)}")
        return "silu"
    if value not in ACTIVATIONS:
        raise UnsupportedArchitecture(f"the activation {printable(value, 60)} has no function here")
    return ACTIVATIONS[value]


def _grouped(fields: Fields, qk_norm: bool = False, head_dim: int | None = None) -> Grouped:
    """Heads, their groups and their size: `head_dim`, else the family's, else the hidden size over the heads."""
    heads = fields.integer("num_attention_heads")
    kv_heads = fields.integer(
        "num_key_value_heads", default=heads if str(fields.raw("model_type")) in EVERY_HEAD else None
    )
    group = fields.quotient("num_attention_heads", heads, "num_key_value_heads", kv_heads)
    if head_dim or "head_dim" in fields:
        head = fields.integer("head_dim", default=head_dim)
    else:
        head = fields.quotient("hidden_size", fields.integer("hidden_size"), "num_attention_heads", heads)
    softcap = "attn_logit_softcapping" in fields
    return Grouped(kv_heads, group, head, qk_norm=qk_norm, softcap=softcap)


def _dense(fields: Fields, activation: str | None = None) -> Dense:
    return Dense(fields.integer("intermediate_size"), _activation(fields, activation))


def _experts(
    fields: Fields,
    count: str,
    *,
    width: str = "moe_intermediate_size",
    activation: str | None = None,
    shared: int = 0,
    shared_gate: bool = False,
) -> Experts:
    """Routed experts; a token cannot meet more than there are."""
    extent = fields.integer(count, most=MOST_EXPERTS)
    active = fields.integer("num_experts_per_tok", "experts_per_token")
    if active >= extent > 1:
        fields.problem(f"num_experts_per_tok {active} must be less than {count} {extent}")
    inner, function = fields.integer(width), activation or _activation(fields)
    return Experts(extent, active, inner, function, shared, shared_gate, _groups(fields, extent, active))


def _groups(fields: Fields, extent: int, active: int) -> tuple[int, int] | None:
    """Return groups of experts and those that a token's are limited to; None where the limit is none."""
    groups, some = (fields.integer(name, default=1) for name in ("n_group", "topk_group"))
    if some >= groups or fields.raw("topk_method") == "greedy":
        return None
    if extent % groups or active > some * (extent // groups):
        fields.problem(f"topk_group {some} of n_group {groups} has no room for {active} of {extent} experts")
        return None
    return groups, some


def _qwen_moe(fields: Fields, attention: Grouped, experts: Experts) -> Shape:
    """Route every `decoder_sparse_step`-th layer, less those of `mlp_only_layers`."""
    step = fields.integer("decoder_sparse_step", default=1)
    plain = fields.whole_numbers("mlp_only_layers")
    routed = [layer not in plain and (layer + 1) % step == 0 for layer in range(_layers(fields))]
    dense = None if all(routed) else _dense(fields)
    return _decoder(fields, attention, _qwen_windows(fields), dense=dense, experts=experts, routed=routed)


def _leading_dense(fields: Fields, attention: Grouped | Latent, windows: list[int | None]) -> Shape:
    """Route every `moe_layer_freq`-th layer from `first_k_dense_replace` on; shared experts are one of their sum."""
    width = fields.integer("moe_intermediate_size")
    shared = fields.integer("n_shared_experts", default=0, least=0, most=MOST_EXPERTS) * width
    experts = _experts(fields, "n_routed_experts", shared=shared)
    first = fields.integer("first_k_dense_replace", default=0, least=0)
    step = fields.integer("moe_layer_freq", default=1)
    routed = [layer >= first and layer % step == 0 for layer in range(len(windows))]
    dense = None if all(routed) else _dense(fields)
    return _decoder(fields, attention, windows, dense=dense, experts=experts, routed=routed)


def _sandwiched(fields: Fields, attention: Grouped, default: list[int | None]) -> Shape:
    windows = _windows(fields, default)
    dense = _dense(fields, "gelu_pytorch_tanh")
    return _decoder(fields, attention, windows, dense=dense, scaled=True, tied=True, post_norms=True)


def _decoder(
    fields: Fields,
    attention: Grouped | Latent,
    windows: list[int | None],
    *,
    dense: Dense | None = None,
    experts: Experts | None = None,
    routed: list[bool] | None = None,
    scaled: bool = False,
    tied: bool = False,
    post_norms: bool = False,
) -> Shape:
    """Put the parts together with the fields that every family has."""
    routes = routed or [False] * len(windows)
    return Shape(
        hidden=fields.integer("hidden_size"),
        vocab=fields.integer("vocab_size"),
        attention=attention,
        kinds=[Kind(window, route) for window, route in zip(windows, routes, strict=True)],
        dense=dense,
        experts=experts if any(routes) else None,
        tied=fields.flag("tie_word_embeddings", tied),
        post_norms=post_norms,
        scaled_embedding=scaled,
        logit_softcap="final_logit_softcapping" in fields,
    )
