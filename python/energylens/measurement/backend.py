"""What a GPU to measure on has to offer, and what comes back from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from energylens.measurement.cases import Case


class CannotRun(Exception):
    """A case that this GPU or this version of PyTorch cannot run; its text says why."""


class Broken(Exception):
    """A case after which the process can measure no more; its text says why."""


class NotAllowed(Exception):
    """A setting that this user may not change; its text says why."""


@dataclass(frozen=True)
class About:
    """The GPU measured on, and the software above it."""

    name: str
    uuid: str
    sms: int
    memory_bytes: int
    l2_bytes: int
    limit_w: float
    max_sm_clock_mhz: int
    fp8: bool
    gpus: int
    driver: str
    torch: str
    cuda: str
    power: str
    """`instant` where power samples are of that moment, `driver` where they are its own, mostly means of a second."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Samples:
    """What the meter of one GPU showed, by the host's clock: parallel lists."""

    time_s: Sequence[float]
    counter_mj: Sequence[int]
    power_mw: Sequence[int]
    sm_clock_mhz: Sequence[int]
    memory_clock_mhz: Sequence[int]
    temperature_c: Sequence[int]
    reasons: Sequence[int]


@dataclass(frozen=True)
class Window:
    """So many calls back to back: their seconds by the GPU's clock, and what the meters showed meanwhile."""

    calls: int
    seconds: float
    began_s: float
    ended_s: float
    samples: Sequence[Samples]


class Backend(Protocol):
    """A GPU with meters: a real one, or the recording of one."""

    @property
    def about(self) -> About:
        """The GPU and its software."""

    def others(self) -> list[str]:
        """Return what else runs on it, in words."""

    def lock(self, sm_clock_mhz: int | None) -> None:
        """Lock the SM clock, or free it; raise `NotAllowed`."""

    def load(self, case: Case) -> None:
        """Make the inputs of a case, compile and run it once; raise `CannotRun`."""

    def time(self, calls: int) -> float:
        """Return the seconds of so many calls of the loaded case."""

    def window(self, calls: int) -> Window:
        """Run so many calls of the loaded case with the meters read all the while."""

    def close(self) -> None:
        """Free the memory, end what was started."""
