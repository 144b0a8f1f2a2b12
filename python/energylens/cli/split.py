"""`energylens split`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from energylens.cli import axes
from energylens.cli.app import app, emit
from energylens.cli.command import Parameter
from energylens.cli.options import Json, Out, PassTokens, Threads, check_out
from energylens.common.errors import Problem, SpaceError, did_you_mean
from energylens.inputs.axis_text import formats, names, numbers
from energylens.inputs.batching import MAX_BATCHED_TOKENS

_SIDE = 'Axes of {}: "gpus=h100-sxm,b200; tp=1,2,4; batch=1:8; sm_clock_mhz=default,1200".'
_NUMBERS = ("tp", "pp", "dp", "ep", "batch", "max_num_seqs", "token_budget", "draft_tokens", "replicas")
_NAMES = {"gpus": names, "weight_dtype": formats, "kv_dtype": formats}


@app.command
def split(
    model: Annotated[str, Parameter(help="A bundled model (energylens models) or a path to a spec.")],
    /,
    *,
    prefill: Annotated[str, Parameter(help=_SIDE.format("prefill"))],
    decode: Annotated[str, Parameter(help=_SIDE.format("decode"))],
    prompt_tokens: Annotated[int, Parameter(converter=axes.whole, help="Prompt tokens of a request.")] = 1024,
    output_tokens: Annotated[int, Parameter(converter=axes.whole, help="Output tokens of a request.")] = 256,
    slo: Annotated[str | None, Parameter(help="Latency limits: ttft=1s,tpot=50ms.")] = None,
    limit: Annotated[
        list[str] | None, Parameter(help="Any other limit, repeatable: energy_per_request_j<=900.")
    ] = None,
    max_batched_tokens: PassTokens = MAX_BATCHED_TOKENS,
    json: Json = False,
    out: Out = None,
    threads: Threads = None,
) -> None:
    """Choose prefill and decode apart: GPUs, meshes, clocks, each its own, with the cache sent across.

    Example: energylens split llama-3.1-70b --prefill "gpus=b200; tp=2" --decode "gpus=h100-sxm; tp=4; batch=64"
    """
    from energylens.reports.text.split import split_text
    from energylens.serving.split import SIDE_AXES
    from energylens.serving.split import split as split_phases

    check_out(out)
    problems: list[Problem] = []
    sides = [read_axes(text, side, SIDE_AXES, problems) for text, side in ((prefill, "prefill"), (decode, "decode"))]
    if problems:
        raise SpaceError(problems)
    result = split_phases(
        model,
        prefill=sides[0],
        decode=sides[1],
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        limits=[*(axes.slo(slo) if slo is not None else []), *(limit or [])],
        max_batched_tokens=max_batched_tokens,
        threads=threads,
    )
    if result.why_none is not None:
        raise SpaceError(result.why_none)
    if out is not None:
        result.write(out)
        print(f"wrote {out}: {result.frame.height} pairs", file=sys.stderr)
    if json:
        emit({"pairs": result.frame.to_dicts(), "together": result.together})
    else:
        print(split_text(result))


def read_axes(text: str, side: str, known: Sequence[str], problems: list[Problem]) -> dict[str, Any]:
    """Read `axis=values; axis=values`, adding what cannot be read to `problems`."""
    axes_of_side: dict[str, Any] = {}
    switches = {"on": True, "off": False}
    for part in filter(str.strip, text.split(";")):
        name, _, values = (piece.strip() for piece in part.partition("="))
        name = {"gpu": "gpus"}.get(name, name)
        if not values or name not in known:
            hint = f"write {name}=..." if name in known else did_you_mean(name, known)
            problems.append(Problem(f"cannot read `{part.strip()}` of --{side}", hint=hint, code="axis-value"))
            continue
        if name in axes_of_side:
            hint = f"give all its values at once: {name}=..., ..."
            problems.append(Problem(f"--{side} gives {name} twice", hint=hint, code="axis-value"))
        if name in ("chunked", "prefix_cache", "acceptance", "draft"):
            try:
                axes_of_side[name] = (
                    switches[values]
                    if name in ("chunked", "prefix_cache")
                    else values
                    if name == "draft"
                    else float(values)
                )
            except (KeyError, ValueError):
                problems.append(
                    Problem(f"cannot read `{part.strip()}` of --{side}", hint=f"write {name}=on", code="axis-value")
                )
            continue
        read = _NAMES.get(name) or partial(numbers if name in _NUMBERS else axes.parse, axis=name)
        try:
            axes_of_side[name] = read(values)
        except SpaceError as error:
            problems += error.problems
    return axes_of_side
