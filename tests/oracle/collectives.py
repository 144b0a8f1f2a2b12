"""Collectives: which ones the equations imply (physics.md section 7)."""

from dataclasses import dataclass, field

from .communication import Collective as Collective
from .communication import collective_energy as collective_energy
from .communication import collective_time as collective_time
from .communication import nodes_and_members, pair
from .equations import Equation, Tensor, reads_from_memory
from .exchange import by_gpu, copies, element_bytes
from .loads import loads
from .local import BYTES, Env
from .mesh import axis_of, split

LAST_RANK_REDUCERS = ("norm", "softmax", "topk", "sample")
Place = tuple[int, int]  # layer in execution order, kernel among those of the phase


@dataclass
class Made:
    """An activation as last made: by what, where, and over which axes it is partial (none: whole)."""

    tensor: Tensor
    equation: Equation
    place: Place
    axes: frozenset[str]
    carried_on: bool = False
    gathered: bool = False


@dataclass
class Plan:
    """Collectives of one pass, by the kernel they come before or after."""

    before: dict[Place, list[Collective]] = field(default_factory=dict)
    after: dict[Place, list[Collective]] = field(default_factory=dict)


def send_recv(env: Env) -> Collective:
    """Build the message between stages; `env` is that of the first repeated block."""
    kernels = env.block.of_phase(env.step.phase)
    made: set[str] = set()
    first_reads: dict[str, float] = {}
    for kernel in kernels:
        for tensor, equation, _ in reads_from_memory(kernel):
            outside = env.model.weights | env.model.cache | made
            if tensor.name not in outside and tensor.name not in first_reads:
                first_reads[tensor.name] = env.elements(tensor, equation, kernel)
        made.update(equation.result.name for equation in kernel.equations)
    carried = [elements for name, elements in first_reads.items() if name in made]
    if not carried:
        carried = list(first_reads.values())[:1]
    message = sum(carried) * BYTES[env.model.dtypes["activations"]]
    return pair(env, env.mesh.engine_gpus, message)


def contracted_axes(env: Env, equation: Equation) -> frozenset[str]:
    """Axes over which an equation's own contraction leaves the result partial."""
    ranks = set(env.contracted(equation))
    for factor in equation.factors:
        if factor.function == "embed":
            ranks.update(rank for arg in factor.args for rank in arg.ranks if rank not in equation.result.ranks)
    ways, _ = split(equation.all_ranks(), equation, env.block, env.model, env.mesh)
    axes: set[str] = set()
    for rank in ranks:
        axis = axis_of(rank, equation, env.block)
        if axis is not None and (axis != "tp" or ways[rank] > 1):
            axes.add(axis)
    return frozenset(axes)


def kind_of(axes: frozenset[str]) -> str:
    """`whole`, `tp`, or `routed` (also when tp joins the routed axes)."""
    if not axes:
        return "whole"
    return "tp" if axes == {"tp"} else "routed"


def carried_axes(env: Env, equation: Equation, made: dict[str, Made]) -> frozenset[str]:
    """Axes of the partial operands that an equation carries on; empty if it does not carry them."""
    nothing: frozenset[str] = frozenset()
    factors = equation.factors
    if len(factors) == 1 and factors[0].function == "add":
        axes = [made[arg.name].axes if arg.name in made else nothing for arg in factors[0].args]
        kinds = {kind_of(some) for some in axes}
        same = kinds in ({"tp"}, {"routed"}) or (kinds == {"tp", "routed"} and env.mesh.dp == 1)
        return nothing.union(*axes) if same else nothing
    if len(factors) != 2:
        return nothing
    partial = [any(arg.name in made and made[arg.name].axes for arg in factor.args) for factor in factors]
    if partial.count(True) != 1:
        return nothing
    position = partial.index(True)
    operand, other = factors[position], factors[1 - position]
    if operand.function is not None:
        return nothing
    axes_partial = made[operand.args[0].name].axes
    if equation.routed is None:
        blocking = {"tp"}  # the only axis in a dense equation; tp and the routed axes are the same GPUs
    elif "tp" in axes_partial:
        return nothing
    else:
        blocking = set(axes_partial)
    on = {axis_of(rank, equation, env.block) for rank in env.factor_ranks(other, equation)}
    return nothing if on & blocking else axes_partial


