"""Where work runs: executors by name."""

from __future__ import annotations

from energylens.common.errors import EnergylensError, Problem, did_you_mean
from energylens.common.show import shown
from energylens.inputs.axis_text import is_whole
from energylens.sweeps.executors.executor import Executor

EXECUTORS = ("local", "ray")

_MOST_WORKERS = 1_000_000


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
    misplaced = [option for option, value in (("workers", workers), ("address", address)) if value is not None]
    if misplaced:
        message = f"`{misplaced[0]}` is an option of the executor `ray`"
        raise EnergylensError(Problem(message, hint="add --executor ray", code="executor"))
    from energylens.sweeps.executors.local import LocalExecutor

    return LocalExecutor()
