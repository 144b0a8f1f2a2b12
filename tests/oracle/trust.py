"""The interval of a prediction, and whether it is extrapolated (physics.md section 10)."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .clock import tables
from .how import Run
from .local import BYTES, Env

Z_80 = 1.2815515655446
DEFAULT = {
    "compute": 0.25,
    "hbm_weights": 0.25,
    "hbm_kv": 0.25,
    "hbm_activations": 0.25,
    "communication": 0.5,
    "static": 0.25,
    "waiting": 0.5,
    "common": 0.2,
    "routed": 0.2,
    "narrow": 0.2,
}


def operands(envs: list[Env]) -> Iterator[tuple[str, str]]:
    """(kernel class, weight format) of every matrix product with a weight."""
    for env in envs:
        for kernel in env.block.kernels:
            for equation in kernel.equations:
                weighted = any(env.is_weight(factor) for factor in equation.factors)
                if weighted and env.product(equation) is not None:
                    yield env.kernel_class(kernel), env.operand(equation)


def effective(gpu: dict[str, Any], run: Run) -> Run:
    """Return how a point runs without what changes nothing: the highest clock, the board's limit as a cap."""
    if not tables(gpu) or run.power_cap_w == gpu["power"]["tdp_w"]:
        run = replace(run, power_cap_w=None)
    if tables(gpu) and run.sm_clock_mhz == gpu["clock"]["max_mhz"]:
        run = replace(run, sm_clock_mhz=None)
    return run


def extrapolated(gpu: dict[str, Any], envs: list[Env], gpus: int, batch: int, tokens: int) -> bool:
    """Whether a weight format, the number of GPUs, the batch or the length is beyond what the profile's fits reach."""
    limits, kernels = gpu.get("range", {}), gpu["kernels"]
    runs = [effective(gpu, env.run) for env in envs]
    if any(env.mesh.cp > 1 for env in envs) or not all(run.measured() for run in runs):
        return True
    for kind, fmt in operands(envs):
        if kind in ("gemm", "grouped_gemm") and fmt not in (*kernels[kind], "fp32", "fp16"):
            return True
    sizes = {"gpus": gpus, "batch": batch, "context_tokens": tokens}
    return any(size > limits.get(name, math.inf) for name, size in sizes.items())


def deviation(gpu: dict[str, Any], envs: list[Env], joules: dict[str, float]) -> float:
    """Standard deviation of the energy, in joules (the root of Eq. 10.1)."""
    relative = gpu.get("uncertainty", DEFAULT)
    variance = sum((relative[cause] * part) ** 2 for cause, part in joules.items())
    whole = relative["common"] ** 2
    if any(env.model.active for env in envs):
        whole += relative["routed"] ** 2
    if any(BYTES[fmt] < 1.5 for _, fmt in operands(envs)):
        whole += relative["narrow"] ** 2
    return math.sqrt(variance + whole * sum(joules.values()) ** 2)
