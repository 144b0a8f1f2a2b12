"""NVIDIA Dynamo: a frontend, and vLLM as its worker."""

from __future__ import annotations

from typing import Final

from energylens.exports.launch import Launch
from energylens.exports.settings import Settings
from energylens.exports.vllm import engine_words

CHECKED: Final = "Dynamo 1.6.1 (vLLM as its worker)"


def launch(settings: Settings) -> Launch:
    """Return the start of a frontend and one engine; raise `EnergylensError` for what its worker cannot run."""
    words, notes = engine_words(settings)
    front = ["python3", "-m", "dynamo.frontend", "--http-port", "8000", "--discovery-backend", "file"]
    worker = ["python3", "-m", "dynamo.vllm", "--model", settings.model, "--discovery-backend", "file", *words]
    if settings.replicas > 1:
        front += ["--router-mode", "kv"]
        notes = [*notes, "one frontend serves all engines: start its command once"]
    return Launch("dynamo", CHECKED, [front, worker], settings, {}, notes)
