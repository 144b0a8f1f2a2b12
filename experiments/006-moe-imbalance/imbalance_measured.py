"""Figures of results.json: coefficients against measured fused kernels, serving runs with and without skew."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from energylens.calibrate.device import SYSTEMS, device
from energylens.calibrate.engines.leave_one_out import QUANTITIES, Account, serving_rows
from energylens.calibrate.engines.runs import data_dir, serving_runs
from energylens.calibrate.fitting import score
from energylens.calibrate.kernels.collectives import reach
from energylens.calibrate.kernels.formulas import Array
from energylens.calibrate.kernels.moe import (
    FORMS,
    NAMES,
    SKEWS,
    TILES,
    Experts,
    MoeModel,
    held_out_of,
    measured,
    ratios,
)
from energylens.calibrate.kernels.tables import home
from energylens.common.errors import SpecError
from energylens.inputs.curves import Exchange
from energylens.inputs.gpu import GpuSpec
from energylens.inputs.library import load_gpu
from energylens.inputs.routing import DEFAULT

GPUS = ("h100-sxm", "h200-sxm", "b200", "gb200")
FRAMEWORKS = ("vllm", "trtllm", "sglang")
SERVED = ("h100-sxm", "b200")
SHOWN = {"gpu": "h100-sxm", "framework": "vllm", "format": "bf16"}
"""The kernel whose ratios are shown one by one."""
NODES_VERSION = "0.5.6.post2"
"""SGLang whose tables have dispatch and combine over several nodes."""
LAWS = ("balanced", "uniform", "dirichlet:1", "dirichlet:0.5", DEFAULT, "dirichlet:0.2")
ROUTED = ("gpt-oss-20b", "qwen3-235b-a22b", "qwen3-30b-a3b")


def results(tables: Path | None) -> dict[str, Any]:
    """Return everything that run.py keeps in results.json; needs the measured runs and the measured kernel tables."""
    kernels, cells = _kernels(home(tables))
    shown = [cell for cell in cells if all(cell[name] == value for name, value in SHOWN.items())]
    runs = serving_runs(data_dir())
    return {
        "kernels": kernels,
        "ratios": _summary(cells),
        "cells": [{name: value for name, value in cell.items() if name not in SHOWN} for cell in shown],
        "nodes": _nodes(home(tables)),
        "serving": [row for gpu in SERVED for row in _serving(runs, gpu)],
        "pairs": [row for gpu in SERVED for row in _pairs(runs, gpu)],
    }


def _values(entry: Mapping[str, Any]) -> tuple[Array, int]:
    """Return the coefficients of a profile in the order of a fit; tiles it leaves out are never the fastest."""
    known = {(rows, columns): share for rows, columns, share in entry["tiles"]}
    tiles = [known.get(tile, 0.0) for tile in TILES]
    return np.array([*(entry.get(name, 0.0) for name in NAMES), *tiles]), int(entry["sharpness"])


def _kernels(directory: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return errors on shapes no fit saw, by framework and format, and ratios of skewed to balanced of all shapes."""
    rows, cells = [], []
    for gpu in GPUS:
        spec = load_gpu(gpu).spec
        for framework in FRAMEWORKS:
            others = spec.frameworks or {}
            kernels = (
                spec.kernels if framework == "vllm" else others[framework].kernels if framework in others else None
            )
            entries = (kernels.model_dump(exclude_none=True) if kernels else {}).get("grouped_gemm", {})
            for form, entry in entries.items():
                if form not in FORMS or "has no table of its own" in entry["source"]:
                    continue
                try:
                    result = measured(directory, SYSTEMS[gpu], framework, form)
                except SpecError:
                    continue
                values, sharpness = _values(entry)
                group = {"gpu": gpu, "framework": framework, "format": form}
                apart = held_out_of(result.experts)
                times = MoeModel(apart, device(spec), form).seconds(values, sharpness)
                summary = {
                    name: score(times[here], apart.seconds[here]).mape_percent
                    for name, skew in SKEWS.items()
                    if name != "uniform" and (here := apart.skew == skew).any()
                }
                whole = score(times, apart.seconds)
                left_out = 100 * (1 - len(result.experts.seconds) / len(result.every.seconds))
                every = held_out_of(result.every)
                unfiltered = score(MoeModel(every, device(spec), form).seconds(values, sharpness), every.seconds)
                rows.append(
                    group
                    | {"rows": whole.rows, "all": whole.mape_percent, "unsound": left_out}
                    | {"with_unsound": unfiltered.mape_percent}
                    | summary
                )
                narrow = result.experts.take(np.flatnonzero(result.experts.groups <= 64))
                cells += [group | cell for cell in _cells(narrow, values, sharpness, gpu, form)]
    return rows, cells


def _cells(experts: Experts, values: Array, sharpness: int, gpu: str, form: str) -> list[dict[str, Any]]:
    return ratios(experts, MoeModel(experts, device(load_gpu(gpu).spec), form).seconds(values, sharpness))


