"""A forked process calls the core as its parent did; locks that nobody there can open are not waited for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

import energylens
from energylens import Space, _core
from energylens.engine.reductions import Keep

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

WORK = """
import multiprocessing, sys
import numpy as np
from energylens import Space, _core
from energylens.engine.reductions import Keep

space = Space("qwen3-235b-a22b", "b200", tp=[8], ep=[1, 8], batch=range(1, 257), prompt_tokens=range(1, 2001))

def values(threads):
    indices = np.arange(0, space.size, 7, dtype=np.uint64)
    columns = space.plan.core.evaluate_space(space.json, indices, ["energy_j", "latency_s"], threads)
    return [columns[name].tobytes() for name in ("energy_j", "latency_s", "reason")]

def front(threads):
    reduction = Keep().reduction(space)
    reduction.run(0, space.size, threads)
    return reduction.contents()["front"].tobytes()
"""

AFTER_CALLS = (
    WORK
    + """
expected = values(4), front(4)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert [pool.apply(work, (2,)) for work in (values, front)] == list(expected)
print("the same")
"""
)

DURING_CALLS = (
    WORK
    + """
import threading
expected = values(1)
stop = threading.Event()

def busy():
    while not stop.is_set():
        front(2)
        values(2)

threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads:
    thread.start()
context = multiprocessing.get_context("fork")
for _ in range(10):
    receiving, sending = context.Pipe()
    process = context.Process(target=lambda: sending.send(values(2)))
    process.start()
    assert receiving.poll(60), "a child hangs"
    assert receiving.recv() == expected
    process.join()
stop.set()
print("the same")
"""
)


@pytest.mark.parametrize("code", [AFTER_CALLS, DURING_CALLS], ids=["after calls", "during calls"])
def test_a_forked_process_computes_the_same(code: str) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("the same\n", 0), done.stderr


def in_child(work: Any) -> int:
    """Return how a forked child ends, which has 30 s."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    for _ in range(300):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


AFTER_FRAMES = """
import multiprocessing, energylens
import polars as pl

points = pl.DataFrame({"model": "llama-3.1-8b", "gpu": "h100-sxm", "tp": [1, 2]})

def refused(verb):
    try:
        verb()
    except energylens.EnergylensError as error:
        return error.problems[0].code
    return "answered"

def verbs():
    return [
        refused(lambda: energylens.evaluate(points)),
        refused(lambda: energylens.predict("llama-3.1-8b")),
        refused(lambda: energylens.explore(models="llama-3.1-8b", gpus="h100-sxm")),
        refused(lambda: energylens.search(models="llama-3.1-8b", gpus="h100-sxm")),
        refused(lambda: energylens.serve_plan("llama-3.1-8b", "512:64", rate_per_s=1.0)),
    ]

fork = multiprocessing.get_context("fork")
with fork.Pool(1) as pool:
    assert pool.apply_async(refused, (energylens.models,)).get(60) == "answered"
assert verbs() == ["answered"] * 5
with fork.Pool(1) as pool:
    print(*pool.apply_async(verbs).get(60))
"""


def test_frames_are_refused_in_a_child_of_a_process_that_has_worked_with_them() -> None:
    command = [sys.executable, "-W", "ignore", "-c", AFTER_FRAMES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("fork fork fork fork fork\n", 0), done.stderr


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_another_thread_was_at_work_on_is_refused_in_a_child() -> None:
    import threading

    lengths: dict[str, Any] = {"batch": range(1, 513), "prompt_tokens": range(1, 4001), "output_tokens": range(1, 201)}
    space = Space("llama-3.1-8b", "h100-sxm", **lengths)
    reduction = Keep().reduction(space)
    thread = threading.Thread(target=lambda: reduction.run(0, 1 << 23, 1, True))
    thread.start()
    time.sleep(0.3)

    def work() -> int:
        try:
            reduction.contents()
        except _core.PlanError as error:
            return 7 if "`spawn` or `forkserver`" in str(error) else 8
        return 9

    code = in_child(work)
    thread.join()
    assert code == 7
    assert reduction.contents()["by_reason"].sum() == 1 << 23


def test_spawn_works_too() -> None:
    expected = energylens.predict("llama-3.1-8b").values["energy_j"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(predicted) == expected


def predicted() -> float:
    return float(energylens.predict("llama-3.1-8b").values["energy_j"])
