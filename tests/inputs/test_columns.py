"""Columns of points from outside: every axis with every type, what is converted and what is refused."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from energylens import EnergylensError, FrameError, evaluate, predict, serve
from energylens.calibrate.engines.cluster import read_runs
from energylens.inputs import run_options
from energylens.inputs.axis_values import FORMS
from energylens.inputs.columns import Number, Switch, Whole, Words, convert, frame_of

POINT: dict[str, Any] = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}
WHOLE = [name for name, form in FORMS.items() if isinstance(form, Whole)]
TEXTS = [name for name, form in FORMS.items() if isinstance(form, Words)]
SWITCHES = [name for name, form in FORMS.items() if isinstance(form, Switch)]

GOOD: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "gpu": "h100-sxm",
    "weight_dtype": "fp8",
    "kv_dtype": "fp8",
    "overlap_where": "decode",
    "routing": "uniform",
    "placement": "contiguous",
    "overlap_sms": 0,
    "sm_clock_mhz": 1500,
    "power_cap_w": 500,
}

NEVER: dict[str, pl.Series] = {
    "list": pl.Series([[1], [2]]),
    "array": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int64, 2)),
    "struct": pl.Series([{"a": 1}, {"a": 2}]),
    "date": pl.Series([datetime.date(2026, 1, 1)] * 2),
    "datetime": pl.Series([datetime.datetime(2026, 1, 1)] * 2),
    "duration": pl.Series([datetime.timedelta(seconds=1)] * 2),
    "time": pl.Series([datetime.time(1)] * 2),
    "binary": pl.Series([b"1", b"2"]),
    "object": pl.Series([object(), object()], dtype=pl.Object),
}
"""Types that no column of a point may have."""

NOT_WHOLE: dict[str, pl.Series] = NEVER | {
    "text": pl.Series(["1", "2"]),
    "category": pl.Series(["1", "2"], dtype=pl.Categorical),
    "switch": pl.Series([True, False]),
    "fraction": pl.Series([1.0, 1.5]),
    "negative": pl.Series([1, -1]),
    "nan": pl.Series([1.0, float("nan")]),
    "infinite": pl.Series([1.0, float("inf")]),
    "beyond 32 bits": pl.Series([1, 2**32]),
    "beyond 64 bits": pl.Series([1, 2**100], dtype=pl.Int128),
    "decimal fraction": pl.Series([Decimal("1"), Decimal("1.00000000000000000001")]),
}
NOT_TEXT: dict[str, pl.Series] = NEVER | {
    "integer": pl.Series([1, 2]),
    "float": pl.Series([1.0, 2.0]),
    "switch": pl.Series([True, False]),
    "decimal": pl.Series([Decimal("1"), Decimal("2")]),
}
NOT_SWITCH: dict[str, pl.Series] = NEVER | {
    "integer": pl.Series([0, 1]),
    "float": pl.Series([0.0, 1.0]),
    "text": pl.Series(["off", "maybe"]),
}

REFUSED = [
    pytest.param(name, column, id=f"{name}: {kind}")
    for names, table in ((WHOLE, NOT_WHOLE), (TEXTS, NOT_TEXT), (SWITCHES, NOT_SWITCH))
    for name in names
    for kind, column in table.items()
]


def frame(name: str, column: pl.Series) -> pl.DataFrame:
    return pl.DataFrame({**POINT, name: column})


def test_every_column_meets_every_type() -> None:
    assert sorted(FORMS) == sorted([*WHOLE, *TEXTS, *SWITCHES])
    assert len(REFUSED) >= 300


@pytest.mark.parametrize(("name", "column"), REFUSED)
def test_a_wrong_column_says_which_row_holds_what(name: str, column: pl.Series) -> None:
    with pytest.raises(FrameError) as caught:
        evaluate(frame(name, column))
    (problem,) = caught.value.problems
    assert f"`{name}`" in problem.message
    assert "in row " in problem.message
    assert problem.code in {"column-type", "column-value", "axis-value"}


def test_the_row_and_the_value_are_those_of_the_fault() -> None:
    def message(name: str, column: pl.Series) -> str:
        with pytest.raises(FrameError) as caught:
            evaluate(frame(name, column))
        return caught.value.problems[0].message

    assert message("cp", pl.Series([1, 1, 2000])) == (
        "column `cp` should hold whole numbers from 1 to 1,024, found 2000 in row 2"
    )
    assert message("overlap_stages", pl.Series([None, "4"])) == (
        "column `overlap_stages` should hold whole numbers, found String: `4` in row 1"
    )
    assert message("placement", pl.Series(["contiguous", "anywhere"])) == (
        "`anywhere` is no placement of experts in row 1 of column `placement`"
    )
    assert message("fused_norm", pl.Series(["on", "On"])) == ("`fused_norm` is on or off, found `On` in row 1")
    assert message("model", pl.Series(["llama-3.1-8b", None])) == "column `model` is null in row 1"


def test_all_faults_are_named_at_once() -> None:
    columns = {"cp": ["x"], "batch": [[1]], "placement": [3], "fused_norm": [1], "tp": [0], "sm_clock_mhz": [1.5]}
    with pytest.raises(FrameError) as caught:
        evaluate(pl.DataFrame({**{key: [value] for key, value in POINT.items()}, **columns}))
    assert len(caught.value.problems) == 6


WIDE = [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64]


@pytest.mark.parametrize("dtype", [*WIDE, pl.Float32, pl.Float64, pl.Decimal(20, 3)], ids=str)
def test_whole_numbers_of_any_type_are_the_same_point(dtype: Any) -> None:
    names = ("tp", "batch", "prompt_tokens", "cp")
    plain = pl.DataFrame({**POINT, **{name: pl.Series([1, 2]) for name in names}})
    told = evaluate(plain.with_columns(pl.col(names).cast(dtype)))
    assert told.equals(evaluate(plain))
    assert told.schema == evaluate(plain).schema


@pytest.mark.parametrize("name", TEXTS)
def test_names_of_any_type_are_the_same_point(name: str) -> None:
    model = {"model": "qwen3-30b-a3b"} if name in {"routing", "placement"} else {}
    plain = pl.DataFrame({**POINT, "tp": [2, 2], **model, name: model.get(name, GOOD[name])})
    for dtype in (pl.Categorical, pl.Enum([*plain[name].unique(), "other"])):
        assert evaluate(plain.with_columns(pl.col(name).cast(dtype))).equals(evaluate(plain))


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_may_be_words(name: str) -> None:
    plain = pl.DataFrame({**POINT, "tp": 2, name: [False, True, False, True]})
    words = plain.with_columns(pl.Series(name, ["off", "on", "false", "true"]))
    assert evaluate(words).equals(evaluate(plain))


@pytest.mark.parametrize("name", [name for name in FORMS if name not in (*POINT, *WHOLE[:7])])
def test_a_null_is_the_default(name: str) -> None:
    bare = evaluate(pl.DataFrame([POINT, POINT]))
    for column in (
        pl.Series([None, None]),
        pl.Series([None, GOOD.get(name)], dtype=pl.Null if name not in GOOD else None),
    ):
        told = evaluate(frame(name, column))
        assert told["energy_j"][0] == bare["energy_j"][0]


def test_an_empty_frame_and_a_frame_of_another_kind() -> None:
    with pytest.raises(FrameError, match="no rows"):
        evaluate(pl.DataFrame({"model": [], "gpu": []}))
    with pytest.raises(FrameError, match="not a dict"):
        evaluate({"model": ["llama-3.1-8b"]})  # type: ignore[arg-type]
    with pytest.raises(FrameError, match="cannot be collected"):
        evaluate(pl.LazyFrame({"model": ["llama-3.1-8b"]}).select("gpu"))


@pytest.mark.parametrize("carry", [3, [None], [["run"]], {"run": 1, 2: 3}])
def test_what_is_carried_has_names(carry: Any) -> None:
    with pytest.raises(FrameError, match="carry"):
        evaluate(pl.DataFrame([POINT]), carry=carry)


VALUES: list[Any] = ["x", -1, 0.5, 2**32, 2**70, 10**400, float("nan"), [1], {"a": 1}, object(), b"x", True, 1j, {1, 2}]


@pytest.mark.parametrize("name", [*WHOLE, *TEXTS, *SWITCHES, "max_batched_tokens"])
def test_a_point_refuses_what_is_no_value_of_its_field(name: str) -> None:
    for value in VALUES:
        if name in SWITCHES and value is True:
            continue
        with pytest.raises(EnergylensError):
            predict(**{**POINT, name: value})


def test_a_frame_of_one_row_is_made_of_a_point() -> None:
    assert frame_of({"tp": 2, "model": "a"}).to_dicts() == [{"tp": 2, "model": "a"}]


def test_numbers_are_finite_and_of_their_range() -> None:
    column, problems = convert(pl.Series("a", [1, 2], dtype=pl.Int8), Number(0, 2))
    assert column.equals(pl.Series("a", [1.0, 2.0], dtype=pl.Float64), check_dtypes=True)
    assert not problems
    for bad in ([0.0, 3.0], [0.0, float("nan")], [0.0, None]):
        (problem,) = convert(pl.Series("a", bad), Number(0, 2))[1]
        assert problem.message.startswith("column `a` should hold numbers from 0 to 2, found ")
        assert problem.message.endswith(" in row 1")


SERVED: dict[str, dict[str, pl.Series]] = (
    dict.fromkeys(("tp", "pp", "dp", "ep", *(n for n in WHOLE if n in run_options.RUNNING)), NOT_WHOLE)
    | dict.fromkeys((*TEXTS, "draft"), NOT_TEXT)
    | dict.fromkeys(SWITCHES, NOT_SWITCH)
    | {name: NEVER | {"text": NOT_WHOLE["text"]} for name in ("max_num_seqs", "token_budget", "acceptance", "replicas")}
    | {name: NEVER | {"integer": NOT_SWITCH["integer"]} for name in ("chunked", "prefix_cache")}
)


@pytest.mark.parametrize("name", SERVED)
def test_a_frame_of_deployments_says_which_column_is_wrong(name: str) -> None:
    for column in SERVED[name].values():
        with pytest.raises(FrameError) as caught:
            serve(frame(name, column), "1024:256")
        assert f"`{name}`" in caught.value.problems[0].message


@pytest.mark.parametrize("name", ["model", "weight_dtype", "kv_dtype", "batch", "tp"])
def test_runs_of_a_cluster_say_which_column_is_wrong(name: str, tmp_path: Path) -> None:
    runs = {"model": "llama-3.1-8b", "batch": 8.0, "input_tokens": 100, "output_tokens": 100, "itl_ms": 10.0}
    runs |= {"output_tokens_per_s": 800.0, "power_w_per_gpu": 300.0}
    whole = pl.DataFrame([runs] * 60)
    for dtype, value in ((pl.List(pl.Int64), [1]), (pl.Struct({"a": pl.Int64}), {"a": 1}), (pl.Boolean, True)):
        path = tmp_path / "runs.parquet"
        whole.with_columns(pl.Series(name, [value] * 60, dtype=dtype)).write_parquet(path)
        with pytest.raises(EnergylensError) as caught:
            read_runs(path)
        assert f"`{name}`" in caught.value.problems[0].message