def _nodes(directory: Path) -> list[dict[str, Any]]:
    """Return errors of DeepEP's dispatch and combine over 2 to 8 nodes of H100, which no fit saw."""
    spec = load_gpu("h100-sxm").spec
    assert spec.collectives is not None
    folder = directory / SYSTEMS["h100-sxm"] / "comm" / "sglang" / NODES_VERSION
    summary = []
    for mode, name, latency in (("normal", "deepep_normal", "transmit_us"), ("ll", "deepep_low_latency", "avg_t_us")):
        table = pl.read_parquet(folder / f"wideep_deepep_{mode}_perf.parquet").filter(pl.col("node_num") > 1)
        for operation in ("dispatch", "combine"):
            item = next(run_options for run_options in getattr(spec.collectives, operation) if run_options.name == name)
            rows = table.with_columns(measured=1e-6 * pl.col(f"{operation}_{latency}")).filter(pl.col("measured") > 0)
            sms = rows[f"{operation}_sms"].to_numpy() if mode == "normal" else np.full(rows.height, np.inf)
            predicted = _across(rows, item, sms, spec)
            for nodes in (2, 4, 8):
                here = (rows["node_num"] == nodes).to_numpy()
                ratio = predicted[here] / rows["measured"].to_numpy()[here] - 1
                group = {"name": name, "operation": operation, "nodes": nodes, "rows": int(here.sum())}
                summary.append(group | {"mape": float(100 * np.abs(ratio).mean()), "bias": float(100 * ratio.mean())})
    return summary


def _across(rows: pl.DataFrame, run_options: Exchange, sms: Array, spec: GpuSpec) -> Array:
    """Return seconds by section 7 of the physics: inside a node and across, the SMs slowing what is inside."""
    tokens, hidden, active, experts, nodes = (
        rows[name].to_numpy().astype(np.float64)
        for name in ("num_token", "hidden_size", "num_topk", "num_experts", "node_num")
    )
    (curve,) = run_options.by_gpus.values()
    seconds = np.empty(rows.height)
    for h in np.unique(nodes):
        at = nodes == h
        inside, across = active[at], active[at]
        if run_options.copies == "gpu":
            inside, across = (reach(int(n), experts[at], active[at]) for n in (8 * h, h))
        size = tokens[at] * hidden[at] * run_options.bytes_per_element
        slower = np.maximum(1.0, spec.link.sms_to_saturate / sms[at])
        link = 7 / 8 * size * inside / curve.bandwidth_bytes_per_s * slower
        link += curve.alpha_s + curve.root_s_per_sqrt_byte * np.sqrt(size * inside)
        net = (h - 1) / h * size * across / spec.link.net_bandwidth_bytes_per_s
        seconds[at] = link + net + spec.link.net_alpha_s
    return seconds


def _summary(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how near predicted ratios of skewed to balanced kernels are to measured ones, and how near 1 would be."""
    miss = (pl.col("predicted") - pl.col("measured")).abs()
    keys = ["gpu", "framework", "format"]
    summary = pl.DataFrame(cells).group_by(keys, maintain_order=True).agg(
        cells=pl.len(), in_5=(miss <= 0.05).sum(), in_10=(miss <= 0.1).sum(), mean=miss.mean(),
        without=(pl.col("measured") - 1).abs().mean(),
    )  # fmt: skip
    return summary.to_dicts()


def _under(runs: pl.DataFrame, law: str | None) -> pl.DataFrame:
    """Return the runs with routed models under a law; None is the one their specs have."""
    routed = pl.col("model").is_in(ROUTED)
    return runs if law is None else runs.with_columns(routing=pl.when(routed).then(pl.lit(law)))


def _serving(runs: pl.DataFrame, gpu: str) -> list[dict[str, Any]]:
    """Return errors (percent) of runs whose model was left out, the serving layer fitted anew under every law."""
    rows = serving_rows(runs, gpu)
    summary = []
    for law in LAWS:
        account = Account.of(_under(rows, law), load_gpu(gpu))
        for model in (None, *ROUTED):
            where = None if model is None else rows["model"] == model
            result = account.errors(account.left_out, where)
            item: dict[str, Any] = {"gpu": gpu, "law": law, "model": model, "rows": result[QUANTITIES[0]].rows}
            summary.append(item | {name: result[name].mape_percent for name in QUANTITIES})
            if model is None:
                moe = account.errors(account.left_out, rows["model"].is_in(ROUTED))
                summary.append(item | {"model": "routed"} | {name: moe[name].mape_percent for name in QUANTITIES})
    return summary


def _pairs(runs: pl.DataFrame, gpu: str) -> list[dict[str, Any]]:
    """Return runs of one model, format and batch on different numbers of GPUs: what the wider costs of the narrower."""
    rows = serving_rows(runs, gpu)
    name = "energy_per_output_token_j"
    accounts = {"predicted": rows, "independent": _under(rows, "uniform")}
    summary = rows.select(
        "model", "task", "weight_dtype", "gpus", concurrency=pl.col("batch").round().cast(pl.Int64), measured=name
    ).with_columns(
        Account.of(group, load_gpu(gpu)).left_out[name].alias(what) for what, group in accounts.items()
    )  # fmt: skip
    values, keys = ["measured", *accounts], ["model", "task", "weight_dtype", "concurrency"]
    once = summary.group_by([*keys, "gpus"], maintain_order=True).agg(pl.col(values).mean())
    both = once.join(once, on=keys, suffix="_wide", nulls_equal=True).filter(pl.col("gpus_wide") > pl.col("gpus"))
    both = both.with_columns(pl.lit(gpu).alias("gpu"), *(pl.col(f"{value}_wide") / pl.col(value) for value in values))
    wide = [pl.col(f"{value}_wide").alias(value) for value in values]
    result = both.select("gpu", "model", "concurrency", "gpus", "gpus_wide", *wide)
    return result.sort("gpu", "model", "gpus", "concurrency").to_dicts()


def write(path: Path, result: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Keep the figures, four digits each, one row a line."""

    def plain(value: object) -> object:
        return float(f"{value:.4g}") if isinstance(value, float) else value

    parts = [
        f' "{name}": [\n  '
        + ",\n  ".join(json.dumps({key: plain(value) for key, value in row.items()}) for row in rows)
        + "\n ]"
        for name, rows in result.items()
    ]
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
