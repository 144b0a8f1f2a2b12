"""Answers do not depend on the kernels that the installed BLAS has for a processor, nor on its threads."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import nnls

from energylens.serving.least_squares import nonnegative_least_squares
from energylens.serving.sums import row_sums, weighted_sum

ANSWERS = """
import hashlib
import numpy as np, polars as pl
import energylens as el
from energylens.serving.workload import from_requests
random = np.random.default_rng(11)
requests = pl.DataFrame({"arrival_s": np.cumsum(random.exponential(0.2, 1500)),
    "prompt_tokens": np.ceil(random.lognormal(6.5, 1.1, 1500)),
    "output_tokens": np.ceil(random.lognormal(4.0, 1.0, 1500))})
load = from_requests(requests, "drawn", "a test")
engine = {"gpus": "h100-sxm", "tp": [1, 2], "token_budget": 8192, "replicas": 1}
plan = el.serve_plan("llama-3.1-8b", load, costs=el.Costs(gpu_hour=2.0, carbon_g_per_kwh=300), **engine)
pools = el.serve_pools("llama-3.1-8b", load, prefill=engine, decode=engine)
steady = el.serve(pl.DataFrame({"model": "llama-3.1-8b", "gpu": "h100-sxm", "tp": [1, 2, 4]}), "azure-conv", 3.0)
spots = el.sweet_spots("llama-3.1-8b", "h100-sxm")
for name, text in (
    ("kinds", load.kinds.write_csv()), ("plan", plan.frame.write_csv()), ("pools", pools.frame.write_csv()),
    ("steady", steady.write_csv()), ("spots", spots.cells.write_csv() + repr(spots.coefficients)),
):
    print(name, hashlib.sha256(text.encode()).hexdigest())
"""


def answers(**variables: str) -> str:
    environment = os.environ | variables
    command = [sys.executable, "-c", ANSWERS]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=300).stdout


def test_no_kernel_of_the_blas_changes_a_byte() -> None:
    # Kernels with and without fused multiply-add, and of other widths; those that a processor lacks are not used.
    expected = answers(OPENBLAS_CORETYPE="Haswell", OPENBLAS_NUM_THREADS="1")
    assert expected.count("\n") == 5
    for core, threads in (("Prescott", "1"), ("SkylakeX", "2")):
        assert answers(OPENBLAS_CORETYPE=core, OPENBLAS_NUM_THREADS=threads) == expected, core


def test_sums_are_right_and_do_not_depend_on_the_layout() -> None:
    random = np.random.default_rng(3)
    table, weights = random.normal(size=(7, 1000)), random.random(1000)
    np.testing.assert_allclose(row_sums(table, weights), table @ weights, rtol=1e-11)
    assert weighted_sum(weights, table[2]) == row_sums(table, weights)[2]
    assert (row_sums(np.asfortranarray(table), weights) == row_sums(table, weights)).all()
    assert (row_sums(table[3:4], weights) == row_sums(table, weights)[3:4]).all()


@pytest.mark.parametrize("seed", range(20))
def test_least_squares_are_those_of_lawson_and_hanson(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 40))
    strong = 100.0 * random.lognormal(0.0, 2.0, (5, count))
    matrix = np.concatenate([strong, np.eye(count)])
    wanted = np.concatenate([100.0 * np.ones(5), random.random(count) / count])
    np.testing.assert_allclose(nonnegative_least_squares(matrix, wanted), nnls(matrix, wanted)[0], atol=1e-11)
    matrix, wanted = random.normal(size=(count + 5, count)), random.normal(size=count + 5)
    np.testing.assert_allclose(nonnegative_least_squares(matrix, wanted), nnls(matrix, wanted)[0], atol=1e-10)
