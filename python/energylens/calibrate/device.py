"""What the fits need to know of a GPU, and the bytes and arithmetic of number formats."""

from __future__ import annotations

from dataclasses import dataclass

from energylens.inputs.gpu import GpuSpec

BYTES = {
    "bf16": 2.0, "fp8": 1.0, "fp8_block": 1 + 4 / 16384, "int8": 1.0,
    "mxfp4": 0.53125, "nvfp4": 0.5625, "int4": 0.515625,
}  # fmt: skip
"""Bytes of one weight, by number format."""

ARITHMETIC = {"fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}
"""Arithmetic of a number format, bf16 for those left out."""

SYSTEMS = {
    "a100-sxm-80gb": "a100_sxm", "h100-sxm": "h100_sxm", "h200-sxm": "h200_sxm",
    "b200": "b200_sxm", "gb200": "gb200", "l40s": "l40s",
}  # fmt: skip
"""Folder of a GPU's tables, by the name of its profile."""


@dataclass(frozen=True)
class Device:
    """Compute units, FLOP/s by arithmetic, bytes/s of memory and of the link."""

    sms: int
    peaks: dict[str, float]
    bandwidth: float

    def peak(self, form: str) -> float:
        """Return the FLOP/s of the arithmetic of a number format, those of bf16 where the GPU lacks it."""
        return self.peaks.get(ARITHMETIC.get(form, "bf16"), self.peaks["bf16"])


def device(spec: GpuSpec) -> Device:
    """Return what the fits need of a GPU profile."""
    peaks = spec.compute.peak_flops
    peak_by_format = {"bf16": peaks.bf16, "fp8": peaks.fp8, "fp4": peaks.fp4}
    return Device(
        sms=spec.compute.sms,
        peaks={name: peak for name, peak in peak_by_format.items() if peak is not None},
        bandwidth=spec.memory.bandwidth_bytes_per_s,
    )
