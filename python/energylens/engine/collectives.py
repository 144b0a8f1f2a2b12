"""Collectives by themselves: seconds, bus bandwidth and joules by operation, GPUs, size, SMs and implementation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl

from energylens.common.errors import Problem, SpaceError, did_you_mean
from energylens.inputs.library import load_gpu
from energylens.inputs.plan import Plan

OPERATIONS: Final = (
    "all_reduce", "reduce_scatter", "all_gather", "all_to_all", "send_recv", "dispatch", "combine",
)  # fmt: skip
SIZES: Final = tuple(2**power for power in range(10, 31, 2))
MOST_GPUS: Final = 1024


def collectives(
    gpu: str | Path = "h100-sxm",
    *,
    operations: Sequence[str] = ("all_reduce",),
    gpus: Sequence[int] = (8,),
    sizes: Sequence[int] = SIZES,
    sms: Sequence[int | None] = (None,),
    implementation: str | None = None,
) -> pl.DataFrame:
    """Return a row for each operation, number of GPUs (next to one another), SM count and message size (bytes).

    `seconds` as in section 7 of the physics, the fastest implementation or those of one name (`nccl`, `custom`);
    `bus_bandwidth_bytes_per_s = busfactor·S/seconds`; `energy_per_gpu_j = (static_w + communication_w)·seconds` and the
    joules of the message; `dispatch` and `combine` by the profile's own ways, the faster one, S the bytes sent, or as
    `all_to_all` where it has none; `sms` None is as many as it wants; `extrapolated` beyond one node or the measured
    sizes of groups. Raises `SpaceError`.
    """
    loaded = load_gpu(gpu)
    plan, profile = Plan([], [loaded]), loaded.profile
    _check(operations, gpus, sizes, sms)
    known_collectives = profile.sections["collectives"]
    known = {name: known_collectives.get(name) or known_collectives["all_to_all"] for name in operations}
    names = {curve["name"].partition("-")[0] for name in operations for curve in known[name]}
    if implementation is not None and implementation not in names:
        hint = did_you_mean(implementation, sorted(names))
        raise SpaceError(Problem(f"no implementation `{implementation}`", hint=hint, code="implementation"))
    per_node, watts = profile.gpus_per_node, profile.static_w + profile.communication_w
    rows = []
    for operation in operations:
        most = max(int(size) for curve in known[operation] for size in curve["by_gpus"])
        for count in gpus:
            factor = {"all_reduce": 2 * (count - 1) / count, "send_recv": 1.0}.get(operation, (count - 1) / count)
            for taken in sms:
                seconds, joules = plan.core.collective(
                    0, operation, count, taken, implementation, [float(s) for s in sizes]
                )
                if not all(map(math.isfinite, seconds)):
                    message = f"`{implementation}` has no {operation} for messages of {max(sizes):,} bytes"
                    raise SpaceError(Problem(message, hint="give smaller sizes, or no implementation", code="size"))
                rows += [
                    {
                        "operation": operation,
                        "gpus": count,
                        "nodes": -(-count // per_node) if operation != "send_recv" else 1 + (count > per_node),
                        "sms": taken,
                        "bytes": size,
                        "seconds": second,
                        "bus_bandwidth_bytes_per_s": factor * size / second,
                        "energy_per_gpu_j": watts * second + joule,
                        "extrapolated": count > per_node or count > most,
                    }
                    for size, second, joule in zip(sizes, seconds, joules, strict=True)
                ]
    return pl.DataFrame(rows, schema_overrides={"sms": pl.UInt32, "gpus": pl.UInt32, "nodes": pl.UInt32})


def _check(operations: Sequence[str], gpus: Sequence[int], sizes: Sequence[int], sms: Sequence[int | None]) -> None:
    problems = [
        Problem(f"unknown collective `{name}`", hint=did_you_mean(name, OPERATIONS), code="operation")
        for name in operations
        if name not in OPERATIONS
    ]
    limits = (
        ("gpus", gpus, 2, MOST_GPUS),
        ("sizes", sizes, 1, 2**40),
        ("sms", [s for s in sms if s is not None], 1, 1024),
    )
    for name, values, least, most in limits:
        if bad := [value for value in values if not least <= value <= most]:
            problems.append(Problem(f"`{name}` are {least} to {most:,}, found {bad[0]}", code=name))
    if not (operations and gpus and sizes and sms):
        problems.append(Problem("give at least one operation, number of GPUs, size and SM count", code="empty"))
    if problems:
        raise SpaceError(problems)
