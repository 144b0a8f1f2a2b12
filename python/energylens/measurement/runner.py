"""Runs cases on a device of PyTorch: CUDA graphs on a GPU, plain calls on a CPU."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any, Final

from energylens.measurement.backend import Broken, CannotRun
from energylens.measurement.cases import Case
from energylens.measurement.kernels import Workload, workload

GRAPH_S: Final = 2e-3
"""About how long a captured graph runs: launches of graphs then cost nothing that shows."""
AHEAD_S: Final = 0.05
"""Calls are sent to the GPU at most this far ahead of it, times two."""
IDLE_S: Final = {"deep": 0.1, "waiting": 2e-3}
"""Seconds of one call of the cases `idle`; of those `waiting` each begins with a kernel, so that the clock stays."""


class Runner:
    """One case at a time, loaded and repeated."""

    def __init__(self, torch: Any, device: str, l2_bytes: int) -> None:
        self.torch, self.device, self.l2_bytes = torch, device, l2_bytes
        self.cuda = device.startswith("cuda")
        self._replay: Callable[[], Any] = lambda: None
        self._calls = 1
        self._idle: str | None = None
        self._side: Any = None

    def load(self, case: Case) -> None:
        """Make the inputs and run once; on a GPU capture a graph of about `GRAPH_S`; raise `CannotRun`, `Broken`."""
        self.free()
        self._idle = case.variant if case.family == "idle" else None
        if self._idle:
            counter = self.torch.zeros(1, device=self.device)
            self._replay = (lambda: counter.add_(1)) if self._idle == "waiting" else (lambda: None)
            return
        try:
            work = workload(self.torch, case, self.device, self.l2_bytes)
            if not self.cuda:
                work.run()
                self._replay, self._calls = work.run, work.calls
                return
            once = self._warm(work)
        except (RuntimeError, NotImplementedError, AttributeError, ValueError, TypeError) as error:
            self.free()
            if self.cuda and isinstance(error, self.torch.cuda.OutOfMemoryError):
                raise CannotRun("it does not fit in the memory that is free") from None
            raise CannotRun(first_line(error)) from error
        self._capture(work, max(1, min(200, round(GRAPH_S / max(once, 1e-6)))))

    def free(self) -> None:
        """Let go of the loaded case; raise `Broken` where the GPU no longer answers."""
        self._replay, self._calls = (lambda: None), 1
        gc.collect()
        if self.cuda:
            try:
                self.torch.cuda.empty_cache()
            except RuntimeError as error:
                raise Broken(first_line(error)) from error

    def _warm(self, work: Workload) -> float:
        """Run a few times beside the default stream, as captures want it; return seconds of the last time.

        The last one may not wait for the GPU: a capture would break on that, and with it the process.
        """
        cuda = self.torch.cuda
        self._side = self._side or cuda.Stream()
        self._side.wait_stream(cuda.current_stream())
        with cuda.stream(self._side):
            for _ in range(3):
                work.run()
            self._side.synchronize()
            began = time.perf_counter()
            cuda.set_sync_debug_mode("error")
            try:
                work.run()
            finally:
                cuda.set_sync_debug_mode("default")
            self._side.synchronize()
        cuda.current_stream().wait_stream(self._side)
        return time.perf_counter() - began

    def _capture(self, work: Workload, repeats: int) -> None:
        graph = self.torch.cuda.CUDAGraph()
        try:
            with self.torch.cuda.graph(graph):
                for _ in range(repeats):
                    work.run()
        except Exception as error:
            # PyTorch's random numbers and current stream stay as in the capture.
            raise Broken(f"capture failed: {first_line(error)}") from error
        self._replay, self._calls = graph.replay, repeats * work.calls

    def run(self, calls: int) -> tuple[int, float, float, float]:
        """Run at least so many calls; return how many, their seconds, and when they began and ended (`time.monotonic`).

        Raises `Broken` where the GPU fails.
        The seconds are the GPU's own, between two events; sent in batches, so that the queue neither empties nor fills.
        """
        turns = max(1, -(-calls // self._calls))
        if self._idle or not self.cuda:
            began = time.monotonic()
            for _ in range(turns):
                self._replay()
                if self._idle:
                    time.sleep(IDLE_S[self._idle])
            ended = time.monotonic()
            return turns * self._calls, ended - began, began, ended
        try:
            return self._run_cuda(turns)
        except RuntimeError as error:
            raise Broken(first_line(error)) from error

    def _run_cuda(self, turns: int) -> tuple[int, float, float, float]:
        cuda = self.torch.cuda
        first, last = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        cuda.synchronize()
        began = time.monotonic()
        first.record()
        sent: list[Any] = []
        batch, done = 1, 0
        while done < turns:
            some = min(batch, turns - done)
            started = time.monotonic()
            for _ in range(some):
                self._replay()
            mark = cuda.Event()
            mark.record()
            sent.append(mark)
            done += some
            if len(sent) > 2:
                _wait(sent.pop(0))
            took = time.monotonic() - started
            batch = max(1, min(2 * batch, round(batch * AHEAD_S / max(took, 1e-4))))
        last.record()
        _wait(last)
        ended = time.monotonic()
        return turns * self._calls, 1e-3 * first.elapsed_time(last), began, ended


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its kind."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _wait(event: Any) -> None:
    """Wait without holding the interpreter, so that the meters go on being read."""
    while not event.query():
        time.sleep(5e-4)
