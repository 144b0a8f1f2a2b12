"""Equations of a model: text, weights and activations, routed ranks (physics.md section 2)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .how import law_json

# FLOP per element of the largest argument (Eq. 2.2, c_f).
FUNCTION_FLOPS: dict[str, float] = {
    "add": 1, "mul": 1, "scale": 1, "relu": 1, "sigmoid": 4, "silu": 5, "gelu": 8, "swiglu": 8,
    "norm": 4, "softmax": 5, "rope": 3, "topk": 2, "sample": 1, "embed": 0, "last": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """A tensor name with its index at one place of use."""

    name: str
    ranks: tuple[str, ...]


@dataclass(frozen=True)
class Factor:
    """`T[ranks]` (function is None, one argument) or `f(T[ranks], ...)`."""

    function: str | None
    args: tuple[Tensor, ...]

    @property
    def key(self) -> str:
        """Name under which equal left operands are recognised when products merge."""
        names = ",".join(arg.name for arg in self.args)
        return names if self.function is None else f"{self.function}({names})"


@dataclass(frozen=True)
class Equation:
    """`result = factor` or `result = factor * factor`; `routed` is the routed rank, None if dense."""

    result: Tensor
    factors: tuple[Factor, ...]
    routed: str | None = None

    def reads(self) -> list[Tensor]:
        """Return the tensors read, left to right."""
        return [arg for factor in self.factors for arg in factor.args]

    def all_ranks(self) -> list[str]:
        """Union of the ranks that appear anywhere in the equation, in order of appearance."""
        ranks: list[str] = []
        for tensor in [self.result, *self.reads()]:
            for rank in tensor.ranks:
                if rank not in ranks:
                    ranks.append(rank)
        return ranks


@dataclass(frozen=True)
class Kernel:
    """A named list of equations, run in one phase or (None) in both."""

    name: str
    equations: tuple[Equation, ...]
    phase: str | None


@dataclass(frozen=True)
class Block:
    """Kernels repeated `repeat` times, with the shard map, masks and overlaps that hold in it."""

    name: str
    repeat: int
    kernels: tuple[Kernel, ...]
    shard: tuple[tuple[str, str], ...]
    mask: dict[str, int | None]
    overlap: dict[str, tuple[int, int, str]]  # stages, SMs, phases

    def of_phase(self, phase: str) -> list[Kernel]:
        """Return the kernels that run in `phase`."""
        return [kernel for kernel in self.kernels if kernel.phase in (None, phase)]


@dataclass(frozen=True)
class Model:
    """A parsed model."""

    extents: dict[str, int]
    active: dict[str, int]  # routed ranks only
    routing: dict[str, str]  # of these: JSON of their laws
    groups: dict[str, tuple[int, int]]  # of these, if limited: groups of experts, and in how many a token's are
    blocks: tuple[Block, ...]
    cache: frozenset[str]
    dtypes: dict[str, str]
    tied: frozenset[str]
    weights: frozenset[str]


def parse_tensor(text: str) -> Tensor:
    """Parse `T[a,b,c]`."""
    match = re.fullmatch(r"\s*(\w+)\s*\[([^\]]*)\]\s*", text)
    if match is None:
        raise ValueError(f"not a tensor: {text!r}")
    ranks = tuple(rank.strip() for rank in match.group(2).split(",") if rank.strip())
    if len(set(ranks)) != len(ranks) or any(len(rank) != 1 for rank in ranks):
        raise ValueError(f"ranks of {text!r}")
    return Tensor(match.group(1), ranks)


def parse_factor(text: str) -> Factor:
    """Parse `T[ranks]` or `f(T[ranks], ...)`."""
    match = re.fullmatch(r"\s*(\w+)\s*\((.*)\)\s*", text)
    if match is None:
        return Factor(None, (parse_tensor(text),))
    if match.group(1) not in FUNCTION_FLOPS:
        raise ValueError(f"unknown function in {text!r}")
    args = re.findall(r"\w+\s*\[[^\]]*\]", match.group(2))
    return Factor(match.group(1), tuple(parse_tensor(arg) for arg in args))


def parse_equation(text: str) -> Equation:
    """Parse one equation."""
    left, right = text.split("=")
    factors = tuple(parse_factor(part) for part in right.split("*"))
    if len(factors) > 2:
        raise ValueError(f"more than two factors: {text!r}")
    return Equation(parse_tensor(left), factors)


def makers(blocks: list[list[Equation]], reader: int, name: str) -> list[tuple[int, Equation]]:
    """Equations that make `name` for a reader in block `reader`: its own block's, else those of any block."""
    local = [(reader, equation) for equation in blocks[reader] if equation.result.name == name]
    if local:
        return local
    return [
        (number, equation) for number, block in enumerate(blocks) for equation in block if equation.result.name == name
    ]


def dense_equations(blocks: list[list[Equation]], rank: str) -> list[tuple[int, Equation]]:
    """(block, equation) where the routed `rank` is dense: those that feed the argument of a topk, or hold it."""
    dense: list[tuple[int, Equation]] = []
    open_reads: list[tuple[int, str]] = []
    for number, block in enumerate(blocks):
        for equation in block:
            for factor in equation.factors:
                carriers = [arg.name for arg in factor.args if rank in arg.ranks]
                if factor.function == "topk" and carriers:
                    dense.append((number, equation))
                    open_reads += [(number, name) for name in carriers]
    while open_reads:
        reader, name = open_reads.pop()
        for number, equation in makers(blocks, reader, name):
            if rank in equation.result.ranks and (number, equation) not in dense:
                dense.append((number, equation))
                open_reads += [(number, tensor.name) for tensor in equation.reads() if rank in tensor.ranks]
    return dense


