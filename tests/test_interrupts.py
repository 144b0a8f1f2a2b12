"""Ctrl-C ends every call of the core within a second or so, and leaves what it was at work on as it was."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest

import energylens
from energylens import Space, _core
from energylens.engine.reductions import Keep

SETUP = """
import json, sys
import numpy as np, polars as pl, energylens
from energylens import Space, _core
from energylens.engine.reductions import Keep

def frame(rows, **columns):
    lengths = {"batch": np.arange(rows) % 255 + 1, "prompt_tokens": np.arange(rows) % 8191 + 1}
    return pl.DataFrame({"model": "llama-3.1-8b", "gpu": "h100-sxm"} | lengths | columns)
"""

SPACE = """
lengths = {"batch": range(1, 2001), "prompt_tokens": range(1, 4001), "output_tokens": range(1, 4001)}
space = Space("llama-3.1-8b", "h100-sxm", tp=[1, 2, 4, 8], **lengths)
"""

GRID = """
grid = {"tokens": [1.0, 8192.0], "base_s": [1e-3, 1e-1], "base_j": [1.0, 9.0], "sequences": [1.0, 64.0],
        "contexts": [1.0, 1e6], "decode_s": [1e-3] * 4, "decode_j": [1.0] * 4, "sample_s": 0.0, "sample_j": 0.0,
        "lengths": [1.0, 1e5], "attend_s": [0.0, 1e-6], "attend_j": [0.0, 1e-6]}
engine = {"most_running": 64, "token_budget": 8192, "cache_tokens": 10**8, "chunked": True, "reads": True,
          "block_tokens": 16, "prefix_hit_share": 0.0, "lanes": 1, "idle_w": 100.0, "warm_s": 0.0}
