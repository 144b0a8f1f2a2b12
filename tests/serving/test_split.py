"""Prefill and decode apart."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from energylens import _core
from energylens.common.errors import SpaceError
from energylens.engine.evaluate import evaluate
from energylens.serving.split import split

PREFILL: dict[str, Any] = {"gpus": ["h100-sxm", "b200"], "tp": [4, 8], "batch": [1, 2, 4]}
DECODE: dict[str, Any] = {
    "gpus": ["h100-sxm", "a100-sxm-80gb"],
    "tp": [4, 8],
    "batch": [16, 64],
    "sm_clock_mhz": [None, 1200],
}


def test_a_pair_is_made_of_its_two_configurations() -> None:
    pairs = split("llama-3.1-70b", prefill=PREFILL, decode=DECODE, prompt_tokens=2000, output_tokens=100)
    best = pairs.best
    assert best is not None
    common = {"model": "llama-3.1-70b", "prompt_tokens": 2000}
    points = [
        common
        | {"output_tokens": 1, "gpu": best["prefill_gpu"], "tp": best["prefill_tp"], "batch": best["prefill_batch"]},
        common
        | {"output_tokens": 100, "gpu": best["decode_gpu"], "tp": best["decode_tp"], "batch": best["decode_batch"]}
        | {"sm_clock_mhz": best["decode_sm_clock_mhz"]},
    ]
    first = evaluate(pl.DataFrame(points[:1])).row(0, named=True)
    then = evaluate(pl.DataFrame(points[1:])).row(0, named=True)
    assert best["energy_prefill_per_request_j"] == pytest.approx(first["energy_j"] / best["prefill_batch"])
    assert best["energy_decode_per_request_j"] == pytest.approx(then["energy_decode_j"] / best["decode_batch"])
    assert best["ttft_s"] == pytest.approx(first["ttft_s"] + best["transfer_s"])
    assert best["latency_s"] == pytest.approx(best["ttft_s"] + 99 * then["tpot_s"])
    # Two tensors of 8 heads of 128 in 80 layers, two bytes each, over the network of four GPUs.
    assert (
        best["transfer_s"] == pytest.approx(1e-5 + 2000 * 2 * 8 * 128 * 80 * 2 / (4 * 25e9), rel=1e-6)
        or best["decode_gpu"] != "a100-sxm-80gb"
    )
    requests = best["decode_batch"] / (99 * then["tpot_s"])
    assert best["prefill_engines"] == pytest.approx(requests * first["ttft_s"] / best["prefill_batch"])


def test_the_front_holds_every_pair_that_nothing_beats() -> None:
    pairs = split("llama-3.1-70b", prefill=PREFILL, decode=DECODE, limits=["tpot<=40ms"])
    rows = pairs.frame.select("energy_per_request_j", "latency_s").rows()
    assert len(_core.non_dominated([list(row) for row in rows])) == len(rows)
    assert pairs.frame["tpot_s"].max() <= 0.04  # type: ignore[operator]
    assert pairs.together is not None
    assert pairs.together["energy_per_request_j"] > 0


def test_mistakes_are_named() -> None:
    with pytest.raises(SpaceError, match="unknown limit `gpus`"):
        split("llama-3.1-70b", prefill=PREFILL, decode=DECODE, limits=["gpus<=8"])
    with pytest.raises(SpaceError, match="no prefill configuration runs"):
        split("llama-3.1-70b", prefill=PREFILL | {"tp": 1, "gpus": "h100-sxm"}, decode=DECODE)
    with pytest.raises(SpaceError, match="unknown axis `tpp` of decode"):
        split("llama-3.1-70b", prefill=PREFILL, decode=DECODE | {"tpp": 2})
    with pytest.raises(SpaceError, match="takes one number of `prompt_tokens`"):
        split("llama-3.1-70b", prefill=PREFILL, decode=DECODE, prompt_tokens=[1, 2])  # type: ignore[arg-type]
    assert split("llama-3.1-70b", prefill=PREFILL | {"kv_dtype": "bf16"}, decode=DECODE).best
    with pytest.raises(SpaceError, match="share a cache format"):
        split("llama-3.1-70b", prefill=PREFILL | {"kv_dtype": "fp8"}, decode=DECODE)
