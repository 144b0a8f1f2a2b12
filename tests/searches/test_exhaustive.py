"""`explore` and `search`: exact fronts, limits, and NSGA-II against the exact one."""

from __future__ import annotations

from typing import Any

import moocore
import numpy as np
import polars as pl
import pytest

from energylens import Space, explore, search
from energylens._core import non_dominated
from energylens.common.errors import SpaceError
from energylens.engine.evaluate import evaluate
from energylens.inputs.axes import POINT_DEFAULTS
from energylens.results.result import Result
from small_space import SMALL


def front_by_hand(space: Space) -> set[tuple[object, ...]]:
    from energylens.engine.space import Limit

    frame = evaluate(space.points(np.arange(space.size, dtype=np.uint64)))
    frame = frame.filter(feasible=True)
    for limit in (Limit.parse(text) for text in space.limits):
        frame = frame.filter(pl.col(limit.column).is_between(limit.lowest, limit.highest))
    signs = dict(space.signed_objectives)
    objectives = np.column_stack([frame[name].to_numpy() * signs[name] for name in space.objectives])
    no_worse = (objectives[:, None] <= objectives[None]).all(2)
    dominated = (no_worse & (objectives[:, None] < objectives[None]).any(2)).any(0)
    return set(frame.filter(pl.Series(~dominated)).select(list(POINT_DEFAULTS)).rows())


@pytest.mark.parametrize(
    ("limits", "objectives"),
    [
        ((), ("energy_per_output_token_j", "latency_s")),
        (("tpot<=20ms", "gpus<=2"), ("energy_per_output_token_j", "latency_s")),
        (("output_tokens_per_s>=100",), ("energy_per_request_j", "tpot_s", "output_tokens_per_s", "gpus")),
        ((), ("memory_bytes_per_gpu",)),
    ],
)
def test_the_front_is_exact(limits: tuple[str, ...], objectives: tuple[str, ...]) -> None:
    from dataclasses import replace

    space = replace(SMALL, limits=limits, objectives=objectives)
    result = explore(space)
    assert set(result.frame.select(list(POINT_DEFAULTS)).rows()) == front_by_hand(space)
    assert sum(result.by_reason.values()) == result.points == space.size
    assert explore(space, threads=3).frame.equals(result.frame)


def test_the_answer_names_the_best_point_and_limits() -> None:
    result = explore(SMALL, limits=["tpot<=20ms"])
    assert result.best is not None
    assert result.answer().startswith("least energy within tpot_s <= 0.02: ")
    assert result.best["energy_per_output_token_j"] == result.frame["energy_per_output_token_j"].min()
    assert (result.frame["tpot_s"] <= 0.02).all()


def test_an_empty_front_says_why() -> None:
    nothing = explore(models="llama-3.1-405b", gpus="rtx-4090", tp=1)
    assert nothing.frame.height == 0
    assert nothing.best is None
    assert "do not fit into memory" in nothing.answer()
    assert "all outside the limits" in explore(SMALL, limits=["tpot<=1us"]).answer()


def hypervolume(result: Result, reference: np.ndarray) -> float:
    names = [name for name, _ in result.space.signed_objectives]
    return float(moocore.hypervolume(result.frame.select(names).to_numpy(), ref=reference))


@pytest.mark.parametrize("method", ["native", "pymoo"])
def test_nsga2_finds_the_exact_front_of_a_small_space(method: str) -> None:
    space = Space(
        models="llama-3.1-70b",
        gpus=["h100-sxm", "b200"],
        pp=[1, 2, 4],
        weight_dtype=[None, "fp8"],
        kv_dtype=[None, "fp8"],
        batch=list(range(1, 65)),
        limits=["tpot<=40ms"],
    )
    exact, result = explore(space), search(space, method=method, population=100, generations=60, seed=3)
    names = [name for name, _ in space.signed_objectives]
    reference = exact.frame.select(names).to_numpy().max(axis=0) * 1.1
    assert hypervolume(result, reference) / hypervolume(exact, reference) >= 0.99
    assert result.points < space.size
    assert search(space, method=method, population=100, generations=60, seed=3).frame.equals(result.frame)


def test_search_says_what_it_chose() -> None:
    assert search(SMALL).method == "exhaustive"
    assert search(SMALL).frame.equals(explore(SMALL).frame)
    large = Space("llama-3.1-70b", "h100-sxm", pp=[1, 2, 4, 5, 8], batch="1:8000", prompt_tokens="1:8000")
    result = search(large, population=20, generations=3)
    assert (result.method, result.points) == ("native nsga2", 60)


def test_search_counts_what_it_met() -> None:
    result = search(SMALL, method="native", population=20, generations=5)
    assert sum(result.by_reason.values()) == result.points
    assert result.frame["feasible"].all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tp": []}, "axis `tp` has no value"),
        ({"tp": [0]}, "axis `tp` needs whole numbers from 1 to 1,024"),
        ({"batch": [1.5]}, "axis `batch` needs whole numbers"),
        ({"weight_dtype": "fp7"}, "unknown data type `fp7`"),
        ({"objectives": ["joules"]}, "unknown objective `joules`"),
        ({"objectives": []}, "one to six different objectives"),
        ({"objectives": ["tpot_s", "tpot_s"]}, "one to six different objectives"),
        ({"limits": ["tpot<=3parsecs"]}, "`parsecs` is not a unit of tpot_s"),
        ({"limits": ["speed<=3"]}, "unknown limit `speed`"),
    ],
)
def test_a_faulty_space_is_an_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        explore(models="llama-3.1-8b", gpus="b200", **fields)


def test_non_dominated_keeps_ties() -> None:
    assert non_dominated([[1, 2], [2, 1], [1, 2], [2, 2]]) == [0, 1, 2]


def test_a_search_needs_a_population() -> None:
    with pytest.raises(SpaceError, match="`population` should be a whole number from 2"):
        search(SMALL, population=1)


def test_frameworks_and_intervals_are_axes_and_limits_like_others() -> None:
    space: dict[str, Any] = {
        "models": "llama-3.1-8b",
        "gpus": ["h100-sxm", "h100-sxm@sglang"],
        "tp": [1, 2],
        "batch": [1, 16, 64],
    }
    lengths: dict[str, Any] = {"prompt_tokens": list(range(256, 4097, 256)), "output_tokens": list(range(64, 1025, 64))}
    limits = ["energy_hi_j<=3000", "extrapolated<=0"]
    result = explore(**space, **lengths, objectives=["energy_hi_j", "tpot_s"], limits=limits)
    every = explore(**space, **lengths, objectives=["energy_hi_j", "tpot_s"], limits=limits, top=10**6).top
    assert every is not None
    assert every["energy_hi_j"].max() <= 3000  # type: ignore[operator]
    assert not every["extrapolated"].any()
    assert result.frame["energy_hi_j"].min() == every["energy_hi_j"].min()
    assert set(every["gpu"]) == {"h100-sxm", "h100-sxm@sglang"}
    assert (every["energy_lo_j"] < every["energy_j"]).all() and (every["energy_j"] < every["energy_hi_j"]).all()
