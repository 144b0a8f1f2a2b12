"""Mesh axes, splitting of ranks and the legality of a mapping (physics.md sections 1 and 3)."""

from collections.abc import Iterable
from dataclasses import dataclass

from .equations import Block, Equation, Model

STEP_RANKS = ("b", "s", "t")


@dataclass(frozen=True)
class Mesh:
    """Sizes of the mesh axes of one engine."""

    tp: int
    pp: int
    dp: int
    ep: int
    cp: int = 1

    @property
    def stage_gpus(self) -> int:
        """G, the GPUs of one context-parallel rank of one stage (Eq. 1.1)."""
        return self.tp * self.dp

    @property
    def wide_span(self) -> int:
        """GPUs from the first to the last of a group that is not over tp (`span` of Eq. 7.5)."""
        return self.tp if self.dp == 1 else self.stage_gpus * self.cp

    @property
    def engine_gpus(self) -> int:
        """GPUs of the engine (Eq. 1.2)."""
        return self.stage_gpus * self.cp * self.pp

    @property
    def moe_tp(self) -> int:
        """Ways one expert is split (Eq. 1.1)."""
        return self.stage_gpus // self.ep

    def size(self, axis: str) -> int:
        """Return the GPUs along one axis."""
        return {"tp": self.tp, "ep": self.ep, "moe_tp": self.moe_tp}[axis]


def axes_of(equation: Equation) -> tuple[str, ...]:
    """Axes that split ranks in this equation."""
    return ("tp",) if equation.routed is None else ("ep", "moe_tp")


def axis_of(rank: str, equation: Equation, block: Block) -> str | None:
    """Return the axis `rank` is on in this equation, None if no axis splits it there."""
    if rank in STEP_RANKS:
        return None
    axis = dict(block.shard).get(rank)
    return axis if axis in axes_of(equation) else None


def split(
    ranks: Iterable[str], equation: Equation, block: Block, model: Model, mesh: Mesh
) -> tuple[dict[str, int], bool]:
    """Ways each of `ranks` is split, and whether that is legal (Eq. 3.1). Ranks not named are not split."""
    present = set(ranks)
    left = {axis: mesh.size(axis) for axis in axes_of(equation)}
    ways: dict[str, int] = {}
    legal = True
    for rank, _ in block.shard:
        axis = axis_of(rank, equation, block)
        if axis is None or rank not in present:
            continue
        extent = model.extents[rank]
        if left[axis] % extent != 0 and extent % left[axis] != 0:
            legal = False
        ways[rank] = min(left[axis], extent)
        left[axis] //= ways[rank]
    return ways, legal


def infeasible_reason(model: Model, mesh: Mesh, batch: int) -> str:
    """First reason of section 1 why the mapping is illegal, or "ok"; not those of cp, section 11 and memory."""
    if (not model.active and mesh.ep != 1) or mesh.stage_gpus % mesh.ep != 0:
        return "ep"
    for rank in model.active:
        if model.extents[rank] % mesh.ep != 0:
            return "experts"
    axes = {axis for block in model.blocks for _, axis in block.shard}
    if mesh.tp > 1 and not axes & {"tp", "ep", "moe_tp"}:
        return "shard"
    for block in model.blocks:
        if mesh.dp > 1 and ("b", "dp") not in block.shard:
            return "shard"
        for kernel in block.kernels:
            for equation in kernel.equations:
                _, legal = split(equation.all_ranks(), equation, block, model, mesh)
                if not legal:
                    return "shard"
    if mesh.pp > 1:
        repeated = [block for block in model.blocks if block.repeat > 1]
        if mesh.pp > sum(block.repeat for block in repeated):
            return "layers"
        if any(("repeat", "pp") not in block.shard for block in repeated):
            return "layers"
    if batch < mesh.dp:
        return "batch"
    return "ok"
