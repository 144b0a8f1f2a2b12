"""The meters of NVIDIA GPUs, by NVML."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any, Final

from energylens.common.errors import GpuError, Problem
from energylens.measurement.backend import NotAllowed, Samples

EVERY_S: Final = 5e-3
"""Seconds between two readings of the meters."""
SLOWLY: Final = 10
"""Clocks, temperature and reasons are read every so many readings of energy and power."""
_MOST_FAILED: Final = 3
_BUSY_PERCENT, _BUSY_READINGS, _BUSY_EVERY_S = 5, 3, 0.7


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
        """Return the GPU of an index as `nvidia-smi` counts; raise `GpuError` where it tells too little."""
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
                _text(read(self.handle)) for read in (module.nvmlDeviceGetName, module.nvmlDeviceGetUUID)
            )
            self.limit_w = 1e-3 * float(module.nvmlDeviceGetEnforcedPowerLimit(self.handle))
            self.max_sm_clock_mhz = int(module.nvmlDeviceGetMaxClockInfo(self.handle, module.NVML_CLOCK_SM))
            self.instant = self._instant() is not None
            self.meter(), self.state()
        except module.NVMLError as error:
            raise no_gpu(f"NVML tells too little of GPU {index}: {error}") from None

    def others(self) -> list[str]:
        """Return the other processes on it, and a load that none of them explains."""
        reasons = []
        with contextlib.suppress(self.nvml.NVMLError):
            for process in self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle):
                if process.pid != os.getpid():
                    held = f", {process.usedGpuMemory / 1e9:.1f} GB" if process.usedGpuMemory else ""
                    reasons.append(f"process {process.pid} on GPU {self.index}{held}")
            load = int(self.nvml.nvmlDeviceGetUtilizationRates(self.handle).gpu)
            for _ in range(_BUSY_READINGS):  # a driver just loaded, and what ran before, show for a while
                if reasons or load <= _BUSY_PERCENT:
                    break
                time.sleep(_BUSY_EVERY_S)
                load = int(self.nvml.nvmlDeviceGetUtilizationRates(self.handle).gpu)
            if not reasons and load > _BUSY_PERCENT:
                reasons.append(f"GPU {self.index} is {load} % busy")
        return reasons

    def lock(self, sm_clock_mhz: int | None) -> None:
        """Lock the SM clock, or free it; raise `NotAllowed`."""
        try:
            if sm_clock_mhz is None:
                self.nvml.nvmlDeviceResetGpuLockedClocks(self.handle)
            else:
                self.nvml.nvmlDeviceSetGpuLockedClocks(self.handle, sm_clock_mhz, sm_clock_mhz)
        except self.nvml.NVMLError as error:
            raise NotAllowed(str(error)) from None

    def meter(self) -> tuple[int, int]:
        """Return energy (mJ) and power (mW)."""
        energy = int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle))
        power = self._instant() if self.instant else None
        return energy, int(self.nvml.nvmlDeviceGetPowerUsage(self.handle)) if power is None else power

    def state(self) -> tuple[int, int, int, int]:
        """Return SM and memory clock (MHz), temperature (°C), and reasons of the clock."""
        nvml, handle = self.nvml, self.handle
        reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        return (
            int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            int((reasons or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(handle)),
        )

    def _instant(self) -> int | None:
        """Return the power of this moment, mW; None where the driver has none (`nvmlDeviceGetPowerUsage` is a mean)."""
        field = getattr(self.nvml, "NVML_FI_DEV_POWER_INSTANT", None)
        if field is None:
            return None
        try:
            answer = self.nvml.nvmlDeviceGetFieldValues(self.handle, [field])[0]
        except self.nvml.NVMLError:
            return None
        return int(answer.value.uiVal) if answer.nvmlReturn == 0 else None


def _text(answer: Any) -> str:
    return answer.decode() if isinstance(answer, bytes) else str(answer)


class Sampler:
    """Reads the meters of some GPUs, each in a thread, until it is stopped."""

    def __init__(self, devices: list[Any]) -> None:
        self._rows: list[list[tuple[float, tuple[int, ...]]]] = [[] for _ in devices]
        self._stop = threading.Event()
        self._faults: list[Exception] = []
        self._threads = [
            threading.Thread(target=self._read, args=(device, rows), daemon=True)
            for device, rows in zip(devices, self._rows, strict=True)
        ]

    def __enter__(self) -> Sampler:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self, device: Any, rows: list[tuple[float, tuple[int, ...]]]) -> None:
        state: tuple[int, ...] = ()
        failed = 0
        while not self._stop.wait(EVERY_S):
            try:
                if len(rows) % SLOWLY == 0:
                    state = device.state()
                rows.append((time.monotonic(), (*device.meter(), *state)))
            except Exception as error:
                failed += 1
                if failed > _MOST_FAILED:
                    self._faults.append(error)
                    return

    def samples(self) -> list[Samples]:
        """Return what was read; raise what went wrong while reading."""
        if self._faults:
            raise GpuError(Problem(f"the meter of the GPU failed: {self._faults[0]}", code="no-gpu"))
        return [
            Samples([at for at, _ in rows], *([shown[i] for _, shown in rows] for i in range(6))) for rows in self._rows
        ]
