"""Messages that say what stands in the way: options that exclude each other, limits that nothing keeps, switches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from energylens import SpaceError, explore, predict, split
from energylens.cli import main
from energylens.common.format import table
from energylens.engine.space import LIMITED, Limit, Space
from energylens.reports.text import answer
from energylens.results.nearest import nearest_point, nearest_row, percent

AXES: dict[str, Any] = {"tp": [1, 2, 4, 8], "batch": [1, 8, 64], "output_tokens": [64, 512]}
SIDES = {"prefill": {"gpus": "h100-sxm", "tp": [1, 2]}, "decode": {"gpus": "h100-sxm", "tp": [1, 2], "batch": [1, 64]}}


def space(limits: list[str]) -> Space:
    return Space("llama-3.1-8b", "h100-sxm", **AXES, limits=limits)


def nearest_by_hand(limits: list[str]) -> tuple[float, pl.DataFrame]:
    """Return the least excess over limits of every point that runs, and the points that have it."""
    points = space([])
    from energylens.engine.reductions import point_frame

    frame = point_frame(points, np.arange(points.size, dtype=np.uint64), 1).filter(pl.col("feasible"))
    worst = np.zeros(frame.height)
    for limit in map(Limit.parse, limits):
        value = frame[limit.column].cast(pl.Float64).to_numpy()
        if np.isfinite(limit.highest):
            worst = np.maximum(worst, value / limit.highest - 1.0)
        else:
            worst = np.maximum(worst, 1.0 - value / limit.lowest)
    return float(worst.min()), frame.filter(pl.Series(np.isclose(worst, worst.min(), rtol=1e-12)))


@pytest.mark.parametrize(
    "limits",
    [
        ["tpot<=1ms"],
        ["tpot<=2ms", "ttft<=5ms"],
        ["tpot<=3ms", "energy_per_output_token_j<=1"],
        ["output_tokens_per_s>=1e6", "gpus<=2"],
        ["tpot<=4ms", "tpot<=2ms"],
        ["tpot>=1", "tpot<=1.1"],
        ["energy_decode_hbm_kv_j<=0.001", "gpus<=4", "power<=300"],
    ],
    ids=" ".join,
)
def test_the_nearest_point_is_the_one_that_exceeds_limits_least(limits: list[str]) -> None:
    found = nearest_point(space(limits))
    least, points = nearest_by_hand(limits)
    assert found is not None
    assert found.beyond == pytest.approx(least, rel=1e-9)
    assert found.beyond > 0
    assert (
        tuple(found.row[name] for name in ("tp", "batch", "output_tokens"))
        in points.select("tp", "batch", "output_tokens").rows()
    )
    assert str(found.limit) in [str(Limit.parse(text)) for text in limits]


def test_each_limit_by_itself_is_judged() -> None:
    limits = ["tpot<=2ms", "gpus<=4"]
    found = nearest_point(space(limits))
    assert found is not None
    told = found.each([Limit.parse(text) for text in limits])
    assert told[0].startswith("tpot_s <= 0.002 alone: at least ")
    assert told[1] == "gpus <= 4 alone: can be kept"
    assert found.alone[0] == pytest.approx(nearest_by_hand(["tpot<=2ms"])[0], rel=1e-9)


def test_of_equally_near_points_the_one_of_least_joules_is_named() -> None:
    frame = pl.DataFrame({"gpus": [4, 4, 8], "energy_per_output_token_j": [3.0, 2.0, 1.0]})
    found = nearest_row(frame, [Limit.parse("gpus<=2")])
    assert (found.row["energy_per_output_token_j"], found.beyond) == (2.0, 1.0)
    assert [percent(share) for share in (12.3456, 0.5, 0.0123, 1e-5)] == ["1,235 %", "50 %", "1.2 %", "0.001 %"]


def test_a_space_too_large_to_look_at_again_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("energylens.results.nearest._MOST_WORK", 1.0)
    found = nearest_point(space(["tpot<=2ms"]))
    assert found is not None
    assert not found.exact
    assert found.words("a point").startswith("nearest, of a sample: tpot_s ")
    assert found.beyond == pytest.approx(nearest_by_hand(["tpot<=2ms"])[0])  # the sample is all of a small space


def test_explore_names_the_nearest_point(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "explore",
        "llama-3.1-8b",
        "--tp",
        "1,2,4,8",
        "--batch",
        "1,8,64",
        "--slo",
        "tpot=3ms",
        "--limit",
        "gpus<=4",
    ]
    assert main([*words, "--json"]) == 2
    captured = capsys.readouterr()
    error = json.loads(captured.out)["errors"][0]
    found = error["nearest"]
    assert (found["limit"], found["column"]) == ("tpot_s <= 0.003", "tpot_s")
    point = found["point"]
    assert (point["tp"], point["batch"]) == (4, 1)
    whole = predict("llama-3.1-8b", tp=4, batch=1)
    assert found["value"] == point["tpot_s"] == whole.values["tpot_s"]
    assert found["beyond"] == pytest.approx(whole.values["tpot_s"] / 0.003 - 1)
    assert (
        f"nearest: tpot_s {found['value']:.3g} ({percent(found['beyond'])} beyond its limit) on llama-3.1-8b on 4 x"
        in (error["message"])
    )
    assert "gpus <= 4 alone: can be kept" in error["hint"]
    assert error["message"] in captured.err
    assert main([*words, "--batch", "1"]) == 2  # given twice


def test_search_names_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "llama-3.1-8b", "--method", "native", "--slo", "tpot=1ms", "--generations", "2", "--json"]
    assert main(words) == 2
    assert json.loads(capsys.readouterr().out)["errors"][0]["nearest"]["point"]["tp"] == 8


def test_what_runs_nowhere_has_no_nearest_point() -> None:
    result = explore(Space("llama-3.1-405b", "rtx-4090", tp=1, batch=1, limits=["tpot<=1s"]))
    problem = answer.nothing(result)
    assert problem.code == "infeasible"
    assert "nearest" not in problem.as_dict()


def test_split_names_the_nearest_pair(capsys: pytest.CaptureFixture[str]) -> None:
    found = split("llama-3.1-8b", **SIDES, limits=["tpot<=1ms", "decode_gpus<=1"])  # type: ignore[arg-type]
    assert found.best is None
    assert found.why_none is not None
    nearest = found.why_none.as_dict()["nearest"]
    # One GPU too many and 5.1 ms are nearer to both limits than 7.6 ms on one.
    every = split("llama-3.1-8b", **SIDES).frame  # type: ignore[arg-type]
    assert nearest["value"] == every["tpot_s"].min()  # type: ignore[index]
    assert nearest["point"]["decode_gpus"] == 2  # type: ignore[index]
    assert "decode_gpus <= 1 alone: can be kept" in str(found.why_none.hint)
    words = ["split", "llama-3.1-8b", "--prefill", "gpus=h100-sxm", "--decode", "gpus=h100-sxm", "--slo", "tpot=1us"]
    assert main(words) == 2
    assert "no pair of configurations keeps tpot_s <= 1e-06; nearest: tpot_s 0.0" in capsys.readouterr().err


@pytest.mark.parametrize("column", LIMITED)
def test_every_number_of_a_result_may_be_limited(column: str) -> None:
    objectives = [column, "latency_s"] if column not in ("extrapolated", "latency_s") else ["latency_s"]
    front = explore(
        space([]), objectives=objectives if column in ("gpus", "ttft_s") else ["energy_j", "latency_s"]
    ).frame
    middle = float(front[column].cast(pl.Float64).median())  # type: ignore[arg-type]
    for sense, kept in (
        ("<=", pl.col(column).cast(pl.Float64) <= middle),
        (">=", pl.col(column).cast(pl.Float64) >= middle),
    ):
        found = explore(space([f"{column}{sense}{middle!r}"])).frame
        assert found.height
        assert found.select(kept.all()).item()


@pytest.mark.parametrize("limit", ["decode_gpus<=1", "transfer_s<=1", "energy_decode_per_request_j<=100"])
def test_every_number_of_a_pair_may_be_limited(limit: str) -> None:
    bound = Limit.parse(limit, [limit.partition("<")[0]])
    found = split("llama-3.1-8b", **SIDES, limits=[limit]).frame  # type: ignore[arg-type]
    assert found.height
    assert (found[bound.column] <= bound.highest).all()


@pytest.mark.parametrize(
    ("limit", "hint"),
    [
        ("energy_decode_hbm<=1", "did you mean `energy_decode_hbm_weights_j` or"),
        ("tp<=2", "`tp` is an axis: give the values that it may have"),
        ("speed<=2", "columns are gpus, latency_s"),
    ],
)
def test_unknown_limits_have_near_names(limit: str, hint: str) -> None:
    with pytest.raises(SpaceError, match=hint):
        explore(space([limit]))


@pytest.mark.parametrize(
    ("line", "first", "second"),
    [
        ("search llama-3.1-8b --method native --algorithm nsga3", "`algorithm`", "method `native`"),
        ("search llama-3.1-8b --method exhaustive --algorithm nsga3", "`algorithm`", "method `exhaustive`"),
        ("search llama-3.1-8b --method exhaustive --checkpoint state", "`checkpoint`", "method `exhaustive`"),
        ("search llama-3.1-8b --method exhaustive --patience 3", "`patience`", "method `exhaustive`"),
        ("predict llama-3.1-8b --tp 4 --sequence-parallel --fused-norm", "`fused_norm`", "`sequence_parallel`"),
        ("gpus b200 --show h100-sxm", "`b200`", "`h100-sxm`"),
        ("calibrate power h100-sxm --out a.yaml --write", "--out", "--write"),
        ("calibrate serving h100-sxm --out a.yaml --write", "--out", "--write"),
        ("validate runs.parquet --plots out", "--plots", "a file"),
        ("validate runs.parquet --data out", "--data", "a file"),
        ("advise batch llama-3.1-8b --max-num-seqs 8", "--max-num-seqs", "`advise batch`"),
    ],
)
def test_options_that_exclude_each_other_are_both_named(
    line: str, first: str, second: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    message = capsys.readouterr().err.partition("\n")[0]
    assert first in message
    assert second in message
    assert message.partition(" exclude each other: ")[2], "a reason"


def test_a_failing_mesh_is_not_put_down_to_fused_norms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "llama-3.1-8b", "--tp", "3", "--sequence-parallel", "--fused-norm"]) == 2
    assert capsys.readouterr().err.startswith("error: tp 3 does not divide rank")


def test_search_says_where_several_laws_can_be_retained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "qwen3-30b-a3b", "--routing", "uniform,zipf:1"]) == 2
    assert (
        "`search` keeps one front; explore keeps the best of each, with --best-per routing" in capsys.readouterr().err
    )


@pytest.mark.parametrize("words", ["--fused-norm", "--fused-norm on", "--fused-norm=on"])
def test_a_switch_is_written_alike_everywhere(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"predict {words} llama-3.1-8b --tp 2 --json".split()) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["fused_norm"] is True
    assert main(f"explore {words} llama-3.1-8b --tp 2 --batch 1 --json".split()) == 0
    assert json.loads(capsys.readouterr().out)["front"][0]["energy_j"] == one["energy_j"]
    assert main(["predict", "llama-3.1-8b", "--fused-norm", "off", "--tp", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["energy_j"] == predict("llama-3.1-8b", tp=2).values["energy_j"]
    assert main(f"predict llama-3.1-8b {words.split('=')[0].split()[0]} maybe --tp 2".split()) == 2
    assert "`--fused-norm` is on or off, found `maybe`\nhint: write --fused-norm on" in capsys.readouterr().err


def test_tables_show_switches_as_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "llama-3.1-8b", "--tp", "2", "--batch", "1,64", "--fused-norm", "off,on"]) == 0
    printed = capsys.readouterr().out
    assert "True" not in printed
    assert "False" not in printed
    assert table(["set"], [[True], [False], [None]]).split()[2:] == ["on", "off", "-"]


@pytest.mark.parametrize("name", ["front.yaml", "front.html", "front.txt", "front.csv"])
def test_a_target_of_another_kind_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    assert main(["explore", "llama-3.1-8b", "--out", str(tmp_path / name)]) == 2
    assert not list(tmp_path.iterdir())
