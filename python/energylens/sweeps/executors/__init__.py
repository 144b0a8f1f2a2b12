"""Where work runs: one small interface, and who has it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Protocol, TypeVar

from energylens.common.errors import EnergylensError, Problem, did_you_mean
from energylens.common.show import shown
from energylens.inputs.axis_text import is_whole

TaskT = TypeVar("TaskT")
DoneT = TypeVar("DoneT")

EXECUTORS = ("local", "ray")

_MOST_WORKERS = 1_000_000


class Executor(Protocol):
    """Runs tasks that do not depend on one another."""

    def run(self, work: Callable[[TaskT], DoneT], tasks: Sequence[TaskT]) -> Generator[DoneT, None, None]:
        """Yield what `work` returns for each task, in any order; the first error is raised. Closing stops the rest."""


def executor_named(name: str, threads: int | None, workers: int | None, address: str | None) -> Executor:
    """Return an executor; raise `EnergylensError` if there is none of that name, or an option is not its own."""
    if name not in EXECUTORS:
        hint = did_you_mean(shown(name), EXECUTORS)
        raise EnergylensError(Problem(f"unknown executor `{shown(name)}`", hint=hint, code="executor"))
    if workers is not None and not is_whole(workers, 1, _MOST_WORKERS):
        raise EnergylensError(Problem(f"workers should be at least 1, found {shown(workers)}", code="executor"))
    if address is not None and not isinstance(address, str):
        raise EnergylensError(Problem(f"an address is a text, found {shown(address)}", code="executor"))
    if name == "ray":
        from energylens.sweeps.executors.ray import RayExecutor

        return RayExecutor(threads or 1, workers, address)
    given = [option for option, value in (("workers", workers), ("address", address)) if value is not None]
    if given:
        message = f"`{given[0]}` is an option of the executor `ray`"
        raise EnergylensError(Problem(message, hint="add --executor ray", code="executor"))
    from energylens.sweeps.executors.local import LocalExecutor

    return LocalExecutor()
