"""Workers under limits: one that hangs, dies or takes too much memory is ended, and the case is a fault."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_SECONDS = 10.0
"""Seconds that one case may take."""

MOST_BYTES = 2 * 10**9
"""Bytes that one case may add to a worker's resident memory."""

_START_SECONDS = 120.0
_LOOK_SECONDS = 0.02
_TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Fault:
    """What went wrong with a case."""

    job: dict[str, Any]
    text: str


class Worker:
    """A worker process, started again when it had to be ended."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._process: subprocess.Popen[str] | None = None
        self._start_bytes = 0

    def run(self, job: dict[str, Any]) -> Fault | None:
        """Run one job under the limits."""
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            answer = self._answer(MOST_SECONDS)
        except BrokenPipeError:
            answer = "the worker died"
        if isinstance(answer, dict):
            return Fault(job, answer["fault"]) if answer["fault"] else None
        self.close()
        return Fault(job, answer)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_TESTS), *sys.path[1:]])}
        environment |= {"ENERGYLENS_MEMORY": "1GB", "POLARS_MAX_THREADS": "1", "PYTHONWARNINGS": "error"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
            cwd=_TESTS,
        )
        ready = self._answer(_START_SECONDS)
        if not isinstance(ready, dict):
            raise RuntimeError(f"a worker does not start: {ready}")
        self._start_bytes = _resident(self._process.pid)
        return self._process

    def _answer(self, seconds: float) -> dict[str, Any] | str:
        """Return the next answer, or why there is none."""
        process = self._process
        assert process is not None and process.stdout is not None
        end = time.monotonic() + seconds
        while True:
            if select.select([process.stdout], [], [], _LOOK_SECONDS)[0]:
                line = process.stdout.readline()
                if line:
                    answer: dict[str, Any] = json.loads(line)
                    return answer
                return f"the worker died with {process.wait()}"
            if time.monotonic() > end:
                return f"no answer within {seconds:.0f} s"
            if self._start_bytes and _resident(process.pid) - self._start_bytes > self._most_bytes:
                return f"more than {self._most_bytes / 1e9:g} GB of memory"


def _resident(process_id: int) -> int:
    """Return the bytes of memory a process holds; 0 where that cannot be read."""
    try:
        pages = int(Path(f"/proc/{process_id}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
