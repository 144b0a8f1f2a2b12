"""Collectives over several GPUs: a process each, told what to run by the one that measures."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from energylens.measurement.backend import CannotRun
from energylens.measurement.cases import Case
from energylens.measurement.runner import first_line

PATIENCE_S: Final = {"load": 600.0, "run": 120.0}
"""Seconds after which a rank that does not answer is given up; to start one and to join the others takes long."""
_UNCAPTURED: Final = "capture failed"
TURNS: Final = 24
"""Collectives of a captured graph; after so many, sums are scaled back."""
_WARM: Final = 2
_IN_FLIGHT: Final = 8


class RanksDied(CannotRun):
    """A rank ended, or does not answer: what the others say next may be late."""


class Ranks:
    """So many processes of one process group (`nccl` on GPUs, `gloo` on CPUs)."""

    def __init__(self, number: int, devices: list[str], kind: str) -> None:
        self.number = number
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        meeting = str(Path(self._folder.name) / "meeting")
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(number):
            near, far = context.Pipe()
            process = context.Process(target=_work, args=(rank, number, devices[rank], kind, meeting, far), daemon=True)
            process.start()
            self._pipes.append(near)
            self._processes.append(process)

    def ask(self, *what: Any) -> Any:
        """Have every rank do something; return what the first answers, raise `CannotRun` for what any cannot."""
        for rank, pipe in enumerate(self._pipes):
            try:
                pipe.send(what)
            except OSError:
                raise RanksDied(f"rank {rank} died") from None
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(PATIENCE_S.get(what[0], PATIENCE_S["run"])):
                raise RanksDied(f"rank {rank} did not answer")
            try:
                answers.append(pipe.recv())
            except (EOFError, OSError):
                raise RanksDied(f"rank {rank} died") from None
        for fault, _ in answers:
            if fault:
                raise RanksDied(fault) if fault.startswith(_UNCAPTURED) else CannotRun(fault)
        return answers[0][1]

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
        self._folder.cleanup()


def _work(rank: int, number: int, device: str, kind: str, meeting: str, pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group(kind, init_method=f"file://{meeting}", rank=rank, world_size=number)
    groups: dict[int, Any] = {0: dist.group.WORLD}
    call: Any = None
    while True:
        try:
            what, *rest = pipe.recv()
        except EOFError:
            call = None
            dist.destroy_process_group()
            return
        try:
            answer = None
            if what == "load":
                operation, size, sms = rest
                if sms not in groups:
                    options = dist.ProcessGroupNCCL.Options()
                    options.config.max_ctas = sms
                    groups[sms] = dist.new_group(pg_options=options)
                call = None  # a graph of before goes before its memory does
                call = _loop(torch, _collective(torch, dist, operation, size, number, device, groups[sms]), cuda)
            else:
                answer = _timed(torch, call, rest[0], cuda)
            pipe.send((None, answer))
        except Exception as error:
            pipe.send((first_line(error), None))


def _collective(torch: Any, dist: Any, operation: str, size: int, number: int, device: str, group: Any) -> Any:
    """Return a function of `TURNS` calls over `size` bytes of bf16: all that is reduced, gathered or exchanged."""
    elements = max(number, size // 2 // number * number)
    whole = torch.randn(elements, device=device).to(torch.bfloat16)
    other, part = torch.empty_like(whole), whole[: elements // number].clone()
    calls = {
        "all_reduce": lambda: dist.all_reduce(whole, group=group),
        "all_gather": lambda: dist.all_gather_into_tensor(other, part, group=group),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole, group=group),
        "all_to_all": lambda: dist.all_to_all_single(other, whole, group=group),
    }
    collective: Callable[[], Any] = calls[operation]

    def run() -> None:
        for _ in range(TURNS):
            collective()
        if operation == "all_reduce":
            whole.mul_(float(number) ** -TURNS)  # or sums of sums would soon be infinite, and cost other joules

    return run


def _loop(torch: Any, run: Callable[[], None], cuda: bool) -> Callable[[], Any]:
    """Return the calls as a CUDA graph, or as they are on a CPU; raise `RuntimeError` where they cannot be captured."""
    for _ in range(_WARM):
        run()
    if not cuda:
        return run
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        # The watchdog of NCCL queries events in a thread of its own.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            run()
    except RuntimeError as error:
        raise RuntimeError(f"{_UNCAPTURED}: {error}") from error
    replay: Callable[[], Any] = graph.replay
    return replay


def _timed(torch: Any, call: Callable[[], Any], turns: int, cuda: bool) -> float:
    """Return the seconds of so many rounds of `TURNS` calls."""
    if not cuda:
        began = time.monotonic()
        for _ in range(turns):
            call()
        return time.monotonic() - began
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    first.record()
    marks: list[Any] = []
    for turn in range(turns):
        call()
        if turn % _IN_FLIGHT == 0:
            mark = torch.cuda.Event()
            mark.record()
            marks.append(mark)
        if len(marks) > 2:
            marks.pop(0).synchronize()
    last.record()
    last.synchronize()
    return 1e-3 * float(first.elapsed_time(last))


def load(ranks: Ranks, case: Case) -> None:
    """Make the message of a case on every rank; raise `CannotRun`."""
    ranks.ask("load", case.variant, case["bytes"], case["sms"])


def run(ranks: Ranks, calls: int) -> tuple[int, float, float, float]:
    """Run at least so many calls on all ranks; return how many, seconds, and when they began and ended."""
    turns = -(-calls // TURNS)
    began = time.monotonic()
    seconds = float(ranks.ask("run", turns))
    return turns * TURNS, seconds, began, time.monotonic()
