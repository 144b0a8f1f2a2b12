"""`energylens serve-plan`, `replay` and `workloads`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from energylens.cli import axes
from energylens.cli.app import app, emit
from energylens.cli.command import Parameter
from energylens.cli.costs import CostOptions
from energylens.cli.options import Json, Out, Threads, check_out
from energylens.cli.split import read_axes
from energylens.common.errors import InfeasibleError, Problem, SpaceError
from energylens.common.files import is_file
from energylens.common.format import number, table
from energylens.inputs.axes import AXES, RUNNING

_WORKLOAD = "A bundled workload (energylens workloads), lengths as 1024:256, a workload .yaml, or a trace."
Rate = Annotated[float | None, Parameter(help="Requests a second in all; the workload's own if not given.")]
Load = Annotated[str, Parameter(help=_WORKLOAD)]
_SIDE = 'Axes of {} engines: "gpus=h100-sxm,b200; tp=1,2,4; sm_clock_mhz=default,1200; token_budget=8192".'
_SWITCH = {"on": True, "off": False}


@dataclass
class DeploymentOptions:
    """Axes of deployments; values are lists such as 1,2,4 or ranges."""

    gpu: Annotated[str, Parameter(help="Bundled GPUs or profile paths.")] = "h100-sxm"
    tp: Annotated[str, Parameter(help="Tensor parallelism.")] = "1,2,4,8"
    pp: Annotated[str, Parameter(help="Pipeline stages.")] = "1"
    dp: Annotated[str, Parameter(help="Attention data parallelism inside the engine.")] = "1"
    ep: Annotated[str, Parameter(help="Expert parallelism.")] = "1"
    weight_dtype: Annotated[str, Parameter(help="Data types, `default` for the spec's.")] = "default"
    kv_dtype: Annotated[str, Parameter(help="Data types, `default` for the spec's.")] = "default"
    sm_clock_mhz: Annotated[str, Parameter(help=f"{AXES['sm_clock_mhz'].help}; `default`: as measured.")] = "default"
    power_cap_w: Annotated[str, Parameter(help=f"{AXES['power_cap_w'].help}; `default`: the limit.")] = "default"
    routing: Annotated[str, Parameter(help=f"{AXES['routing'].help}; `default`: the spec's.")] = "default"
    max_num_seqs: Annotated[str, Parameter(help="Requests that may run at once in an engine.")] = "256"
    token_budget: Annotated[str, Parameter(help="Tokens of a step, prompts included.")] = "2048,8192"
    chunked: Annotated[str, Parameter(help="Prompts in parts beside decoding: on,off.")] = "on"
    prefix_cache: Annotated[str, Parameter(help="Whether prefixes are kept and found again: on,off.")] = "on"
    draft: Annotated[str | None, Parameter(help="A model that proposes tokens; n-grams if not given.")] = None
    draft_tokens: Annotated[str, Parameter(help="Tokens proposed each step; 0 is no speculation.")] = "0"
    acceptance: Annotated[float, Parameter(help="Chance of each proposed token.")] = 0.7
    replicas: Annotated[str, Parameter(help="Engines; as many as the load asks for if not given.")] = "auto"

    def axes(self) -> dict[str, Any]:
        """Return them as `serve_plan` takes them; raise `SpaceError`."""
        counts = ("tp", "pp", "dp", "ep", "max_num_seqs", "token_budget", "draft_tokens")
        readers: dict[str, Any] = {name: partial(axes.numbers, getattr(self, name), name) for name in counts}
        ways = ("sm_clock_mhz", "power_cap_w", "routing")
        readers |= {name: partial(axes.parse, getattr(self, name), name) for name in ways}
        readers |= {name: partial(axes.formats, getattr(self, name)) for name in ("weight_dtype", "kv_dtype")}
        readers |= {name: partial(_switches, getattr(self, name), name) for name in ("chunked", "prefix_cache")}
        values = axes.every(readers | {"replicas": partial(_replicas, self.replicas)})
        return values | {"draft": self.draft, "acceptance": self.acceptance, "gpus": axes.names(self.gpu)}


@dataclass
class SingleDeployment(DeploymentOptions):
    """One deployment: one value of each axis."""

    tp: Annotated[str, Parameter(help="Tensor parallelism.")] = "1"
    token_budget: Annotated[str, Parameter(help="Tokens of a step, prompts included.")] = "8192"
    replicas: Annotated[str, Parameter(help="Engines.")] = "1"

    def deployment(self, model: str) -> dict[str, Any]:
        """Return the single deployment that is meant; raise `SpaceError` if axes have several values."""
        lists = self.axes()
        lists["gpu"] = lists.pop("gpus")
        many = [name for name, values in lists.items() if isinstance(values, list) and len(values) != 1]
        if many:
            hint = "give one value; serve-plan takes several"
            raise SpaceError(
                [Problem(f"one deployment has one `{name}`", hint=hint, code="axis-value") for name in many]
            )
        single = {name: values[0] if isinstance(values, list) else values for name, values in lists.items()}
        plain = {name: value for name, value in single.items() if value != RUNNING.get(name, ...)}
        return {"model": model} | plain


def _replicas(text: str) -> list[int | None]:
    """Read numbers of engines, `auto` for as many as the load asks for."""
    counts = ",".join(part for part in text.split(",") if part.strip() != "auto")
    return [*([None] if counts != text else []), *(axes.numbers(counts, "replicas") if counts or not text else [])]


def _switches(text: str, name: str) -> list[bool]:
    words = axes.names(text) or [text]
    if bad := [word for word in words if word not in _SWITCH]:
        raise SpaceError(
            Problem(f"`{name}` is on or off, found `{bad[0]}`", hint="write on, off or on,off", code="axis-value")
        )
    return [_SWITCH[word] for word in words]


@dataclass
class TraceOptions:
    """How a trace is read, where it does not say it itself."""

    time_unit: Annotated[str | None, Parameter(help="Unit of a trace's arrivals: s, ms, us, ns; inferred.")] = None
    block_tokens: Annotated[
        int | None, Parameter(converter=axes.whole, help="Tokens of a trace's prefix blocks; inferred.")
    ] = None

    def load(self, workload: str) -> Any:
        """Return the `Workload` of a text; raise `SpecError`."""
        from energylens.serving.workload import load_workload

        return load_workload(workload, time_unit=self.time_unit, block_tokens=self.block_tokens)

    def reading(self) -> dict[str, Any]:
        """Return what was said of the trace, to read it so again."""
        said = {"time_unit": self.time_unit, "block_tokens": self.block_tokens}
        return {name: value for name, value in said.items() if value is not None}


@app.command(name="serve-plan")
def serve_plan(
    model: Annotated[str, Parameter(help="A bundled model (energylens models) or a path to a spec.")],
    /,
    *,
    workload: Load,
    rate: Rate = None,
    slo: Annotated[str | None, Parameter(help="Limits that nine requests in ten keep: ttft=1s,tpot=50ms.")] = None,
    limit: Annotated[list[str] | None, Parameter(help="Any other limit, repeatable: gpus<=8.")] = None,
    best_per: Annotated[str, Parameter(help="Also the best for each value of these axes: gpu,tp.")] = "",
    options: DeploymentOptions | None = None,
    costs: CostOptions | None = None,
    trace: TraceOptions | None = None,
    json: Json = False,
    out: Out = None,
    threads: Threads = None,
) -> None:
    """Find the deployment that serves a workload within its limits for the fewest joules.

    Example: energylens serve-plan llama-3.1-70b --workload azure-conv --slo ttft=1s,tpot=50ms --gpu h100-sxm,b200
    """
    from energylens.engine.trust import levels
    from energylens.reports.text.service import plan_sentence, plan_text
    from energylens.serving.plan import best_per_path
    from energylens.serving.plan import serve_plan as plan

    check_out(out)
    limits = [*(axes.slo(slo) if slo else []), *(limit or [])]
    reading = trace or TraceOptions()
    answer = plan(
        model,
        reading.load(workload),
        rate_per_s=rate,
        limits=limits,
        costs=(costs or CostOptions()).costs(),
        best_per=axes.names(best_per),
        threads=threads,
        **(options or DeploymentOptions()).axes(),
    )
    answer = replace(answer, arguments={**answer.arguments, "workload": workload, **reading.reading()})
    if out is not None:
        answer.write(out)
        print(f"wrote {out}: {answer.frame.height} deployments", file=sys.stderr)
        if answer.best_per is not None:
            print(f"wrote {best_per_path(out)}: {answer.best_per.height} rows", file=sys.stderr)
    if json:
        data: dict[str, Any] = {
            "answer": plan_sentence(answer),
            "workload": answer.workload.name,
            "rate_per_s": answer.rate_per_s,
        }
        data |= {"notes": list(answer.notes)}
        data |= {"tried": answer.tried, "by_reason": dict(answer.by_reason), "outside_limits": answer.outside}
        data |= {"best_per": answer.best_per.to_dicts()} if answer.best_per is not None else {}
        emit(data | {"trust": levels(answer.trust), "front": answer.frame.to_dicts()})
    else:
        print(plan_text(answer))


@app.command(name="serve-pools")
def serve_pools(
    model: Annotated[str, Parameter(help="A bundled model (energylens models) or a path to a spec.")],
    /,
    *,
    workload: Load,
    prefill: Annotated[str, Parameter(help=_SIDE.format("prefill"))],
    decode: Annotated[str, Parameter(help=_SIDE.format("decode"))],
    rate: Rate = None,
    slo: Annotated[str | None, Parameter(help="Limits that nine requests in ten keep: ttft=1s,tpot=50ms.")] = None,
    limit: Annotated[list[str] | None, Parameter(help="Any other limit, repeatable: gpus<=8.")] = None,
    trace: TraceOptions | None = None,
    json: Json = False,
    out: Out = None,
    threads: Threads = None,
) -> None:
    """Find prefill and decode pools that serve a workload for the fewest joules: GPUs, meshes, clocks, engines of each.

    Example: energylens serve-pools llama-3.1-70b --workload azure-conv --prefill "gpus=b200" --decode "gpus=h100-sxm"
    """
    from energylens.reports.text.service import pools_text
    from energylens.serving.deployments import AXES
    from energylens.serving.pools import serve_pools as plan

    check_out(out)
    problems: list[Problem] = []
    sides = [read_axes(text, side, tuple(AXES), problems) for text, side in ((prefill, "prefill"), (decode, "decode"))]
    if problems:
        raise SpaceError(problems)
    limits = [*(axes.slo(slo) if slo else []), *(limit or [])]
    load = (trace or TraceOptions()).load(workload)
    answer = plan(model, load, prefill=sides[0], decode=sides[1], rate_per_s=rate, limits=limits, threads=threads)
    if out is not None:
        answer.write(out)
        print(f"wrote {out}: {answer.frame.height} pairs", file=sys.stderr)
    if json:
        data = {"workload": answer.workload.name, "rate_per_s": answer.rate_per_s, "notes": list(answer.notes)}
        emit(data | {"pairs": answer.frame.to_dicts()})
    else:
        print(pools_text(answer))


@app.command
def replay(
    model: Annotated[str, Parameter(help="A bundled model (energylens models) or a path to a spec.")],
    /,
    *,
    workload: Load,
    rate: Rate = None,
    requests: Annotated[
        int | None, Parameter(converter=axes.whole, help="Requests; all of a trace if not given.")
    ] = None,
    options: SingleDeployment | None = None,
    trace: TraceOptions | None = None,
    json: Json = False,
    out: Out = None,
) -> None:
    """Replay a workload request by request on one deployment: the judge of what holds in steady state.

    Example: energylens replay llama-3.1-70b --workload trace.parquet --gpu h100-sxm --tp 4 --replicas 2 --rate 5
    """
    from energylens.inputs.library import load_gpu, load_model
    from energylens.reports.text.service import replay_text
    from energylens.results.parquet import write_parquet
    from energylens.results.prediction import engine_problem
    from energylens.results.words import deployment_words
    from energylens.serving.replay import replay as run

    check_out(out)
    if out is not None and is_file(workload) and out.resolve() == Path(workload).resolve():
        raise SpaceError(Problem(f"`{out}` is the trace that is read", hint="nothing was written", code="write"))
    deployment = (options or SingleDeployment()).deployment(model)
    load = (trace or TraceOptions()).load(workload)
    try:
        replayed = run(deployment, load, rate, requests=requests)
    except InfeasibleError as error:
        engine = {name: value for name, value in deployment.items() if name not in ("model", "gpu")}
        reason = engine_problem(load_model(model), load_gpu(deployment["gpu"]), engine)
        if reason is not None and reason.code == error.problems[0].code:
            raise InfeasibleError(reason) from None
        raise
    deployment = {name: replayed.deployment[name] for name in deployment}  # by the names of specs, not of their files
    if out is not None:
        write_parquet(
            replayed.requests, out, "", {"deployment": deployment, "workload": load.name, "notes": list(replayed.notes)}
        )
        print(f"wrote {out}: {replayed.requests.height} requests", file=sys.stderr)
    if json:
        emit({"deployment": deployment, "workload": load.name, "notes": list(replayed.notes), **replayed.values})
    else:
        words = f"{deployment['model']} on {deployment_words({**deployment, 'gpus': replayed['gpus']})}; {load.name}"
        print(replay_text(replayed, words))


@app.command
def workloads(*, json: Json = False) -> None:
    """List the bundled workloads.

    Example: energylens workloads
    """
    from energylens.serving.workload import workloads as listed

    frame = listed()
    if json:
        emit(frame.to_dicts())
        return
    rows = [
        [
            row["workload"],
            number(row["prompt_tokens"]),
            number(row["output_tokens"]),
            "-" if row["rate_per_s"] is None else number(row["rate_per_s"]),
            number(row["largest_rate"]),
            "-" if row["found"] is None else f"{100 * row['found']:.0f} %",
        ]
        for row in frame.iter_rows(named=True)
    ]
    print(table(["workload", "prompt", "output", "requests/s", "peak/mean", "prefixes"], rows))