class Deriver:
    """Walk through all kernels of a phase in order and note the collectives they need."""

    def __init__(self, envs: list[Env]) -> None:
        """`envs` holds one entry a layer, in execution order."""
        self.envs = envs
        self.made: dict[str, Made] = {}
        self.plan = Plan()

    def add(self, where: dict[Place, list[Collective]], place: Place, collective: Collective) -> None:
        """Note a collective; a group of one GPU communicates nothing."""
        if collective.gpus > 1:
            where.setdefault(place, []).append(collective)

    def run(self) -> Plan:
        """Return all collectives of the pass."""
        for layer, env in enumerate(self.envs):
            for position, kernel in enumerate(env.block.of_phase(env.step.phase)):
                for equation in kernel.equations:
                    self.visit(env, equation, (layer, position))
            for made in self.made.values():
                if made.axes and not made.carried_on:
                    self.make_whole(made)
        return self.plan

    def visit(self, env: Env, equation: Equation, place: Place) -> None:
        """Apply one equation."""
        carried = carried_axes(env, equation, self.made)
        for factor in equation.factors:
            for arg in factor.args:
                made = self.made.get(arg.name)
                if made is not None:
                    if made.axes and not carried:
                        self.make_whole(made)
                    made.carried_on = bool(made.axes)
            if factor.function in LAST_RANK_REDUCERS:
                self.gather_last_rank(factor.args[0])
        self.made[equation.result.name] = Made(
            equation.result, equation, place, carried | contracted_axes(env, equation)
        )

    def elements(self, made: Made, whole: str | None = None) -> float:
        """Local elements of a tensor as it was made."""
        env = self.envs[made.place[0]]
        kernel = env.block.of_phase(env.step.phase)[made.place[1]]
        return env.elements(made.tensor, made.equation, kernel, whole)

    def gather_last_rank(self, argument: Tensor) -> None:
        """all_gather of an argument whose last rank is split."""
        made = self.made.get(argument.name)
        if made is None or made.gathered or not argument.ranks:
            return
        env, rank = self.envs[made.place[0]], argument.ranks[-1]
        ways, _ = split(made.tensor.ranks, made.equation, env.block, env.model, env.mesh)
        axis = axis_of(rank, made.equation, env.block)
        if axis is None or ways.get(rank, 1) == 1:
            return
        made.gathered = True
        message = self.elements(made, rank) * BYTES[env.model.dtypes["activations"]]
        span = env.mesh.tp if axis == "tp" else env.mesh.wide_span
        self.add(self.plan.after, made.place, Collective("all_gather", env.mesh.size(axis), span, message))

    def make_whole(self, made: Made) -> None:
        """Add the collectives that make a partial tensor whole, after the kernel that made it."""
        kind, place = kind_of(made.axes), made.place
        made.axes = frozenset()
        env = self.envs[place[0]]
        mesh, size = env.mesh, BYTES[env.model.dtypes["activations"]]
        elements, gpus, span = self.elements(made), mesh.stage_gpus, mesh.wide_span
        after, name = self.plan.after, made.tensor.name
        whole = Collective("all_gather", mesh.tp, mesh.tp, elements * size)
        if kind == "tp":
            self.add(after, place, Collective("all_reduce", mesh.tp, mesh.tp, elements * size, name, "tp"))
        elif mesh.dp == 1:
            self.add(after, place, Collective("all_reduce", gpus, span, elements * size, name))
        elif mesh.moe_tp == 1:
            self.add(self.plan.before, self.first_routed(place), self.exchange(env, "dispatch", elements))
            self.add(after, place, self.exchange(env, "combine", elements))
            self.add(after, place, whole)
        else:
            message = mesh.dp * elements * size
            self.add(after, place, Collective("reduce_scatter", gpus, span, message))
            self.add(after, place, whole)
            self.add(after, place, Collective("all_gather", mesh.dp, span, message))

    def exchange(self, env: Env, kind: str, elements: float) -> Collective:
        """Build the dispatch or the combine of a tensor: a tp rank sends its share of the tokens (Eq. 7.1, 7.4)."""
        mesh, routed = env.mesh, self.routed_rank(env)
        gpus, span = mesh.stage_gpus, mesh.wide_span
        sent = copies(env, kind, routed, gpus)
        message = elements / mesh.tp * sent * element_bytes(env, kind)
        nodes, _ = nodes_and_members(env, Collective(kind, gpus, span, message))
        across = copies(env, kind, routed, nodes) / sent
        load = loads(env, routed).excess
        if by_gpu(env, kind):  # of tokens, not of choices
            chance = [1 - (1 - share / gpus) ** env.model.active[routed] for share in (load, 1.0)]
            load = chance[0] / chance[1]
        return Collective(kind, gpus, span, message, across=across, load=load)

    def routed_rank(self, env: Env) -> str:
        """Return the routed rank of the block."""
        ranks = (equation.routed for kernel in env.block.kernels for equation in kernel.equations)
        return next(rank for rank in [*ranks, *env.model.active] if rank is not None)

    def first_routed(self, place: Place) -> Place:
        """Place of the first routed kernel in the layer of `place`."""
        env = self.envs[place[0]]
        for position, kernel in enumerate(env.block.of_phase(env.step.phase)):
            if any(equation.routed is not None for equation in kernel.equations):
                return place[0], position
        return place
