"""Bytes of one kernel (physics.md sections 4 and 6)."""

from dataclasses import dataclass, field
from typing import Any

from .equations import Equation, Factor, Kernel, Tensor, reads_from_memory
from .loads import worked
from .local import BYTES, Env


@dataclass
class Cost:
    """What one kernel does on one GPU in one pass."""

    time: float = 0.0
    clocked: float = 0.0  # seconds that follow the clock (Eq. 11.5)
    matrix_flops: dict[str, float] = field(default_factory=dict)
    padding_flops: dict[str, float] = field(default_factory=dict)
    vector_flops: float = 0.0
    weight_bytes: float = 0.0
    busiest_weight_bytes: float = 0.0  # of the GPU with the most tokens: seconds, not joules
    kv_bytes: float = 0.0
    activation_bytes: float = 0.0
    on_chip_bytes: float = 0.0


def weight_elements(
    env: Env, tensor: Tensor, equation: Equation, factor: Factor, kernel: Kernel, entry: dict[str, Any]
) -> tuple[float, float]:
    """Elements of a weight that the kernel reads on a mean GPU, and on the one with the most tokens (Eq. 6.10)."""
    if factor.function == "embed":
        tensor = Tensor("", env.factor_ranks(factor, equation))
    elif equation.routed is not None and equation.routed in tensor.ranks:
        expert = Tensor(tensor.name, tuple(rank for rank in tensor.ranks if rank != equation.routed))
        hit, elements = worked(env, equation.routed, entry), env.elements(expert, equation, kernel)
        return hit.mean * elements, hit.busiest * elements
    elements = env.elements(tensor, equation, kernel)
    return elements, elements


def add_reads(env: Env, kernel: Kernel, cost: Cost, handed: frozenset[str], entry: dict[str, Any]) -> None:
    """HBM reads of a kernel (section 4, Eq. 4.1), less what the collective it is fused with hands to it."""
    for tensor, equation, factor in reads_from_memory(kernel):
        if tensor.name in handed:
            continue
        if tensor.name in env.model.weights:
            mean, busiest = weight_elements(env, tensor, equation, factor, kernel, entry)
            cost.weight_bytes += mean * BYTES[env.dtype(tensor, "weights")]
            cost.busiest_weight_bytes += busiest * BYTES[env.dtype(tensor, "weights")]
        elif tensor.name in env.model.cache and "t" in tensor.ranks:
            elements = env.elements(tensor, equation, kernel)
            window = env.window(kernel)
            if window is not None:
                elements *= min(env.step.t, window + env.step.s - 1) / env.step.t
            cost.kv_bytes += elements * BYTES[env.dtype(tensor, "cache")]
        else:
            index = tensor
            if factor.function == "last":
                index = Tensor(tensor.name, tuple(rank for rank in tensor.ranks if rank in equation.result.ranks))
            cost.activation_bytes += env.elements(index, equation, kernel) * BYTES[env.dtype(tensor, "activations")]


def add_writes(env: Env, kernel: Kernel, cost: Cost) -> None:
    """HBM writes of a kernel, and the bytes of what stays on chip (Eq. 4.2)."""
    seen: set[str] = set()
    for equation in kernel.equations:
        made = equation.result
        if made.name in seen:
            continue
        seen.add(made.name)
        elements = env.elements(made, equation, kernel)
        if made.name in env.model.cache:
            cost.kv_bytes += elements * BYTES[env.dtype(made, "cache")]
        elif made.name in env.stored:
            cost.activation_bytes += elements * BYTES[env.dtype(made, "activations")]
        else:
            cost.on_chip_bytes += 2 * elements * BYTES[env.dtype(made, "activations")]
