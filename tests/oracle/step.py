"""Stages, prefill, decode, memory and the request batch (physics.md sections 8 and 9)."""

import math
from dataclasses import dataclass, replace
from typing import Any

from .collectives import Collective, Deriver, collective_energy, collective_time, send_recv
from .equations import Block, Kernel, Model, parse_model, stored_names
from .kernels import dynamic_energy, kernel_cost
from .local import BYTES, Env, Pass
from .mesh import Mesh, infeasible_reason
from .trust import Z_80, deviation, extrapolated

DYNAMIC_CAUSES = ("compute", "hbm_weights", "hbm_kv", "hbm_activations", "communication")


@dataclass(frozen=True)
class Phase:
    """Time, energy and energy by cause of the prefill phase or of one decode step."""

    time: float
    energy: float
    causes: dict[str, float]


@dataclass
class Stage:
    """Sums over one stage, per GPU and pass."""

    kernel_time: float
    communication_time: float
    time: float
    dynamic: dict[str, float]


@dataclass(frozen=True)
class Setup:
    """A point with its specs looked up."""

    model: Model
    gpu: dict[str, Any]
    mesh: Mesh
    max_batched_tokens: int
    batch: int
    prompt: int
    output: int

    def env(self, block: Block, step: Pass) -> Env:
        """Environment of one block in one pass."""
        return Env(self.model, self.gpu, self.mesh, block, step, stored_names(self.model, block, step.phase))

    def full_prefill_pass(self) -> int:
        """Return q, the sequences of a full prefill pass."""
        b0 = math.ceil(self.batch / self.mesh.dp)
        return int(min(math.ceil(b0 / self.mesh.pp), max(1, self.max_batched_tokens // self.prompt)))

    def prefill_passes(self) -> tuple[int, Pass]:
        """Return the number of prefill passes, and one of them."""
        b0 = math.ceil(self.batch / self.mesh.dp)
        n = math.ceil(b0 / self.full_prefill_pass())
        return n, Pass("prefill", b0 / n, self.prompt, self.prompt)

    def decode_passes(self) -> tuple[int, Pass]:
        """Return the number of passes of a decode step, and one of them."""
        b0 = math.ceil(self.batch / self.mesh.dp)
        n = min(self.mesh.pp, b0)
        return n, Pass("decode", b0 / n, 1, self.prompt + max(self.output, 2) / 2)


def expand(model: Model, pp: int) -> list[tuple[int, Block]]:
    """(stage, block) of every layer, in execution order (section 8)."""
    total = sum(block.repeat for block in model.blocks if block.repeat > 1)
    stage_of: list[int] = []
    for stage in range(pp):
        stage_of += [stage] * (total // pp + (1 if stage < total % pp else 0))
    layers: list[tuple[int, Block]] = []
    dealt = 0
    for block in model.blocks:
        if block.repeat > 1:
            for _ in range(block.repeat):
                layers.append((stage_of[dealt], block))
                dealt += 1
        else:
            layers.append((0 if dealt == 0 else pp - 1, block))
    return layers


def kernel_and_collectives(env: Env, kernel: Kernel, after: list[Collective], plain: float) -> tuple[float, float]:
    """Return (kernel time, exposed communication) of a kernel and what follows it, overlapped if asked (section 7)."""
    times = [collective_time(env, collective, collective.message) for collective in after]
    if kernel.name not in env.block.overlap or not after:
        return plain, sum(times)
    stages, sms = env.block.overlap[kernel.name]
    if sms >= env.gpu["compute"]["sms"]:
        return plain, sum(times)
    small = replace(env, step=replace(env.step, b=env.step.b / stages))
    c = kernel_cost(small, kernel, sms).time
    fraction = min(1.0, sms / env.gpu["link"]["sms_to_saturate"])
    r = collective_time(env, after[0], after[0].message / stages, fraction)
    total = c + (stages - 1) * max(c, r) + r
    return stages * c, total - stages * c + sum(times[1:])


def run_stages(setup: Setup, step: Pass) -> list[Stage]:
    """t_k and D_k of every stage (section 8)."""
    layers = expand(setup.model, setup.mesh.pp)
    by_block = {id(block): setup.env(block, step) for block in setup.model.blocks}
    envs = [by_block[id(block)] for _, block in layers]
    plan = Deriver(envs).run()
    stages = [Stage(0.0, 0.0, 0.0, dict.fromkeys(DYNAMIC_CAUSES, 0.0)) for _ in range(setup.mesh.pp)]
    costs = {
        (key, position): kernel_cost(env, kernel)
        for key, env in by_block.items()
        for position, kernel in enumerate(env.block.of_phase(step.phase))
    }
    for layer, (number, block) in enumerate(layers):
        env, stage = envs[layer], stages[number]
        for position, kernel in enumerate(block.of_phase(step.phase)):
            cost = costs[id(block), position]
            before = plan.before.get((layer, position), [])
            after = plan.after.get((layer, position), [])
            kernel_time, communication = kernel_and_collectives(env, kernel, after, cost.time)
            stage.kernel_time += kernel_time
            stage.communication_time += communication
            stage.communication_time += sum(collective_time(env, one, one.message) for one in before)
            for cause, joules in dynamic_energy(env, cost).items():
                stage.dynamic[cause] += joules
            stage.dynamic["communication"] += sum(collective_energy(env, one) for one in before + after)

    host, power = setup.gpu["host"], setup.gpu["power"]
    if setup.mesh.pp > 1:
        first_repeated = next(block for block in setup.model.blocks if block.repeat > 1)
        env = by_block[id(first_repeated)]
        message = send_recv(env)
        for stage in stages:
            stage.communication_time += collective_time(env, message, message.message)
            stage.dynamic["communication"] += collective_energy(env, message)
    for stage in stages:
        stage.kernel_time += host.get("sequence_s", 0.0) * step.b
        stage.dynamic["compute"] += power.get("active_w", 0.0) * stage.kernel_time
        stage.dynamic["compute"] += power.get("sequence_j", 0.0) * step.b
        stage.dynamic["communication"] += power.get("communication_w", 0.0) * stage.communication_time
        stage.time = host["host_s"] + stage.kernel_time + stage.communication_time
        dynamic = sum(stage.dynamic.values())
        if dynamic / stage.time + power["static_w"] > power["tdp_w"]:
            drawn = (power["tdp_w"] - power["static_w"]) * stage.time / dynamic
            stage.dynamic = {cause: joules * drawn for cause, joules in stage.dynamic.items()}
    return stages


def run_phase(setup: Setup, passes: int, step: Pass) -> Phase:
    """Time and energy of the prefill phase, or of one decode step (section 8)."""
    stages = run_stages(setup, step)
    total, slowest = sum(stage.time for stage in stages), max(stage.time for stage in stages)
    time = total + (passes - 1) * slowest if step.phase == "prefill" else max(total, passes * slowest)

    gpus, static_w = setup.mesh.stage_gpus, setup.gpu["power"]["static_w"]
    causes = {cause: gpus * passes * sum(stage.dynamic[cause] for stage in stages) for cause in DYNAMIC_CAUSES}
    dynamic = sum(causes.values())
    static = gpus * setup.mesh.pp * static_w * time
    communicating = gpus * static_w * passes * sum(stage.communication_time for stage in stages)
    running = gpus * static_w * passes * sum(stage.kernel_time for stage in stages)
    causes["communication"] += communicating
    causes["static"] = running
    causes["waiting"] = static - communicating - running
    return Phase(time, dynamic + static, causes)


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
                total += elements * BYTES[env.dtype(tensor, "weights")]
    counted_tied.update(seen & env.model.tied)
    return total


def layer_cache_bytes(setup: Setup, block: Block) -> float:
    """KV cache bytes of one layer on one GPU (section 9)."""
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
    return math.ceil(setup.batch / setup.mesh.dp) * tokens * total


def memory_bytes(setup: Setup) -> float:
    """Bytes on a GPU of the fullest stage (section 9)."""
    _, step = setup.prefill_passes()
    held = [0.0] * setup.mesh.pp
    counted_tied: set[str] = set()
    for stage, block in expand(setup.model, setup.mesh.pp):
        held[stage] += layer_weight_bytes(setup.env(block, step), counted_tied)
        held[stage] += layer_cache_bytes(setup, block)
    activations = 0.0
    full = Pass("prefill", setup.full_prefill_pass(), setup.prompt, setup.prompt)
    for block in setup.model.blocks:
        env = setup.env(block, full)
        for kernel in block.of_phase("prefill"):
            activations = max(activations, kernel_cost(env, kernel).activation_bytes)
    return float(max(held) + activations + setup.gpu["memory"]["reserve_bytes"])


def predict(plan: dict[str, Any], point: dict[str, Any]) -> dict[str, Any]:
    """Predict one point of a plan."""
    raw = next(model for model in plan["models"] if model["name"] == point["model"])
    gpu = next(gpu for gpu in plan["gpus"] if gpu["name"] == point["gpu"])
    model = parse_model(raw)
    for kind, key in (("weights", "weight_dtype"), ("cache", "kv_dtype")):
        if point.get(key) is not None:
            model.dtypes[kind] = point[key]
    mesh = Mesh(point["tp"], point["pp"], point["dp"], point["ep"])
    batch, prompt, output = point["batch"], point["prompt_tokens"], point["output_tokens"]
    reason = infeasible_reason(model, mesh, batch)
    if reason != "ok":
        return {"feasible": False, "reason": reason}

    setup = Setup(model, gpu, mesh, plan["settings"]["max_batched_tokens"], batch, prompt, output)
    prefill = run_phase(setup, *setup.prefill_passes())
    decode = run_phase(setup, *setup.decode_passes())
    memory = memory_bytes(setup)
    fits = memory <= gpu["memory"]["capacity_bytes"]
    latency = prefill.time + (output - 1) * decode.time
    energy_decode = (output - 1) * decode.energy
    energy = prefill.energy + energy_decode
    gpus = mesh.stage_gpus * mesh.pp
    joules = {cause: prefill.causes[cause] + (output - 1) * decode.causes[cause] for cause in prefill.causes}
    envs = [setup.env(block, setup.prefill_passes()[1]) for block in model.blocks]
    beyond = extrapolated(gpu, envs, gpus, batch, prompt + output)
    half = Z_80 * deviation(gpu, envs, joules) * (2 if beyond else 1)
    return {
        "feasible": fits,
        "reason": "ok" if fits else "memory",
        "ttft_s": prefill.time,
        "tpot_s": decode.time,
        "latency_s": latency,
        "energy_j": energy,
        "energy_lo_j": energy / (1 + half / energy),
        "energy_hi_j": energy + half,
        "extrapolated": beyond,
        "energy_prefill_j": prefill.energy,
        "energy_decode_j": energy_decode,
        "energy_per_output_token_j": energy / (batch * output),
        "power_w_per_gpu": energy / (latency * gpus),
        "output_tokens_per_s": batch * output / latency,
        "memory_bytes_per_gpu": memory,
        "gpus": gpus,
        "prefill_causes": prefill.causes,
        "decode_causes": decode.causes,
    }
