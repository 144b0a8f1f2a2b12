"""`energylens explore`, `search` and `demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from energylens.cli import axes
from energylens.cli.app import app, emit
from energylens.cli.command import OUT, Parameter
from energylens.cli.options import Json, KeepOptions, Out, SpaceOptions, Threads, check_out
from energylens.common.errors import SpaceError

if TYPE_CHECKING:
    from energylens.results.result import Result

_MODELS = "Bundled models or spec paths, separated by commas."
_EVOLVED: Final[dict[str, object]] = {
    "population": 200,
    "generations": 100,
    "seed": 1,
    "patience": None,
    "checkpoint": None,
}
"""Options of `search` that only generations of points have use for, with their defaults."""


@app.command
def explore(
    models: Annotated[str, Parameter(help=_MODELS)],
    /,
    *,
    options: SpaceOptions | None = None,
    keep: KeepOptions | None = None,
    json: Json = False,
    out: Out = None,
    threads: Threads = None,
) -> None:
    """Evaluate every configuration of a space and keep the Pareto front.

    Example: energylens explore llama-3.1-70b --gpu h100-sxm,b200 --slo tpot=50ms --limit "gpus<=8" --best-per gpu
    """
    from energylens.searches.exhaustive import explore as explore_space

    check_out(out)
    space = (options or SpaceOptions()).space(models)
    reductions = (keep or KeepOptions()).arguments()
    _tell(explore_space(space, threads=threads, show_progress=True, **reductions), json, out)


@app.command
def search(
    models: Annotated[str, Parameter(help=_MODELS)],
    /,
    *,
    options: SpaceOptions | None = None,
    method: Annotated[str, Parameter(help="auto, exhaustive, native or pymoo.")] = "auto",
    algorithm: Annotated[str | None, Parameter(help="An algorithm of pymoo: nsga2, nsga3, spea2, ...")] = None,
    population: Annotated[int, Parameter(converter=axes.whole, help="Points of a generation.")] = 200,
    generations: Annotated[int, Parameter(converter=axes.whole, help="Generations.")] = 100,
    seed: Annotated[int, Parameter(converter=axes.whole, help="Seed; the same seed gives the same front.")] = 1,
    patience: Annotated[
        int | None, Parameter(converter=axes.whole, help="End after so many generations without progress.")
    ] = None,
    checkpoint: Annotated[Path | None, Parameter(help="A file to go on from after a break.")] = None,
    json: Json = False,
    out: Out = None,
    threads: Threads = None,
) -> None:
    """Find the front of a space of any size: every point if they are few enough, else with NSGA-II.

    Example: energylens search qwen3-235b-a22b --gpu h200-sxm --tp 1:16 --ep 1,2,4,8 --batch 1:512 --seed 7
    """
    from energylens.searches import search as search_space

    check_out(out)
    space = (options or SpaceOptions()).space(models)
    result = search_space(
        space,
        method=method,
        algorithm=algorithm,
        population=population,
        generations=generations,
        seed=seed,
        patience=patience,
        checkpoint=checkpoint,
        threads=threads,
        show_progress=True,
    )
    values = (population, generations, seed, patience, checkpoint)
    unused = [f"--{name}" for (name, usual), value in zip(_EVOLVED.items(), values, strict=True) if value != usual]
    if result.method == "exhaustive" and unused:
        verb = "is" if len(unused) == 1 else "are"
        why = (
            f"every point is evaluated ({result.points:,} are few enough)"
            if method == "auto"
            else "`exhaustive` evaluates every point"
        )
        print(f"note: {', '.join(unused)} {verb} not used: {why}; --method native searches", file=sys.stderr)
    _tell(result, json, out)


@app.command
def demo(
    *,
    out: Annotated[Path, Parameter(name=OUT, help="Where the front goes.")] = Path("out/demo/front.parquet"),
    json: Json = False,
) -> None:
    """Explore Llama-3.1-70B on H100 and B200: more than ten thousand configurations, in a second or two.

    Example: energylens demo
    """
    from energylens.engine.space import Space
    from energylens.searches.exhaustive import explore as explore_space

    space = Space(
        models="llama-3.1-70b",
        gpus=["h100-sxm", "b200"],
        pp=[1, 2, 4],
        weight_dtype=[None, "fp8"],
        kv_dtype=[None, "fp8"],
        batch=[*range(1, 49), *range(52, 129, 4), *range(136, 513, 8)],
        prompt_tokens=1024,
        output_tokens=256,
        limits=["ttft<=10s", "tpot<=50ms", "gpus<=8"],
    )
    _tell(explore_space(space, show_progress=True), json, out)


def _tell(result: Result, as_json: bool, out: Path | None) -> None:
    from energylens.reports.text import answer

    if not result.frame.height:
        raise SpaceError(answer.nothing(result))
    if out is not None:
        result.write(out)
    if as_json:
        emit(answer.as_dict(result))
    else:
        reductions = answer.reduction_tables(result)
        tables = f"{answer.front_table(result)}\n\n{reductions}" if reductions else answer.front_table(result)
        print(f"{result.answer()}\n\n{tables}\n\n{answer.account(result)}")
        print(answer.trust(result))
    if out is not None:
        print(f"wrote {out}: {result.frame.height} points, plan {result.plan_sha256[:12]}", file=sys.stderr)
        for name in ("top", "best_per", "distributions"):
            if (frame := getattr(result, name)) is not None:
                print(f"wrote {out.with_name(f'{out.stem}.{name}{out.suffix}')}: {frame.height} rows", file=sys.stderr)
