"""Measure a suite: every case again and again, what is done already left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import Any, Final

import polars as pl

from energylens.common.errors import EnergylensError, GpuError, Problem, did_you_mean
from energylens.common.parquet_file import checked_target
from energylens.common.progress import progress
from energylens.measurement import meter
from energylens.measurement.backend import About, Backend, Broken, CannotRun, NotAllowed
from energylens.measurement.cases import REPEATS, SIZES, SUITES, Case, suite, swept
from energylens.measurement.kernels import INPUT
from energylens.measurement.live import Live
from energylens.measurement.recording import Recorder, Replay
from energylens.measurement.runs import COLUMNS, Runs

WINDOW_S: Final = 2.0
"""Seconds that a kernel is metered, at least."""
WARM_S: Final = 0.5
"""Seconds that a kernel runs before, at least."""
COOL_S: Final = {"deep": 5.0, "waiting": 1.0}
"""The same of a GPU that waits: what ran before still warms it, and its clock falls late."""
_LEAST_TIMED_S: Final = 0.02
_BROKE: Final = "it broke the session"
"""What begins the reason of a case that is not tried again; others may have been out of luck."""
_TURN_S: Final = 3.6
"""About what one repeat takes."""

Key = tuple[str, int | None, int]
"""A case, the clock it is locked at, and the number of the repeat."""


@dataclass(frozen=True)
class Turn:
    """One repeat of one case at one clock."""

    case: Case
    sm_clock_mhz: int | None
    repeat: int

    @property
    def key(self) -> Key:
        """What tells it from all others in a file."""
        return self.case.name, self.sm_clock_mhz, self.repeat


def measure(
    out: str | Path,
    *,
    gpu: str = "auto",
    suite: str = "quick",
    clocks_mhz: Sequence[int] = (),
    minutes: float | None = None,
    allow_shared_gpu: bool = False,
    record: str | Path | None = None,
    replay: str | Path | None = None,
    show_progress: bool = False,
    report: Callable[[str], None] = lambda _line: None,
) -> Runs:
    """Measure seconds and joules of a GPU's kernels, write them to a Parquet file, and return them.

    `suite` is `quick` or `full`; `gpu` the number of a GPU, or `auto`: the first that is free, with all alike that are
    free for collectives. A few cases are measured again at each of `clocks_mhz` where locking is allowed. The file is
    written after every case: called again with the same `out`, it goes on where it ended, also after `minutes`.
    `record` keeps one go in a new file, `replay` takes such a file in place of a GPU; `told` hears what a person should
    know.

    Raises `GpuError` without a GPU or with another process on it (but for `allow_shared_gpu`), `EnergylensError` for
    a file of another GPU, a faulty recording or a wrong argument.
    """
    clocks = list(dict.fromkeys(clocks_mhz))
    target = checked_target(out)
    _check(suite, minutes, clocks, target, gpu, record, replay)
    before = Runs.read(target) if target.exists() else None
    backend: Backend = Replay(Path(replay)) if replay is not None else Live(gpu)
    try:
        if (others := backend.others()) and not allow_shared_gpu:
            raise busy(others)
        if others:
            report(f"measuring beside {'; '.join(others)}: their joules are in these")
        if record is not None:
            backend = Recorder(backend, checked_target(record))
        session = Session(backend, target, suite, report, keep=replay is None)
        return session.run(before, clocks, minutes, show_progress)
    finally:
        backend.close()


def busy(others: Sequence[str]) -> GpuError:
    """Return the error of a GPU on which something else runs."""
    hint = (
        "wait for it, choose another GPU with --gpu, or say --allow-shared-gpu: the joules of others are then in yours"
    )
    return GpuError(Problem(f"the GPU is not free: {'; '.join(others)}", hint=hint, code="busy-gpu"))


def _check(
    suite: str,
    minutes: float | None,
    clocks_mhz: Sequence[int],
    target: Path,
    gpu: str,
    record: str | Path | None,
    replay: str | Path | None,
) -> None:
    """Raise `EnergylensError` with everything that is wrong with what is asked."""
    problems = []

    def wrong(message: str, hint: str | None = None) -> None:
        problems.append(Problem(message, hint=hint, code="options"))

    if suite not in SUITES:
        wrong(f"unknown suite `{suite}`", did_you_mean(suite, SUITES) or f"use {' or '.join(SUITES)}")
    if minutes is not None and not minutes > 0:
        wrong(f"minutes should be positive, found {minutes:g}")
    for clock in clocks_mhz:
        if not isinstance(clock, int) or not 0 < clock < 10_000:
            wrong(f"a clock is a whole number of MHz, found {clock}", "such as 1410")
    if target.suffix != ".parquet":
        wrong(f"`{target.name}` would be a Parquet file", f"name it {target.stem}.parquet")
    if record is not None:
        if Path(record).exists():
            wrong(f"`{record}` is there already", "a recording is of one go: name a new file")
        if not str(record).endswith((".jsonl", ".jsonl.gz")):
            wrong(f"`{record}` would be lines of JSON", f"name it {Path(record).stem}.jsonl.gz")
    if replay is not None:
        if gpu != "auto":
            wrong("a recorded session has its own GPU", "leave out --gpu or --replay")
        if target.exists():
            wrong(f"`{target.name}` is there already", "a replay starts anew: name a new file")
    if problems:
        raise EnergylensError(problems)


class Session:
    """One go at a suite."""

    def __init__(
        self,
        backend: Backend,
        target: Path,
        suite_name: str,
        report: Callable[[str], None] = lambda _line: None,
        keep: bool = True,
    ) -> None:
        """Prepare to measure a suite; with `keep` the file is written after every case, without at the end."""
        self.backend, self.target, self.suite, self.report, self.keep = backend, target, suite_name, report, keep
        self.about: About = backend.about
        self.rows: list[dict[str, Any]] = []
        self.skipped: dict[str, str] = {}

    def run(
        self,
        before: Runs | None,
        clocks_mhz: Sequence[int] = (),
        minutes: float | None = None,
        show_progress: bool = False,
    ) -> Runs:
        """Measure what is not in `before`, and return all rows."""
        if before is not None:
            self._resume(before)
        done: set[Key] = {(row["case"], row["sm_clock_lock_mhz"], row["repeat"]) for row in self.rows}
        turns = [turn for turn in self._turns(clocks_mhz) if turn.key not in done]
        self.report(self._plan(len(done), len(turns)))
        self._save()
        end = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
        with progress("measuring", len(turns), show_progress) as advance:
            for clock in dict.fromkeys(turn.sm_clock_mhz for turn in turns):
                turns_at_clock = [turn for turn in turns if turn.sm_clock_mhz == clock]
                with self._locked(clock) as allowed:
                    for turn in turns_at_clock if allowed else []:
                        if time.monotonic() > end:
                            self.report("the time is over; the same command goes on from here")
                            return self._written()
                        if turn.case.name not in self.skipped:
                            self._measure(turn)
                        advance(1)
        return self._written()

    @staticmethod
    def _plan(done: int, left: int) -> str:
        already = f"{done} measured already, " if done else ""
        return f"{already}{left} to measure, about {left * _TURN_S / 60:.0f} minutes"

    def _resume(self, before: Runs) -> None:
        if before.gpu["uuid"] != self.about.uuid or before.suite != self.suite:
            what = f"suite {before.suite} of {before.gpu['name']} ({before.gpu['uuid']})"
            hint = "name another file"
            raise EnergylensError(Problem(f"`{self.target}` holds {what}", hint=hint, code="measured-file"))
        self.rows = [row for row in before.rows.to_dicts() if row["suspect"] is None]
        if again := before.rows.height - len(self.rows):
            self.report(f"{again} suspect rows are measured again")
        self.skipped = {name: why for name, why in before.skipped.items() if why.startswith(_BROKE)}
        for name, now in (("driver", self.about.driver), ("torch", self.about.torch), ("limit_w", self.about.limit_w)):
            if self.rows and {row[name] for row in self.rows} != {now}:
                self.report(f"rows that are there were measured with another {name}")

    def _turns(self, clocks_mhz: Sequence[int]) -> Iterator[Turn]:
        about = self.about
        cases = suite(self.suite, fp8=about.fp8, gpus=about.gpus, memory_bytes=about.memory_bytes)
        at: list[tuple[int | None, list[Case]]] = [(None, cases), *((clock, swept(cases)) for clock in clocks_mhz)]
        for clock, some in at:
            for repeat in range(REPEATS[self.suite]):
                yield from (Turn(case, clock, repeat) for case in some)

    @contextmanager
    def _locked(self, clock: int | None) -> Iterator[bool]:
        if clock is None:
            yield True
            return
        try:
            self.backend.lock(clock)
        except NotAllowed as error:
            self.report(f"the clock cannot be locked at {clock} MHz, which is left out: {error}")
            yield False
            return
        try:
            yield True
        finally:
            try:
                self.backend.lock(None)
            except NotAllowed as error:
                self.report(f"the clock is still locked at {clock} MHz: {error}")

    def _measure(self, turn: Turn) -> None:
        try:
            self.backend.load(turn.case)
            calls = ceil(COOL_S.get(turn.case.variant, WARM_S) / self._once())
            once = self.backend.time(calls) / calls  # the clock is up only now
            window = self.backend.window(ceil((WINDOW_S + meter.SETTLE_S) / once))
        except CannotRun as error:
            self.skipped[turn.case.name] = str(error)
            self.report(f"left out: {turn.case.name}: {error}")
            return
        except Broken as error:
            self.skipped[turn.case.name] = f"{_BROKE}: {error}"
            self._save()
            message = f"{turn.case.name} broke the session: {error}"
            hint = "run the same command again: it goes on without this case"
            raise GpuError(Problem(message, hint=hint, code="no-gpu")) from error
        self.rows.append(self._row(turn, window.calls, meter.read(window)))
        self._save()

    def _once(self) -> float:
        """Return the seconds of a call, from enough of them to tell."""
        calls = 1
        while (seconds := self.backend.time(calls)) < _LEAST_TIMED_S:
            calls = max(2 * calls, ceil(calls * _LEAST_TIMED_S / max(seconds, 1e-9)))
        return seconds / calls

    def _row(self, turn: Turn, calls: int, reading: meter.Reading) -> dict[str, Any]:
        case, about = turn.case, self.about
        sizes = dict(case.sizes)
        return {
            "case": case.name, "family": case.family, "variant": case.variant, "dtype": case.dtype,
            **{name: sizes.get(name) for name in SIZES},
            "repeat": turn.repeat, "sm_clock_lock_mhz": turn.sm_clock_mhz, "calls": calls,
            "seconds": reading.seconds, "joules": reading.joules, "joules_integrated": reading.joules_integrated,
            "power_w": reading.power_w, "power_integrated_w": reading.power_integrated_w,
            "metered_s": reading.metered_s,
            "limit_w": about.limit_w, "sm_clock_mhz": reading.sm_clock_mhz,
            "memory_clock_mhz": reading.memory_clock_mhz, "temperature_c": reading.temperature_c,
            "throttle": reading.throttle, "suspect": reading.suspect, "driver": about.driver, "torch": about.torch,
            "cuda": about.cuda, "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip

    def _save(self) -> None:
        if self.keep:
            self._written()

    def _written(self) -> Runs:
        runs = Runs(pl.DataFrame(self.rows, schema=COLUMNS), self.about.as_dict(), self.suite, INPUT, self.skipped)
        runs.write(self.target)
        return runs
