"""A GPU that is not there: known coefficients give seconds and watts, meters that step and jitter show them.

Nothing here was measured. What `energylens measure` makes of such a GPU must lead back to the coefficients.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from energylens.calibrate.device import device
from energylens.calibrate.kernels.attention import Calls, DecodeModel, PrefillModel
from energylens.calibrate.kernels.collectives import busfactor
from energylens.calibrate.kernels.gemm import TILES, GemmModel, Products
from energylens.calibrate.kernels.moe import SKEWS, Experts, MoeModel
from energylens.calibrate.kernels.moe import TILES as EXPERT_TILES
from energylens.calibrate.own_gpu import power
from energylens.calibrate.own_gpu.kernels import ELEMENT_BYTES
from energylens.calibrate.profile_file import ProfileFile
from energylens.engine.evaluate import evaluate
from energylens.inputs.bundled import bundled
from energylens.inputs.plan import LoadedGpu
from energylens.measurement.backend import About, CannotRun, NotAllowed, Samples, Window
from energylens.measurement.cases import SIZES, Case
from energylens.measurement.transformer import spec

LIMIT_W, STATIC_W, DEEP_W, MAX_MHZ = 1000.0, 130.0, 80.0, 1980
ENERGY = {
    "static_w": STATIC_W,
    "active_w": 60.0,
    "communication_w": 20.0,
    "flop_j": {"bf16": 5e-13, "fp8": 3e-13, "vector": 1e-12},
    "on_chip_j_per_byte": 1.16e-11,
    "hbm_weight_j_per_byte": 7e-11,
    "hbm_kv_j_per_byte": 9e-11,
    "hbm_activation_j_per_byte": 8e-11,
    "link_j_per_byte": 4e-10,
    "source": "simulated",
}
GEMM = np.array([3e-6, 0.9, 0.0, 0.0, 120.0, 1.0, *[0.72] * len(TILES)])
EXPERTS = np.array([2e-5, 0.85, 0.0, 50.0, 0.0, 0.0, *[0.5] * len(EXPERT_TILES)])
DECODE = np.array([8e-6, 0.88, 0.0, 0.3, 5e-9])
PREFILL = np.array([8e-6, 0.6, 0.0, 0.62, 0.0, 0.6, 40.0])
ELEMENT_T0_S, ELEMENT_SHARE, STREAM_SHARE = 5e-6, 0.15, 0.92
VOLTS = {1980: 1.0, 1650: 0.93, 1350: 0.85, 1050: 0.80}
IDLE = {1980: 1.0, 1650: 0.93, 1350: 0.86, 1050: 0.80}

_TIMES: dict[str, Any] = {"source": "simulated"}
KERNELS = {
    "gemm": {
        form: {"t0_s": 3e-6, "memory_efficiency": 0.9, "depth_0": 120.0, "split_s": 1.0, "sharpness": 4,
               "tiles": [[*tile, 0.72] for tile in TILES], **_TIMES}
        for form in ("bf16", "fp8")
    },
    "grouped_gemm": {
        "bf16": {"t0_s": 2e-5, "memory_efficiency": 0.85, "depth_0": 50.0, "sharpness": 4, "padding_rows": 32,
                 "tiles": [[*tile, 0.5] for tile in EXPERT_TILES], **_TIMES}
    },
    "attention_prefill": {
        "bf16": {"t0_s": 8e-6, "memory_efficiency": 0.6, "compute_efficiency": 0.62, "length_factor": 0.6,
                 "wave_depth": 40.0, "pad_rows": 64, "sharpness": 4, **_TIMES}
    },
    "attention_decode": {
        "bf16": {"t0_s": 8e-6, "memory_efficiency": 0.88, "compute_efficiency": 0.3, "sequence_head_s": 5e-9,
                 "sharpness": 2, **_TIMES}
    },
    "elementwise": {"t0_s": ELEMENT_T0_S, "memory_efficiency": ELEMENT_SHARE, "sharpness": 4, **_TIMES},
}  # fmt: skip
"""The same coefficients as a profile has them."""


def truth(folder: Path) -> LoadedGpu:
    """Return the profile that the simulated GPU follows."""
    file = ProfileFile(bundled("hardware")["h200-sxm"])
    file.replace(
        kernels=KERNELS, energy=ENERGY, frameworks=None, uncertainty=None, range=None,
        host={"host_s": 0.0, "source": "simulated"},
    )  # fmt: skip
    file._head = re.sub(r"tdp_w: 700", f"tdp_w: {LIMIT_W:g}", file._head)
    path = folder / "truth.yaml"
    file.rename("truth")
    path.write_text(file.text, encoding="utf-8")
    return file.loaded()


@dataclass
class SimulatedGpu:
    """A backend that calculates."""

    profile: LoadedGpu
    uuid: str = "GPU-simulated"
    gpus: int = 1
    busy: tuple[str, ...] = ()
    may_lock: bool = True
    broken: tuple[str, ...] = ()
    noise: float = 0.002
    now: float = 0.0
    clock: int | None = None
    closed: bool = False
    windows: int = 0
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(7)
        self.counter = 0.0
        self.case = Case.of("launch", dtype="")

    @property
    def about(self) -> About:
        return About(
            "Simulated H200", self.uuid, 132, 141 * 10**9, 60 * 2**20, LIMIT_W, MAX_MHZ, True, self.gpus, "1", "2", "3",
            "instant",
        )  # fmt: skip

    def others(self) -> list[str]:
        return list(self.busy)

    def lock(self, sm_clock_mhz: int | None) -> None:
        if sm_clock_mhz is not None and not self.may_lock:
            raise NotAllowed("Insufficient Permissions")
        self.clock = sm_clock_mhz

    def load(self, case: Case) -> None:
        if case.family in self.broken:
            raise CannotRun("no kernel image is available")
        self.case = case

    def time(self, calls: int) -> float:
        return calls * self.alone()[0]

    def close(self) -> None:
        self.closed = True

    def alone(self) -> tuple[float, float]:
        """Return seconds and watts of a call without noise."""
        key = f"{self.case.name} {self.clock}"
        if key not in self.seen:
            seconds = self._seconds()
            self.seen[key] = (seconds, self._watts(seconds))
            if self.clock is not None:
                self.seen[key] = self._clocked(seconds, self.seen[key][1])
        return self.seen[key]

    def window(self, calls: int) -> Window:
        self.windows += 1
        seconds, watts = self.alone()
        seconds *= calls * (1 + self.noise * self.rng.standard_normal())
        watts *= 1 + self.noise * self.rng.standard_normal()
        began = self.now
        time = np.arange(began - 0.1, began + seconds + 0.1, 0.01) + 1e-3 * self.rng.random()
        every = 0.1
        moved = np.floor(time / every) * every - (began - 0.1)
        counter = (self.counter + 1e3 * watts * np.maximum(moved, 0.0)).astype(int)
        shown = (1e3 * watts * (1 + 0.01 * self.rng.standard_normal(len(time)))).astype(int)
        self.now += seconds + 0.5
        self.counter = float(counter[-1])
        capped = 0x4 if watts > 0.97 * LIMIT_W else 0
        same = [1] * len(time)
        entry = Samples(
            time.tolist(), counter.tolist(), shown.tolist(), [(self.clock or MAX_MHZ)] * len(time),
            [3201] * len(time), [60] * len(time), [capped * x for x in same],
        )  # fmt: skip
        number = self.case["gpus"] if self.case.family == "collective" else 1
        return Window(calls, seconds, began, began + seconds, [entry] * number)

    def _seconds(self) -> float:
        case, gpu = self.case, device(self.profile.spec)
        size = {name: np.array([float(value)]) for name, value in case.sizes}
        entry = np.ones(1)
        match case.family:
            case "idle":
                return 0.1
            case "launch":
                return 2e-6
            case "stream":
                moved = case["bytes"] * (1 if case.variant == "weights" else 2)
                return 3e-6 + moved / (gpu.bandwidth * STREAM_SHARE)
            case "gemm":
                products = Products(size["rows"], size["columns"], size["depth"], entry)
                return float(GemmModel(products, gpu, case.dtype).seconds(GEMM, 4)[0])
            case "attention_prefill" | "attention_decode":
                calls = Calls(size["batch"], size["heads"], size["kv_heads"], size["head_dim"], size["tokens"], entry)
                if case.family == "attention_prefill":
                    return float(PrefillModel(calls, gpu, 2, "bf16", 64).seconds(PREFILL, 4)[0])
                return float(DecodeModel(calls, gpu, 2).seconds(DECODE, 2)[0])
            case "grouped_gemm":
                skew = np.array([SKEWS[case.variant]])
                routed = Experts(
                    size["hidden"],
                    size["inner"],
                    size["active"],
                    size["experts"],
                    entry,
                    entry,
                    size["tokens"],
                    skew,
                    entry,
                )
                return float(MoeModel(routed, gpu, "bf16").seconds(EXPERTS, 4)[0])
            case "elementwise":
                moved = ELEMENT_BYTES[case.variant] * case["rows"] * case["columns"]
                return float(ELEMENT_T0_S + moved / (gpu.bandwidth * ELEMENT_SHARE))
            case "collective":
                sms = case["sms"] or 32
                share = busfactor(case.variant, case["gpus"]) / 300e9 * max(1.0, 16 / sms)
                return 1e-5 + share * case["bytes"]
        return float(self._model()[0])

    def _model(self) -> tuple[float, float]:
        """Return seconds and joules of the transformer as the engine has them."""
        batch, tokens = self.case["batch"], self.case["tokens"]
        prefill = self.case.variant == "prefill"
        point = {"model": spec().spec.name, "gpu": "truth", "batch": batch, "output_tokens": 2}
        frame = pl.DataFrame([point | {"prompt_tokens": tokens if prefill else tokens - 1}])
        result = evaluate(frame, models=[spec()], gpus=[self.profile], max_batched_tokens=batch * tokens)
        names = ("ttft_s", "energy_prefill_j") if prefill else ("tpot_s", "energy_decode_step_j")
        return float(result[names[0]][0]), float(result[names[1]][0])

    def _watts(self, seconds: float) -> float:
        case = self.case
        if case.family == "idle":
            return STATIC_W if case.variant == "waiting" else DEEP_W
        if case.family == "model":
            result, joules = self._model()
            return joules / result
        if case.family == "collective":
            return STATIC_W + 20.0 + 4e-10 * case["bytes"] / seconds
        sizes = dict(case.sizes)
        row = {
            "case": case.name, "family": case.family, "variant": case.variant, "dtype": case.dtype,
            "seconds": seconds, "power_w": 0.0, "limit_w": LIMIT_W, "throttle": "",
        } | {name: sizes.get(name) for name in SIZES}  # fmt: skip
        row["variant"] = "balanced" if case.family == "grouped_gemm" else case.variant
        schema = dict.fromkeys(SIZES, pl.Int64)
        work = power.work(pl.DataFrame([row], schema_overrides=schema), self.profile.spec).row(0, named=True)
        flop = {"bf16": 5e-13, "fp8": 3e-13}
        watts = STATIC_W + 60.0 + 1e-12 * work["vector_rate"] + 1.16e-11 * work["chip_rate"]
        watts += sum(price * work[f"flop_{name}"] for name, price in flop.items())
        for kind, price in (("weight", 7e-11), ("kv", 9e-11), ("activation", 8e-11)):
            watts += price * work[f"{kind}_rate"]
        return float(min(watts, LIMIT_W))

    def _clocked(self, seconds: float, watts: float) -> tuple[float, float]:
        """Return seconds and watts at the locked clock, of kernels bound by compute."""
        assert self.clock is not None
        volts, idle = VOLTS[self.clock], IDLE[self.clock]
        if self.case.family == "idle":
            return seconds, watts * idle
        slower = MAX_MHZ / self.clock
        if self.case.family != "gemm":
            return seconds, STATIC_W * idle + (watts - STATIC_W)
        size = dict(self.case.sizes)
        m, n, k = size["rows"], size["columns"], size["depth"]
        memory = 7e-11 * 2 * n * k + 8e-11 * 2 * m * (n + k)
        switching = (watts - STATIC_W) * seconds - memory
        return seconds * slower, STATIC_W * idle + (switching * volts**2 + memory) / (seconds * slower)
