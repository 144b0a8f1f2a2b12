"""What costs money or carbon: objectives of a plan, limits on its columns, hours of the day, the best of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from energylens.cli import main
from energylens.common.errors import SpaceError
from energylens.common.parquet_file import read_parquet
from energylens.reports.subject import read_subject
from energylens.serving.costs import Costs
from energylens.serving.deployments import ANSWERED
from energylens.serving.fronts import front, fronts
from energylens.serving.hours import hours_of
from energylens.serving.plan import ServicePlan, serve_plan
from energylens.serving.workload import load_workload

GPUS = ["h100-sxm", "a100-sxm-80gb", "l40s"]
PRICES = Costs(gpu_hour={"h100-sxm": 2.5, "A100-SXM-80GB": 1.2, "l40s": 0.8})
AXES: dict[str, Any] = {"gpus": GPUS, "tp": 1, "token_budget": 8192}
MONEY = "cost_per_million_output_tokens"


@pytest.fixture(scope="module")
def priced() -> ServicePlan:
    return serve_plan("llama-3.1-8b", "azure-conv", limits=["tpot<=60ms"], costs=PRICES, best_per=["gpu"], **AXES)


def test_the_cheapest_in_money_is_not_dropped(priced: ServicePlan) -> None:
    plain = serve_plan("llama-3.1-8b", "azure-conv", limits=["tpot<=60ms"], **AXES)
    # Alone, L40S has neither the fewest joules nor the least latency of what serves the load.
    assert "l40s" not in plain.frame["gpu"].to_list()
    least = priced.frame.sort(MONEY).row(0, named=True)
    assert least["gpu"] == "l40s"
    assert least[MONEY] < 0.8 * priced.best[MONEY]
    assert priced.best["energy_per_output_token_j"] == plain.best["energy_per_output_token_j"]
    joules = priced.frame["energy_per_output_token_j"].to_list()
    assert joules == sorted(joules)


def test_no_deployment_of_the_plan_is_beaten_in_every_objective(priced: ServicePlan) -> None:
    rows = priced.frame.select("energy_per_output_token_j", MONEY, "latency_s").to_numpy()
    for row in rows:
        assert not ((rows <= row).all(axis=1) & (rows < row).any(axis=1)).any()


def test_fronts_are_those_of_each_objective() -> None:
    random = np.random.default_rng(7)
    names = ("energy_per_output_token_j", "latency_s", "a", "b")
    frame = pl.DataFrame({name: random.random(300) for name in names})
    rows = set(fronts(frame, ["a", "b"]).iter_rows())
    expected = {row for cost in ("energy_per_output_token_j", "a", "b") for row in front(frame, cost=cost).iter_rows()}
    assert rows == expected
    assert fronts(frame, []).equals(front(frame))


def test_the_best_of_each_gpu(priced: ServicePlan) -> None:
    best = priced.best_per
    assert best is not None
    assert sorted(best["gpu"]) == sorted(GPUS)
    for row in best.iter_rows(named=True):
        alone = serve_plan("llama-3.1-8b", "azure-conv", limits=["tpot<=60ms"], **AXES | {"gpus": row["gpu"]})
        assert row["energy_per_output_token_j"] == alone.best["energy_per_output_token_j"]
    assert {row["energy_per_output_token_j"] for row in best.iter_rows(named=True)} >= {
        priced.best["energy_per_output_token_j"]
    }


def test_a_group_that_nothing_serves_is_said() -> None:
    plan = serve_plan("llama-3.1-70b", "azure-conv", best_per=["gpu"], **AXES | {"gpus": ["h200-sxm", "l40s"]})
    assert plan.best_per is not None and plan.best_per["gpu"].to_list() == ["h200-sxm"]
    assert "no deployment serves the load within the limits: gpu l40s" in plan.notes
    with pytest.raises(SpaceError, match="unknown axis `gpuu` in `best_per`"):
        serve_plan("llama-3.1-8b", "azure-conv", best_per="gpuu", **AXES)
    many = {"max_num_seqs": list(range(1, 100))}
    with pytest.raises(SpaceError, match="the best of 99 groups"):
        serve_plan("llama-3.1-8b", "azure-conv", best_per="max_num_seqs", **AXES | many | {"gpus": "l40s"})


def test_limits_on_any_column_of_numbers(priced: ServicePlan) -> None:
    numbers = {name for name, kind in priced.frame.schema.items() if kind.is_numeric()}
    assert numbers <= {*ANSWERED, *PRICES.columns()}
    dearest = priced.frame.sort(MONEY)[MONEY][-1]
    within = serve_plan(
        "llama-3.1-8b", "azure-conv", costs=PRICES, limits=["tpot<=60ms", f"{MONEY}<={0.7 * dearest:.6f}"], **AXES
    )
    assert within.frame.height
    assert (within.frame[MONEY] <= 0.7 * dearest).all()
    for limit in ("share_static<=0.9", "steady_ttft_p90_s<=1", "energy_per_output_token_hi_j<=5", "replicas<=3"):
        plan = serve_plan("llama-3.1-8b", "azure-conv", limits=[limit], **AXES | {"gpus": "h100-sxm"})
        column, _, bound = limit.partition("<=")
        assert (plan.frame[column] <= float(bound)).all()


@pytest.mark.parametrize(
    ("limits", "costs", "said"),
    [
        ([f"{MONEY}<=1"], Costs(), "give a price: --gpu-hour or --kwh"),
        (["carbon_g_per_million_output_tokens<=1"], Costs(kwh=0.1), "give the grams of a kWh: --carbon"),
        ([f"{MONEY}<=0.000001"], Costs(kwh=1.0), "nearest: cost_per_million_output_tokens"),
        (["cost<=1"], Costs(kwh=1.0), "unknown limit `cost`"),
        (["gpus<=0"], None, "nothing is within"),
    ],
)
def test_limits_on_what_is_not_there(limits: list[str], costs: Costs | None, said: str) -> None:
    with pytest.raises(SpaceError) as error:
        serve_plan("llama-3.1-8b", "azure-conv", limits=limits, costs=costs, **AXES | {"gpus": "h100-sxm"})
    assert said in error.value.render()


def test_steady_state_is_no_limit_without_a_rate() -> None:
    with pytest.raises(SpaceError, match="without a rate nothing is replayed"):
        serve_plan("llama-3.1-8b", "512:64", limits=["steady_ttft_p90_s<=1"], **AXES)


def test_text_json_and_files_have_money_and_groups(tmp_path: Path, capsys: Any) -> None:
    plan = tmp_path / "plan.parquet"
    argv = ["serve-plan", "llama-3.1-8b", "--workload", "azure-conv", "--gpu", "h100-sxm,l40s", "--tp", "1",
            "--slo", "tpot=60ms", "--gpu-hour", "H100-SXM=2.5,l40s=0.8", "--best-per", "gpu", "--out", str(plan),
            "--limit", f"{MONEY}<=2"]  # fmt: skip
    assert main(argv) == 0
    printed = capsys.readouterr()
    assert "\nleast money: " in printed.out
    assert "the least joules within the limits of each:" in printed.out
    assert "wrote " in printed.err
    frame, note = read_parquet(tmp_path / "plan.best_per.parquet")
    assert sorted(frame["gpu"]) == ["h100-sxm", "l40s"]
    assert note["note"]["kind"] == "best_per"
    assert read_subject(plan).limits[1].column == MONEY


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--gpu-hour", "$2"], "cannot read `$2` of --gpu-hour as a number"),
        (["--gpu-hour", "h100-sxm=2 EUR"], "cannot read `2 EUR` of --gpu-hour h100-sxm as a number"),
        (["--gpu-hour", ""], "cannot read `` of --gpu-hour as a number"),
        (["--carbon", "300,x"], "cannot read `x` of --carbon as a number"),
        (["--gpu-hour", "1e300"], "`--gpu-hour` is a number from 0 to 1,000,000, found 1e+300"),
        (["--kwh=1e308", "--pue=1e308"], "`--pue` is a number from 1 to 100, found 1e+308"),
    ],
)
def test_prices_that_cannot_be_read(option: list[str], said: str, capsys: Any) -> None:
    argv = ["serve-plan", "llama-3.1-8b", "--workload", "azure-conv", "--tp", "1", *option]
    assert main(argv) == 2
    assert said in capsys.readouterr().err


def test_hours_of_arrivals() -> None:
    # From 22:30, requests at 22:45, 23:15 and 01:00 the next day.
    hours = hours_of(np.array([0.0, 900.0, 2700.0, 9000.0]), np.array([10.0, 10.0, 30.0, 50.0]), 22.5 * 3600)
    time, work = np.array(hours).T
    assert time[[22, 23, 0]].tolist() == pytest.approx([0.2, 0.4, 0.4])
    assert work[[22, 23, 0, 1]].tolist() == pytest.approx([0.2, 0.3, 0.0, 0.5])
    days = np.array(hours_of(np.arange(0, 48 * 3600, 60.0), np.ones(2880), 0.0))
    np.testing.assert_allclose(days, 1 / 24, rtol=0.01)  # the last minute has no end


def test_carbon_is_weighted_by_when_joules_are_spent(tmp_path: Path) -> None:
    path = tmp_path / "evening.csv"
    times = [f"2026-11-16 {18 + i // 90:02d}:{i // 1.5 % 60:02.0f}:{20 * (i % 3):02d}" for i in range(180)]
    times = sorted(times)
    rows = [f"{time},200,{40 if time[11:13] == '18' else 10}" for time in times]
    path.write_text("\n".join(["TIMESTAMP,input_tokens,output_tokens", *rows]) + "\n", encoding="utf-8")
    load = load_workload(path)
    time, work = np.array(load.hours).T
    assert time[18:20].tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    assert work[18:20].tolist() == pytest.approx([0.8, 0.2], abs=0.01)
    grams = [100.0] * 18 + [300.0, 700.0] + [5000.0] * 4
    plan = serve_plan(
        "llama-3.1-8b", path, costs=Costs(carbon_g_per_kwh=grams), **AXES | {"gpus": "h100-sxm", "replicas": 1}
    )
    best = plan.best
    kwh = best["energy_facility_per_output_token_j"] / 3.6
    steady = best["share_static"]
    expected = steady * (time @ np.array(grams)) + (1 - steady) * (work @ np.array(grams))
    assert best["carbon_g_per_million_output_tokens"] == pytest.approx(kwh * expected, rel=1e-9)
    assert 300 < expected < 600
    assert best["carbon_g_per_million_output_tokens_worst"] == pytest.approx(kwh * 5000)
    assert "carbon by hour: weighted by when joules are spent" in plan.notes[-1]
    even = serve_plan("llama-3.1-8b", "512:64", rate_per_s=1.0, costs=Costs(carbon_g_per_kwh=grams), gpus="l40s", tp=1)
    assert "evenly over the day" in even.notes[-1]
    mean = even.best["energy_facility_per_output_token_j"] / 3.6 * np.mean(grams)
    assert even.best["carbon_g_per_million_output_tokens"] == pytest.approx(mean)


def test_servers_draw_evenly_over_the_day() -> None:
    row = {"gpu": "a", "gpus": 2, "energy_per_output_token_j": 0.5, "output_tokens_per_s": 1000.0, "share_static": 0.2}
    frame = pl.DataFrame([row])
    hours = tuple((0.5, 1.0 if h == 0 else 0.0) if h < 2 else (0.0, 0.0) for h in range(24))
    costs = Costs(carbon_g_per_kwh=[100.0, 500.0] + [0.0] * 22, server_w_per_gpu=250.0)
    # Half of the joules are the server's; of the GPUs' a fifth is static: 0.5 + 0.1 of each joule is spent evenly.
    grams = 0.6 * 300.0 + 0.4 * 100.0
    assert costs.added(frame, hours)["carbon_g_per_million_output_tokens"][0] == pytest.approx(1.0 / 3.6 * grams)
