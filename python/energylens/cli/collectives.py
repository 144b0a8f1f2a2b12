"""`energylens collectives`."""

from __future__ import annotations

from typing import Annotated

from energylens.cli import axes
from energylens.cli.app import app, emit
from energylens.cli.command import Parameter
from energylens.cli.options import Json
from energylens.inputs.axis_text import DEFAULT, is_default


@app.command
def collectives(
    gpu: Annotated[str, Parameter(help="A bundled GPU (energylens gpus) or a path to a profile.")],
    /,
    *,
    operations: Annotated[
        str, Parameter(help="all_reduce, reduce_scatter, all_gather, all_to_all, send_recv.")
    ] = "all_reduce",
    gpus: Annotated[str, Parameter(help="GPUs that take part, next to one another.")] = "2,4,8",
    sizes: Annotated[str, Parameter(help="Message sizes in bytes.")] = "8192,65536,1048576,16777216,268435456",
    sms: Annotated[str, Parameter(help="SMs it runs on, `default` for as many as it wants.")] = "default",
    implementation: Annotated[str | None, Parameter(help="Only this one: nccl, custom.")] = None,
    json: Json = False,
) -> None:
    """Show how long a GPU's collectives take, and what they cost.

    Example: energylens collectives h100-sxm --operations all_reduce,all_to_all --gpus 8,64 --sms default,4,16
    """
    from energylens.common.format import number, si, table
    from energylens.engine.collectives import collectives as measured

    sm_counts = [None if is_default(part) else value for part in axes.names(sms) for value in _counts(part)]
    frame = measured(
        gpu,
        operations=axes.names(operations),
        gpus=axes.numbers(gpus, "gpus"),
        sizes=axes.numbers(sizes, "sizes"),
        sms=sm_counts,
        implementation=implementation,
    )
    if json:
        emit(frame.to_dicts())
        return
    header = ["collective", "GPUs", "nodes", "SMs", "message", "time", "bus bandwidth", "J/GPU", ""]
    rows = [
        [
            row["operation"],
            row["gpus"],
            row["nodes"],
            DEFAULT if row["sms"] is None else row["sms"],
            si(row["bytes"], "B"),
            si(row["seconds"], "s"),
            si(row["bus_bandwidth_bytes_per_s"], "B/s"),
            number(row["energy_per_gpu_j"]),
            "extrapolated" if row["extrapolated"] else "",
        ]
        for row in frame.iter_rows(named=True)
    ]
    print(table(header, rows))


def _counts(part: str) -> list[int]:
    return [0] if is_default(part) else axes.numbers(part, "sms")
