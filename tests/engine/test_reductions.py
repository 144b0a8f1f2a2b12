"""What a reduction keeps, against the same computed from every point by Polars."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from energylens import explore
from energylens.common.errors import SpaceError
from energylens.engine.evaluate import evaluate
from energylens.inputs.axes import POINT_DEFAULTS
from small_space import SMALL

POINT = list(POINT_DEFAULTS)


@pytest.fixture(scope="module")
def every_point() -> pl.DataFrame:
    frame = evaluate(SMALL.points(np.arange(SMALL.size, dtype=np.uint64)))
    return frame.with_row_index("index").filter(pl.col("feasible") & (pl.col("tpot_s") <= 0.02))


def kept(**arguments: Any) -> Any:
    return explore(SMALL, limits=["tpot<=20ms"], **arguments)


def test_top_is_the_best_few(every_point: pl.DataFrame) -> None:
    best = every_point.sort("energy_per_output_token_j", "index").head(9)
    assert kept(top=9).top.select(POINT).rows() == best.select(POINT).rows()
    assert kept(top=100_000).top.height == every_point.height


def test_best_per_group(every_point: pl.DataFrame) -> None:
    best = every_point.sort("energy_per_output_token_j", "index").group_by("model", "batch").first()
    found = kept(best_per=["model", "batch"]).best_per
    assert set(found.select(POINT).rows()) == set(best.select(POINT).rows())


def test_quantiles_are_within_a_bin(every_point: pl.DataFrame) -> None:
    result = kept(distributions=["tpot_s", "energy_j"])
    assert result.distributions["count"].sum() == 2 * every_point.height
    for column in ("tpot_s", "energy_j"):
        for share in (0.01, 0.5, 0.9, 1.0):
            exact = every_point[column].quantile(share, "higher")
            near = every_point[column].quantile(share, "lower")
            assert exact is not None and near is not None
            assert near * (1 - 1 / 128) <= result.quantile(column, share) <= exact * (1 + 1 / 128)
    with pytest.raises(SpaceError, match="distribution of `ttft_s` was not kept"):
        result.quantile("ttft_s", 0.5)


def test_a_thinned_front_is_near_every_point(every_point: pl.DataFrame) -> None:
    names = list(SMALL.objectives)
    thin, exact = kept(epsilon=0.5).frame, kept().frame
    assert 0 < thin.height < exact.height
    assert thin["energy_per_output_token_j"].min() == exact["energy_per_output_token_j"].min()
    points, front = every_point.select(names).to_numpy(), thin.select(names).to_numpy()
    assert (front[None] <= points[:, None] * 1.5).all(2).any(1).all()


def test_mistakes_are_reported_together() -> None:
    with pytest.raises(SpaceError) as caught:
        kept(epsilon=0.0, top=-1, best_per=["tp", "tp", "batsh"], distributions=["tpot"])
    messages = [problem.message for problem in caught.value.problems]
    assert len(messages) == 5
    assert "unknown axis `batsh` in `best_per`" in messages


def test_too_many_groups() -> None:
    with pytest.raises(SpaceError, match="makes 4,200,000 groups"):
        explore(SMALL, batch=range(1, 2001), prompt_tokens=range(1, 2101), best_per=["batch", "prompt_tokens"])
