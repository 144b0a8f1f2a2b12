"""Collectives over several GPUs: a process each, told what to run by the one that measures."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from energylens.measurement.backend import CannotRun
from energylens.measurement.cases import Case

PATIENCE_S: Final = 120.0
"""Seconds after which a rank that does not answer is given up."""
_WARM: Final = 3
_IN_FLIGHT: Final = 64


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
                raise CannotRun(f"rank {rank} died") from None
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(PATIENCE_S):
                raise CannotRun(f"rank {rank} did not answer")
            try:
                answers.append(pipe.recv())
            except (EOFError, OSError):
                raise CannotRun(f"rank {rank} died") from None
        for fault, _ in answers:
            if fault:
                raise CannotRun(fault)
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
                call = _collective(torch, dist, operation, size, number, device, groups[sms])
                for _ in range(_WARM):
                    call()
            else:
                answer = _timed(torch, call, rest[0], cuda)
            pipe.send((None, answer))
        except Exception as error:
            pipe.send((str(error).splitlines()[0] if str(error) else type(error).__name__, None))


def _collective(torch: Any, dist: Any, operation: str, size: int, number: int, device: str, group: Any) -> Any:
    """Return a call over `size` bytes of bf16: what is reduced or gathered whole, or what each rank sends in all."""
    elements = max(number, size // 2 // number * number)
    whole = torch.randn(elements, device=device).to(torch.bfloat16)
    other, part = torch.empty_like(whole), torch.empty_like(whole[: elements // number])
    calls = {
        "all_reduce": lambda: dist.all_reduce(whole, group=group),
        "all_gather": lambda: dist.all_gather_into_tensor(whole, part, group=group),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole, group=group),
        "all_to_all": lambda: dist.all_to_all_single(other, whole, group=group),
    }
    return calls[operation]


def _timed(torch: Any, call: Any, calls: int, cuda: bool) -> float:
    if not cuda:
        began = time.monotonic()
        for _ in range(calls):
            call()
        return time.monotonic() - began
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    first.record()
    marks: list[Any] = []
    for turn in range(calls):
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
    """Run so many calls on all ranks; return how many, seconds, and when they began and ended (`time.monotonic`)."""
    began = time.monotonic()
    seconds = float(ranks.ask("run", calls))
    return calls, seconds, began, time.monotonic()
