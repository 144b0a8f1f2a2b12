"""A session of measuring, recorded as lines of JSON, and replayed without a GPU."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, Final

from energylens.common.errors import EnergylensError, Problem
from energylens.common.files import input_file, printable
from energylens.common.memory import require_bytes
from energylens.measurement.backend import About, Backend, CannotRun, NotAllowed, Samples, Window
from energylens.measurement.cases import Case

FORMAT: Final = "energylens measured session 1"


class Recorder:
    """A backend that writes down all that another one answers."""

    def __init__(self, backend: Backend, path: Path) -> None:
        about = backend.about.as_dict()
        self._backend = backend
        packed = path.suffix == ".gz"
        self._file = gzip.open(path, "wt") if packed else path.open("w", encoding="utf-8")  # noqa: SIM115
        self._clock: int | None = None
        self._case = ""
        self._put({"format": FORMAT, "about": about})

    def _put(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")

    def _record(self, call: str, **answer: Any) -> None:
        self._put({"clock": self._clock, "case": self._case, "call": call} | answer)

    @contextmanager
    def _answered(self, call: str, refusal: str, refused: type[Exception]) -> Iterator[None]:
        """Write down that a call went well, or why it was refused."""
        try:
            yield
        except refused as error:
            self._record(call, **{refusal: str(error)})
            raise
        self._record(call)

    @property
    def about(self) -> About:
        """The GPU and its software."""
        return self._backend.about

    def others(self) -> list[str]:
        """Return what else runs on it, in words."""
        return self._backend.others()

    def lock(self, sm_clock_mhz: int | None) -> None:
        """Lock the SM clock, or free it; raise `NotAllowed`."""
        self._clock, self._case = sm_clock_mhz, ""
        with self._answered("lock", "not_allowed", NotAllowed):
            self._backend.lock(sm_clock_mhz)

    def load(self, case: Case) -> None:
        """Load a case; raise `CannotRun`."""
        self._case = case.name
        with self._answered("load", "cannot_run", CannotRun):
            self._backend.load(case)

    def time(self, calls: int) -> float:
        """Return the seconds of so many calls of the loaded case."""
        seconds = self._backend.time(calls)
        self._record("time", seconds=seconds)
        return seconds

    def window(self, calls: int) -> Window:
        """Run so many calls of the loaded case with the meters read all the while."""
        window = self._backend.window(calls)
        self._record("window", **asdict(window))
        return window

    def close(self) -> None:
        """Close the session and its recording."""
        try:
            self._backend.close()
        finally:
            self._file.close()


class Replay:
    """A recorded session in place of a GPU: every call gets the next answer of its clock and case."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = _lines(path)
        first = next(lines, {})
        if first.get("format") != FORMAT:
            hint = "`energylens measure --record FILE` writes one"
            raise EnergylensError(
                Problem(f"`{path}` is no recorded session", hint=hint, code="recording", where=str(path))
            )
        self._answers: dict[tuple[int | None, str, str], deque[dict[str, Any]]] = defaultdict(deque)
        with self._readable():
            self.about = About(**first["about"])
            for line in lines:
                self._answers[line["clock"], line["case"], line["call"]].append(line)
        self._clock: int | None = None
        self._case = ""

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn what a damaged recording lacks into an `EnergylensError`."""
        try:
            yield
        except (KeyError, TypeError) as error:
            message = f"`{self._path}` lacks something, or is of another version: {error}"
            raise EnergylensError(
                Problem(message, hint="record it again", code="recording", where=str(self._path))
            ) from None

    def _next(self, call: str) -> dict[str, Any]:
        answers = self._answers[self._clock, self._case, call]
        if not answers:
            at = f" at {self._clock} MHz" if self._clock else ""
            what = f"{call} of {self._case or 'the clock'}{at}"
            hint = "record it with the same suite, clocks and repeats"
            message = f"the recorded session has no answer to `{what}`"
            raise EnergylensError(Problem(message, hint=hint, code="recording", where=str(self._path)))
        return answers.popleft()

    def others(self) -> list[str]:
        """Return nothing: a recording is free."""
        return []

    def lock(self, sm_clock_mhz: int | None) -> None:
        """Go to what was recorded at a clock; raise `NotAllowed` where it was not allowed."""
        self._clock, self._case = sm_clock_mhz, ""
        if sm_clock_mhz is not None and (why := self._next("lock").get("not_allowed")):
            raise NotAllowed(why)

    def load(self, case: Case) -> None:
        """Go to what was recorded of a case; raise `CannotRun` where it could not."""
        self._case = case.name
        if why := self._next("load").get("cannot_run"):
            raise CannotRun(why)

    def time(self, calls: int) -> float:
        """Return the recorded seconds."""
        answer = self._next("time")
        with self._readable():
            return float(answer["seconds"])

    def window(self, calls: int) -> Window:
        """Return the recorded window."""
        answer = self._next("window")
        with self._readable():
            samples = [
                Samples(**{field_.name: samples_of_gpu[field_.name] for field_ in fields(Samples)})
                for samples_of_gpu in answer["samples"]
            ]
            return Window(answer["calls"], answer["seconds"], answer["began_s"], answer["ended_s"], samples)

    def close(self) -> None:
        """Do nothing."""


_LONGEST_LINE = 2**24
"""Longest line of a recording, characters: one window of samples has some thousands."""

_MEMORY_FACTOR = 10.0
"""Bytes in memory for each character of a recording."""


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    input_file(path, "recorded session", error=EnergylensError)
    shown, total, checked = printable(str(path)), 0, 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(iter(partial(file.readline, _LONGEST_LINE), ""), 1):
                total += len(line)
                if total > checked:
                    checked = total + _LONGEST_LINE
                    require_bytes(checked * _MEMORY_FACTOR, f"the recorded session `{shown}`")
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    entry = None
                if not isinstance(entry, dict):
                    hint = "it may be cut short: record it again"
                    where = f"{shown}:{number}"
                    raise EnergylensError(
                        Problem("a recorded session is lines of JSON", hint=hint, code="recording", where=where)
                    )
                yield entry
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "is it the right file? it may be cut short: record it again"
        message = f"cannot read `{shown}`: {reason}"
        raise EnergylensError(Problem(message, hint=hint, code="recording", where=shown)) from None
