"""Advice: the batching rule, the surface of sweet spots, and levers."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from energylens.common.errors import InfeasibleError, SpaceError
from energylens.serving.advice.batch import REFERENCE, advise_batch
from energylens.serving.advice.levers import advise_levers
from energylens.serving.advice.sweet_spots import TERMS, surface, sweet_spots, terms
from energylens.serving.evaluate import serve
from energylens.serving.replay import replay


def test_the_batch_is_the_largest_that_the_rule_keeps() -> None:
    advice = advise_batch("llama-3.1-8b", "h100-sxm", "250:230", epsilon=0.2, slowdown=3.0)
    curve = advice.curve
    alone = curve["output_tokens_per_s"][0]
    usual = curve.filter(batch=REFERENCE)["tpot_s"][0]
    fitting = [
        row["batch"]
        for row in curve.iter_rows(named=True)
        if row["output_tokens_per_s"] / (row["batch"] * alone) > 0.2 and row["tpot_s"] <= 3.0 * usual
    ]
    assert advice.batch == max(fitting)
    joules = curve["energy_per_output_token_j"]
    assert (curve["energy_per_output_token_lo_j"] < joules).all()
    assert (curve["energy_per_output_token_hi_j"] > joules).all()


def test_copies_share_what_waits() -> None:
    advice = advise_batch("llama-3.1-8b", "b200", "250:230")
    first, *more = advice.replicas.iter_rows(named=True)
    assert first["replicas"] == 1
    for row in more:
        assert (
            first["output_tokens_per_s"] < row["output_tokens_per_s"] <= row["replicas"] * first["output_tokens_per_s"]
        )
        assert row["energy_per_output_token_j"] < first["energy_per_output_token_j"]
        assert row["power_w"] <= 1000.0 * 1.0001


def test_batches_that_do_not_fit_are_left_out() -> None:
    advice = advise_batch("llama-3.1-70b", "h100-sxm", "4000:500", tp=2)
    assert advice.curve["batch"].max() < 64  # type: ignore[operator]
    with pytest.raises(InfeasibleError, match="cannot run"):
        advise_batch("llama-3.1-70b", "h100-sxm", tp=1)
    with pytest.raises(SpaceError, match="epsilon"):
        advise_batch("llama-3.1-8b", epsilon=2.0)


def test_the_fit_recovers_the_coefficients_of_its_equation() -> None:
    prompts, outputs = (grid.ravel() for grid in np.meshgrid([64.0, 256.0, 1024.0, 4096.0], [64.0, 512.0, 4096.0]))
    true = np.array([3.0, 0.01, 2e-6, 0.4, 3e-5, 1e-5])
    np.testing.assert_allclose(surface(prompts, outputs, terms(prompts, outputs) @ true), true, rtol=1e-6)


def test_sweet_spots_are_the_extremes_of_the_map() -> None:
    spots = sweet_spots("llama-3.1-8b", batch=32)
    joules = spots.cells["energy_per_output_token_j"]
    assert spots.best["energy_per_output_token_j"] == joules.min()
    assert spots.worst["energy_per_output_token_j"] == joules.max()
    assert (spots.worst["prompt_tokens"], spots.worst["output_tokens"]) == (4096, 64)
    assert spots.error_percent < 1
    assert tuple(spots.coefficients) == TERMS
    lowest = spots.best_output_tokens(512.0)
    line = sweet_spots(
        "llama-3.1-8b", batch=32, prompt_tokens=[512], output_tokens=[round(lowest * f) for f in (0.5, 1, 2)]
    )
    assert line.best["output_tokens"] == round(lowest)
    with pytest.raises(InfeasibleError, match="runs at none"):
        sweet_spots("llama-3.1-70b")


def test_levers_are_differences_of_deployments() -> None:
    levers = advise_levers("llama-3.1-70b", "azure-conv", tp=4, replicas=2, limits=["tpot<=50ms"], other_gpus=["b200"])
    frame = levers.frame
    assert frame["saved_j"].to_list() == sorted(frame["saved_j"].to_list(), reverse=True)
    assert (frame["saved_lo_j"] <= frame["saved_j"]).all()
    assert (frame["saved_hi_j"] >= frame["saved_j"]).all()
    assert {"tp", "replicas", "weight_dtype", "kv_dtype", "sm_clock_mhz", "gpu", "draft_tokens"} <= set(frame["lever"])
    fp8 = frame.filter(lever="weight_dtype").row(0, named=True)
    points = pl.DataFrame(
        {"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": 4, "replicas": 2, "weight_dtype": [None, "fp8"]}
    )
    before, after = serve(points, "azure-conv", 5.5301)["energy_per_output_token_j"]
    assert fp8["saved_j"] == pytest.approx(before - after, rel=0.05)
    fewer = frame.filter(pl.col("lever") == "replicas", pl.col("replicas") == 1).row(0, named=True)
    assert fewer["saved_j"] > 0
    assert fewer["keeps"] == (fewer["tpot_p90_s"] <= 0.05)
    judged = replay({"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": 4}, "azure-conv", requests=20_000)
    assert fewer["tpot_p90_s"] == pytest.approx(judged["tpot_p90_s"], rel=0.1)


def test_a_deployment_that_cannot_serve_is_an_error() -> None:
    with pytest.raises(SpaceError, match="cannot serve azure-conv"):
        advise_levers("llama-3.1-70b", "azure-conv", tp=2, rate_per_s=50.0)
    with pytest.raises(SpaceError, match="one deployment"):
        advise_levers("llama-3.1-70b", "azure-conv", tp=[2, 4])
