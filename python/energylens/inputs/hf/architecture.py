"""Which family reads a config, and why the others are refused."""

from __future__ import annotations

from typing import Any

from energylens.common.files import printable
from energylens.common.show import quoted
from energylens.inputs.hf.errors import InvalidConfig, UnsupportedArchitecture
from energylens.inputs.hf.families import READERS

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "MiMoForCausalLM": "mimo",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "MixtralForCausalLM": "mixtral",
    "GptOssForCausalLM": "gpt_oss",
    "Glm4MoeForCausalLM": "glm4_moe",
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "KimiK2ForCausalLM": "kimi_k2",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
    "NemotronForCausalLM": "nemotron",
}

FLAT = {
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenForCausalLM": "qwen2",
    "Phi3VForCausalLM": "phi3",
    "Qwen2VLForConditionalGeneration": "qwen2_vl_text",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl_text",
}
"""Models that see or hear whose configs have the fields of the text part at the top, by the family of that part."""

TEXT_PARTS = ("text_config", "llm_config", "language_config")
"""Fields that hold the text part of a config (transformers; InternVL; DeepSeek-VL2)."""

TOWERS = {
    "vision_config": "vision",
    "vision_tower": "vision",
    "mm_vision_tower": "vision",
    "vit_config": "vision",
    "img_processor": "vision",
    "audio_config": "audio",
    "speech_config": "audio",
}
"""Fields that describe a part of a model that no import counts, by what it is for."""

LINEAR = "linear attention with a recurrent state ({})"
SPARSE = "attention over the tokens that an indexer selects ({})"
REFUSED = {
    "DeepseekV32ForCausalLM": SPARSE.format("index_topk"),
    "GlmMoeDsaForCausalLM": SPARSE.format("index_topk"),
    "DeepseekV4ForCausalLM": "attention over a cache compressed along the tokens (compress_ratios)",
    "KimiLinearForCausalLM": LINEAR.format("linear_attn_config"),
    "KimiK3ForConditionalGeneration": LINEAR.format("linear_attn_config"),
    "Llama4ForConditionalGeneration": "attention inside chunks of the tokens (attention_chunk_size)",
    "Llama4ForCausalLM": "attention inside chunks of the tokens (attention_chunk_size)",
    "MiniMaxM1ForCausalLM": LINEAR.format("lightning attention"),
    "MiniMaxM2ForCausalLM": "one norm over the queries or keys of all heads (qk_norm_type per_layer)",
    "MiniMaxM3ForCausalLM": "attention over selected blocks of the tokens (sparse_attention_config)",
    "MiniMaxM3SparseForConditionalGeneration": "attention over selected blocks of the tokens (sparse_attention_config)",
    "NemotronHForCausalLM": "Mamba-2 layers (a state-space recurrence)",
    "Qwen3NextForCausalLM": LINEAR.format("gated delta rule"),
    "Qwen3_5ForConditionalGeneration": LINEAR.format("gated delta rule"),
    "Qwen3_5MoeForConditionalGeneration": LINEAR.format("gated delta rule"),
}
UNWRITTEN = {
    "DeciLMForCausalLM": "layers of many different shapes (block_configs)",
    "GPT2LMHeadModel": "learned positions and a network without gate",
    "Gemma4ForConditionalGeneration": "full layers with their own head size and keys used as values (attention_k_eq_v)",
    "MllamaForConditionalGeneration": "layers of attention to the image between those of the text part",
    "MllamaForCausalLM": "layers of attention to the image between those of the text part",
    "MiMoV2FlashForCausalLM": "sliding layers with their own number of key-value heads (swa_num_key_value_heads)",
    "OPTForCausalLM": "learned positions and a network without gate",
}
FOREIGN = {
    "attention_chunk_size": "attention inside chunks of the tokens",
    "compress_ratios": "attention over a compressed cache",
    "index_topk": "attention over the tokens that an indexer selects",
    "linear_attn_config": "linear attention",
    "sparse_attention_config": "attention over selected blocks of the tokens",
    "num_kv_shared_layers": "layers that read the cache of another layer",
}
HINT = "write the model's equations as a spec of your own, starting from a bundled one"


def text_config(config: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the part of a config that describes the text model, and whether it was wrapped."""
    name = next((name for name in TEXT_PARTS if config.get(name) is not None), None)
    if name is None:
        return config, False
    inner = config[name]
    if not isinstance(inner, dict):
        raise InvalidConfig([f"{name} must be a mapping, not {quoted(inner)}"])
    shared: dict[str, Any] = {
        key: config[key] for key in ("tie_word_embeddings", "quantization_config") if key in config
    }
    return shared | inner, True


def not_counted(config: dict[str, Any]) -> list[str]:
    """Return the parts of a model, by what they are for, whose weights a spec of its text part leaves out."""
    return list(dict.fromkeys(part for name, part in TOWERS.items() if config.get(name)))


def architecture(config: dict[str, Any]) -> str:
    """Return the architecture a config names first, else its model type, else a dash."""
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str) and names[0].strip():
        return printable(names[0], 100)
    return printable(str(config.get("model_type") or "-"), 100)


def family(config: dict[str, Any]) -> str:
    """Return the family that reads a config, or say what it holds that has no equation."""
    text, wrapped = text_config(config)
    outer, inner = architecture(config), architecture(text)
    for name in (outer, inner):
        if name in REFUSED:
            raise unsupported(name, f"uses {REFUSED[name]}, which has no equation here")
        if name in UNWRITTEN:
            raise unsupported(name, f"has {UNWRITTEN[name]}, which this importer does not write")
    for key, piece in FOREIGN.items():
        if text.get(key):
            raise unsupported(outer, f"uses {piece} ({key}), which has no equation here")
    model_type = str(text.get("model_type"))
    family = ARCHITECTURES.get(inner) or (FLAT.get(outer, "") if not wrapped else "")
    family = family or (model_type if wrapped or inner == model_type else "")
    if family not in READERS:
        if outer == "-":
            raise unsupported("a config without architectures and model_type", "names no model")
        raise unsupported(outer, "is not an architecture that this importer knows")
    return family


def unsupported(name: str, reason: str) -> UnsupportedArchitecture:
    """Return the error for an architecture, with the way out."""
    return UnsupportedArchitecture(f"{name} {reason}; {HINT}")
