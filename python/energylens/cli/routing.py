"""`energylens routing`."""

from __future__ import annotations

from typing import Annotated

from energylens.cli import axes
from energylens.cli.app import app, emit
from energylens.cli.command import Parameter
from energylens.cli.options import Json
from energylens.inputs.axes import AXES


@app.command
def routing(
    model: Annotated[str, Parameter(help="A bundled model (energylens models) or a path to a spec.")],
    /,
    *,
    ep: Annotated[str, Parameter(help="GPUs that the experts are dealt to.")] = "8",
    tokens: Annotated[str, Parameter(help="Tokens routed together.")] = "64,1024,8192",
    routing: Annotated[str, Parameter(help=f"{AXES['routing'].help}; default for the spec's.")] = "default,uniform",
    placement: Annotated[str, Parameter(help=AXES["placement"].help)] = "contiguous,balanced",
    json: Json = False,
) -> None:
    """Show how many experts tokens hit, and how much more than the mean the busiest GPU has to do.

    Example: energylens routing qwen3-235b-a22b --ep 4,8 --routing default,zipf:0.5 --placement contiguous,replicated:16
    """
    from energylens.common.format import number, table
    from energylens.engine.expert_loads import loads

    frame = loads(
        model,
        gpus=axes.numbers(ep, "ep"),
        tokens=axes.numbers(tokens, "tokens"),
        routings=axes.parse(routing, "routing"),
        placements=axes.parse(placement, "placement"),
    )
    if json:
        emit(frame.to_dicts())
        return
    header = ["routing", "placement", "GPUs", "tokens", "experts/GPU", "hit", "hit, busiest", "load, busiest"]
    rows = [
        [
            row["routing"], row["placement"], row["gpus"], f"{row['tokens']:,}", number(row["experts_per_gpu"]),
            number(row["experts_hit"]), number(row["busiest_experts_hit"]), f"{row['load']:.2f} x mean",
        ]
        for row in frame.iter_rows(named=True)
    ]  # fmt: skip
    print(table(header, rows))
