"""Stages, prefill, decode and the request batch (physics.md sections 8, 9 and 11)."""

from dataclasses import dataclass, field, replace
from typing import Any

from .clock import Load, at_clock, settled, unknown_cap
from .collectives import send_recv
from .communication import both, collective_energy, collective_time
from .equations import parse_model
from .feasible import run_reason
from .how import read_run
from .local import Env, Pass
from .memory import layer_cache_bytes as layer_cache_bytes
from .memory import layer_weight_bytes as layer_weight_bytes
from .memory import memory_bytes
from .mesh import Mesh, infeasible_reason
from .parts import DYNAMIC_CAUSES, Part, Work, layer_parts
from .parts import kernel_and_collectives as kernel_and_collectives
from .schedule import make_schedule
from .setup import Setup as Setup
from .setup import expand as expand
from .trust import Z_80, deviation, extrapolated


@dataclass(frozen=True)
class Phase:
    """Time, energy and energy by cause of the prefill phase or of one decode step."""

    time: float
    energy: float
    causes: dict[str, float]
    watts: float  # of the stage that draws the most


@dataclass
class Stage:
    """Sums over one stage, per GPU and pass."""

    kernel_time: float = 0.0
    exposed: float = 0.0  # seconds of exposed collectives, without the message to the next stage
    drawing: float = 0.0  # seconds at `communication_w`, without it
    clocked: float = 0.0  # seconds that follow the clock (Eq. 11.5)
    without_message: float = 0.0  # seconds without the message to the next stage (Eq. 8.1)
    message: float = 0.0  # seconds of the message to the next stage
    message_exposed: float = 0.0  # those that nothing hides (Eq. 8.2)
    waiting: float = 1.0  # waiting power under a cap, over that at the point's clock
    saved: float = 0.0  # seconds' worth of waiting power that a cap saves
    dynamic: dict[str, float] = field(default_factory=lambda: dict.fromkeys(DYNAMIC_CAUSES, 0.0))

    @property
    def time(self) -> float:
        """Seconds of the first pass (Eq. 8.2)."""
        return self.without_message + self.message

    @property
    def again(self) -> float:
        """Seconds of every later pass (Eq. 8.2)."""
        return self.without_message + self.message_exposed

    def add(self, part: Part) -> None:
        """Add a kernel or a block."""
        self.kernel_time += part.kernel
        self.exposed += part.exposed
        self.drawing += part.drawing
        self.clocked += part.clocked
        for cause, joules in part.dynamic.items():
            self.dynamic[cause] += joules


def run_stages(setup: Setup, step: Pass) -> list[Stage]:
    """Seconds and dynamic joules of every stage (Eq. 8.1, 8.2, 8.3)."""
    layers = setup.layers(step)
    envs = [env for _, env in layers]
    schedule = make_schedule(envs)
    stages = [Stage() for _ in range(setup.mesh.pp)]
    known: dict[tuple[int, tuple[Work, ...]], list[Part]] = {}
    for layer, (number, env) in enumerate(layers):
        works: list[Work] = []
        for position, kernel in enumerate(env.block.of_phase(step.phase)):
            place = (layer, position)
            works.append((kernel, tuple(schedule.listed[place]), schedule.fused.get(place)))
        key = (id(env.block), tuple(works))
        if key not in known:
            known[key] = layer_parts(env, tuple(works))
        for part in known[key]:
            stages[number].add(part)
    for stage in stages:
        finish(setup, step, envs, stage)
    return stages


