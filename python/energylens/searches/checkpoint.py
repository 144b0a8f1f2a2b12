"""The state of a search in a file: plain arrays and a text that says which search they belong to."""

from __future__ import annotations

import io
import json
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from energylens import _core
from energylens.errors import Problem, SpaceError
from energylens.space import Space
from energylens.store import checked_target, replace_file

FORMAT = 1

_SECONDS_BETWEEN = 10.0
_SECONDS_FIRST = 2.0
_SHARE_OF_TIME = 0.05

State = dict[str, NDArray[Any]]


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
            raise SpaceError(Problem(f"cannot write the checkpoint `{self.path}`: {reason}", code="write")) from None
        ended = time.monotonic()
        self._due = ended + max(_SECONDS_BETWEEN, (ended - started) / _SHARE_OF_TIME)

    def load(self) -> State | None:
        """Return the state, or none if there is no file; raise `SpaceError` if it is not of this search."""
        if not self.path.exists():
            return None
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                state = {name: arrays[name] for name in arrays.files}
            belongs = json.loads(str(state.pop("belongs")))
            differing = [name for name, value in self._belongs.items() if belongs.get(name) != value]
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error):
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
