"""How a sweep scales: points a second by threads and Ray workers, what a shard costs besides, and what follows.

Prints a table and a paper estimate for a larger sweep; asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import energylens
from energylens import _core
from energylens.common.format import number, si, table
from energylens.engine.evaluate import default_threads
from energylens.engine.reductions import reduce_range
from energylens.inputs.bundled import bundled
from energylens.inputs.plan import Plan
from energylens.sweeps.frozen import Sweep, prepared
from energylens.sweeps.merge import merge_shards
from energylens.sweeps.shard import write_shard
from energylens.sweeps.storage import open_storage

SPACE: dict[str, Any] = {
    "models": "llama-3.1-70b",
    "tp": [1, 2, 4, 8],
    "pp": [1, 2, 4],
    "weight_dtype": ["own", "fp8"],
    "kv_dtype": ["own", "fp8"],
    "batch": "1:512",
    "prompt_tokens": "64:8192:64",
    "output_tokens": "16:2048:16",
    "limits": ["tpot<=50ms"],
}
KEEP = {"epsilon": 0.01, "top": 100, "best_per": ["gpu", "tp"], "distributions": ["tpot_s"]}
MANY = 512


def timed(work: Callable[[], object], repeats: int = 1) -> float:
    """Return the shortest of some wall times in seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def reduced(sweep: Sweep, threads: int) -> float:
    """Return the seconds that reducing the whole space takes in this process."""
    reduction = sweep.keep.reduction(sweep.space)
    return timed(lambda: reduce_range(reduction, 0, sweep.points, threads))


def ray_seconds(job: dict[str, Any], workers: int, out: Path) -> float:
    """Return the seconds of a sweep on a Ray cluster that is already up, with its workers started."""
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        warm = job | {"name": "warm", "shards": 4 * workers, "space": SPACE | {"gpus": "b200", "batch": 1}}
        energylens.sweep(warm, out / "warm", executor="ray", workers=workers)
        return timed(lambda: energylens.sweep(job, out / "ray", executor="ray", workers=workers))
    finally:
        ray.shutdown()


def shard_costs(job: dict[str, Any], out: Path) -> dict[str, float]:
    """Return the seconds of what a process and a shard cost besides evaluating."""
    code = "import energylens.sweeps.run, polars"
    tiny = prepared(job | {"space": SPACE | {"gpus": "b200", "batch": 1, "pp": 1}, "shards": MANY})
    storage = open_storage(out / "tiny")
    shards = [tiny.shard(i) for i in range(MANY)]

    def evaluate() -> None:
        for shard in shards:
            reduce_range(tiny.keep.reduction(tiny.space), shard.lo, shard.hi, 1)

    def write() -> None:
        for shard in shards:
            write_shard(storage, tiny, shard, 1)

    evaluated, written = timed(evaluate, 2), timed(write)
    return {
        "process": timed(lambda: subprocess.run([sys.executable, "-c", code], check=True), 3),
        "plan": timed(lambda: Plan.thaw(prepared(job).content["plan"]), 3),
        "write": max(0.0, written - evaluated) / MANY,
        "merge": timed(lambda: merge_shards(storage, tiny, 1), 2) / MANY,
    }


def main() -> None:
    """Print the table and the estimate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", default=",".join(bundled("hardware")), help="fewer of them make a smaller space")
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--points", type=float, default=1e12, help="points of the estimate")
    parser.add_argument("--cores", type=int, default=1000, help="cores of the estimate")
    options = parser.parse_args()
    job = {"name": "scaling", "space": SPACE | {"gpus": options.gpus}, "keep": KEEP, "shards": options.shards}
    sweep = prepared(job)
    cpus = default_threads()
    print(f"energylens {_core.__version__}, {cpus} CPUs, {platform.processor() or os.uname().machine}")
    print(f"{sweep.points:,} points, {sweep.count} shards\n")
    rows: list[list[str]] = []

    def add(what: str, seconds: float) -> float:
        rate = sweep.points / seconds
        rows.append([what, si(seconds, "s"), f"{number(rate / 1e6)}M/s", f"{rate / single:.2f}" if single else "1.00"])
        return rate

    single = 0.0
    single = add("core, 1 thread", reduced(sweep, 1))
    add("core, 2 threads", reduced(sweep, 2))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        add("sweep, local, 1 thread", timed(lambda: energylens.sweep(job, out / "local", threads=1)))
        if find_spec("ray"):
            for workers in (1, 2, 4):
                add(f"sweep, ray, {workers} workers", ray_seconds(job, workers, out / str(workers)))
        costs = shard_costs(job, out)
    print(table(["what", "time", "points", "times one thread"], rows))
    costs_shown = [
        ("process", "start of a process, imports included"),
        ("plan", "plan from the manifest, once a process"),
        ("write", "a shard besides evaluating: write and sync"),
        ("merge", "a shard in the merge"),
    ]
    print()
    print(table(["cost", "time"], [[what, si(costs[name], "s")] for name, what in costs_shown]))
    shards = 8 * options.cores
    evaluate = options.points / (options.cores * single)
    each = shards / options.cores * costs["write"]
    total = costs["process"] + costs["plan"] + evaluate + each + shards * costs["merge"]
    print(
        f"\non paper, {options.points:.0e} points on {options.cores:,} cores in {shards:,} shards:\n"
        "  start + plan + points / (cores x rate) + shards / cores x write + shards x merge\n"
        f"  = {si(costs['process'], 's')} + {si(costs['plan'], 's')} + {si(evaluate, 's')} + {si(each, 's')}"
        f" + {si(shards * costs['merge'], 's')} = {si(total, 's')}\n"
        f"  with the rate of one thread alone, {number(single / 1e6)} million points/s, on cores like these;\n"
        "  queueing, contention for the shared folder and slower cores come on top"
    )


if __name__ == "__main__":
    main()
