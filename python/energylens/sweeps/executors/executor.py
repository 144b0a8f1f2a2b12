"""What an executor does."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Protocol, TypeVar

TaskT = TypeVar("TaskT")
DoneT = TypeVar("DoneT")


class Executor(Protocol):
    """Runs tasks that do not depend on one another."""

    def run(self, work: Callable[[TaskT], DoneT], tasks: Sequence[TaskT]) -> Generator[DoneT, None, None]:
        """Yield what `work` returns for each task, in any order; the first error is raised. Closing stops the rest."""
