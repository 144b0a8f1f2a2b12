"""Memory of a GPU (physics.md section 9)."""

import math

from .equations import Block
from .kernels import kernel_cost
from .local import BYTES, Env, Pass
from .schedule import make_schedule
from .setup import Setup, expand


def layer_weight_bytes(env: Env, counted_tied: set[str]) -> float:
    """Bytes of the weights of one layer on one GPU, of either phase, split as at their first use (section 9)."""
    total = 0.0
    seen: set[str] = set()
    for kernel in env.block.kernels:
        for equation in kernel.equations:
            for tensor in equation.reads():
                name = tensor.name
                if name not in env.model.weights or name in seen or name in counted_tied:
                    continue
                seen.add(name)
                elements = env.elements(tensor, equation, None)  # a routed rank is split over ep like any other
                if equation.routed is not None and equation.routed in tensor.ranks:
                    elements *= 1 + env.run.copies / env.model.extents[equation.routed]
                total += elements * BYTES[env.dtype(tensor, "weights")]
    counted_tied.update(seen & env.model.tied)
    return total


def layer_cache_bytes(setup: Setup, block: Block) -> float:
    """KV cache bytes of one layer on one GPU (Eq. 9.4)."""
    windows: list[int | None] = []
    for _, step in (setup.prefill_passes(), setup.decode_passes()):
        env = setup.env(block, step)
        for kernel in block.of_phase(step.phase):
            reads = [tensor for equation in kernel.equations for tensor in equation.reads()]
            if any(tensor.name in setup.model.cache and "t" in tensor.ranks for tensor in reads):
                windows.append(env.window(kernel))
    limits = [window for window in windows if window is not None]
    tokens = setup.prompt + setup.output
    if limits and len(limits) == len(windows):
        tokens = min(tokens, max(limits))

    one_token = setup.env(block, Pass("prefill", 1, 1, 1))
    total = 0.0
    seen: set[str] = set()
    for kernel in block.kernels:
        for equation in kernel.equations:
            made = equation.result
            if made.name in setup.model.cache and made.name not in seen:
                seen.add(made.name)
                total += one_token.elements(made, equation, None) * BYTES[one_token.dtype(made, "cache")]
    # A context-parallel rank already counts 1/cp of a token.
    return math.ceil(setup.batch / setup.mesh.dp) * tokens * total


def largest_activations(envs: list[Env]) -> float:
    """Largest activation bytes of any one kernel of a pass."""
    fused = make_schedule(envs).fused if envs[0].run.fused_norm else {}
    by_kernel: dict[tuple[int, int, frozenset[str] | None], float] = {}
    for layer, env in enumerate(envs):
        for position, kernel in enumerate(env.block.of_phase(env.step.phase)):
            handed = fused.get((layer, position))
            key = (id(env.block), position, handed)
            if key not in by_kernel:
                by_kernel[key] = kernel_cost(env, kernel, 0, handed).activation_bytes
    return max(by_kernel.values(), default=0.0)


def memory_bytes(setup: Setup) -> float:
    """Bytes on a GPU of the fullest stage (left side of Eq. 9.3)."""
    _, step = setup.prefill_passes()
    held = [0.0] * setup.mesh.pp
    counted_tied: set[str] = set()
    for stage, block in expand(setup.model, setup.mesh.pp):
        held[stage] += layer_weight_bytes(setup.env(block, step), counted_tied)
        held[stage] += layer_cache_bytes(setup, block)
    full = Pass("prefill", setup.full_prefill_pass(), setup.prompt, setup.prompt)
    activations = largest_activations([env for _, env in setup.layers(full)])
    return float(max(held) + activations + setup.gpu["memory"]["reserve_bytes"])
