"""This process: one task after another, each on the threads of the core."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from energylens.sweeps.executors.executor import DoneT, TaskT


class LocalExecutor:
    """Runs tasks here, in order."""

    def run(self, work: Callable[[TaskT], DoneT], tasks: Sequence[TaskT]) -> Generator[DoneT, None, None]:
        """Yield what `work` returns for each task."""
        for task in tasks:
            yield work(task)