sizes = np.full(100_000, 100_000, dtype=np.uint32)
"""

WORK = {
    "rows": "points = frame(20_000_000)\nprint('at work', flush=True)\nenergylens.evaluate(points, threads=1)",
    "laws": (
        "laws = [f'zipf:{i / 1000}' for i in range(1, 3001)]\n"
        "points = pl.DataFrame({'model': 'qwen3-235b-a22b', 'gpu': 'b200', 'tp': 8, 'ep': 8, 'routing': laws})\n"
        "print('at work', flush=True)\nenergylens.evaluate(points)"
    ),
    "table of routing": (
        "print('at work', flush=True)\n"
        "for i in range(1000):\n"
        "    law = json.dumps({'law': 'zipf', 'value': 0.5 + i / 1000})\n"
        "    _core.routing_loads(law, 65536, 8, 1024, 4097, [64.0])"
    ),
    "walk": SPACE
    + "reduction = Keep().reduction(space)\nprint('at work', flush=True)\nreduction.run(0, space.size, 2)",
    "walk from scratch": SPACE
    + "reduction = Keep().reduction(space)\nprint('at work', flush=True)\nreduction.run(0, space.size, 2, True)",
    "search": SPACE
    + "names = ['energy_j', 'latency_s', 'ttft_s', 'power_w_per_gpu', 'memory_bytes_per_gpu', 'tpot_s']\n"
    + "nsga = _core.Nsga(space.plan.core, space.json, [(name, 1.0) for name in names], [], 1_000_000, 1)\n"
    + "print('at work', flush=True)\nnsga.step(2)\nnsga.step(2)",
    "merging": SPACE
    + "ends = [('energy_j', 1.0), ('energy_j', -1.0), ('latency_s', 1.0)]\n"
    + "reduction = _core.Reduction(space.plan.core, space.json, ends, [])\n"
    + "indices = np.arange(0, 10**9, 1999, dtype=np.uint64)\n"
    + "print('at work', flush=True)\nreduction.merge(indices, [], [], 0, 2)",
    "replay": GRID + "print('at work', flush=True)\n_core.replay(grid, engine, np.arange(1e5), sizes, sizes, [], [])",
    "prefixes": (
        "blocks = [i % 977 for i in range(4_000_000)]\nstarts = list(range(0, 4_000_001, 1000))\n"
        "print('at work', flush=True)\n_core.prefix_hit_tokens(blocks, starts, 16, list(range(1, 5000)))"
    ),
    "non-dominated": (
        "angle = np.random.default_rng(0).uniform(0, 1, (400_000, 4))\n"
        "rows = (angle / angle.sum(axis=1, keepdims=True)).tolist()\n"
        "print('at work', flush=True)\n_core.non_dominated(rows)"
    ),
}


@pytest.mark.parametrize("work", WORK)
def test_ctrl_c_ends_it_within_a_second_or_so(work: str) -> None:
    code = SETUP + WORK[work] + "\nprint('done', flush=True)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n", process.communicate()
    time.sleep(0.5)
    asked = time.perf_counter()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    took = time.perf_counter() - asked
    assert "done" not in out
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert took < 3.0, f"{took:.1f} s"


def space() -> Space:
    lengths: dict[str, Any] = {"batch": range(1, 301), "prompt_tokens": range(1, 2001), "output_tokens": range(1, 2001)}
    return Space("llama-3.1-8b", "h100-sxm", **lengths)


class TimeIsUp(Exception):
    """What the handler of a signal raises in these tests."""


def stop(_number: int, _frame: object) -> None:
    raise TimeIsUp


@pytest.fixture
def alarm() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, before)


def test_a_reduction_that_was_interrupted_has_taken_in_nothing_of_the_call(alarm: None) -> None:
    whole = space()
    reduction, other = Keep().reduction(whole), Keep().reduction(whole)
    reduction.run(0, 100_000, 2)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(TimeIsUp):
        reduction.run(100_000, whole.size, 2, True)
    other.run(0, 100_000, 1)
    kept, expected = reduction.contents(), other.contents()
    assert kept["by_reason"].tolist() == expected["by_reason"].tolist()
    assert kept["front"].tolist() == expected["front"].tolist()


def test_merging_that_was_interrupted_has_taken_in_nothing(alarm: None) -> None:
    whole = space()
    ends = [("energy_j", 1.0), ("energy_j", -1.0), ("latency_s", 1.0)]  # that no point is worse in than another
    reduction = _core.Reduction(whole.plan.core, whole.json, ends, [])
    reduction.run(0, 100, 1)
    before = reduction.contents()
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    with pytest.raises(TimeIsUp):
        reduction.merge(np.arange(0, 10**9, 2999, dtype=np.uint64), [], [1 << 20], 7, 2)
    kept = reduction.contents()
    assert kept["outside"] == 0
    for name in ("front", "by_reason"):
        np.testing.assert_array_equal(kept[name], before[name], err_msg=name)


def test_waiting_for_what_another_thread_is_at_work_on_is_interrupted(alarm: None) -> None:
    reduction = Keep().reduction(space())
    thread = threading.Thread(target=lambda: reduction.run(0, 1 << 24, 1, True))
    thread.start()
    time.sleep(0.2)
    for wait in (reduction.contents, lambda: reduction.run(0, 10, 1)):
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        asked = time.perf_counter()
        with pytest.raises(TimeIsUp):
            wait()
        assert time.perf_counter() - asked < 1.0
        assert thread.is_alive()
    thread.join()
    assert reduction.contents()["by_reason"].sum() == 1 << 24


def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been(alarm: None) -> None:
    whole = space()
    parts = whole.plan.core, whole.json, whole.signed_objectives, whole.bounds, 100_000, 3
    broken, through = _core.Nsga(*parts), _core.Nsga(*parts)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(TimeIsUp):
        for _ in range(100):
            broken.step(1)
    done = broken.generation
    broken.step(2)
    for _ in range(done + 1):
        through.step(2)
    for name, array in through.state().items():
        np.testing.assert_array_equal(broken.state()[name], array, err_msg=name)


def test_a_handler_that_asks_what_is_at_work_gets_an_error_and_no_deadlock(alarm: None) -> None:
    reduction = Keep().reduction(space())
    seen: list[str] = []

    def ask(_number: int, _frame: object) -> None:
        try:
            reduction.contents()
        except _core.PlanError as error:
            seen.append(str(error))
        raise TimeIsUp

    signal.signal(signal.SIGALRM, ask)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(TimeIsUp):
        reduction.run(0, 10**9, 2, True)
    assert len(seen) == 1
    assert "it is at work already" in seen[0]
    assert reduction.contents()["by_reason"].sum() == 0


def test_a_handler_may_call_while_it_is_at_work(alarm: None) -> None:
    points = pl.DataFrame({"model": "llama-3.1-8b", "gpu": "h100-sxm", "batch": [1, 2, 3]})
    expected = energylens.evaluate(points, threads=1)
    found: list[pl.DataFrame] = []

    def call(_number: int, _frame: object) -> None:
        found.append(energylens.evaluate(points, threads=2))

    signal.signal(signal.SIGALRM, call)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    reduction = Keep().reduction(space())
    reduction.run(0, 1 << 21, 1, True)
    assert reduction.contents()["by_reason"].sum() == 1 << 21
    assert len(found) == 1
    assert found[0].equals(expected)


def test_other_threads_call_as_ever() -> None:
    points = pl.DataFrame({"model": "llama-3.1-8b", "gpu": "h100-sxm", "batch": range(1, 20_001)})
    expected = energylens.evaluate(points, threads=1)
    found: list[pl.DataFrame] = []
    threads = [threading.Thread(target=lambda: found.append(energylens.evaluate(points, threads=2))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(frame.equals(expected) for frame in found)
