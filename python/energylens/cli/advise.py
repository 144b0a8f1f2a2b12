"""`energylens advise batch`, `sweet-spots` and `levers`."""

from __future__ import annotations

from typing import Annotated, Any

from energylens.cli import axes
from energylens.cli.app import app, emit
from energylens.cli.command import App, Parameter
from energylens.cli.options import Json, Threads
from energylens.cli.service import Load, Rate, SingleDeployment, TraceOptions
from energylens.common.errors import Problem, SpaceError
from energylens.inputs.axis_text import is_default

advise = App(
    name="advise",
    help="Advice: how much to batch, which lengths are cheap, what to change first.",
)
app.group(advise)

Model = Annotated[str, Parameter(help="A bundled model (energylens models) or a path to a spec.")]


@advise.command(name="batch")
def batch(
    model: Model,
    /,
    *,
    workload: Load = "1024:256",
    epsilon: Annotated[float, Parameter(help="Least throughput of a request, as a share of that of one alone.")] = 0.1,
    slowdown: Annotated[float, Parameter(help="Most inter-token latency, in multiples of that at 32 requests.")] = 2.0,
    options: SingleDeployment | None = None,
    trace: TraceOptions | None = None,
    json: Json = False,
) -> None:
    """Choose how many requests to run at once, and see what replicas on the memory left would give.

    Example: energylens advise batch llama-3.1-8b --gpu h100-sxm --workload 250:230
    """
    from energylens.inputs.batching import BATCHING
    from energylens.inputs.library import load_model
    from energylens.reports.text.advice import batch_text
    from energylens.serving.advice.batch import advise_batch

    deployment = _engine(options, model)
    if deployment.pop("max_num_seqs") != BATCHING["max_num_seqs"]:
        fault = "--max-num-seqs and `advise batch` exclude each other: how many requests run at once is what it advises"
        raise SpaceError(Problem(fault, hint="leave --max-num-seqs out", code="options"))
    load = (trace or TraceOptions()).load(workload)
    advice = advise_batch(model, deployment.pop("gpu"), load, epsilon=epsilon, slowdown=slowdown, **deployment)
    if json:
        data: dict[str, Any] = {
            "batch": advice.batch,
            "epsilon": epsilon,
            "slowdown": slowdown,
            "notes": list(advice.notes),
        }
        emit(data | {"curve": advice.curve.to_dicts(), "replicas": advice.replicas.to_dicts()})
    else:
        print(batch_text(load_model(model).spec.name, advice))


@advise.command(name="sweet-spots")
def sweet_spots(
    model: Model,
    /,
    *,
    gpu: Annotated[str, Parameter(help="A bundled GPU or a profile path.")] = "h100-sxm",
    tp: Annotated[int, Parameter(converter=axes.whole, help="Tensor parallelism.")] = 1,
    batch: Annotated[int, Parameter(converter=axes.whole, help="Requests that start together.")] = 1,
    prompt_tokens: Annotated[str, Parameter(help="Prompt lengths.")] = "64,128,256,512,1024,2048,4096",
    output_tokens: Annotated[str, Parameter(help="Output lengths.")] = "64,128,256,512,1024,2048,4096",
    weight_dtype: Annotated[str, Parameter(help="Data type of weights, `default` for the spec's.")] = "default",
    json: Json = False,
) -> None:
    """Map the joules of an output token over prompt and output lengths, with the surface they lie on.

    Example: energylens advise sweet-spots llama-3.1-8b --gpu h100-sxm --batch 32
    """
    from energylens.inputs.library import load_gpu, load_model
    from energylens.reports.text.advice import sweet_spots_text
    from energylens.serving.advice.sweet_spots import sweet_spots as run

    lengths = [
        axes.numbers(text, name) for name, text in (("prompt_tokens", prompt_tokens), ("output_tokens", output_tokens))
    ]
    formats: dict[str, Any] = {} if is_default(weight_dtype) else {"weight_dtype": axes.formats(weight_dtype)[0]}
    loaded, profile = load_model(model), load_gpu(gpu)
    spots = run(loaded, profile, batch=batch, prompt_tokens=lengths[0], output_tokens=lengths[1], tp=tp, **formats)
    if json:
        data = {"coefficients_j": spots.coefficients, "error_percent": spots.error_percent}
        emit(data | {"best": spots.best, "worst": spots.worst, "cells": spots.cells.to_dicts()})
    else:
        print(sweet_spots_text(f"{loaded.spec.name} on {profile.spec.name}, tp {tp}, batch {batch}", spots))


@advise.command(name="levers")
def levers(
    model: Model,
    /,
    *,
    workload: Load,
    rate: Rate = None,
    slo: Annotated[str | None, Parameter(help="Limits that nine requests in ten keep: ttft=1s,tpot=50ms.")] = None,
    limit: Annotated[list[str] | None, Parameter(help="Any other limit, repeatable: gpus<=8.")] = None,
    other_gpu: Annotated[str, Parameter(help="GPUs that could take its place.")] = "",
    options: SingleDeployment | None = None,
    trace: TraceOptions | None = None,
    json: Json = False,
    threads: Threads = None,
) -> None:
    """Rank what single changes of a deployment would save, in joules, with intervals: what to change first.

    Example: energylens advise levers llama-3.1-70b --workload azure-conv --gpu h100-sxm --tp 4 --replicas 2 --slo
    tpot=50ms
    """
    from energylens.reports.text.advice import levers_text
    from energylens.serving.advice.levers import advise_levers

    deployment = _engine(options, model)
    advice = advise_levers(
        model,
        (trace or TraceOptions()).load(workload),
        gpu=deployment.pop("gpu"),
        rate_per_s=rate,
        limits=[*(axes.slo(slo) if slo else []), *(limit or [])],
        other_gpus=axes.names(other_gpu),
        threads=threads,
        **deployment,
    )
    if json:
        emit({"now": advice.now, "notes": list(advice.notes), "levers": advice.frame.to_dicts()})
    else:
        print(levers_text(advice))


def _engine(options: SingleDeployment | None, model: str) -> dict[str, Any]:
    deployment = (options or SingleDeployment()).deployment(model)
    deployment.pop("model")
    return deployment
