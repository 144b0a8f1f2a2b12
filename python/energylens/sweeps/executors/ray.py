"""Processes of a Ray cluster, or of a temporary local one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Sequence
from typing import Any

from energylens.common.errors import EnergylensError, Problem, needs_extra
from energylens.engine.evaluate import default_threads
from energylens.sweeps.executors.executor import DoneT, TaskT

_PATIENCE_S = 10.0
_RETRIES = 5
"""How often a task is tried again after the death of its worker."""


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise EnergylensError(needs_extra("the executor `ray` needs Ray", "ray")) from None
    return ray


def _call(work: Callable[[TaskT], DoneT], task: TaskT) -> DoneT:
    return work(task)


def _reach(address: str) -> None:
    """Raise `EnergylensError` if nothing listens at an address; Ray itself retries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        message = f"no Ray cluster answers at `{address}`: {getattr(error, 'strerror', None) or error}"
        hint = "check --address, or leave it out to start Ray here"
        raise EnergylensError(Problem(message, hint=hint, code="ray")) from None


class RayExecutor:
    """Runs each task as a Ray task of `threads` CPUs, `workers` at a time at most."""

    def __init__(self, threads: int, workers: int | None, address: str | None) -> None:
        self.threads, self.workers, self.address = threads, workers, address
        self.ray = _ray()

    def run(self, work: Callable[[TaskT], DoneT], tasks: Sequence[TaskT]) -> Generator[DoneT, None, None]:
        """Yield what `work` returns for each task, as they are done; raise `EnergylensError`."""
        ray = self.ray
        started = not ray.is_initialized()
        if started:
            self._start()
        waiting: list[Any] = []
        try:
            remote = ray.remote(num_cpus=self.threads, max_retries=_RETRIES)(_call)
            shared, left = ray.put(work), iter(tasks)
            most = self.workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)) // self.threads)
            waiting = [remote.remote(shared, task) for _, task in zip(range(most), left, strict=False)]
            while waiting:
                done, waiting = ray.wait(waiting)
                waiting += [remote.remote(shared, task) for _, task in zip(done, left, strict=False)]
                yield from ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            message = f"Ray gave up: {next(iter(str(error).splitlines()), type(error).__name__)}"
            hint = "a worker that dies again and again often lacks memory"
            raise EnergylensError(Problem(message, hint=hint, code="ray")) from None
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)
            if started:
                ray.shutdown()

    def _start(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = self.address or os.environ.get("RAY_ADDRESS")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if address is None:
            cpus = self.threads * self.workers if self.workers else max(self.threads, default_threads())
            options |= {"num_cpus": cpus, "include_dashboard": False}
        else:
            _reach(address)
        try:
            self.ray.init(address=address or "local", **options)
        except (OSError, RuntimeError, ValueError) as error:
            message = f"cannot reach Ray at `{address or 'local'}`: {next(iter(str(error).splitlines()), '')}"
            raise EnergylensError(Problem(message, hint="check --address", code="ray")) from None
