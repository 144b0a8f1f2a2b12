"""Kills sweeps at random moments, runs them again, and compares the files with those of an undisturbed run.

`kill -9` goes to the driver of a local sweep, to one of two drivers that share a folder, and, where Ray is
installed, to the driver or a worker of a Ray cluster started here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

JOB = """name: killed
space:
  models: llama-3.1-8b
  gpus: [h100-sxm, rtx-4090]
  tp: [1, 2]
  batch: "1:32"
  prompt_tokens: "64:2048:64"
  output_tokens: "16:256:16"
  limits: [tpot<=50ms]
keep: {top: 100, best_per: [gpu, tp], distributions: [tpot_s, energy_j], rows: feasible}
"""
RAY = ("--executor", "ray", "--workers", "2")


class Killer:
    """One job, the files of an undisturbed run, and the number of kills."""

    def __init__(self, folder: Path, seed: int, shards: int) -> None:
        self.draw, self.shards = random.Random(seed), shards
        self.job, self.out, self.reference = folder / "job.yaml", folder / "out", folder / "whole"
        self.errors = folder / "errors"
        self.job.write_text(f"{JOB}shards: {shards}\n")
        self.finish(self.reference)
        self.kills = self.halfway = 0
        self.orphans: list[tuple[int, str]] = []

    def start(self, out: Path, *options: str) -> subprocess.Popen[bytes]:
        """Start a sweep."""
        command = [sys.executable, "-m", "energylens", "sweep", str(self.job), "--out", str(out), *options]
        with self.errors.open("ab") as errors:
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)

    def finish(self, out: Path, *options: str) -> None:
        """Run a sweep to its end."""
        self.end(self.start(out, *options))

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for a sweep that should succeed."""
        if process.wait(timeout=600):
            raise SystemExit(f"a run of the sweep failed:\n{self.errors.read_text()}")

    def done(self) -> int:
        """Return how many shards are there."""
        return len(list((self.out / "shards").glob("*.parquet")))

    def kill(self, runs: Sequence[Sequence[str]]) -> None:
        """Start sweeps and kill the first: in one of five cases at any moment, else after some more shards."""
        before = self.done()
        at = self.draw.randint(1, max(1, self.shards - before)) if self.draw.random() > 0.2 else 0
        pause = self.draw.uniform(0, 0.05 if at else 0.6)
        first, *others = [self.start(self.out, *run) for run in runs]
        while first.poll() is None and self.done() < before + at:
            time.sleep(0.001)
        time.sleep(pause)
        if first.poll() is None:
            self.orphans += descendants(first.pid)
            first.send_signal(signal.SIGKILL)
            first.wait()
            self.kills += 1
            self.halfway += self.done() > 0 and not (self.out / "_SUCCESS").exists()
        first.wait()
        for process in others:
            self.end(process)

    def kill_worker(self) -> None:
        """Start a sweep on a Ray cluster, kill one of its workers, and let it end: Ray does the task again."""
        process = self.start(self.out, *RAY)
        at = self.draw.randint(1, self.shards - 8)
        while process.poll() is None and self.done() < at:
            time.sleep(0.001)
        workers = [pid for pid, command in descendants(process.pid) if command.startswith("ray::_call")]
        if workers:
            with contextlib.suppress(OSError):
                handle = os.pidfd_open(self.draw.choice(workers))
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                os.close(handle)
                self.kills += 1
                self.halfway += 1
        self.end(process)

    def compare(self) -> None:
        """Compare every file with that of the undisturbed run; then start again."""
        have, want = (
            {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
            for root in (self.out, self.reference)
        )
        if sorted(have) != sorted(want):
            raise SystemExit(f"files differ: {sorted(set(have) ^ set(want))}")
        different = [name for name in want if have[name].read_bytes() != want[name].read_bytes()]
        if different:
            raise SystemExit(f"bytes differ: {different}")
        shutil.rmtree(self.out)
        for pid, command in self.orphans:  # agents of Ray that outlive a killed driver
            with contextlib.suppress(OSError):
                if _command(pid) == command:
                    os.kill(pid, signal.SIGKILL)
        self.orphans = []

    def report(self, what: str) -> None:
        """Print the outcome of one kind of kill."""
        print(f"{what}: {self.kills} kills, {self.halfway} halfway, the same bytes after each", flush=True)
        self.kills = self.halfway = 0


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def descendants(root: int) -> list[tuple[int, str]]:
    """Return the processes below one, with their command lines."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            parents[int(folder.name)] = (parent, _command(int(folder.name)))
    below: list[tuple[int, str]] = []
    level = {root}
    while level:
        level = {pid for pid, (parent, _) in parents.items() if parent in level}
        below += [(pid, parents[pid][1]) for pid in level]
    return below


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill as often as requested and print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="kills of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shards", type=int, default=128)
    kinds = ("local", "shared", "twice", "ray", "ray-worker")
    parser.add_argument("--kind", choices=kinds, action="append", help="what is killed; all of them if not given")
    chosen = parser.parse_args(arguments)
    wanted = chosen.kind or [kind for kind in kinds if find_spec("ray") or not kind.startswith("ray")]
    with tempfile.TemporaryDirectory() as folder:
        killer = Killer(Path(folder), chosen.seed, chosen.shards)

        def rounds(what: str, runs: Sequence[Sequence[str]], last: Sequence[str] = ()) -> None:
            while killer.kills < chosen.times:
                for _ in range(min(killer.draw.randint(1, 4), chosen.times - killer.kills)):
                    killer.kill(runs)
                killer.finish(killer.out, *last)
                killer.compare()
            killer.report(what)

        if "local" in wanted:
            rounds("local", [()])
        if "shared" in wanted:
            rounds("local, two drivers that share the shards", [("--shard", "1/2"), ("--shard", "2/2")])
        if "twice" in wanted:
            rounds("local, two drivers that do the same", [(), ()])
        if "ray" in wanted:
            rounds("ray, driver", [RAY], RAY)
        if "ray-worker" in wanted:
            while killer.kills < chosen.times:
                killer.kill_worker()
                killer.compare()
            killer.report("ray, worker")


if __name__ == "__main__":
    main()
