"""The state of a search in a file: plain arrays and a text that says which search they belong to."""

from __future__ import annotations

import io
import json
import math
import struct
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from energylens import _core
from energylens.common.errors import EnergylensError, Problem, SpaceError
from energylens.common.files import input_file, printable
from energylens.common.json_file import strict_json
from energylens.common.memory import require_bytes
from energylens.common.parquet_file import checked_target, replace_file
from energylens.engine.space import Space

FORMAT = 1

_SECONDS_BETWEEN = 10.0
_SECONDS_FIRST = 2.0
_SHARE_OF_TIME = 0.05

State = dict[str, NDArray[Any]]

DAMAGED = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError),
    *(RuntimeError, SyntaxError, struct.error, zipfile.BadZipFile, zlib.error),
)
"""What reading a damaged file, or taking up arrays that do not fit, may raise."""

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_KINDS = "uifU"


class Checkpoint:
    """A file that is replaced as a whole every ten seconds, or less often where writing takes long."""

    def __init__(self, path: str | Path, space: Space, **arguments: Any) -> None:
        self.path = checked_target(path)
        self._belongs = {
            "format": FORMAT,
            "energylens": _core.__version__,
            "models and GPUs": space.plan.sha256,
            "axes": space.json,
            "limits": [list(map(str, bound)) for bound in space.bounds],
            "objectives": [name for name, _ in space.signed_objectives],
            **arguments,
        }
        self._due = time.monotonic() + _SECONDS_FIRST

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() >= self._due

    def save(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Write under a temporary name, then rename; raise `SpaceError` if that cannot be done."""
        started = time.monotonic()
        written = io.BytesIO()
        np.savez(written, allow_pickle=False, belongs=np.array(json.dumps(self._belongs)), **state)
        try:
            replace_file(self.path, written.getvalue())
        except OSError as error:
            reason = error.strerror or str(error)
            raise SpaceError(
                Problem(f"cannot write the checkpoint `{printable(str(self.path))}`: {reason}", code="write")
            ) from None
        ended = time.monotonic()
        self._due = ended + max(_SECONDS_BETWEEN, (ended - started) / _SHARE_OF_TIME)

    def load(self) -> State | None:
        """Return the state, or none if there is no file; raise `SpaceError` if it is not of this search."""
        if not self.path.exists():
            return None
        try:
            state = _arrays(input_file(self.path, "checkpoint", error=SpaceError))
            belongs = strict_json(str(state.pop("belongs")))
            differing = [name for name, value in self._belongs.items() if belongs.get(name) != value]
        except EnergylensError:
            raise
        except DAMAGED:
            raise self.damaged() from None
        if differing:
            message = f"the checkpoint `{self.path}` is of another search: not the same {', '.join(differing)}"
            hint = "give the arguments it was written with, or another path"
            raise SpaceError(Problem(message, hint=hint, code="checkpoint"))
        return state

    def interrupted(self, generation: int) -> KeyboardInterrupt:
        """Return what to say when a search was broken off and its state written."""
        return KeyboardInterrupt(
            f"interrupted after generation {generation:,}; the same command goes on from {self.path}"
        )

    def damaged(self) -> SpaceError:
        """Return the error of a file that is no whole checkpoint."""
        hint = "delete it to search from the start"
        return SpaceError(
            Problem(f"the checkpoint `{self.path}` is damaged or no checkpoint", hint=hint, code="checkpoint")
        )


def _arrays(path: Path) -> State:
    """Return the arrays of a file of numbers and texts, each of the size that its header tells; nothing is unpickled.

    Sizes are held against the budget of memory, and against the bytes that are there, before room is made for them.
    """
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        require_bytes(2.0 * sum(member.file_size for member in members), f"the checkpoint `{printable(str(path))}`")
        return {member.filename.removesuffix(".npy"): _array(file.read(member)) for member in members}


def _array(data: bytes) -> NDArray[Any]:
    buffer = io.BytesIO(data)
    shape, _, dtype = _HEADERS[np.lib.format.read_magic(buffer)](buffer)
    if dtype.kind not in _KINDS or math.prod(shape) * dtype.itemsize != len(data) - buffer.tell():
        raise ValueError("an array is not what its header tells")
    return np.frombuffer(data, dtype, offset=buffer.tell()).reshape(shape).copy()
