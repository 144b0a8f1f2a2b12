"""A small space of two models on two GPUs, some of whose points cannot run."""

from __future__ import annotations

from energylens import Space

SMALL = Space(
    models=["llama-3.1-8b", "qwen3-30b-a3b"],
    gpus=["h100-sxm", "l40s"],
    tp=[1, 2, 3, 4],
    ep=[1, 2],
    batch=[1, 4, 16, 64, 200],
    kv_dtype=[None, "fp8"],
    prompt_tokens=[256, 2048],
)
