"""Points a second through each public way in, with what one point contains; prints a table, asserts nothing."""

from __future__ import annotations

import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import energylens
from energylens import Space, _core
from energylens.common.format import number, si, table
from energylens.engine.evaluate import default_threads
from energylens.engine.reductions import Keep
from energylens.inputs import run_options
from energylens.inputs.crossing import PointColumns

CONTENT = "one point: prefill and decode of one batch of requests, every kernel and collective, energy by cause, memory"

CASES = (("llama-3.1-70b", "h100-sxm", [1, 2, 4, 8], [1]), ("qwen3-235b-a22b", "b200", [4, 8], [1, 4]))


def best_of(work: Callable[[], object], repeats: int = 5) -> float:
    """Return the shortest of some wall times in seconds, after one warm-up run."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def mixed_points(count: int) -> pl.DataFrame:
    """Return random points over all bundled models and GPUs; about half of them can run."""
    draw = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "model": draw.choice(list(energylens.models()["model"]), count),
            "gpu": draw.choice(list(energylens.gpus()["gpu"]), count),
            "tp": draw.choice([1, 2, 4, 8], count),
            "pp": draw.choice([1, 2], count),
            "dp": draw.choice([1, 2], count),
            "ep": draw.choice([1, 2, 4, 8], count),
            "batch": draw.integers(1, 257, count),
            "prompt_tokens": draw.integers(1, 8192, count),
            "output_tokens": draw.integers(1, 1024, count),
        }
    )


def points_of(model: str, gpu: str, tp: list[int], ep: list[int], count: int) -> pl.DataFrame:
    """Return random points of one model on one GPU type over several meshes."""
    draw = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "model": model,
            "gpu": gpu,
            "tp": draw.choice(tp, count),
            "pp": draw.choice([1, 2], count),
            "ep": draw.choice(ep, count),
            "batch": draw.integers(1, 257, count),
            "prompt_tokens": draw.integers(1, 8192, count),
            "output_tokens": draw.integers(1, 2048, count),
        }
    )


def wide_points(model: str, count: int) -> pl.DataFrame:
    """Return random points of a mixture of experts on 32 GPUs, tokens sharded."""
    draw = np.random.default_rng(0)
    lengths = {name: draw.integers(1, 2048, count) for name in ("batch", "prompt_tokens", "output_tokens")}
    return pl.DataFrame({"model": model, "gpu": "gb200", "dp": 32, "ep": 32} | lengths)


def trillion(folder: Path) -> str:
    """Write a spec of 10^12 parameters, DeepSeek-V3 with 384 experts, and return its path."""
    text = (Path(energylens.__file__).parent / "specs" / "models" / "deepseek-v3.yaml").read_text(encoding="utf-8")
    path = folder / "trillion.yaml"
    path.write_text(
        text.replace("extent: 256", "extent: 384").replace("name: deepseek-v3", "name: trillion"), encoding="utf-8"
    )
    return str(path)


def core_call(frame: pl.DataFrame, columns: list[str], threads: int) -> Callable[[], object]:
    """Return the core's call for a frame of one model and GPU, its columns ready as arrays."""
    space = Space(frame["model"][0], frame["gpu"][0])
    zeros, ones = np.zeros(frame.height, dtype=np.uint32), np.ones(frame.height, dtype=np.uint32)
    degrees: dict[str, Any] = {
        name: frame[name].to_numpy().astype(np.uint32) if name in frame.columns else ones
        for name in ("tp", "pp", "dp", "ep")
    }
    sizes: dict[str, Any] = {
        name: frame[name].to_numpy().astype(np.float64) for name in ("batch", "prompt_tokens", "output_tokens")
    }
    options, option = run_options.columns_for_core(frame)
    codes: dict[str, Any] = dict.fromkeys(("model", "gpu", "weight_dtype", "kv_dtype"), zeros)
    points = PointColumns(dtypes=[None], run_options=options, run_option=option, **codes, **degrees, **sizes)
    return lambda: space.plan.core.evaluate(points, columns, threads)


def product(model: str, gpu: str, tp: list[int], ep: list[int], batches: int) -> Space:
    """Return a product space; 512 batches make 10^9 points and more."""
    lengths: dict[str, Any] = {"prompt_tokens": range(64, 16385, 64), "output_tokens": range(16, 16385, 16)}
    return Space(model, gpu, tp=tp, pp=[1, 2], ep=ep, batch=range(1, batches + 1), **lengths)


def directly(space: Space, count: int, threads: int) -> Callable[[], object]:
    """Return the reduction of some points of a space to its front, each evaluated from scratch."""

    def work() -> object:
        reduction = Keep().reduction(space)
        reduction.run(0, count, threads, True)
        return reduction.contents()

    return work


def main() -> None:
    """Print the tables."""
    threads = default_threads()
    rows: list[list[str]] = []

    def add(what: str, points: int, seconds: float, threads: int) -> None:
        rows.append([what, str(threads), f"{points:,}", si(seconds, "s"), f"{number(points / seconds)}/s"])

    frame = mixed_points(1_000_000)
    add("evaluate, all models and GPUs", frame.height, best_of(lambda: energylens.evaluate(frame), 3), threads)
    for model, gpu, tp, ep in CASES:
        frame = points_of(model, gpu, tp, ep, 1_000_000)
        add(f"evaluate, random points of {model}", frame.height, best_of(partial(energylens.evaluate, frame)), threads)
        for label, columns in (("14 columns", _core.COLUMNS[:14]), ("2 columns", ["latency_s", "energy_j"])):
            for thread_count in (threads, 1):
                add(
                    f"core, the same, {label}",
                    frame.height,
                    best_of(core_call(frame, columns, thread_count)),
                    thread_count,
                )
        space = product(model, gpu, tp, ep, 512)
        add(f"front of {model}, each from scratch", 1 << 24, best_of(directly(space, 1 << 24, threads), 3), threads)
        for batches in (8, 64, 512):
            part = product(model, gpu, tp, ep, batches)
            seconds = min(energylens.explore(part).seconds for _ in range(3))
            add(f"front of {model}, factored", part.size, seconds, threads)
    with tempfile.TemporaryDirectory() as folder:
        for name, model in (
            ("qwen3-30b-a3b", "qwen3-30b-a3b"),
            ("a model of 10^12 parameters", trillion(Path(folder))),
        ):
            frame = wide_points(model, 1_000_000)
            add(f"evaluate, {name} on 32 GPUs", frame.height, best_of(partial(energylens.evaluate, frame)), threads)
    llama = points_of(*CASES[0], 1)
    add("core, one call with one point, 14 columns", 1, best_of(core_call(llama, _core.COLUMNS[:14], 1), 2000), 1)
    add("predict, one point", 1, best_of(lambda: energylens.predict("llama-3.1-70b", tp=4), 50), 1)
    print(f"energylens {_core.__version__}, {threads} threads, {platform.processor() or os.uname().machine}")
    print(f"{CONTENT}\n")
    print(table(["what", "threads", "points", "time", "rate"], rows))
    print(f"\npeak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
