"""Points a second through the public calls, with what one point contains; prints a table, asserts nothing."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

import energylens
from energylens import _core
from energylens.evaluation import default_threads
from energylens.report.text import number, si, table


def best_of(work: Callable[[], object], repeats: int = 3) -> float:
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


def exploration(model: str, gpu: str, **axes: Any) -> tuple[int, float]:
    """Return the size of a space and the seconds its exact front takes."""
    lengths: dict[str, Any] = {"batch": list(range(1, 513)), "prompt_tokens": list(range(16, 8192, 16))}
    space = energylens.Space(models=model, gpus=gpu, **lengths, **axes)
    return space.size, energylens.explore(space).seconds


def main() -> None:
    """Print the table."""
    frame = mixed_points(1_000_000)
    rows: list[list[str]] = []

    def add(what: str, points: int, seconds: float) -> None:
        rows.append([what, f"{points:,}", si(seconds, "s"), f"{number(points / seconds)}/s"])

    add("evaluate, mixed points", frame.height, best_of(lambda: energylens.evaluate(frame)))
    add("evaluate, mixed points, 1 thread", frame.height, best_of(lambda: energylens.evaluate(frame, threads=1)))
    add("explore, llama-3.1-70b", *exploration("llama-3.1-70b", "h100-sxm", tp=[2, 4]))
    add("explore, qwen3-235b-a22b", *exploration("qwen3-235b-a22b", "b200", tp=[4], ep=[1, 4]))
    add("predict, one point", 1, best_of(lambda: energylens.predict("llama-3.1-70b", tp=4), 20))
    print(f"energylens {_core.__version__}, {default_threads()} threads, {platform.processor() or os.uname().machine}")
    print(
        "one point: prefill and decode of one batch of requests, every kernel and collective, energy by cause, memory\n"
    )
    print(table(["what", "points", "time", "rate"], rows))


if __name__ == "__main__":
    main()
