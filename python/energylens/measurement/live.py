"""The GPU at hand: PyTorch runs the kernels, NVML reads the meters."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable
from typing import Any

from energylens.common.errors import GpuError, Problem, needs_extra
from energylens.measurement import ranks
from energylens.measurement.backend import About, Broken, CannotRun, Window
from energylens.measurement.cases import Case
from energylens.measurement.nvml import Device, Nvml, Sampler, no_gpu
from energylens.measurement.runner import Runner


class Live:
    """A backend on real hardware."""

    def __init__(self, gpu: str = "auto", module: Any = None) -> None:
        """Find the GPU by NVML, which does not touch it; raise `GpuError` where there is none."""
        nvml = Nvml(module or _module("pynvml"))
        every, faults = _usable(nvml)
        self.device = _chosen(every, faults, gpu)
        self.peers = [self.device]
        if gpu == "auto":
            alike = [device for device in every if device.name == self.device.name and device is not self.device]
            self.peers += [device for device in alike if not device.others()]
        self._started: tuple[Any, Runner, About] | None = None
        self._ranks: ranks.Ranks | None = None
        self._dead: set[int] = set()

    def _start(self) -> tuple[Any, Runner, About]:
        """Open the GPU in PyTorch, once."""
        if self._started is None:
            torch = _module("torch")
            if not torch.cuda.is_available():
                raise no_gpu("PyTorch finds no CUDA device; is it a build for CPUs?")
            number = _place(torch, self.device)
            torch.cuda.set_device(number)
            about = _about(torch, number, self.device, len(self.peers))
            self._started = torch, Runner(torch, f"cuda:{number}", about.l2_bytes), about
        return self._started

    @property
    def about(self) -> About:
        """The GPU and its software."""
        return self._start()[2]

    def others(self) -> list[str]:
        """Return what else runs on the GPU to be measured, in words."""
        return self.device.others()

    def lock(self, sm_clock_mhz: int | None) -> None:
        """Lock the SM clock, or free it; raise `NotAllowed`."""
        self.device.lock(sm_clock_mhz)

    def load(self, case: Case) -> None:
        """Make the inputs of a case, compile and run it once; raise `CannotRun`."""
        torch, runner, _ = self._start()
        runner.free()
        if case.family != "collective":
            self._let_go()
            runner.load(case)
            return
        if case["gpus"] in self._dead:
            raise CannotRun(f"processes on {case['gpus']} GPUs died before")
        if self._ranks is None or self._ranks.number != case["gpus"]:
            self._let_go()
            try:
                places = [f"cuda:{_place(torch, device)}" for device in self.peers[: case["gpus"]]]
            except GpuError as error:
                raise CannotRun(error.problems[0].message) from error
            self._ranks = ranks.Ranks(case["gpus"], places, "nccl")
        self._of_ranks(lambda rank: ranks.load(rank, case))

    def _let_go(self) -> None:
        if self._ranks is not None:
            self._ranks.close()
            self._ranks = None

    def _of_ranks(self, ask: Callable[[ranks.Ranks], Any]) -> Any:
        """Have the ranks do something; those that could not are ended, for their answers may come late."""
        assert self._ranks is not None
        try:
            return ask(self._ranks)
        except CannotRun as error:
            if isinstance(error, ranks.RanksDied):
                self._dead.add(self._ranks.number)
            self._let_go()
            raise

    def _run(self, calls: int) -> tuple[int, float, float, float]:
        if self._ranks is None:
            return self._start()[1].run(calls)
        reading: tuple[int, float, float, float] = self._of_ranks(lambda rank: ranks.run(rank, calls))
        return reading

    def time(self, calls: int) -> float:
        """Return the seconds of so many calls of the loaded case."""
        done, seconds, _, _ = self._run(calls)
        return seconds * calls / done

    def window(self, calls: int) -> Window:
        """Run so many calls of the loaded case with the meters read all the while."""
        with Sampler(self.peers[: self._ranks.number if self._ranks else 1]) as sampler:
            done, seconds, began, ended = self._run(calls)
        return Window(done, seconds, began, ended, sampler.samples())

    def close(self) -> None:
        """Free the memory."""
        self._let_go()
        if self._started is not None:
            with contextlib.suppress(Broken):  # what broke is told already
                self._started[1].free()


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise GpuError(needs_extra("measuring needs torch and nvidia-ml-py", "gpu")) from None


def _usable(nvml: Nvml) -> tuple[list[Device], dict[int, GpuError]]:
    """Return the GPUs that this process may use and that tell enough, and what is wrong with the others."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    words = None if visible is None else [word.strip() for word in visible.split(",")]
    devices, faults = [], {}
    for index in range(nvml.count):
        try:
            device = nvml.device(index)
        except GpuError as error:
            faults[index] = error
            continue
        if words is None or str(index) in words or any(word and device.uuid.startswith(word) for word in words):
            devices.append(device)
        else:
            faults[index] = no_gpu(f"CUDA_VISIBLE_DEVICES hides GPU {index}")
    return devices, faults


def _chosen(every: list[Device], faults: dict[int, GpuError], gpu: str) -> Device:
    if gpu == "auto" and not every:
        raise next(iter(faults.values()))
    if gpu == "auto":
        return next((device for device in every if not device.others()), every[0])
    if not gpu.isdecimal():
        hint = "`auto`, or its number as nvidia-smi counts"
        raise GpuError(Problem(f"`{gpu}` is not the number of a GPU", hint=hint, code="no-gpu"))
    if int(gpu) in faults:
        raise faults[int(gpu)]
    known = {device.index: device for device in every}
    if int(gpu) not in known:
        hint = f"there is {', '.join(map(str, known))}"
        raise GpuError(Problem(f"there is no GPU {gpu}", hint=hint, code="no-gpu"))
    return known[int(gpu)]


def _place(torch: Any, device: Device) -> int:
    """Return the number by which PyTorch knows a GPU: CUDA_VISIBLE_DEVICES may hide and reorder them."""
    for number in range(torch.cuda.device_count()):
        uuid = getattr(torch.cuda.get_device_properties(number), "uuid", None)
        if uuid is not None and str(uuid) in device.uuid:
            return number
    raise no_gpu(f"PyTorch does not see GPU {device.index}; is it hidden by CUDA_VISIBLE_DEVICES?")


def _about(torch: Any, number: int, device: Device, gpus: int) -> About:
    properties = torch.cuda.get_device_properties(number)
    return About(
        name=device.name,
        uuid=device.uuid,
        sms=int(properties.multi_processor_count),
        memory_bytes=int(properties.total_memory),
        l2_bytes=int(getattr(properties, "L2_cache_size", 50 * 2**20)),
        limit_w=device.limit_w,
        max_sm_clock_mhz=device.max_sm_clock_mhz,
        fp8=(properties.major, properties.minor) >= (8, 9),
        gpus=gpus,
        driver=str(device.nvml.nvmlSystemGetDriverVersion()),
        torch=str(torch.__version__),
        cuda=str(torch.version.cuda),
        power="instant" if device.instant else "driver",
    )
