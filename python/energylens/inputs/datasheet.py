"""A GPU known only by its data sheet: every missing coefficient by a stated rule, marked as modelled.

The rules were set beside the profiles of A100, H100 and B200; `tests/inputs/test_datasheet.py` holds them to energies
within a quarter to two fifths and all-reduces within 40 % of those.
"""

from __future__ import annotations

from typing import Any, Final

from energylens.inputs.gpu import GpuSpec

# J per byte of weights. HBM2e: Antepara et al. SC'25; HBM3, HBM3e: as fitted on H100, H200 (100 pJ) and B200 (77 pJ);
# GDDR6: A5000 (260-310 pJ); the others lie between.
_MEMORY_J: Final = {
    "HBM2": 120e-12,
    "HBM2e": 105e-12,
    "HBM3": 100e-12,
    "HBM3e": 90e-12,
    "GDDR6": 280e-12,
    "GDDR6X": 260e-12,
    "GDDR7": 220e-12,
}


def missing(spec: GpuSpec, static_w: float | None) -> dict[str, dict[str, Any]]:
    """Return what rules fill into a spec, by section, nothing if it lacks none; `static_w` is that of the spec."""
    filled: dict[str, dict[str, Any]] = {}
    if static_w is None:
        static_w = 0.20 * spec.power.tdp_w  # A100 .21, H100 .17, H200 .17, B200 .24 of TDP
        filled["power"] = {"static_w": static_w}
    if spec.link.sms_to_saturate is None:
        # DeepEP saturates at 18 of 132 and 23 of 148 SMs.
        filled["link"] = {"sms_to_saturate": 0.14 * spec.compute.sms}
    for section, rule in (("host", _host), ("kernels", _kernels), ("energy", _energy), ("collectives", _collectives)):
        if getattr(spec, section) is None:
            filled[section] = rule(spec, static_w)
    return filled


def _host(_spec: GpuSpec, _static_w: float) -> dict[str, Any]:
    return {"host_s": 1e-3, "source": "modelled: 0.9-1.2 ms on A100, H100, H200 and B200 under vLLM"}


def _time(t0_s: float, compute: float, memory: float, root: float = 0.0, sharpness: int = 2) -> dict[str, Any]:
    return {
        "t0_s": t0_s,
        "compute_efficiency": compute,
        "memory_efficiency": memory,
        "root_s_per_sqrt_byte": root,
        "sharpness": sharpness,
        "source": "modelled: typical of closed-form fits to the AIConfigurator 0.12 kernel tables (Apache-2.0)",
    }


def _kernels(spec: GpuSpec, _static_w: float) -> dict[str, Any]:
    hbm = _technology(spec).startswith("HBM")
    gemm = {"bf16": _time(3.5e-6, 0.78, 0.87, 2e-10, 4)}
    grouped = {"bf16": _time(3e-5, 0.45, 0.97, 5e-10, 1)}
    if spec.compute.peak_flops.fp8:
        gemm["fp8"] = _time(1.35e-5, 0.57, 0.84)
        grouped["fp8"] = _time(3e-5, 0.40, 0.97, 5e-10, 1)
    if spec.compute.peak_flops.fp4:
        gemm["fp4"] = _time(7e-6, 0.42, 0.84, 1.4e-9)
        grouped["fp4"] = _time(3e-5, 0.25, 0.97, 5e-10, 1)
    return {
        "tiles": {
            "shapes": [(m, n, 1.0) for m, n in ((16, 128), (64, 64), (64, 128), (128, 128), (128, 256))],
            "source": "modelled: a common tile family",
        },
        "gemm": gemm,
        "grouped_gemm": grouped,
        "attention_prefill": {"bf16": _time(1.1e-5, 0.62, 0.27)},
        "attention_decode": {"bf16": _time(1.1e-5, 0.40, 0.95 if hbm else 0.84, 8e-10)},
        "elementwise": _time(2e-6, 1.0, 0.80, 0.0, 4),
    }


def _technology(spec: GpuSpec) -> str:
    return spec.memory.technology or ("HBM3" if spec.memory.bandwidth_bytes_per_s > 1.2e12 else "GDDR6")


def _energy(spec: GpuSpec, static_w: float) -> dict[str, Any]:
    technology = _technology(spec)
    byte_j = _MEMORY_J[technology]
    peaks = spec.compute.peak_flops
    # A large matrix product at its reached rate draws the board limit, a tenth of the memory bandwidth in use.
    drawn_w = static_w + 0.16 * spec.power.tdp_w + 0.1 * spec.memory.bandwidth_bytes_per_s * byte_j
    left_w = max(0.25 * spec.power.tdp_w, spec.power.tdp_w - drawn_w)
    bf16_j = left_w / (0.78 * peaks.bf16)
    flop_j = {"bf16": bf16_j, "vector": 2.0 * bf16_j}
    if peaks.fp8:
        flop_j["fp8"] = 0.58 * bf16_j
    if peaks.fp4:
        flop_j["fp4"] = 0.32 * bf16_j
    return {
        "active_w": 0.16 * spec.power.tdp_w,  # A100 .14, H100 .14, H200 .14, B200 .23 of TDP
        "communication_w": 0.012 * spec.power.tdp_w,
        "flop_j": flop_j,
        "on_chip_j_per_byte": 12e-12,
        "hbm_weight_j_per_byte": byte_j,
        "hbm_kv_j_per_byte": byte_j,
        "hbm_activation_j_per_byte": byte_j,
        "link_j_per_byte": 750e-12 if spec.link.kind.startswith("pcie") else 490e-12,
        "source": f"modelled: bytes by memory technology ({technology}), FLOPs such that a large GEMM draws the TDP",
    }


def _collectives(spec: GpuSpec, _static_w: float) -> dict[str, Any]:
    peak = spec.link.bandwidth_bytes_per_s
    pcie = spec.link.kind.startswith("pcie")
    source = "modelled: alpha by group size and a share of the link bandwidth, as fitted on NVLink GPUs (on PCIe: L40S)"

    def curves(alpha_s: float, per_gpu_s: float, root: float, share: float) -> dict[str, Any]:
        shares = {2: 0.65, 4: 0.16, 8: 0.045} if pcie else dict.fromkeys((2, 4, 8), share)
        return {
            str(n): {
                "alpha_s": alpha_s + n * per_gpu_s,
                "root_s_per_sqrt_byte": root,
                "bandwidth_bytes_per_s": shares[n] * peak,
            }
            for n in (2, 4, 8)
        }

    def only(by_gpus: dict[str, Any], name: str = "nccl") -> dict[str, Any]:
        return {"name": name, "by_gpus": by_gpus, "source": source}

    other = only(curves(4e-6, 1e-6, 5e-9, 0.75))
    reduce = [only(curves(4e-6, 2e-6, 8e-9, 0.8))]
    if not pcie:
        custom = {"2": (0.0, 0.55), "4": (3e-9, 0.6), "8": (7e-9, 1.3)}
        by_gpus = {
            n: {"alpha_s": 5e-6, "root_s_per_sqrt_byte": root, "bandwidth_bytes_per_s": share * peak}
            for n, (root, share) in custom.items()
        }
        reduce.append(only(by_gpus, "custom") | {"max_bytes": 8388608.0})
    send = only(
        {"2": {"alpha_s": 7e-6, "root_s_per_sqrt_byte": 0.0, "bandwidth_bytes_per_s": (0.65 if pcie else 0.75) * peak}}
    )
    return {
        "all_reduce": reduce,
        "all_gather": [other],
        "reduce_scatter": [other],
        "all_to_all": [other],
        "send_recv": [send],
    }
