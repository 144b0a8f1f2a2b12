"""Kernels and operations: nothing of a configuration's joules or FLOPs is lost between them and the whole."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

import energylens
from energylens.engine.result_columns import ENERGY
from energylens.results.breakdown import causes, kernels, operations
from energylens.results.point import read_point
from energylens.results.sensitivity import changes

POINTS: list[dict[str, Any]] = [
    {"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": 4, "batch": 64},
    {"model": "llama-3.1-70b", "gpu": "b200", "tp": 2, "pp": 2, "batch": 32, "weight_dtype": "fp8"},
    {"model": "qwen3-30b-a3b", "gpu": "h200-sxm", "tp": 2, "ep": 2, "batch": 48, "sm_clock_mhz": 1200},
    {"model": "llama-3.1-8b", "gpu": "a100-sxm-80gb", "tp": 2, "overlap_stages": 4, "overlap_sms": 8, "batch": 16},
]


@pytest.mark.parametrize("fields", POINTS, ids=lambda fields: str(fields["model"]))
def test_operations_and_causes_sum_to_the_whole(fields: dict[str, Any]) -> None:
    point = read_point(fields)
    assert point.plan is not None
    whole = point.row[ENERGY]
    assert operations(point.plan, point.row)[ENERGY].sum() == pytest.approx(whole, rel=1e-9)
    assert causes(point.row)[ENERGY].sum() == pytest.approx(whole, rel=1e-9)


def test_flops_are_those_of_the_weights_and_the_attention() -> None:
    point = read_point({"model": "llama-3.1-8b", "gpu": "h100-sxm", "batch": 4, "prompt_tokens": 512})
    assert point.plan is not None
    told = kernels(point.plan, point.row).filter(phase="prefill", **{"class": "gemm"})
    products = (told["runs"] * told["flops"]).sum()
    # Every weight of the layers meets every token; the last layer's logits are made for one token of each.
    layers = 32 * (4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 14336)
    assert products == pytest.approx(2 * 4 * (512 * layers + 4096 * 128256), rel=1e-6)
    attention = kernels(point.plan, point.row).filter(phase="prefill", **{"class": "attention"})
    pairs = 512 * 513 / 2
    exact = 32 * 4 * 32 * 128 * 4 * pairs  # two products of 2 FLOPs, over visible pairs
    assert (attention["runs"] * attention["flops"]).sum() == pytest.approx(exact, rel=0.1)


def test_weights_are_read_once_a_step() -> None:
    point = read_point({"model": "llama-3.1-8b", "gpu": "h100-sxm", "batch": 1})
    assert point.plan is not None
    told = kernels(point.plan, point.row).filter(phase="decode", **{"class": "gemm"})
    read = (told["runs"] * told["hbm_bytes"]).sum()
    assert read == pytest.approx(2 * (8.03e9 - 4096 * 128256), rel=0.02)  # bf16, but for the embedding


def test_changes_are_what_evaluate_says() -> None:
    space = energylens.Space("llama-3.1-8b", ["h100-sxm", "b200"], tp=[1, 2], batch=[16, 64], limits=["tpot<=20ms"])
    row = energylens.explore(space).frame.row(0, named=True)
    told = changes(space, row)
    own = {name: row[name] for name in ("model", "gpu", "weight_dtype", "kv_dtype", "tp", "pp", "dp", "ep", "batch")}
    for words, change in (
        ("fp8 weights", {"weight_dtype": "fp8"}),
        (f"batch {row['batch'] // 2}", {"batch": row["batch"] // 2}),
    ):
        found = told.filter(change=words).row(0, named=True)
        then = energylens.evaluate(pl.DataFrame([own | change])).row(0, named=True)
        assert found["saved_j"] == pytest.approx(row[ENERGY] - then[ENERGY], rel=1e-9)
        assert found["latency_share"] == pytest.approx(then["latency_s"] / row["latency_s"] - 1, rel=1e-9)
        assert found["keeps"] == (then["tpot_s"] <= 0.02)
    assert told["saved_j"].is_sorted(descending=True)
