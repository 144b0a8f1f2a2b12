"""Options shared by commands that take a space."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from energylens import _core
from energylens.cli import axes
from energylens.cli.command import OUT, Parameter
from energylens.common.errors import Problem, SpaceError
from energylens.engine.space import DEFAULT_BATCHES, DEFAULT_OBJECTIVES, Space
from energylens.inputs import run_options
from energylens.inputs.plan import MAX_BATCHED_TOKENS

Json = Annotated[bool, Parameter(name="--json", help="Print JSON instead of text.")]
Out = Annotated[Path | None, Parameter(name=OUT, help="Also write a Parquet file.")]
Threads = Annotated[int | None, Parameter(converter=axes.whole, help="Threads; all CPUs if not given.")]

PassTokens = Annotated[int, Parameter(converter=axes.whole, help="Prompt tokens of one prefill pass.")]

_FORMATS = f"Data types ({', '.join(_core.DTYPES)}), `own` for the spec's."


@dataclass
class SpaceOptions:
    """Axes, limits and objectives of a space; values are lists such as 1,2,4 or ranges such as 1:64 and 16:512:16."""

    gpu: Annotated[str, Parameter(help="Bundled GPUs or profile paths.")] = "h100-sxm"
    tp: Annotated[str, Parameter(help="Tensor parallelism.")] = "1,2,4,8"
    pp: Annotated[str, Parameter(help="Pipeline stages.")] = "1"
    dp: Annotated[str, Parameter(help="Attention data parallelism inside the engine.")] = "1"
    ep: Annotated[str, Parameter(help="Expert parallelism.")] = "1"
    cp: Annotated[str, Parameter(help="Context parallelism.")] = "1"
    overlap_stages: Annotated[
        str, Parameter(help=f"{run_options.HELP['overlap_stages']}; 1 is none, own the spec's.")
    ] = "own"
    overlap_sms: Annotated[str, Parameter(help=run_options.HELP["overlap_sms"])] = "0"
    overlap_where: Annotated[str, Parameter(help=run_options.HELP["overlap_where"])] = "prefill"
    sequence_parallel: Annotated[str, Parameter(bare="on", help=f"{run_options.HELP['sequence_parallel']}.")] = "off"
    fused_norm: Annotated[str, Parameter(bare="on", help=f"{run_options.HELP['fused_norm']}.")] = "off"
    sm_clock_mhz: Annotated[str, Parameter(help=f"{run_options.HELP['sm_clock_mhz']}, own for as measured.")] = "own"
    power_cap_w: Annotated[str, Parameter(help=f"{run_options.HELP['power_cap_w']}, own for the limit.")] = "own"
    routing: Annotated[str, Parameter(help=f"{run_options.HELP['routing']}; own for the spec's.")] = "own"
    placement: Annotated[str, Parameter(help=run_options.HELP["placement"])] = "contiguous"
    batch: Annotated[str, Parameter(help="Sequences running in the engine.")] = ",".join(map(str, DEFAULT_BATCHES))
    prompt_tokens: Annotated[str, Parameter(help="Prompt tokens of a request.")] = "1024"
    output_tokens: Annotated[str, Parameter(help="Output tokens of a request.")] = "256"
    weight_dtype: Annotated[str, Parameter(help=_FORMATS)] = "own"
    kv_dtype: Annotated[str, Parameter(help=_FORMATS)] = "own"
    max_batched_tokens: PassTokens = MAX_BATCHED_TOKENS
    slo: Annotated[str | None, Parameter(help="Latency limits: ttft=1s,tpot=50ms.")] = None
    limit: Annotated[list[str], Parameter(help="Any other limit, repeatable: gpus<=8.")] = field(default_factory=list)
    objectives: Annotated[str, Parameter(help="Result columns to trade off.")] = ",".join(DEFAULT_OBJECTIVES)

    def space(self, models: str) -> Space:
        """Return the space of these options; raise `SpaceError`."""
        numbered = ("tp", "pp", "dp", "ep", "batch", "prompt_tokens", "output_tokens")
        readers: dict[str, Any] = {axis: partial(axes.numbers, getattr(self, axis), axis) for axis in numbered}
        readers |= {axis: partial(run_options.values, getattr(self, axis), axis) for axis in run_options.RUNNING}
        readers["limits"] = lambda: [*(axes.slo(self.slo) if self.slo is not None else []), *self.limit]
        return Space(
            models=axes.names(models),
            gpus=axes.names(self.gpu),
            weight_dtype=axes.formats(self.weight_dtype),
            kv_dtype=axes.formats(self.kv_dtype),
            max_batched_tokens=self.max_batched_tokens,
            objectives=axes.names(self.objectives),
            **axes.every(readers),
        )


@dataclass
class KeepOptions:
    """What to keep besides the exact front."""

    epsilon: Annotated[
        float | None, Parameter(help="Thin the front: every point has one within a factor of 1 + EPSILON.")
    ] = None
    top: Annotated[int, Parameter(converter=axes.whole, help="Also keep this many of the best.")] = 0
    best_per: Annotated[str, Parameter(help="Also keep the best for each value of these axes: gpu,tp.")] = ""
    distribution: Annotated[str, Parameter(help="Also count the distribution of these result columns.")] = ""

    def arguments(self) -> dict[str, Any]:
        """Return them as `explore` takes them."""
        return {
            "epsilon": self.epsilon,
            "top": self.top,
            "best_per": axes.names(self.best_per),
            "distributions": axes.names(self.distribution),
        }


_OTHER_KINDS = frozenset(
    (*(".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx", ".yaml", ".yml"), *(".html", ".htm", ".md", ".png", ".svg"))
)
"""Endings of files that say of themselves that they are no Parquet."""


def check_out(out: Path | None) -> None:
    """Refuse a target before any work is done for it."""
    from energylens.common.parquet_file import checked_target

    if out is None:
        return
    if out.suffix.lower() in _OTHER_KINDS:
        hint = "name it .parquet; --json prints JSON"
        raise SpaceError(Problem(f"`{out}` would be a Parquet file, not {out.suffix[1:]}", hint=hint, code="write"))
    checked_target(out)
