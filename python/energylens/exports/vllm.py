"""vLLM: `vllm serve`."""

from __future__ import annotations

import json
from typing import Final

from energylens.exports.launch import Launch
from energylens.exports.settings import Flags, Settings, cannot

CHECKED: Final = "vLLM 0.33.0"

_WEIGHTS: Final = {"fp8": "fp8_per_tensor", "fp8_block": "fp8_per_block", "mxfp4": "mxfp4"}
"""Formats that weights are put into as they load."""

_CACHE: Final = {"fp8": "fp8", "bf16": "bfloat16", "fp16": "float16", "nvfp4": "nvfp4"}


def launch(settings: Settings) -> Launch:
    """Return the start of one engine; raise `EnergylensError` for what vLLM cannot run."""
    words, notes = engine_words(settings)
    return Launch("vllm", CHECKED, [["vllm", "serve", settings.model, *words]], settings, {}, notes)


def engine_words(settings: Settings) -> tuple[list[str], list[str]]:
    """Return the flags of the engine, and what they cannot say."""
    flags = Flags("vLLM")
    put, notes = flags.put, flags.notes

    if settings.tp > 1:
        put("--tensor-parallel-size", settings.tp)
    if settings.pp > 1:
        put("--pipeline-parallel-size", settings.pp)
    if settings.dp > 1:
        put("--data-parallel-size", settings.dp)
    if settings.cp > 1:
        put("--prefill-context-parallel-size", settings.cp)
        put("--decode-context-parallel-size", settings.cp)
    if settings.ep > 1:
        if settings.ep != settings.world:
            hint = f"use ep {settings.world} (all GPUs of a stage) or 1"
            raise cannot("vLLM", f"ep {settings.ep} on {settings.world} GPUs", hint)
        put("--enable-expert-parallel")
    put("--max-num-seqs", settings.max_num_seqs)
    budget = settings.token_budget
    if settings.context_tokens is not None:
        put("--max-model-len", settings.context_tokens)
        budget = budget if settings.chunked else max(budget, settings.context_tokens)
    put("--max-num-batched-tokens", max(budget, settings.max_num_seqs))
    flags.weights(settings, _WEIGHTS)
    flags.cache(settings, _CACHE)
    if not settings.chunked:
        put("--no-enable-chunked-prefill")
    if not settings.prefix_cache:
        put("--no-enable-prefix-caching")
    if settings.draft_tokens:
        config: dict[str, object] = {"method": "ngram" if settings.draft is None else "draft_model"}
        config |= {"num_speculative_tokens": settings.draft_tokens}
        config |= {"prompt_lookup_max": 4} if settings.draft is None else {"model": settings.draft}
        put("--speculative-config", json.dumps(config, separators=(",", ":")))
    if settings.copies:
        put("--enable-eplb")
        put("--eplb-config", json.dumps({"num_redundant_experts": settings.copies}, separators=(",", ":")))
    if settings.fused_norm:
        config = {"pass_config": {"fuse_allreduce_rms": True}}
        put("--compilation-config", json.dumps(config, separators=(",", ":")))
    if settings.overlap:
        if settings.ep > 1 and settings.dp > 1:
            put("--enable-dbo")
            put("--all2all-backend", "deepep_low_latency")
            notes.append("overlap: vLLM has two micro-batches, whatever the number of stages predicted")
        else:
            notes.append("overlap of collectives with kernels has no flag in vLLM but for experts with dp")
    if settings.sequence_parallel:
        notes.append("sequence parallelism is no flag since vLLM 0.32 (before: pass_config.enable_sp)")
    return flags.words, notes
