"""Collectives of every kernel in order, rings and fused norms (physics.md sections 7 and 11)."""

from dataclasses import dataclass, field, replace

from .collectives import Deriver, Place
from .communication import Collective, pair
from .equations import Kernel
from .local import BYTES, Env


@dataclass
class Schedule:
    """Collectives of each kernel, in order, and what is handed to kernels that run inside one (none: absent)."""

    listed: dict[Place, list[Collective]] = field(default_factory=dict)
    fused: dict[Place, frozenset[str]] = field(default_factory=dict)


def ring(env: Env, kernel: Kernel) -> tuple[int, Collective] | None:
    """How many messages pass a block's keys around beside its first attention in prefill, and one; None: no ring."""
    kernels = env.block.of_phase(env.step.phase)
    first = next((other for other in kernels if env.cached(other)), None)
    if env.mesh.cp == 1 or env.step.phase != "prefill" or first is not kernel:
        return None
    message, counted = 0.0, set[str]()
    for other in kernels:
        for equation in other.equations:
            for tensor in equation.reads():
                if tensor.name in env.model.cache and "t" in tensor.ranks and tensor.name not in counted:
                    counted.add(tensor.name)
                    one_token = env.elements(tensor, equation, other) / env.step.t
                    message += one_token * env.new * BYTES[env.dtype(tensor, "cache")]
    return env.mesh.cp - 1, pair(env, env.mesh.tp * env.mesh.cp, message)


def over_cp(env: Env, kernel: Kernel) -> list[Collective]:
    """Sum over context-parallel ranks what each attention kernel writes in decode."""
    mesh = env.mesh
    if mesh.cp == 1 or env.step.phase != "decode" or not env.cached(kernel):
        return []
    reductions: dict[str, Collective] = {}
    for equation in kernel.equations:
        made = equation.result
        if made.name in env.stored and made.name not in env.model.cache and made.name not in reductions:
            message = env.elements(made, equation, kernel) * BYTES[env.model.dtypes["activations"]]
            reductions[made.name] = Collective("all_reduce", mesh.cp, mesh.tp * mesh.cp, message, made.name, "cp")
    return list(reductions.values())


def spread_sequence(env: Env, layer: int, listed: dict[Place, list[Collective]]) -> None:
    """Replace each all_reduce over tp of a layer by a reduce_scatter, and an all_gather at a later kernel."""
    kernels = env.block.of_phase(env.step.phase)
    heavy = [number for number, kernel in enumerate(kernels) if env.kernel_class(kernel) != "elementwise"]
    gathers: list[tuple[int, Collective]] = []
    for position in range(len(kernels)):
        of_kernel = listed[layer, position]
        for index, collective in enumerate(of_kernel):
            if collective.kind == "all_reduce" and collective.group == "tp":
                of_kernel[index] = replace(collective, kind="reduce_scatter")
                target = next((number for number in heavy if number > position), heavy[0] if heavy else position)
                gathers.append((target, replace(collective, kind="all_gather")))
    for target, gather in gathers:
        listed[layer, target].append(gather)


def light(env: Env, kernel: Kernel) -> bool:
    """Whether a kernel is elementwise and does nothing but norms and sums."""
    functions = {factor.function for equation in kernel.equations for factor in equation.factors} - {None}
    return env.kernel_class(kernel) == "elementwise" and bool(functions) and functions <= {"norm", "add"}


def fuse(env: Env, layer: int, listed: dict[Place, list[Collective]]) -> dict[Place, frozenset[str]]:
    """Elementwise kernels of a layer that run inside the all_reduce before them, and the tensors it hands to them."""
    kernels = env.block.of_phase(env.step.phase)
    handed: dict[Place, frozenset[str]] = {}
    for position, kernel in enumerate(kernels):
        if not light(env, kernel) or (position == 0 and env.block.repeat == 1):
            continue
        before = listed[layer, position - 1 if position > 0 else len(kernels) - 1]
        read = {tensor.name for equation in kernel.equations for tensor in equation.reads()}
        reduced = {
            collective.tensor for collective in before if collective.kind == "all_reduce" and collective.group != "cp"
        } & read
        if reduced:
            handed[layer, position] = frozenset(reduced)
    return handed


def make_schedule(envs: list[Env]) -> Schedule:
    """Return the schedule of one pass; `envs` holds one entry a layer, in execution order."""
    plan, schedule = Deriver(envs).run(), Schedule()
    for layer, env in enumerate(envs):
        for position, kernel in enumerate(env.block.of_phase(env.step.phase)):
            place = (layer, position)
            # Those that follow the kernel come first: they are what a kernel in stages is overlapped with.
            of_kernel = [*plan.after.get(place, []), *plan.before.get(place, []), *over_cp(env, kernel)]
            schedule.listed[place] = of_kernel
        if env.run.sequence_parallel:
            spread_sequence(env, layer, schedule.listed)
        if env.run.fused_norm:
            schedule.fused.update(fuse(env, layer, schedule.listed))
    return schedule
