"""What a server is to be started with, read off a point: one meaning for all frameworks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from energylens.common.errors import EnergylensError, Problem
from energylens.common.files import printable
from energylens.common.format import number
from energylens.engine.result_columns import ENERGY
from energylens.inputs.bundled import bundled
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.run_options import RUNNING
from energylens.results.point import Point

_HUGGING_FACE = re.compile(r"^Hugging Face ([\w.-]+/[\w.-]+)")


@dataclass(frozen=True)
class Settings:
    """Degrees, formats, batching, clock and cap of one engine, and how many engines there are.

    `max_num_seqs` and `token_budget` are of one data-parallel rank; `context_tokens` is the longest request, if that is
    known; `weights` and `cache` are None for what the checkpoint has.
    """

    model: str
    headline: str
    gpus: int
    gpu: str
    tp: int
    pp: int
    dp: int
    ep: int
    cp: int
    weights: str | None
    cache: str | None
    max_num_seqs: int
    token_budget: int
    context_tokens: int | None
    chunked: bool
    prefix_cache: bool
    draft: str | None
    draft_tokens: int
    replicas: int
    sm_clock_mhz: int | None
    power_cap_w: int | None
    copies: int
    overlap: bool
    sequence_parallel: bool
    fused_norm: bool
    notes: tuple[str, ...] = field(default=())

    @property
    def world(self) -> int:
        """GPUs of one pipeline stage."""
        return self.tp * self.dp * self.cp


def settings(point: Point, model: str | None) -> Settings:
    """Return what a point says of a server; `model` names the weights where the point does not know them."""
    row, server = point.row, point.server
    replicas = int(server["replicas"] or 1)
    each = replicas if point.deployment else 1  # GPUs of a configuration are those of one engine
    dp, batch = int(row["dp"]), int(row.get("batch") or 0)
    slots = int(server["max_num_seqs"] or batch)
    run_options = {name: row.get(name, default) for name, default in RUNNING.items()}
    named = _checkpoint(point.source) if model is None else model
    notes: list[str] = []
    if named is None:
        named = str(row["model"])
        notes.append(f"put the path or name of the weights in place of `{named}` (--model)")
    draft = server["draft"]
    if draft is not None:
        spec = str(draft).lower() in bundled("models") or Path(draft).suffix in {".yaml", ".yml"}
        draft = (_checkpoint(load_model(draft).spec.source) if spec else None) or str(draft)
    if wrong := [fault for name in (named, draft) if name is not None and (fault := _unfit(name))]:
        raise EnergylensError(wrong)
    if row.get("routing") is not None:
        notes.append(f"predicted for routing {row['routing']}: how tokens choose experts is the traffic's, not a flag")
    if replicas > 1:
        notes.append(f"start {replicas} of these engines, with a router before them")
    placement = str(run_options["placement"])
    if placement == "balanced":
        notes.append("experts are placed by load only where the server rebalances them (EPLB)")
    spec_formats = _formats(point)
    if (span := _per_node(point)) is not None and int(row["gpus"]) // each > span:
        nodes = math.ceil(int(row["gpus"]) / each / span)
        notes.append(f"an engine spans {nodes} nodes of {span} GPUs: it starts with the server's multi-node options")
    if row.get("extrapolated"):
        notes.append("the prediction is extrapolated: its interval is twice as wide")
    if run_options["sm_clock_mhz"] is not None:
        notes.append("the clock stays locked on all GPUs of the node until: sudo nvidia-smi --reset-gpu-clocks")
    if not point.deployment:
        notes.append("the context is as long as the requests predicted: raise it for longer ones")
    if point.deployment and not server["chunked"]:
        notes.append("prompts are read whole: set the longest request and a step of at least as many tokens")
    lengths = None if point.deployment else int(row["prompt_tokens"]) + int(row["output_tokens"])
    return Settings(
        model=named,
        headline=_headline(point),
        gpus=int(row["gpus"]) // each,
        gpu=str(row["gpu"]),
        tp=int(row["tp"]),
        pp=int(row["pp"]),
        dp=dp,
        ep=int(row["ep"]),
        cp=int(run_options["cp"] or 1),
        weights=None if row["weight_dtype"] == spec_formats.get("weights") else row["weight_dtype"],
        cache=None if row["kv_dtype"] == spec_formats.get("cache") else row["kv_dtype"],
        max_num_seqs=math.ceil(slots / dp),
        token_budget=math.ceil(int(server["token_budget"]) / (dp if point.deployment else 1)),
        context_tokens=lengths,
        chunked=bool(server["chunked"]),
        prefix_cache=bool(server["prefix_cache"]),
        draft=draft,
        draft_tokens=int(server["draft_tokens"] or 0),
        replicas=replicas,
        sm_clock_mhz=_whole(run_options["sm_clock_mhz"]),
        power_cap_w=_whole(run_options["power_cap_w"]),
        copies=int(placement.partition(":")[2] or 0) if placement.startswith("replicated") else 0,
        overlap=(run_options["overlap_stages"] or 1) > 1,
        sequence_parallel=bool(run_options["sequence_parallel"]),
        fused_norm=bool(run_options["fused_norm"]),
        notes=tuple(notes),
    )


def _unfit(name: str) -> Problem | None:
    """Return why a name of weights cannot stand in a command, if it cannot: a server would take it for an option."""
    shown = printable(name)
    if not name.strip():
        hint = "name the weights: --model meta-llama/Llama-3.1-8B, or a path"
        return Problem("the name of the weights is empty", hint=hint, code="export")
    if name.startswith("-"):
        hint = f"a path is written ./{shown}"
        return Problem(f"`{shown}` would be read as an option, not as the name of weights", hint=hint, code="export")
    if not name.isprintable():
        hint = "give their path or name with --model"
        return Problem(
            f"the name of the weights has characters that cannot be printed: `{shown}`", hint=hint, code="export"
        )
    return None


class Flags:
    """Words of a command line of one server, and what no flag can say."""

    def __init__(self, server: str, *words: str) -> None:
        self.server, self.words, self.notes = server, list(words), list[str]()

    def put(self, flag: str, value: object = None) -> None:
        """Append a flag, with its value if it takes one."""
        self.words += [flag] if value is None else [flag, str(value)]

    def weights(self, settings: Settings, formats: Mapping[str, str]) -> None:
        """Append the format that weights are put into as they load, or note that it takes another checkpoint."""
        if settings.weights is None:
            return
        if settings.weights in formats:
            self.put("--quantization", formats[settings.weights])
        else:
            self.notes.append(f"weights in {settings.weights}: name a checkpoint that is quantised to it")

    def cache(self, settings: Settings, formats: Mapping[str, str]) -> None:
        """Append the format of the KV cache; raise `EnergylensError` where the server has none such."""
        if settings.cache is not None:
            self.put("--kv-cache-dtype", cache_format(self.server, settings.cache, formats))


def cache_format(server: str, cache: str, formats: Mapping[str, str]) -> str:
    """Return what a server calls a format of the KV cache; raise `EnergylensError` where it has none such."""
    if cache not in formats:
        raise cannot(server, f"a KV cache in {cache}", f"use one of {', '.join(formats)}")
    return formats[cache]


def _per_node(point: Point) -> int | None:
    """Return the GPUs of a node, if they are known."""
    name = str(point.row["gpu"])
    if point.plan is not None:
        return int(point.plan.described("gpus", name)["link"]["gpus_per_node"])
    return load_gpu(name).spec.link.gpus_per_node if name.partition("@")[0] in bundled("hardware") else None


def _formats(point: Point) -> dict[str, str]:
    """Return the formats of the model's own checkpoint, as far as they are known."""
    name = str(point.row["model"])
    if point.plan is not None:
        return dict(point.plan.described("models", name)["dtypes"])
    return dict(load_model(name).spec.dtypes) if name in bundled("models") else {}


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _checkpoint(source: str | None) -> str | None:
    """Return the name of the weights that a spec's source tells."""
    match = _HUGGING_FACE.match(source or "")
    return match[1] if match else None


def _headline(point: Point) -> str:
    return f"{point.words()}; {number(point.row[ENERGY])} J per output token predicted"


def cannot(server: str, what: str, hint: str) -> EnergylensError:
    """Return the error for a point that a server has no way to run."""
    return EnergylensError(Problem(f"{server} cannot run {what}", hint=hint, code="export"))
