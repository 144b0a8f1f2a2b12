"""Python verbs given arguments of the wrong type or beyond any size: one `EnergylensError`, or the right result."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import energylens
from energylens import EnergylensError, FrameError, Result, Space, SpaceError, SpecError, predict
from energylens.inputs.plan import Plan
from energylens.results.point import read_point

ODD: list[Any] = [
    None, True, 3, -1, 0.5, float("nan"), float("inf"), 2**32, 10**400, 1e9, "", "x", "1:", "\ud800", "\x1b", "a\0b",
    "x" * 5000, b"x", [], [[]], [["tp"]], [None], {}, {"a": 1}, {"tp"}, (), ("tp", "tp"), object(), 1j, range(0),
    datetime.date(2026, 1, 1), np.array(3), np.array([1, 2]), np.float32(1.5), Path("nope"), pl.Series([1]), len,
    pl.DataFrame({"a": [1]}), ["x"], ["1"], [1.5], [True], range(10**12),
]  # fmt: skip
BASE: dict[str, Any] = {"models": "llama-3.1-8b", "gpus": "h100-sxm", "tp": 1, "batch": [1, 8]}
POINT: dict[str, Any] = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}
FRAME = pl.DataFrame([POINT])
SIDE: dict[str, Any] = {"gpus": "h100-sxm", "tp": 1, "batch": [1, 8]}


def explore(name: str, value: Any) -> Any:
    return energylens.explore(**{**BASE, name: value})


def search(name: str, value: Any) -> Any:
    few = {"method": "native", "population": 4, "generations": 2}
    return energylens.search(**{**BASE, **few, name: value})


def pymoo(name: str, value: Any) -> Any:
    few = {"method": "pymoo", "population": 4, "generations": 2}
    return energylens.search(**{**BASE, **few, name: value})


def evaluate(name: str, value: Any) -> Any:
    return energylens.evaluate(**{"frame": FRAME, name: value})


def export(name: str, value: Any) -> Any:
    return energylens.export(**{"point": POINT, name: value}).script


def export_point(name: str, value: Any) -> Any:
    return energylens.export({**POINT, name: value}).script


def advise(name: str, value: Any) -> Any:
    return energylens.advise_batch(**{**POINT, "batches": [1, 2], name: value})


def spots(name: str, value: Any) -> Any:
    few = {"prompt_tokens": [64, 128, 256], "output_tokens": [64, 128, 256]}
    return energylens.sweet_spots(**{**POINT, **few, name: value})


def split(name: str, value: Any) -> Any:
    return energylens.split(**{"model": "llama-3.1-8b", "prefill": SIDE, "decode": SIDE, name: value})


CALLS: list[tuple[Callable[[str, Any], Any], list[str]]] = [
    (explore, [field.name for field in fields(Space)]),
    (explore, ["space", "epsilon", "top", "best_per", "distributions", "threads", "colour"]),
    (
        search,
        ["space", "method", "population", "generations", "seed", "patience", "tolerance", "checkpoint", "threads"],
    ),
    (pymoo, ["algorithm", "termination", "patience", "tolerance"]),
    (evaluate, ["frame", "models", "gpus", "carry", "max_batched_tokens", "threads"]),
    (export, ["point", "to", "model"]),
    (export_point, ["model", "gpu", "tp", "routing", "placement", "draft", "chunked", "acceptance", "colour"]),
    (advise, ["model", "gpu", "epsilon", "slowdown", "batches", "tp", "routing", "colour"]),
    (spots, ["model", "gpu", "batch", "prompt_tokens", "output_tokens", "tp", "colour"]),
    (
        split,
        ["model", "prefill", "decode", "prompt_tokens", "output_tokens", "limits", "max_batched_tokens", "threads"],
    ),
]


@pytest.mark.parametrize(
    ("call", "name"),
    [pytest.param(call, name, id=f"{call.__name__}: {name}") for call, names in CALLS for name in names],
)
def test_any_argument_may_be_anything(
    call: Callable[[str, Any], Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw = random.Random(name)
    cheap = call in (evaluate, export, export_point)
    for value in ODD if cheap else draw.sample(ODD, 20):
        try:
            call(name, value)
        except EnergylensError as error:
            assert error.problems and error.render()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"best_per": [["tp"]]}, "unknown axis `['tp']` in `best_per`"),
        ({"distributions": [3]}, "unknown result column `3` in `distributions`"),
        ({"top": -1}, "`top` should be 0 to 1,000,000, found -1"),
        ({"top": 1e9}, "`top` should be 0 to 1,000,000, found 1000000000.0"),
        ({"top": True}, "`top` should be 0 to 1,000,000, found True"),
        ({"top": "3"}, "`top` should be 0 to 1,000,000, found 3"),
        ({"epsilon": float("nan")}, "`epsilon` should be above 0 and at most 1, found nan"),
        ({"threads": "2"}, "threads should be 1 to 1,024, found 2"),
        ({"threads": True}, "threads should be 1 to 1,024, found True"),
        ({"batch": [[1, 2]]}, "`[1, 2]` is no value of axis `batch`"),
        ({"batch": range(10**12)}, "an axis has too many values"),
        ({"sm_clock_mhz": [{1: 2}]}, "`{1: 2}` is no value of axis `sm_clock_mhz`"),
        ({"power_cap_w": 10**400}, "found `a number of 1,329 bits`"),
        ({"colour": 1}, "unknown axis `colour`"),
        ({"models": []}, "axis `model` has no value: the space is empty"),
        ({"space": "llama-3.1-8b"}, "a space is not a str"),
        ({"limits": 5}, "cannot read the limit `5`"),
        ({"objectives": [["latency_s"]]}, "unknown objective `['latency_s']`"),
    ],
)
def test_an_argument_of_a_wrong_type_says_which(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(EnergylensError) as caught:
        energylens.explore(**{**BASE, **arguments})
    assert caught.value.problems[0].message.startswith(message) or message in caught.value.problems[0].message


def test_a_space_without_models_is_empty() -> None:
    with pytest.raises(SpaceError) as caught:
        energylens.explore()
    assert [p.message for p in caught.value.problems] == [
        "axis `models` has no value: the space is empty",
        "axis `gpus` has no value: the space is empty",
    ]


def test_a_single_limit_may_be_a_text(tmp_path: Path) -> None:
    result = energylens.explore(**BASE, limits="tpot<=50ms", objectives="latency_s")
    read = Result.read(result.write(tmp_path / "front.parquet"))
    assert (list(read.space.limits), list(read.space.objectives)) == (["tpot<=50ms"], ["latency_s"])
    assert read.frame.equals(result.frame)


def test_integral_floats_are_integers() -> None:
    floats = energylens.explore(**{**BASE, "batch": [1.0, 8.0], "sm_clock_mhz": [None, 1500.0]})
    integers = energylens.explore(**{**BASE, "batch": [1, 8], "sm_clock_mhz": [None, 1500]})
    assert floats.frame.equals(integers.frame)
    assert floats.note == integers.note


def test_one_spec_needs_no_list() -> None:
    (path,) = [path for name, path in energylens.inputs.bundled.bundled("models").items() if name == "llama-3.1-8b"]
    assert energylens.evaluate(FRAME, models=str(path)).equals(energylens.evaluate(FRAME))


@pytest.mark.parametrize("value", ODD, ids=[f"odd{i}" for i in range(len(ODD))])
def test_what_names_a_file_or_a_folder_is_checked(value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for read in (Result.read, energylens.read_parquet, energylens.status, energylens.merge):
        with pytest.raises(EnergylensError):
            read(value)
    for verb in (energylens.compare,):
        with pytest.raises(EnergylensError):
            verb(value, "llama-3.1-8b; gpu=h100-sxm")
    if not isinstance(value, (str, Path)):
        with pytest.raises(EnergylensError):
            energylens.explore(**BASE).write(value)
    assert not list(tmp_path.iterdir())


def test_a_quantile_is_of_a_column_and_a_share() -> None:
    result = energylens.explore(**BASE, distributions=["energy_j"])
    assert result.quantile("energy_j", 0.5) > 0
    for column, share in ((["energy_j"], 0.5), ("x", 0.5), ("energy_j", "0.5"), ("energy_j", None), ("energy_j", 2)):
        with pytest.raises(SpaceError):
            result.quantile(column, share)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "reference",
    [
        {1: 2},
        {},
        {"model": "llama-3.1-8b", "gpu": "h100-sxm", "tp": float("nan")},
        "x" * 100_000,
        ";",
        "#",
        "#1",
        ";;=",
        "a;b=" + "9" * 5000,
    ],
    ids=lambda reference: str(reference)[:20],
)
def test_a_point_that_cannot_be_read_is_refused(reference: Any) -> None:
    with pytest.raises(EnergylensError):
        read_point(reference)


CONTENT = Plan(
    [energylens.inputs.library.load_model("llama-3.1-8b")], [energylens.inputs.library.load_gpu("h100-sxm")]
).content


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["settings", "max_batched_tokens"], float("nan")),
        (["settings", "max_batched_tokens"], "8192"),
        (["gpus", 0, "power", "tdp_w"], float("inf")),
        (["gpus", 0, "power", "tdp_w"], "700"),
        (["gpus", 0, "power", "tdp_w"], None),
        (["gpus", 0, "power", "tdp_w"], {1: 2}),
        (["gpus", 0, "name"], "\ud800"),
        (["gpus", 0, "name"], 3),
        (["gpus"], {}),
        (["models", 0], None),
        (["models", 0, "ranks"], [object()]),
        (["format"], 2),
        (["colour"], 1),
    ],
)
def test_a_plan_is_plain_finite_data(path: list[Any], value: Any) -> None:
    import copy

    content = copy.deepcopy(CONTENT)
    node: Any = content
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    with pytest.raises(SpecError):
        Plan.thaw(content)


@pytest.mark.parametrize("content", [None, [], "x", 3, {}, {"models": []}])
def test_what_is_no_plan_is_refused(content: Any) -> None:
    with pytest.raises(SpecError):
        Plan.thaw(content)


def test_a_plan_is_thawed_as_it_was() -> None:
    assert (
        Plan.thaw(CONTENT).json
        == Plan(
            [energylens.inputs.library.load_model("llama-3.1-8b")], [energylens.inputs.library.load_gpu("h100-sxm")]
        ).json
    )


def test_numbers_of_numpy_are_numbers() -> None:
    assert predict(**POINT, batch=np.int64(4)).values == predict(**POINT, batch=4).values
    with pytest.raises(FrameError, match="`batch` should be a number, a text, True or False"):
        predict(**POINT, batch=np.array([4]))
