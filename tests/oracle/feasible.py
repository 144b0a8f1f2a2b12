"""Whether a point can run as it asks to (physics.md sections 1, 6 and 11)."""

import json

from .clock import clock_or_power_reason
from .exchange import KINDS
from .schedule import Schedule, make_schedule
from .setup import Setup


def overlap_allowed(setup: Setup, schedules: dict[str, Schedule]) -> bool:
    """Whether the overlap asked for exists."""
    run, mesh = setup.run, setup.mesh
    if run.where not in ("prefill", "decode", "both"):
        return False
    if run.stages in (0, 1):
        return run.sms == 0 and run.where == "prefill"
    if run.stages < 2 or not 1 <= run.sms < setup.gpu["compute"]["sms"]:
        return False
    collectives = [
        collective
        for phase in run.phases()
        for of_kernel in schedules[phase].listed.values()
        for collective in of_kernel
    ]
    if mesh.cp > 1 and any(collective.kind in KINDS for collective in collectives):
        return False
    return bool(collectives) or mesh.pp > 1


def routing_reason(setup: Setup) -> str:
    """Why the routing or the placement asked for does not exist, or "ok"."""
    model, mesh, run = setup.model, setup.mesh, setup.run
    placed = run.placement != "contiguous"
    if not model.active:
        return "routing" if run.routing is not None else "placement" if placed else "ok"
    (routed,) = model.active
    experts, law = model.extents[routed], json.loads(run.routing or model.routing[routed])
    if law["law"] == "counts":
        most = max(model.active[routed] * max(layer) / sum(layer) for layer in law["value"])
        if any(len(layer) != experts for layer in law["value"]) or most > 1 + 1e-9:
            return "routing"
    return "placement" if (placed and mesh.ep == 1) or (experts + run.copies) % mesh.ep else "ok"


def attends(setup: Setup) -> list[bool]:
    """For every block that reads a cache tensor along t, whether one of its attention kernels does."""
    _, step = setup.prefill_passes()
    per_block = []
    for block in setup.model.blocks:
        reads = [t for kernel in block.kernels for equation in kernel.equations for t in equation.reads()]
        if any(t.name in setup.model.cache and "t" in t.ranks for t in reads):
            env = setup.env(block, step)
            per_block.append(any(env.cached(kernel) for kernel in block.kernels))
    return per_block


def run_reason(setup: Setup) -> str:
    """First reason why a point cannot run as it asks to (cp, experts, then section 11), or "ok"."""
    run, mesh = setup.run, setup.mesh
    if mesh.cp > 1 and not (attends(setup) and all(attends(setup))):
        return "shard"
    if routing_reason(setup) != "ok":
        return routing_reason(setup)
    schedules: dict[str, Schedule] = {}
    if run.sequence_parallel or run.fused_norm or run.stages >= 2:
        for _, step in (setup.prefill_passes(), setup.decode_passes()):
            schedules[step.phase] = make_schedule([env for _, env in setup.layers(step)])
    if run.sequence_parallel:
        # What an all_reduce over tp alone has become by now still says so.
        listed = [
            collective
            for schedule in schedules.values()
            for of_kernel in schedule.listed.values()
            for collective in of_kernel
        ]
        if mesh.tp == 1 or run.fused_norm or not any(collective.group == "tp" for collective in listed):
            return "shard"
    if run.fused_norm and not any(schedule.fused for schedule in schedules.values()):
        return "shard"
    if not overlap_allowed(setup, schedules):
        return "overlap"
    return clock_or_power_reason(setup.gpu, run)