def finish(setup: Setup, step: Pass, envs: list[Env], stage: Stage) -> None:
    """Add host, message between stages and power to a stage; settle its clock, the limit and the cap (Eq. 8.3)."""
    gpu, dynamic = setup.gpu, stage.dynamic
    host, power = gpu["host"], gpu["power"]
    stage.kernel_time += host.get("sequence_s", 0.0) * step.b
    stage.without_message = host["host_s"] + stage.kernel_time + stage.exposed
    if setup.mesh.pp > 1:
        env = next(env for env in envs if env.block.repeat > 1)
        sent = send_recv(env)
        stage.message = stage.message_exposed = collective_time(env, sent, sent.message)
        if setup.run.overlaps(step.phase):
            stage.message_exposed = both(env, stage.without_message, stage.message) - stage.without_message
        dynamic["communication"] += collective_energy(env, sent)
    dynamic["compute"] += power.get("sequence_j", 0.0) * step.b
    dynamic["communication"] += power.get("communication_w", 0.0) * (stage.drawing + stage.message_exposed)

    work, rest = dynamic["compute"], sum(dynamic.values()) - dynamic["compute"]
    done = settled(gpu, setup.run, Load(stage.again, stage.kernel_time, stage.clocked, work, rest))
    added = done.time - stage.again
    stage.kernel_time += added
    stage.without_message += added
    dynamic["compute"] = done.compute
    for cause in dynamic:
        dynamic[cause] *= done.scale
    stage.waiting, stage.saved = done.waiting, (1 - done.waiting) * done.time


def run_phase(setup: Setup, passes: int, step: Pass) -> Phase:
    """Time and energy of the prefill phase, or of one decode step (Eq. 8.7, 8.8, 8.9)."""
    stages = run_stages(setup, step)
    total, slowest = sum(stage.time for stage in stages), max(stage.again for stage in stages)
    time = total + (passes - 1) * slowest if step.phase == "prefill" else max(total, passes * slowest)

    gpus, static_w = setup.mesh.stage_gpus * setup.mesh.cp, setup.gpu["power"]["static_w"]
    causes = {cause: gpus * passes * sum(stage.dynamic[cause] for stage in stages) for cause in DYNAMIC_CAUSES}
    dynamic = sum(causes.values())
    saved = gpus * static_w * passes * sum(stage.saved for stage in stages)
    static = gpus * setup.mesh.pp * static_w * time - saved
    communicating = (
        gpus * static_w * passes * sum(stage.waiting * (stage.exposed + stage.message_exposed) for stage in stages)
    )
    running = gpus * static_w * passes * sum(stage.waiting * stage.kernel_time for stage in stages)
    causes["communication"] += communicating
    causes["static"] = running
    causes["waiting"] = static - communicating - running
    watts = max(sum(stage.dynamic.values()) / stage.again + static_w for stage in stages)
    return Phase(time, dynamic + static, causes, watts)


def predict(plan: dict[str, Any], point: dict[str, Any]) -> dict[str, Any]:
    """Predict one point of a plan (Eq. 9.1, 9.2, 9.3, 10.1, 10.2)."""
    raw = next(model for model in plan["models"] if model["name"] == point["model"])
    gpu = next(gpu for gpu in plan["gpus"] if gpu["name"] == point["gpu"])
    model = parse_model(raw)
    for kind, key in (("weights", "weight_dtype"), ("cache", "kv_dtype")):
        if point.get(key) is not None:
            model.dtypes[kind] = point[key]
    mesh = Mesh(point["tp"], point["pp"], point["dp"], point["ep"], point.get("cp") or 1)
    batch, prompt, output = point["batch"], point["prompt_tokens"], point["output_tokens"]
    run = read_run(point, plan.get("routings", []))
    setup = Setup(model, gpu, mesh, plan["settings"]["max_batched_tokens"], batch, prompt, output, run)
    reason = infeasible_reason(model, mesh, batch)
    if reason in ("ok", "batch"):  # "batch" comes after the reasons of section 11
        other = run_reason(setup)
        reason = other if other != "ok" else reason
    if reason != "ok":
        return {"feasible": False, "reason": reason}

    gpu = at_clock(gpu, run.sm_clock_mhz)
    setup = replace(setup, gpu=gpu)
    prefill = run_phase(setup, *setup.prefill_passes())
    decode = run_phase(setup, *setup.decode_passes())
    memory = memory_bytes(setup)
    fits = memory <= gpu["memory"]["capacity_bytes"]
    cap = unknown_cap(gpu, run)
    if fits and cap is not None and max(prefill.watts, decode.watts) > cap * (1 + 1e-12):
        return {"feasible": False, "reason": "power"}
    latency = prefill.time + (output - 1) * decode.time
    energy_decode = (output - 1) * decode.energy
    energy = prefill.energy + energy_decode
    gpus = mesh.engine_gpus
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
