"""SGLang: `sglang serve`."""

from __future__ import annotations

from typing import Final

from energylens.exports.launch import Launch
from energylens.exports.settings import Flags, Settings, cannot

CHECKED: Final = "SGLang 0.5.23"

_WEIGHTS: Final = {"fp8": "fp8"}
_CACHE: Final = {"fp8": "fp8_e4m3", "bf16": "bf16", "nvfp4": "nvfp4"}


def launch(settings: Settings) -> Launch:
    """Return the start of one engine; raise `EnergylensError` for what SGLang cannot run."""
    flags = Flags("SGLang", "sglang", "serve", "--model-path", settings.model)
    put, notes = flags.put, flags.notes

    if settings.world > 1:
        put("--tp-size", settings.world)
    if settings.pp > 1:
        put("--pp-size", settings.pp)
    if settings.dp > 1:
        put("--attn-dp-size", settings.dp)
    if settings.cp > 1:
        put("--attn-cp-size", settings.cp)
        put("--enable-prefill-cp")
        put("--cp-strategy", "zigzag")
    if settings.ep > 1:
        put("--ep-size", settings.ep)
    put("--max-running-requests", settings.max_num_seqs * settings.dp)
    put("--chunked-prefill-size", settings.token_budget * settings.dp if settings.chunked else -1)
    if not settings.chunked:
        put("--max-prefill-tokens", settings.token_budget * settings.dp)
    if settings.context_tokens is not None:
        put("--context-length", settings.context_tokens)
    flags.weights(settings, _WEIGHTS)
    flags.cache(settings, _CACHE)
    if not settings.prefix_cache:
        put("--disable-radix-cache")
    if settings.draft_tokens and settings.dp > 1:
        raise cannot("SGLang", "speculation with attention data parallelism", "use dp 1, or draft_tokens 0")
    if settings.draft_tokens and settings.draft is None:
        put("--speculative-algorithm", "NGRAM")
        put("--speculative-num-draft-tokens", settings.draft_tokens + 1)
    elif settings.draft_tokens:
        put("--speculative-algorithm", "STANDALONE")
        put("--speculative-draft-model-path", settings.draft)
        put("--speculative-num-steps", settings.draft_tokens)
        put("--speculative-eagle-topk", 1)
        put("--speculative-num-draft-tokens", settings.draft_tokens + 1)
    if settings.copies:
        put("--enable-eplb")
        put("--ep-num-redundant-experts", settings.copies)
    if settings.fused_norm:
        put("--flashinfer-allreduce-fusion-backend", "auto")
    if settings.overlap:
        if settings.ep > 1 and settings.dp > 1:
            put("--enable-two-batch-overlap")
            notes.append("overlap: SGLang has two micro-batches, whatever the number of stages predicted")
        else:
            notes.append("overlap of collectives with kernels has no flag in SGLang but for experts with dp")
    if settings.sequence_parallel:
        notes.append("sequence parallelism is no flag of SGLang but for two models (--enable-layernorm-sp)")
    return Launch("sglang", CHECKED, [flags.words], settings, {}, notes)
