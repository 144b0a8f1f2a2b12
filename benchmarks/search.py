"""Both search engines: seconds of large runs, and how near they come to the exact front."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray

from energylens import Space, explore, search
from energylens.common.format import number, si, table

LARGE = Space(
    models=["llama-3.1-70b", "qwen3-235b-a22b"],
    gpus=["h100-sxm", "h200-sxm", "b200", "a100-sxm-80gb"],
    tp=[1, 2, 4, 8],
    pp=[1, 2, 4],
    dp=[1, 2, 4],
    ep=[1, 2, 4, 8],
    batch=range(1, 513),
    prompt_tokens=[256, 512, 1024, 2048, 4096],
    output_tokens=[128, 256, 512, 1024],
    weight_dtype=[None, "fp8"],
    kv_dtype=[None, "fp8"],
    limits=["tpot<=50ms"],
)
MEDIUM = replace(LARGE, batch=range(1, 257), prompt_tokens=[512, 1024, 2048], output_tokens=[256, 512, 1024])
THREE = ("energy_per_output_token_j", "latency_s", "output_tokens_per_s_per_gpu")


def signed(result: Any) -> NDArray[np.float64]:
    """Return the objectives of a front, all minimised."""
    columns = [result.frame[name].to_numpy() * sign for name, sign in result.space.signed_objectives]
    return np.column_stack(columns)


def main() -> None:
    """Print the tables."""
    rows = []
    for objectives in (LARGE.objectives, THREE):
        space = replace(LARGE, objectives=objectives)
        for method in ("native", "pymoo"):
            for population in (1_000, 10_000):
                outcome = search(space, method=method, population=population, generations=100)
                each = si(outcome.seconds / outcome.points, "s")
                count = str(len(objectives))
                rows.append(
                    [method, count, f"{population:,} x 100", si(outcome.seconds, "s"), each, str(outcome.frame.height)]
                )
    print(f"a space of {LARGE.size:,} points, evaluation included\n")
    print(table(["engine", "objectives", "run", "time", "a point met", "front"], rows))
    rows = []
    for objectives in (MEDIUM.objectives, THREE):
        space = replace(MEDIUM, objectives=objectives)
        exact = explore(space)
        values = signed(exact)
        reference = values.max(axis=0) + 0.1 * np.ptp(values, axis=0)
        exact_volume = moocore.hypervolume(values, ref=reference)
        for method in ("native", "pymoo"):
            runs = [search(space, method=method, population=1_000, generations=100, seed=seed) for seed in (1, 2, 3)]
            shares = [moocore.hypervolume(signed(run), ref=reference) / exact_volume for run in runs]
            rows.append([method, str(len(objectives)), *(f"{share:.5f}" for share in shares), number(exact.seconds)])
    print(f"\nhypervolume over that of the exact front, {MEDIUM.size:,} points, 1,000 x 100, three seeds\n")
    print(table(["engine", "objectives", "seed 1", "seed 2", "seed 3", "exact, s"], rows))


if __name__ == "__main__":
    main()
