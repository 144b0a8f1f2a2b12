"""Steady state against replay on traces: their lengths with Poisson arrivals, and their own arrivals sped up."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import polars as pl
from pages import markdown, must, settled

from energylens.calibrate.engines.leave_one_out import predict, serving_rows
from energylens.calibrate.engines.runs import data_dir, serving_runs
from energylens.inputs.library import load_gpu
from energylens.serving.evaluate import serve
from energylens.serving.replay import replay
from energylens.serving.workload import Workload, constant, load_workload

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
TRACES = {
    "azure-conv": "trace_azure_conv.parquet",
    "azure-code": "trace_azure_code.parquet",
    "mooncake-conversation": "trace_mooncake_conversation.parquet",
}
ENGINES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("azure-conv", {"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": 4}),
    ("azure-conv", {"model": "llama-3.1-8b", "gpu": "h100-sxm", "tp": 1}),
    ("azure-conv", {"model": "qwen3-235b-a22b", "gpu": "h200-sxm", "tp": 8}),
    ("azure-code", {"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": 4}),
    ("azure-code", {"model": "llama-3.1-8b", "gpu": "b200", "tp": 1}),
    ("mooncake-conversation", {"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": 8}),
    ("mooncake-conversation", {"model": "llama-3.1-70b", "gpu": "b200", "tp": 4}),
)
UTILISATIONS = (0.1, 0.3, 0.5, 0.7, 0.84)
COLUMNS = {"tpot_s": 5.0, "energy_per_output_token_j": 5.0, "ttft_p50_s": 15.0, "ttft_p90_s": None, "tpot_p90_s": None}
MILLION = 1_000_000
GPUS = ("h100-sxm", "b200")


def poisson(load: Workload) -> Workload:
    """Return the requests of a trace with steady Poisson arrivals in random order, without prefixes."""
    assert load.requests is not None
    requests = load.requests.drop("blocks", strict=False).with_columns(arrival_s=pl.lit(None, dtype=pl.Float64))
    return replace(load, rates=((1.0, 1.0),), prefix_hits=(), crowded=0.0, requests=requests)


def compared(name: str, engine: Mapping[str, Any], load: Workload, arrivals: str) -> list[dict[str, Any]]:
    """Return errors of the steady state against a replay at several utilisations (of the busiest seconds)."""
    assert load.requests is not None
    frame = pl.DataFrame([dict(engine)])
    capacity = serve(frame, load)["requests_per_s"][0]
    peak = max(rate for rate, _ in load.rates)
    rows = []
    for utilisation in UTILISATIONS:
        rate = utilisation * capacity / peak
        summary = serve(frame, load, rate).row(0, named=True)
        number = (5 if arrivals == "Poisson" else 1) * load.requests.height
        judged = replay(engine, load, rate, requests=number)
        rows.append(
            {
                "trace": name,
                "arrivals": arrivals,
                **engine,
                "utilisation": utilisation,
                "rate_per_s": rate,
                "running": summary["running"],
                "found_percent": 100.0 * summary["found_share"],
                "found_replayed_percent": 100.0 * judged["found_share"],
                **{column: judged[column] for column in COLUMNS},
                **{f"{column}_error_percent": 100.0 * (summary[column] / judged[column] - 1.0) for column in COLUMNS},
            }
        )
    return rows


def beside_runs(folder: Path) -> list[dict[str, Any]]:
    """Return mean errors on measured serving runs: of always full engines here, and of the fitted step model."""
    runs, rows = serving_runs(folder), []
    for name in GPUS:
        gpu = load_gpu(name)
        group = serving_rows(runs, name)
        fitted = predict(group, gpu)
        summary = []
        for run in group.iter_rows(named=True):
            assert gpu.spec.host is not None
            prompt = int((gpu.spec.host.task_input_tokens or {})[run["task"]])
            point = {key: run[key] for key in ("model", "weight_dtype", "tp", "dp", "ep")}
            point |= {"gpu": name, "max_num_seqs": max(1, round(run["batch"]))}
            load = constant(prompt, max(2, round(run["output_tokens"])))
            summary.append(serve(pl.DataFrame([point], infer_schema_length=None), load).row(0, named=True))
        for column in ("energy_per_output_token_j", "output_tokens_per_s", "power_w_per_gpu"):
            measured_values = group[column].to_numpy()
            here = np.array([row[column] for row in summary])
            errors = [
                100.0 * np.abs(values / measured_values - 1.0).mean() for values in (here, fitted[column].to_numpy())
            ]
            rows.append(
                {"gpu": name, "runs": group.height, "column": column, "service": errors[0], "fitted": errors[1]}
            )
    return rows


def measured(folder: Path) -> dict[str, Any]:
    """Return all comparisons, and how long a million requests take."""
    loads = {name: load_workload(folder / file) for name, file in TRACES.items()}
    rows: list[dict[str, Any]] = []
    for name, engine in ENGINES:
        rows += compared(name, engine, poisson(loads[name]), "Poisson")
        rows += compared(name, engine, loads[name], "own")
    seconds = {}
    for name, engine in dict(reversed(ENGINES)).items():
        rate = float(serve(pl.DataFrame([dict(engine)]), loads[name])["requests_per_s"][0])
        peak = max(factor for factor, _ in loads[name].rates)
        started = time.perf_counter()
        done = replay(engine, loads[name], 0.7 * rate / peak, requests=MILLION)
        seconds[name] = {
            "seconds": round(time.perf_counter() - started, 1),
            "requests": done["requests"],
            "steps": done["steps"],
        }
    return {"rows": rows, "million": seconds, "runs": beside_runs(folder)}


def page(summary: dict[str, Any]) -> dict[str, str]:
    """Return what the template asks for."""
    rows = pl.DataFrame(summary["rows"])
    errors = {column: pl.col(f"{column}_error_percent") for column in COLUMNS}
    lines = []
    for (name, arrivals, model, gpu), group in rows.group_by("trace", "arrivals", "model", "gpu", maintain_order=True):
        cells = []
        for column in ("tpot_s", "energy_per_output_token_j", "ttft_p50_s", "ttft_p90_s"):
            cells += [
                ", ".join(
                    f"{value:+.0f}" if abs(value) >= 10 else f"{value:+.1f}"
                    for value in group[f"{column}_error_percent"]
                )
            ]
        lines.append([str(name), str(arrivals), f"{model}, {group['tp'][0]} x {gpu}", *cells])
    out: dict[str, str] = {}
    missed = []
    for column, target in COLUMNS.items():
        result = rows.select(errors[column].abs().alias("e"))["e"]
        out |= {f"{column}_median": f"{np.median(result.to_numpy()):.1f}", f"{column}_worst": f"{max(result):.0f}"}
        if target is not None:
            retained = int((result <= target).sum())
            out |= {f"{column}_kept": f"{retained} of {rows.height}"}
            for row in rows.filter(errors[column].abs() > target).iter_rows(named=True):
                where = (
                    f"{row['trace']} ({row['arrivals']} arrivals), {row['model']} at {100 * row['utilisation']:.0f} %"
                )
                missed.append([where, column, f"{row[f'{column}_error_percent']:+.1f}", f"{target:.0f}"])
    plain = rows.filter(pl.col("trace") != "azure-code")
    for column, target in COLUMNS.items():
        if target is not None:
            result = plain.select(errors[column].abs().alias("e"))["e"]
            out[f"{column}_plain"] = f"{int((result <= target).sum())} of {plain.height}"
    must(
        max(entry["seconds"] for entry in summary["million"].values()) < 60,
        "a million requests take less than a minute",
    )
    must(rows.select(errors["energy_per_output_token_j"].abs().max()).item() < 7, "joules are within 7 % everywhere")
    speed = [
        [name, f"{entry['requests']:,}", f"{entry['steps']:,}", f"{entry['seconds']:.1f}"]
        for name, entry in summary["million"].items()
    ]
    head = ["trace", "arrivals", "engine", "TPOT, %", "J/token, %", "P50 TTFT, %", "P90 TTFT, %"]
    used = ", ".join(f"{100 * value:.0f}" for value in UTILISATIONS)
    hits = rows.filter((pl.col("trace") == "mooncake-conversation") & (pl.col("arrivals") == "own"))
    ends = [float(hits[name].to_numpy().mean()) for name in ("found_percent", "found_replayed_percent")]
    out["found"] = f"{ends[0]:.1f} % of prompt tokens in steady state, {ends[1]:.1f} % replayed"
    runs = [
        [entry["gpu"], str(entry["runs"]), entry["column"], f"{entry['service']:.1f}", f"{entry['fitted']:.1f}"]
        for entry in summary["runs"]
    ]
    out["runs"] = markdown(["GPU", "runs", "quantity", "always full, %", "fitted step model, %"], runs)
    return out | {
        "utilisations": used,
        "rows": str(rows.height),
        "table": markdown(head, lines),
        "missed": markdown(["where", "quantity", "error, %", "target, %"], missed) if missed else "None.",
        "missed_count": str(len(missed)),
        "speed": markdown(["trace", "requests", "steps", "s"], speed),
        "slowest": f"{max(entry['seconds'] for entry in summary['million'].values()):.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed page instead of writing")
    parser.add_argument("--refresh", action="store_true", help="replay the traces again (ENERGYLENS_DATA)")
    passed = parser.parse_args()
    if passed.refresh:
        result = measured(data_dir())
        retained = [
            {k: float(f"{v:.6g}") if isinstance(v, (float, np.floating)) else v for k, v in row.items()}
            for row in result["rows"]
        ]
        RESULTS.write_text(json.dumps({**result, "rows": retained}, indent=1) + "\n", encoding="utf-8")
    summary = json.loads(RESULTS.read_text(encoding="utf-8"))
    template = Template((HERE / "template.md").read_text(encoding="utf-8"))
    settled(HERE, template.substitute(page(summary)), {}, passed.check)
