"""The live backend, on a driver and a CUDA that only answer; its kernels for real, on a CPU, if PyTorch is at hand."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from energylens.common.errors import GpuError
from energylens.inputs.plan import Plan
from energylens.measurement import harness, nvml, ranks, runner
from energylens.measurement.backend import CannotRun, NotAllowed
from energylens.measurement.cases import Case, suite
from energylens.measurement.kernels import Workload
from energylens.measurement.live import Live
from energylens.measurement.runner import Runner
from energylens.measurement.transformer import CONFIG, NAME, Transformer, spec

SMALL = {
    "rows": 16, "columns": 256, "depth": 128, "bytes": 2**18, "batch": 2, "tokens": 32, "heads": 8, "kv_heads": 2,
    "head_dim": 64, "experts": 4, "active": 2, "hidden": 64, "inner": 128,
}  # fmt: skip


class Driver:
    """As much of pynvml as is used: two GPUs at 300 W, one of them taken."""

    NVMLError = type("NVMLError", (Exception,), {})
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_FI_DEV_POWER_INSTANT = 1, 2, 0, 186

    def __init__(self, names: tuple[str, ...] = ("NVIDIA H200", "NVIDIA H200"), instant: bool = True) -> None:
        self.names, self.instant, self.locked = names, instant, list[Any]()
        self.root = True
        self.taken = {0: 4242}

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.names:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetFieldValues(self, _index: int, _fields: list[int]) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(nvmlReturn=0 if self.instant else 3, value=SimpleNamespace(uiVal=301_000))]

    def nvmlDeviceSetGpuLockedClocks(self, index: int, low: int, high: int) -> None:  # noqa: N802
        if not self.root:
            raise self.NVMLError("Insufficient Permissions")
        self.locked.append((index, low, high))

    def __getattr__(self, name: str) -> Any:
        answers = {
            "nvmlDeviceGetCount": lambda: len(self.names),
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda index: self.names[index],
            "nvmlDeviceGetUUID": lambda index: f"GPU-{index}{index}",
            "nvmlDeviceGetEnforcedPowerLimit": lambda _: 700_000,
            "nvmlDeviceGetMaxClockInfo": lambda *_: 1980,
            "nvmlDeviceGetComputeRunningProcesses": lambda index: (
                [SimpleNamespace(pid=self.taken[index], usedGpuMemory=3_000_000_000)] if index in self.taken else []
            ),
            "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=0),
            "nvmlDeviceResetGpuLockedClocks": lambda index: self.locked.append((index, None)),
            "nvmlDeviceGetTotalEnergyConsumption": lambda _: int(300_000 * time.monotonic()),
            "nvmlDeviceGetPowerUsage": lambda _: 299_000,
            "nvmlDeviceGetClockInfo": lambda _, kind: {1: 1980, 2: 2619}[kind],
            "nvmlDeviceGetTemperature": lambda *_: 50,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda _: 4,
            "nvmlSystemGetDriverVersion": lambda: "580.1",
        }
        if name not in answers:
            raise AttributeError(name)
        return answers[name]


class Cuda:
    """As much of torch.cuda as is used: a graph takes a millisecond, at once or when waited for."""

    OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})

    def __init__(self) -> None:
        self.done, self.replays, self.strict, self.capability = 0.0, 0, False, (9, 0)
        self.breaks = False

    class Stream:
        def wait_stream(self, _other: Any) -> None: ...

        def synchronize(self) -> None: ...

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    def current_stream(self) -> Stream:
        return self.Stream()

    def stream(self, stream: Stream) -> Stream:
        return stream

    def synchronize(self) -> None:
        time.sleep(max(0.0, self.done - time.monotonic()))

    def empty_cache(self) -> None: ...

    def set_sync_debug_mode(self, mode: str) -> None:
        self.strict = mode == "error"

    def get_device_capability(self) -> tuple[int, int]:
        return self.capability

    def set_device(self, _number: int) -> None: ...

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 2

    def get_device_properties(self, number: int) -> Any:
        return SimpleNamespace(
            uuid=f"{1 - number}{1 - number}", multi_processor_count=132, total_memory=150 * 10**9, L2_cache_size=1,
            major=9, minor=0,
        )  # fmt: skip

    def CUDAGraph(self) -> Any:  # noqa: N802
        def replay() -> None:
            self.replays += 1
            self.done = max(self.done, time.monotonic()) + 1e-3

        return SimpleNamespace(replay=replay)

    def graph(self, _graph: Any) -> Any:
        if self.breaks:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return self.Stream()

    def Event(self, enable_timing: bool = False) -> Any:  # noqa: N802
        event = SimpleNamespace(at=0.0)
        event.record = lambda: setattr(event, "at", max(self.done, time.monotonic()))
        event.query = lambda: time.monotonic() >= event.at
        event.elapsed_time = lambda other: 1e3 * (other.at - event.at)
        return event


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> tuple[Driver, Cuda]:
    driver, cuda = Driver(), Cuda()
    zeros = SimpleNamespace(add_=lambda _entry: None)
    torch = SimpleNamespace(
        cuda=cuda, __version__="2.11", version=SimpleNamespace(cuda="13.0"), manual_seed=lambda _seed: None,
        zeros=lambda *_, **__: zeros, no_grad=Cuda.Stream,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setitem(sys.modules, "torch", torch)
    return driver, cuda


def test_a_free_gpu_is_chosen_and_detected_in_pytorch_by_its_uuid(machine: tuple[Driver, Cuda]) -> None:
    live = Live()
    assert live.device.index == 1
    assert live.others() == []
    assert live.about.uuid == "GPU-11"
    assert live._start()[1].device == "cuda:0"
    assert (live.about.gpus, live.about.fp8, live.about.power, live.about.limit_w) == (1, True, "instant", 700)
    assert Live("0").others() == ["process 4242 on GPU 0, 3.0 GB"]
    machine[0].taken = {}
    assert Live().about.gpus == 2


def test_a_window_is_metered_while_graphs_run(machine: tuple[Driver, Cuda]) -> None:
    live = Live()
    live.load(Case.of("launch", dtype=""))
    assert live.time(1000) > 0
    window = live.window(100_000)
    assert window.calls >= 100_000
    assert window.seconds == pytest.approx(1e-3 * machine[1].replays * window.calls / (window.calls + 1000), rel=0.3)
    (samples,) = window.samples
    assert len(samples.time_s) > 0.3 * window.seconds / nvml.EVERY_S
    assert set(samples.power_mw) == {301_000}
    assert set(samples.sm_clock_mhz) == {1980} and set(samples.reasons) == {4}
    live.load(Case.of("idle", "deep", ""))
    assert live.window(2).seconds == pytest.approx(0.2, rel=0.5)
    live.close()


def test_the_clock_is_locked_and_freed_where_it_may_be(machine: tuple[Driver, Cuda]) -> None:
    driver, _ = machine
    live = Live("1")
    live.lock(1410)
    live.lock(None)
    assert driver.locked == [(1, 1410, 1410), (1, None)]
    driver.root = False
    with pytest.raises(NotAllowed, match="Insufficient Permissions"):
        live.lock(1410)


def test_drivers_without_instant_power_are_reported(machine: tuple[Driver, Cuda]) -> None:
    machine[0].instant = False
    live = Live()
    assert live.about.power == "driver"
    assert live.device.meter()[1] == 299_000


def test_a_machine_without_a_gpu_is_reported(monkeypatch: pytest.MonkeyPatch, machine: tuple[Driver, Cuda]) -> None:
    with pytest.raises(GpuError, match="there is no GPU 7"):
        Live("7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-11")
    with pytest.raises(GpuError, match="hides GPU 0"):
        Live("0")
    machine[0].taken = {1: 7}
    assert Live().device.index == 1
    assert len(Live().peers) == 1
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(GpuError, match="not the number of a GPU"):
        Live("first")
    with pytest.raises(GpuError, match="no NVIDIA GPU to measure"):
        Live(module=Driver(names=()))
    monkeypatch.setattr(Cuda, "is_available", lambda _self: False)
    with pytest.raises(GpuError, match="build for CPUs"):
        Live().about  # noqa: B018
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(GpuError, match="needs torch and nvidia-ml-py"):
        Live()


def test_a_meter_that_fails_ends_the_measurement() -> None:
    def fail() -> tuple[int, ...]:
        raise OSError("GPU is lost")

    with nvml.Sampler([SimpleNamespace(meter=fail, state=lambda: (0, 0, 0, 0))]) as sampler:
        time.sleep(0.1)
    with pytest.raises(GpuError, match="GPU is lost"):
        sampler.samples()


def test_a_load_that_no_process_explains_is_waited_for(
    machine: tuple[Driver, Cuda], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = [40, 3, 60, 60, 60, 60, 40, 40, 40, 0]
    monkeypatch.setattr(nvml, "_BUSY_EVERY_S", 0.0)
    device = Live("1").device
    monkeypatch.setattr(
        Driver, "nvmlDeviceGetUtilizationRates", lambda *_: SimpleNamespace(gpu=loads.pop(0)), raising=False
    )
    assert device.others() == []
    assert device.others() == ["GPU 1 is 60 % busy"]
    assert device.others() == []


def test_a_capture_that_fails_ends_the_session_and_is_not_tried_again(
    machine: tuple[Driver, Cuda], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "suite", lambda *_, **__: [Case.of("launch", dtype="")])
    machine[1].breaks = True
    with pytest.raises(GpuError, match="launch broke the session: capture failed: operation not permitted"):
        harness.measure(tmp_path / "runs.parquet")
    machine[1].breaks = False
    result = harness.measure(tmp_path / "runs.parquet")
    assert list(result.skipped) == ["launch"] and result.rows.height == 0


def test_a_gpu_that_fails_while_it_runs_ends_the_session(
    machine: tuple[Driver, Cuda], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_self: Cuda) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(harness, "suite", lambda *_, **__: [Case.of("launch", dtype="")])
    monkeypatch.setattr(Cuda, "synchronize", lost)
    monkeypatch.setattr(Cuda, "empty_cache", lost)
    monkeypatch.setattr(runner.Runner, "load", lambda *_: None)
    with pytest.raises(GpuError, match="launch broke the session: CUDA error: an illegal memory access"):
        harness.measure(tmp_path / "runs.parquet", record=tmp_path / "session.jsonl.gz")


def test_a_kernel_that_waits_for_the_gpu_is_left_out_before_it_is_captured(
    machine: tuple[Driver, Cuda], monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = machine[1]

    def waits() -> None:
        if cuda.strict:
            raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(runner, "workload", lambda *_: Workload(waits, 1))
    live = Live()
    with pytest.raises(CannotRun, match="synchronizing"):
        live.load(Case.of("launch", dtype=""))
    assert not cuda.strict


def test_experts_are_left_out_where_pytorch_would_wait(machine: tuple[Driver, Cuda]) -> None:
    machine[1].capability = (8, 9)
    with pytest.raises(CannotRun, match="Hopper and Blackwell"):
        Live().load(next(case for case in suite("quick") if case.family == "grouped_gemm"))


def test_the_transformer_has_its_spec() -> None:
    result = spec()
    assert result.spec.name == NAME
    wide, inner, words = (int(CONFIG[name]) for name in ("hidden_size", "intermediate_size", "vocab_size"))  # type: ignore[call-overload]
    layer = 2 * wide + wide * (24 + 16) * 128 + 24 * 128 * wide + 3 * wide * inner
    assert Plan([result], []).core.parameters(0) == 8 * layer + wide + 2 * words * wide


def test_every_kernel_of_the_suites_runs() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    loop = Runner(torch, "cpu", l2_bytes=0)
    kinds = {(case.family, case.variant, case.dtype): case for case in suite("full")}
    for (family, variant, dtype), case in kinds.items():
        if family == "model":
            continue
        small = Case(family, variant, dtype, tuple((name, SMALL[name]) for name, _ in case.sizes))
        loop.load(small)
        calls, seconds, began, ended = loop.run(2)
        assert calls >= 2 and seconds > 0 and began < ended


def test_the_transformer_reads_and_writes() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    small = {
        "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64, "num_hidden_layers": 2, "vocab_size": 512,
    }  # fmt: skip
    model = Transformer(torch, "cpu", small)
    for phase in ("prefill", "decode"):
        words = model.run(phase, 3, 16)()
        assert words.shape == (3,)
        assert ((words >= 0) & (words < 512)).all()


def test_collectives_run_over_processes(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    group = ranks.Ranks(2, ["cpu", "cpu"], "gloo")
    try:
        for operation in ("all_reduce", "all_gather"):
            ranks.load(group, Case.of("collective", operation, bytes=2**12, gpus=2, sms=0))
            calls, seconds, _, _ = ranks.run(group, 5)
            assert calls == ranks.TURNS and seconds > 0
        with pytest.raises(CannotRun):
            group.ask("load", "no_such", 2**12, 0)
        group._processes[1].kill()
        group._processes[1].join()
        with pytest.raises(ranks.RanksDied):
            group.ask("run", 1)
    finally:
        group.close()


def test_sums_stay_finite_however_often_they_are_summed() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    seen: list[Any] = []

    def all_reduce(whole: Any, group: Any) -> None:
        assert group == "all"
        seen[:] = [whole.mul_(8.0)]

    dist = SimpleNamespace(
        all_reduce=all_reduce, all_gather_into_tensor=None, reduce_scatter_tensor=None, all_to_all_single=None
    )
    run = ranks._collective(torch, dist, "all_reduce", 2**12, 8, "cpu", "all")
    for _ in range(50):
        run()
    assert torch.isfinite(seen[0]).all() and 0.5 < float(seen[0].float().std()) < 2
