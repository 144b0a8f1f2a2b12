"""Steps put together from lines of a grid are those that the evaluator gives."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from energylens import evaluate
from energylens.inputs.axes import LARGEST
from energylens.inputs.library import load_gpu
from energylens.serving.fixed_concurrency import ample
from energylens.serving.step_table import engines

ENGINES = [
    {"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": 4},
    {"model": "llama-3.1-8b", "gpu": "b200", "tp": 1},
    {"model": "qwen3-30b-a3b", "gpu": "h200-sxm", "tp": 2, "ep": 2},
    {"model": "gpt-oss-20b", "gpu": "h100-sxm", "tp": 1},
    {"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": 2, "dp": 2},
]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: f"{engine['model']}-{engine.get('dp', 1)}")
def test_decode_and_prefill_are_those_of_evaluate(engine: dict[str, object]) -> None:
    steps = engines(pl.DataFrame([engine])).steps
    row, roomy = np.zeros(1, dtype=np.int64), [ample(load_gpu(str(engine["gpu"])))]
    dp = int(str(engine.get("dp", 1)))
    for batch, context in ((2, 900), (10, 3000), (40, 700), (200, 1500)):
        point = engine | {"batch": batch * dp, "prompt_tokens": context, "output_tokens": 2}
        evaluated = evaluate(pl.DataFrame([point]), gpus=roomy).row(0, named=True)
        seconds, joules = steps.of(row, np.array([float(batch * dp)]), np.array([context + 1.0]), np.zeros(1))
        assert seconds[0] == pytest.approx(evaluated["tpot_s"], rel=0.04), (batch, context)
        assert joules[0] == pytest.approx(evaluated["energy_decode_step_j"], rel=0.04), (batch, context)
    for prompt in (600, 3000, 12_000):
        point = engine | {"batch": dp, "prompt_tokens": prompt, "output_tokens": 1}
        evaluated = evaluate(pl.DataFrame([point]), gpus=roomy, max_batched_tokens=LARGEST).row(0, named=True)
        read = np.array([float(prompt * dp)])
        base = steps.of(row, np.zeros(1), np.ones(1), read)
        attend = steps.attending(row, np.array([float(prompt)]))
        assert base[0][0] + read[0] * attend[0][0] == pytest.approx(evaluated["ttft_s"], rel=0.06), prompt
        assert base[1][0] + read[0] * attend[1][0] == pytest.approx(evaluated["energy_prefill_j"], rel=0.06), prompt


def test_rows_do_not_depend_on_each_other() -> None:
    frame = pl.DataFrame(ENGINES[:3], infer_schema_length=None).with_columns(pl.col("ep").fill_null(1))
    together = engines(frame)
    for row in range(3):
        alone = engines(frame[[row]]).steps.of_core(0)
        assert together.steps.of_core(row) == alone


def test_what_cannot_run_has_a_reason() -> None:
    frame = pl.DataFrame({"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": [1, 3, 4]})
    runnable = engines(frame)
    assert runnable.reasons.to_list() == ["memory", "shard", "ok"]
    assert runnable.frame["tp"].to_list() == [4]


def test_caches_have_the_room_that_evaluate_leaves() -> None:
    frame = pl.DataFrame({"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": [4]})
    runnable = engines(frame)
    free, request = runnable.cache(1000, 200, np.array([2048.0]), np.zeros(1, dtype=np.int64))
    most = int(free[0] / request[0])

    def fits(batch: int) -> bool:
        points = frame.with_columns(batch=pl.lit(batch), prompt_tokens=pl.lit(1000), output_tokens=pl.lit(200))
        return bool(evaluate(points, max_batched_tokens=2048)["feasible"][0])

    assert fits(most - 1)
    assert not fits(int(most * 1.02) + 1)


def test_a_lower_clock_waits_at_fewer_watts() -> None:
    frame = pl.DataFrame({"model": "llama-3.1-8b", "gpu": "h100-sxm", "sm_clock_mhz": [None, 1200]})
    runnable = engines(frame).steps
    assert runnable.idle_w[1] < runnable.idle_w[0]
    assert runnable.base_s[1][-1] > runnable.base_s[0][-1]
