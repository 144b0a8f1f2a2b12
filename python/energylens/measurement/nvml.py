"""The meters of NVIDIA GPUs, by NVML."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any, Final

from energylens.errors import GpuError, Problem
from energylens.measurement.backend import NotAllowed, Samples

EVERY_S: Final = 5e-3
"""Seconds between two readings of the meters."""
_BUSY_PERCENT: Final = 5


class Nvml:
    """NVML, initialised; raise `GpuError` where there is no driver."""

    def __init__(self, module: Any) -> None:
        self.nvml = module
        try:
            module.nvmlInit()
            self.count = int(module.nvmlDeviceGetCount())
        except module.NVMLError as error:
            raise no_gpu(f"NVML: {error}") from None
        if not self.count:
            raise no_gpu("NVML lists no GPU")

    def device(self, index: int) -> Device:
        """Return the GPU of an index as `nvidia-smi` counts."""
        if not 0 <= index < self.count:
            hint = f"use 0 to {self.count - 1}" if self.count > 1 else "use 0"
            raise GpuError(Problem(f"there is no GPU {index}", hint=hint, code="no-gpu"))
        return Device(self.nvml, index)


def no_gpu(why: str) -> GpuError:
    """Return the error of a machine without a GPU."""
    hint = "run it on the machine with the GPU; `--replay FILE` takes a recorded session in its place"
    return GpuError(Problem(f"there is no NVIDIA GPU to measure ({why})", hint=hint, code="no-gpu"))


class Device:
    """One GPU: what it is, what runs on it, its clock, its meters."""

    def __init__(self, module: Any, index: int) -> None:
        self.nvml, self.index = module, index
        try:
            self.handle = module.nvmlDeviceGetHandleByIndex(index)
            self.name, self.uuid = (
                _text(one(self.handle)) for one in (module.nvmlDeviceGetName, module.nvmlDeviceGetUUID)
            )
            self.limit_w = 1e-3 * float(module.nvmlDeviceGetEnforcedPowerLimit(self.handle))
            self.max_sm_clock_mhz = int(module.nvmlDeviceGetMaxClockInfo(self.handle, module.NVML_CLOCK_SM))
            self.instant = self._instant() is not None
            self.shown()
        except module.NVMLError as error:
            raise no_gpu(f"NVML tells too little of GPU {index}: {error}") from None

    def others(self) -> list[str]:
        """Return the other processes on it, and a load that none of them explains."""
        found = []
        with contextlib.suppress(self.nvml.NVMLError):
            for process in self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle):
                if process.pid != os.getpid():
                    held = f", {process.usedGpuMemory / 1e9:.1f} GB" if process.usedGpuMemory else ""
                    found.append(f"process {process.pid} on GPU {self.index}{held}")
            load = int(self.nvml.nvmlDeviceGetUtilizationRates(self.handle).gpu)
            if not found and load > _BUSY_PERCENT:
                found.append(f"GPU {self.index} is {load} % busy")
        return found

    def lock(self, sm_clock_mhz: int | None) -> None:
        """Lock the SM clock, or free it; raise `NotAllowed`."""
        try:
            if sm_clock_mhz is None:
                self.nvml.nvmlDeviceResetGpuLockedClocks(self.handle)
            else:
                self.nvml.nvmlDeviceSetGpuLockedClocks(self.handle, sm_clock_mhz, sm_clock_mhz)
        except self.nvml.NVMLError as error:
            raise NotAllowed(str(error)) from None

    def shown(self) -> tuple[int, int, int, int, int, int]:
        """Return energy (mJ), power (mW), SM and memory clock (MHz), temperature (°C), reasons of the clock."""
        nvml, handle = self.nvml, self.handle
        power = self._instant() if self.instant else None
        return (
            int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)),
            int(nvml.nvmlDeviceGetPowerUsage(handle)) if power is None else power,
            int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
        )

    def _instant(self) -> int | None:
        """Return the power of this moment, mW; None where the driver has none (`nvmlDeviceGetPowerUsage` is a mean)."""
        field = getattr(self.nvml, "NVML_FI_DEV_POWER_INSTANT", None)
        if field is None:
            return None
        try:
            found = self.nvml.nvmlDeviceGetFieldValues(self.handle, [field])[0]
        except self.nvml.NVMLError:
            return None
        return int(found.value.uiVal) if found.nvmlReturn == 0 else None


def _text(found: Any) -> str:
    return found.decode() if isinstance(found, bytes) else str(found)


class Sampler:
    """Reads the meters of some GPUs in a thread until it is stopped."""

    def __init__(self, devices: list[Any]) -> None:
        self._devices = devices
        self._rows: list[list[tuple[float, tuple[int, ...]]]] = [[] for _ in devices]
        self._stop = threading.Event()
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        try:
            while not self._stop.wait(EVERY_S):
                for device, rows in zip(self._devices, self._rows, strict=True):
                    rows.append((time.monotonic(), device.shown()))
        except Exception as error:
            self._fault = error

    def samples(self) -> list[Samples]:
        """Return what was read; raise what went wrong while reading."""
        if self._fault is not None:
            raise GpuError(Problem(f"the meter of the GPU failed: {self._fault}", code="no-gpu"))
        return [
            Samples([at for at, _ in rows], *([shown[i] for _, shown in rows] for i in range(6))) for rows in self._rows
        ]
