"""TensorRT-LLM: `trtllm-serve` and the YAML of its LLM API."""

from __future__ import annotations

import io
from typing import Any, Final

from energylens.exports.launch import Launch
from energylens.exports.settings import Settings, cache_format, cannot

CHECKED: Final = "TensorRT-LLM 1.4 (documented arguments)"

_CACHE: Final = {"fp8": "fp8", "bf16": "bfloat16", "fp16": "float16", "nvfp4": "nvfp4"}
_OPTIONS: Final = "llm-api-options.yaml"


def launch(settings: Settings) -> Launch:
    """Return the start of one engine; raise `EnergylensError` for what TensorRT-LLM cannot run."""
    notes: list[str] = []
    words = ["trtllm-serve", settings.model]
    if settings.dp > 1 and settings.tp > 1:
        hint = f"use tp 1 with dp {settings.tp * settings.dp}, or dp 1 with tp {settings.tp * settings.dp}"
        raise cannot("TensorRT-LLM", f"attention on dp {settings.dp} and tp {settings.tp} together", hint)
    if settings.cp > 1:
        notes.append("cp: TensorRT-LLM splits the cache in decode only (HELIX), as part of separate pools")
    degrees = {"--tp_size": settings.tp * settings.dp, "--pp_size": settings.pp, "--ep_size": settings.ep}
    degrees["--cp_size"] = settings.cp
    for flag, degree in degrees.items():
        if degree > 1:
            words += [flag, str(degree)]
    words += ["--max_batch_size", str(settings.max_num_seqs)]
    words += ["--max_num_tokens", str(max(settings.token_budget, settings.max_num_seqs))]
    if settings.context_tokens is not None:
        words += ["--max_seq_len", str(settings.context_tokens)]
    if settings.weights is not None:
        notes.append(f"weights in {settings.weights}: name a checkpoint that is quantised to it")
    if settings.overlap or settings.sequence_parallel or settings.fused_norm:
        notes.append("overlap, sequence parallelism and fused norms are no options of TensorRT-LLM; it chooses itself")
    if settings.copies:
        notes.append(
            f"{settings.copies} redundant experts: set moe_config.load_balancer.num_slots to experts and copies"
        )
    words += ["--extra_llm_api_options", _OPTIONS]
    return Launch("trtllm", CHECKED, [words], settings, {_OPTIONS: _yaml(_options(settings))}, notes)


def _options(settings: Settings) -> dict[str, Any]:
    cache: dict[str, Any] = {"enable_block_reuse": settings.prefix_cache}
    if settings.cache is not None:
        cache["dtype"] = cache_format("TensorRT-LLM", settings.cache, _CACHE)
    options: dict[str, Any] = {"enable_chunked_prefill": settings.chunked, "kv_cache_config": cache}
    if settings.dp > 1:
        options["enable_attention_dp"] = True
    options["cuda_graph_config"] = {"enable_padding": True, "max_batch_size": settings.max_num_seqs}
    if settings.cp > 1:
        options["cp_config"] = {"cp_type": "HELIX"}
    if settings.draft_tokens:
        kind = "NGram" if settings.draft is None else "Draft_Target"
        options["speculative_config"] = {"decoding_type": kind, "max_draft_len": settings.draft_tokens}
        if settings.draft is not None:
            options["speculative_config"]["speculative_model_dir"] = settings.draft
    return options


def _yaml(data: dict[str, Any]) -> str:
    from ruamel.yaml import YAML

    out = io.StringIO()
    YAML().dump(data, out)
    return out.getvalue()