def mark_routed(blocks: list[list[Equation]], routed_ranks: Iterable[str]) -> list[Equation]:
    """Set `routed` on every equation that carries a routed rank in which it is not dense; return all in order."""
    dense = {rank: dense_equations(blocks, rank) for rank in routed_ranks}
    marked: list[Equation] = []
    for number, block in enumerate(blocks):
        for equation in block:
            routed = None
            for rank, where_dense in dense.items():
                if rank in equation.all_ranks() and (number, equation) not in where_dense:
                    routed = rank
            marked.append(Equation(equation.result, equation.factors, routed))
    return marked


def merge_shard(model: list[list[str]], block: list[list[str]], routed: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Build a block's shard map: its own entries replace the model's in place; a routed rank always takes ep."""
    entries = dict(model)
    entries.update(dict(block))
    for rank in routed:
        entries[rank] = "ep"
    return tuple(entries.items())


def parse_model(raw: dict[str, Any]) -> Model:
    """Parse one model of the plan."""
    extents = {rank: int(entry["extent"]) for rank, entry in raw["ranks"].items()}
    active: dict[str, int] = {}
    routing: dict[str, str] = {}
    groups: dict[str, tuple[int, int]] = {}
    for rank, entry in raw["ranks"].items():
        if entry.get("active") is not None:
            active[rank] = int(entry["active"])
            routing[rank] = law_json(entry.get("routing", {"law": "uniform"}))
            if entry.get("groups") is not None:
                groups[rank] = int(entry["groups"]), int(entry["active_groups"])

    parsed: list[list[Equation]] = []
    for block in raw["blocks"]:
        parsed.append([parse_equation(text) for kernel in block["kernels"] for text in kernel["equations"]])
    equations = mark_routed(parsed, active)
    made = {equation.result.name for equation in equations}
    weights: set[str] = set()
    for equation in equations:
        for tensor in equation.reads():
            if tensor.name not in made and not set(tensor.ranks) & {"b", "s", "t"}:
                weights.add(tensor.name)

    blocks: list[Block] = []
    position = 0
    for block in raw["blocks"]:
        kernels: list[Kernel] = []
        for kernel in block["kernels"]:
            count = len(kernel["equations"])
            part = tuple(equations[position : position + count])
            kernels.append(Kernel(kernel["name"], part, kernel.get("phase")))
            position += count
        mask = {**(raw.get("mask") or {}), **(block.get("mask") or {})}
        overlap = {**(raw.get("overlap") or {}), **(block.get("overlap") or {})}
        blocks.append(
            Block(
                name=block["name"],
                repeat=int(block.get("repeat") or 1),
                kernels=tuple(kernels),
                shard=merge_shard(raw.get("shard") or [], block.get("shard") or [], active),
                mask={name: entry.get("window") for name, entry in mask.items()},
                overlap={
                    name: (int(entry["stages"]), int(entry["sms"]), entry.get("where") or "both")
                    for name, entry in overlap.items()
                },
            )
        )
    return Model(
        extents=extents,
        active=active,
        routing=routing,
        groups=groups,
        blocks=tuple(blocks),
        cache=frozenset(raw.get("cache") or []),
        dtypes=dict(raw["dtypes"]),
        tied=frozenset(raw.get("tied") or []),
        weights=frozenset(weights),
    )


def reads_from_memory(kernel: Kernel) -> list[tuple[Tensor, Equation, Factor]]:
    """List tensors the kernel reads and has not made earlier, each once, at its first read (section 4)."""
    made: set[str] = set()
    seen: set[str] = set()
    reads: list[tuple[Tensor, Equation, Factor]] = []
    for equation in kernel.equations:
        for factor in equation.factors:
            for tensor in factor.args:
                if tensor.name not in made and tensor.name not in seen:
                    seen.add(tensor.name)
                    reads.append((tensor, equation, factor))
        made.add(equation.result.name)
    return reads


def reads_before_making(block: Block, phase: str) -> set[str]:
    """Names a block reads before it makes them itself."""
    made: set[str] = set()
    names: set[str] = set()
    for kernel in block.of_phase(phase):
        names.update(tensor.name for tensor, _, _ in reads_from_memory(kernel) if tensor.name not in made)
        made.update(equation.result.name for equation in kernel.equations)
    return names


def stored_names(model: Model, block: Block, phase: str) -> frozenset[str]:
    """Names that a kernel of the block must write to memory when it makes them, in a phase (section 4)."""
    stored: set[str] = set(model.cache)
    for reader in model.blocks:
        stored.update(reads_before_making(reader, phase))
    made: set[str] = set()
    read: set[str] = set()
    for kernel in block.of_phase(phase):
        stored.update(tensor.name for tensor, _, _ in reads_from_memory(kernel))
        for equation in kernel.equations:
            made.add(equation.result.name)
            read.update(tensor.name for tensor in equation.reads())
    return frozenset(stored | (made - read))
