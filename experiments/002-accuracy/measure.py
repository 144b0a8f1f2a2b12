"""Figures of results.json: derived from the measured serving runs, none of them a row of these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import baselines
import polars as pl

from energylens.calibrate.engines.runs import data_dir, serving_runs
from energylens.calibrate.validate import LIMITS_MS, TOLERANCE, Validation, plots, validate
from energylens.common.accuracy import errors, picks, spearman
from energylens.inputs.library import load_gpu

ENERGY, ITL = "energy_per_output_token_j", "itl_s"
FITS = ("in_sample", "left_out")
CUTS = ("kind", "format", "batch_band")


def results() -> tuple[dict[str, Any], Validation]:
    """Return everything that run.py writes to results.json, and the account it comes from."""
    account = validate()
    runs = baselines.predicted(account.runs)
    statistics = account.excluded.group_by("gpu", "model", "task", maintain_order=True).len()
    return {
        "summary": account.summary(),
        "tables": {cut: _table(account, cut) for cut in CUTS},
        "meshes": _meshes(runs),
        "baselines": {cut: baselines.table(runs.with_columns(all=pl.lit("")), cut) for cut in ("all", "model")},
        "repeats": _repeats(runs),
        "ranking": _ranking(runs),
        "choices": {fit: _choices(runs, fit) for fit in FITS},
        "excluded": statistics.to_dicts(),
        "host": _host(),
        "spread": _spread(runs),
        "power": _by_power(runs),
        "small_batch": _small_batch(runs),
    }, account


def _table(account: Validation, cut: str) -> list[dict[str, Any]]:
    shown = account.table(cut).filter(pl.col("quantity").is_in([ENERGY, ITL]))
    return shown.select("gpu", cut, "fit", "quantity", "rows", "mape_percent", "median_percent").to_dicts()


def draw(account: Validation, folder: Path) -> None:
    """Write the two plots."""
    plots(account, folder)


def _error(group: pl.DataFrame, name: str, fit: str) -> dict[str, float]:
    return errors(group[f"{name}_{fit}"].to_numpy(), group[name].to_numpy()).as_dict()


def _meshes(runs: pl.DataFrame) -> list[dict[str, Any]]:
    """Errors by GPU, model and mesh."""
    lines = []
    for (gpu, model, tp, ep), group in runs.sort("gpu", "model", "tp", "ep").group_by(
        ["gpu", "model", "tp", "ep"], maintain_order=True
    ):
        line: dict[str, Any] = {"gpu": gpu, "model": model, "tp": tp, "ep": ep, "rows": group.height}
        line |= {f"{short}_{fit}": _error(group, name, fit)["mape_percent"]
                 for short, name in (("energy", ENERGY), ("itl", ITL)) for fit in FITS}  # fmt: skip
        lines.append(line)
    return lines


def _ranking(runs: pl.DataFrame) -> dict[str, Any]:
    """Rank correlation and top-1 of ours, of a roofline, and of nothing but the number of running requests."""
    scores = {
        "energylens, model in the fit": (pl.col(f"{ENERGY}_in_sample"), pl.col(f"{ITL}_in_sample")),
        "energylens, model left out": (pl.col(f"{ENERGY}_left_out"), pl.col(f"{ITL}_left_out")),
        "roofline": (pl.col("roofline_joules"), pl.col("roofline_itl_s")),
        "more requests are better; our ITL, model left out": (
            -pl.col("batch") / pl.col("gpus"),
            pl.col(f"{ITL}_left_out"),
        ),
    }
    statistics: dict[str, Any] = {}
    for (gpu,), subset in runs.sort("gpu", "model").group_by(["gpu"], maintain_order=True):
        for name, (cost, latency) in scores.items():
            ranks: list[float] = []
            judged: list[list[bool | None]] = []
            for _, group in _once(subset).group_by(["model", "task"], maintain_order=True):
                guess = group.select(cost=cost, latency=latency)
                ranks.append(spearman(guess["cost"].to_numpy(), group[ENERGY].to_numpy()))
                pairs = list(zip(guess["cost"], group[ENERGY], strict=True))
                times = list(zip(guess["latency"], group[ITL], strict=True))
                judged += [
                    [picks(pairs, times, limit / 1e3, TOLERANCE, slack) for limit in LIMITS_MS]
                    for slack in (TOLERANCE, 0.0)
                ]
            result, strictly = (
                [pick for picked in judged[first::2] for pick in picked if pick is not None] for first in (0, 1)
            )
            statistics.setdefault(str(gpu), {})[name] = {
                "spearman_median": pl.Series(ranks).median(),
                "spearman_least": min(ranks),
                "top1_percent": 100.0 * sum(result) / len(result),
                "top1_strictly_percent": 100.0 * sum(strictly) / len(strictly),
                "choices": len(result),
            }
    return statistics


def _once(runs: pl.DataFrame) -> pl.DataFrame:
    """Return runs with repeats of one configuration taken together."""
    keys = ["gpu", "model", "task", "gpus"]
    numbers = [name for name, kind in runs.schema.items() if kind.is_float() and name != "batch"]
    once = runs.group_by([*keys, pl.col("batch").round()], maintain_order=True)
    return once.agg(pl.col(numbers).mean())


def _choices(runs: pl.DataFrame, fit: str) -> dict[str, Any]:
    """What was wrong with wrong choices: the limit was broken (by how much), or a cheaper run was within it."""
    statistics: dict[str, Any] = {}
    for (gpu,), subset in runs.sort("gpu").group_by(["gpu"], maintain_order=True):
        over, dear, right = [], [], 0
        for _, group in _once(subset).group_by(["model", "task"], maintain_order=True):
            for limit in LIMITS_MS:
                allowed = group.filter(pl.col(ITL) <= limit / 1e3)
                believed = group.filter(pl.col(f"{ITL}_{fit}") <= limit / 1e3).sort(f"{ENERGY}_{fit}")
                if allowed.height < 2 or believed.is_empty():
                    continue
                pick = believed.row(0, named=True)
                beyond, extra = pick[ITL] / (limit / 1e3) - 1, pick[ENERGY] / float(allowed[ENERGY].min()) - 1  # type: ignore[arg-type]
                if beyond > 0:
                    over.append(100 * beyond)
                elif extra > TOLERANCE:
                    dear.append(100 * extra)
                else:
                    right += 1
        statistics[str(gpu)] = {
            "right": right,
            "over": len(over),
            "over_median_percent": pl.Series(over, dtype=pl.Float64).median(),
            "over_by_6_percent_at_most": sum(percent <= 6 for percent in over),
            "dear": len(dear),
            "dear_median_percent": pl.Series(dear, dtype=pl.Float64).median(),
        }
    return statistics


def _host() -> list[dict[str, Any]]:
    """Runs left out as paced by the host, over the chat runs of the same model, GPU and requests: ITL and watts."""
    runs = serving_runs(data_dir())
    slow, subset = runs.filter("suspect"), runs.filter(~pl.col("suspect"))
    octave = pl.col("batch").log(2).round().cast(pl.Int64).alias("octave")
    key = ["gpu", "model", "gpus", "octave"]
    pair = slow.with_columns(octave).select(*key, "batch", ITL, "power_w_per_gpu").join(
        subset.with_columns(octave).select(*key, "batch", ITL, "power_w_per_gpu"), on=key
    ).filter((pl.col("batch") / pl.col("batch_right") - 1).abs() < 0.05)  # fmt: skip
    ratio = {name: pl.col(name) / pl.col(f"{name}_right") for name in (ITL, "power_w_per_gpu")}
    result = pair.group_by("gpu", "model", maintain_order=True).agg(
        pl.len().alias("pairs"),
        *(getattr(ratio[name], end)().alias(f"{short}_{end}")
          for name, short in ((ITL, "itl"), ("power_w_per_gpu", "watts")) for end in ("min", "max")),
    )  # fmt: skip
    return result.sort("model").to_dicts()


def _spread(runs: pl.DataFrame) -> dict[str, Any]:
    """Between neighbours in running requests of one series: how often watts or ITL fall though more requests run."""
    series = ["gpu", "model", "task", "gpus", "tp", "dp", "ep"]
    more = runs.sort(*series, "batch").with_columns(
        (pl.col("power_w_per_gpu") / pl.col("power_w_per_gpu").shift(1).over(series)).alias("watts"),
        (pl.col(ITL) / pl.col(ITL).shift(1).over(series)).alias("itl"),
        (pl.col("batch") / pl.col("batch").shift(1).over(series)).alias("more"),
    )
    statistics = {}
    for (gpu,), subset in more.filter(pl.col("more") > 1.2).sort("gpu").group_by(["gpu"], maintain_order=True):
        falls = subset.filter(pl.col("watts") < 0.95)
        statistics[str(gpu)] = {
            "pairs": subset.height,
            "watts_fall": falls.height,
            "watts_fall_most_percent": 100 * (1 - float(subset["watts"].min())),  # type: ignore[arg-type]
            "itl_fall": subset.filter(pl.col("itl") < 1).height,
            "itl_faster_than_requests": subset.filter(pl.col("itl") > 1.1 * pl.col("more")).height,
        }
    return statistics


def _repeats(runs: pl.DataFrame) -> dict[str, Any]:
    """Runs of one configuration: by how much J/token of the larger exceeds the smaller."""
    series = ["gpu", "model", "task", "gpus", "tp", "dp", "ep"]
    near = runs.sort(*series, "batch").with_columns(
        more=pl.col("batch") / pl.col("batch").shift(1).over(series),
        ratio=(pl.col(ENERGY) / pl.col(ENERGY).shift(1).over(series)).log().abs().exp() - 1,
    )
    pairs = near.filter(pl.col("more") < 1.02)["ratio"]
    return {"pairs": pairs.len(), "least_percent": 100 * pairs.min(), "most_percent": 100 * pairs.max()}  # type: ignore[operator]


def _by_power(runs: pl.DataFrame) -> list[dict[str, Any]]:
    """Errors of ITL (model left out) of runs that draw less than 70 % of TDP, and of the others, by GPU."""
    watts = {gpu: load_gpu(gpu).spec.power.tdp_w for gpu in runs["gpu"].unique()}
    share = pl.col("power_w_per_gpu") / pl.col("gpu").replace_strict(watts, return_dtype=pl.Float64)
    lines = []
    marked = runs.with_columns((share < 0.7).alias("cool"), (pl.col("batch") > 64.5).alias("busy"))
    for (gpu, cool, busy), group in marked.sort("gpu", "cool", "busy").group_by(
        ["gpu", "cool", "busy"], maintain_order=True
    ):
        lines.append({"gpu": gpu, "cool": cool, "busy": busy, **_error(group, ITL, "left_out")})
    return lines


def _small_batch(runs: pl.DataFrame) -> list[dict[str, Any]]:
    """Errors of the FP8 mixture of experts, up to 64 running requests and beyond."""
    subset = runs.filter(pl.col("model") == "qwen3-235b-a22b").with_columns((pl.col("batch") <= 64.5).alias("small"))
    lines = []
    for (gpu, small), group in subset.sort("gpu", "small").group_by(["gpu", "small"], maintain_order=True):
        for fit in FITS:
            for name in (ENERGY, ITL):
                lines.append({"gpu": gpu, "small": small, "fit": fit, "quantity": name, **_error(group, name, fit)})
    return lines
