"""Seconds and joules of kernels, or of blocks in micro-batches, with collectives (physics.md sections 7, 8, 11)."""

from dataclasses import dataclass, replace

from .communication import Collective, both, collective_energy, collective_time, on_sms
from .equations import Kernel
from .exchange import KINDS
from .kernels import kernel_cost
from .local import Env
from .schedule import ring
from .traffic import Cost

DYNAMIC_CAUSES = ("compute", "hbm_weights", "hbm_kv", "hbm_activations", "communication")
Work = tuple[Kernel, tuple[Collective, ...], frozenset[str] | None]  # a kernel, its collectives, what is handed to it


@dataclass
class Part:
    """What a kernel or a block adds to its stage."""

    kernel: float  # seconds
    exposed: float  # seconds of communication
    drawing: float  # seconds at `communication_w`
    clocked: float  # seconds that follow the clock (Eq. 11.5)
    dynamic: dict[str, float]


@dataclass(frozen=True)
class Overlap:
    """A kernel cut into stages that run beside its first collective: seconds of one stage of each.

    `clocked` are those of the kernel that follow the clock.
    """

    stages: int
    sms: int
    kernel: float
    collective: float
    clocked: float


def small_env(env: Env, stages: int) -> Env:
    """Environment of one stage or micro-batch."""
    return replace(env, step=replace(env.step, b=env.step.b / stages))


def stages_and_sms(env: Env, kernel: Kernel, listed: tuple[Collective, ...]) -> tuple[int, int] | None:
    """Stages and SMs of a kernel that is overlapped; None if it is not."""
    if not listed or ring(env, kernel) is not None:
        return None
    if env.run.overlaps(env.step.phase):
        return env.run.stages, env.run.sms
    if env.run.stages != 0 or kernel.name not in env.block.overlap:
        return None
    stages, sms, where = env.block.overlap[kernel.name]
    if where not in (env.step.phase, "both") or sms >= env.gpu["compute"]["sms"]:
        return None
    return stages, sms


def overlap_of(env: Env, work: Work) -> Overlap | None:
    """Seconds of the stages of an overlapped kernel; None if it is not overlapped."""
    kernel, listed, fused = work
    overlap = stages_and_sms(env, kernel, listed)
    if overlap is None:
        return None
    stages, sms = overlap
    small = kernel_cost(small_env(env, stages), kernel, sms, fused)
    r = collective_time(env, listed[0], listed[0].message / stages, on_sms(env, sms))
    return Overlap(stages, sms, small.time, r, small.clocked)


def seconds(env: Env, work: Work, plain: float) -> tuple[float, float, float]:
    """Seconds of a kernel, of exposed communication, and at `communication_w` (Eq. 7.12, 7.13, 7.14)."""
    kernel, listed, _ = work
    times = [collective_time(env, collective, collective.message) for collective in listed]
    passed, overlap = ring(env, kernel), overlap_of(env, work)
    if passed is not None:
        turns, message = passed
        exposed = both(env, plain, turns * collective_time(env, message, message.message)) - plain + sum(times)
        return plain, exposed, exposed
    if overlap is None:
        return plain, sum(times), sum(times)
    stages, c, r = overlap.stages, overlap.kernel, overlap.collective
    total = c + (stages - 1) * both(env, c, r) + r
    drawing = power_share(env, overlap.sms) * stages * r
    return stages * c, total - stages * c + sum(times[1:]), drawing + sum(times[1:])


def power_share(env: Env, sms: int) -> float:
    """Share of `communication_w` that a collective on `sms` SMs draws (Eq. 7.14)."""
    return float(min(1.0, sms / env.gpu["link"]["sms_to_saturate"]))


def kernel_and_collectives(env: Env, kernel: Kernel, listed: list[Collective], plain: float) -> tuple[float, float]:
    """Return (kernel time, exposed communication) of a kernel that takes `plain` seconds alone."""
    return seconds(env, (kernel, tuple(listed), None), plain)[:2]


def dynamic_energy(env: Env, cost: Cost) -> dict[str, float]:
    """Dynamic joules of a kernel by cause (Eq. 8.3)."""
    energy = env.gpu["energy"]
    compute = energy["flop_j"]["vector"] * cost.vector_flops + energy["on_chip_j_per_byte"] * cost.on_chip_bytes
    for counted in (cost.matrix_flops, cost.padding_flops):
        for kind, flops in counted.items():
            compute += energy["flop_j"][kind] * flops
    return {
        "compute": compute,
        "hbm_weights": energy["hbm_weight_j_per_byte"] * cost.weight_bytes,
        "hbm_kv": energy["hbm_kv_j_per_byte"] * cost.kv_bytes,
        "hbm_activations": energy["hbm_activation_j_per_byte"] * cost.activation_bytes,
    }


def joules(env: Env, work: Work, cost: Cost, stages: int) -> dict[str, float]:
    """Dynamic energy of a kernel and its collectives: a kernel in stages reads its weights in each."""
    kernel, listed, fused = work
    weight_bytes = cost.weight_bytes
    if stages > 1:
        weight_bytes = stages * kernel_cost(small_env(env, stages), kernel, 0, fused).weight_bytes
    by_cause = dynamic_energy(env, replace(cost, weight_bytes=weight_bytes))
    by_cause["communication"] = sum(collective_energy(env, collective) for collective in listed)
    passed = ring(env, kernel)
    if passed is not None:
        by_cause["communication"] += passed[0] * collective_energy(env, passed[1])
    return by_cause


def kernel_part(env: Env, work: Work) -> Part:
    """Everything about one kernel with its collectives."""
    kernel, _, fused = work
    cost = kernel_cost(env, kernel, 0, fused)
    kernel_s, exposed, drawing = seconds(env, work, cost.time)
    overlap = overlap_of(env, work)
    stages, clocked = (1, cost.clocked) if overlap is None else (overlap.stages, overlap.stages * overlap.clocked)
    return Part(kernel_s, exposed, drawing, clocked, joules(env, work, cost, stages))


def block_part(env: Env, works: tuple[Work, ...]) -> Part:
    """Everything about one layer whose micro-batches take turns (Eq. 11.1)."""
    stages, sms = env.run.stages, env.run.sms
    small, slower = small_env(env, stages), on_sms(env, sms)
    c = r = clocked = 0.0
    dynamic = dict.fromkeys(DYNAMIC_CAUSES, 0.0)
    for kernel, listed, fused in works:
        turn = kernel_cost(small, kernel, sms, fused)
        c += turn.time
        clocked += stages * turn.clocked
        r += sum(collective_time(env, collective, collective.message / stages, slower) for collective in listed)
        cost = kernel_cost(env, kernel, 0, fused)
        for cause, part in joules(env, (kernel, listed, fused), cost, stages).items():
            dynamic[cause] += part
    exposed = stages * both(env, c, r) - stages * c
    return Part(stages * c, exposed, power_share(env, sms) * stages * r, clocked, dynamic)


def layer_parts(env: Env, works: tuple[Work, ...]) -> list[Part]:
    """Return the parts of one layer."""
    exchanged = any(collective.kind in KINDS for _, listed, _ in works for collective in listed)
    if exchanged and env.run.overlaps(env.step.phase):
        return [block_part(env, works)]
    return [kernel_part(env, work) for work in works]
