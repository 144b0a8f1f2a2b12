"""Service plans, replays and advice as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from energylens.common.format import number, si, table
from energylens.inputs import run_options
from energylens.inputs.axes import heading
from energylens.inputs.axis_text import DEFAULT
from energylens.inputs.batching import BATCHING
from energylens.reports.text.answer import trust_line
from energylens.results.words import deployment_words, pool_row
from energylens.serving.notes import FEW_REQUESTS
from energylens.serving.words import reasons_words, workload_words

if TYPE_CHECKING:
    import polars as pl

    from energylens.serving.plan import ServicePlan
    from energylens.serving.pools import PoolPlan
    from energylens.serving.replay import Replay

_ROWS_SHOWN = 16
_REPLAYED = (
    "times and joules: of one engine's share of the requests, replayed one by one, without warming up and running out"
)


def note_lines(notes: Sequence[str]) -> list[str]:
    """Return notes as lines of text."""
    return [f"note: {text}" for text in notes]


def plan_sentence(plan: ServicePlan) -> str:
    """Return the one-line answer."""
    best = plan.best
    within = f" within {', '.join(map(str, plan.limits))}" if plan.limits else ""
    low, high = (number(best[f"energy_per_output_token_{end}_j"]) for end in ("lo", "hi"))
    beyond = ", extrapolated" if best["extrapolated"] else ""
    return (
        f"least energy{within}: {number(best['energy_per_output_token_j'])} J/token (80 %: {low} to {high}{beyond}) - "
        f"{plan.model} on {deployment_words(best)}; P90 TTFT {si(best['ttft_p90_s'], 's')}, "
        f"P90 TPOT {seconds_words(best['tpot_p90_s'])}, {number(best['power_w'])} W, "
        f"{number(best['requests_per_s'])} requests/s, {number(100 * best['utilisation'])} % of its capacity, "
        f"{number(best['running'])} of at most {number(best['slots'])} requests running in each engine"
    )


def plan_text(plan: ServicePlan) -> str:
    """Return the answer, the front, how it was found and how far it is trusted."""
    frame = plan.frame
    lines = [plan_sentence(plan)]
    lines += [f"least {name}: {text}" for name, text in _cheapest(frame)]
    lines += ["", workload_words(plan.workload, plan.rate_per_s), *note_lines(plan.notes), ""]
    priced = " and ".join(name for name, column in _PRICED if column in frame.columns)
    lines += [f"what nothing beats in both joules{f' (or {priced})' if priced else ''} and latency:", _front(frame)]
    if frame.height > _ROWS_SHOWN:
        lines.append(f"({_ROWS_SHOWN} of {frame.height} deployments; --out writes all)")
    if plan.best_per is not None:
        lines += ["", "the least joules within the limits of each:", _front(plan.best_per)]
    counts = reasons_words(plan.by_reason)
    summary = f"{plan.tried:,} deployments in steady state in {si(plan.seconds, 's')}"
    summary += f"; {counts}" if counts else ""
    if plan.rate_per_s is not None:
        summary += f"; {plan.judged:,} replayed"
    summary += f", {plan.outside:,} of them outside the limits" if plan.limits else ""
    lines += ["", summary]
    if plan.rate_per_s is not None:
        lines.append(_REPLAYED)
        if not frame["replayed"].all():
            lines.append("deployments with draft tokens: in steady state, not replayed")
    lines.append(trust_line(plan.trust))
    return "\n".join(lines)


_PRICED = (("money", "cost_per_million_output_tokens"), ("carbon", "carbon_g_per_million_output_tokens"))


def _cheapest(frame: pl.DataFrame) -> list[tuple[str, str]]:
    """Return the deployments of least money and carbon in words, where they are others than that of least joules."""
    words = []
    for name, column in _PRICED:
        if column not in frame.columns:
            continue
        at = int(frame[column].arg_min() or 0)
        if at == 0:
            continue
        row = frame.row(at, named=True)
        unit = "" if name == "money" else " g CO2"
        amount = f"{number(row[column])}{unit} per 1M output tokens, {number(row['energy_per_output_token_j'])} J/token"
        times = f"P90 TTFT {si(row['ttft_p90_s'], 's')}, P90 TPOT {seconds_words(row['tpot_p90_s'])}"
        words.append((name, f"{amount} - {deployment_words(row)}; {times}"))
    return words


def seconds_words(value: float | None) -> str:
    """Return seconds in the unit that suits them; requests of one token have none per token."""
    return "-" if value is None else si(value, "s")


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _front(frame: pl.DataFrame) -> str:
    shown = [
        name
        for name in ("gpu", "weight_dtype", "kv_dtype", "pp", "dp", "ep", *run_options.RUNNING, *BATCHING)
        if name in frame.columns
        and name not in {"draft", "acceptance"}
        and (name == "gpu" or frame[name].n_unique() > 1)
    ]
    money = [
        name
        for name in ("cost_per_million_output_tokens", "carbon_g_per_million_output_tokens")
        if name in frame.columns
    ]
    height = frame.height
    step = max(1.0, (height - 1) / (_ROWS_SHOWN - 1)) if height > 1 else 1.0
    picked = sorted({min(height - 1, round(i * step)) for i in range(_ROWS_SHOWN)})
    rows = []
    for row in frame[picked].iter_rows(named=True):
        axes = [row[name] if row[name] is not None else DEFAULT for name in shown]
        values = [row["energy_per_output_token_j"], row["ttft_p90_s"], _ms(row["tpot_p90_s"]), row["latency_s"]]
        values += [row["power_w"], 100 * row["utilisation"], row["running"]]
        rows.append(
            [*axes, row["tp"], row["gpus"], *(number(v) for v in values), *(number(row[name]) for name in money)]
        )
    names = {"max_num_seqs": "seqs", "token_budget": "budget"}
    header = [names.get(name, heading(name)) for name in shown]
    header += ["tp", "GPUs", "J/token", "P90 TTFT s", "P90 TPOT ms", "latency s", "W", "% used", "running"]
    header += ["cost per 1M output tokens" if "cost" in name else "g CO2 per 1M" for name in money]
    return table(header, rows)


def pools_sentence(plan: PoolPlan) -> str:
    """Return the one-line answer."""
    best = plan.best
    within = f" within {', '.join(map(str, plan.limits))}" if plan.limits else ""
    return (
        f"least energy{within}: {number(best['energy_per_output_token_j'])} J/token - {plan.model}, "
        f"{deployment_words(best)}; P90 TTFT {si(best['ttft_p90_s'], 's')}, "
        f"P90 TPOT {seconds_words(best['tpot_p90_s'])}, {number(best['power_w'])} W"
    )


def pools_text(plan: PoolPlan) -> str:
    """Return the pair of least energy, the front, and how far it is trusted."""
    lines = [pools_sentence(plan), "", workload_words(plan.workload, plan.rate_per_s), *note_lines(plan.notes), ""]
    step = max(1.0, (plan.frame.height - 1) / (_ROWS_SHOWN - 1)) if plan.frame.height > 1 else 1.0
    picked = sorted({min(plan.frame.height - 1, round(i * step)) for i in range(_ROWS_SHOWN)})
    rows = []
    for row in plan.frame[picked].iter_rows(named=True):
        parts = [row[f"energy_{part}_per_request_j"] for part in ("prefill", "decode", "transfer")]
        times = [row["ttft_p90_s"], _ms(row["tpot_p90_s"]), row["latency_s"]]
        sides = [deployment_words(pool_row(row, side)) for side in ("prefill", "decode")]
        rows.append([*(number(v) for v in (row["energy_per_output_token_j"], *parts, *times)), row["gpus"], *sides])
    header = ["J/token", "prefill J", "decode J", "transfer J", "P90 TTFT s", "P90 TPOT ms", "latency s", "GPUs"]
    lines.append(table([*header, "prefill on", "decode on"], rows))
    if plan.frame.height > _ROWS_SHOWN:
        lines.append(f"({_ROWS_SHOWN} of {plan.frame.height} pairs; --out writes all)")
    lines += ["", _REPLAYED, trust_line(plan.trust)]
    return "\n".join(lines)


def replay_text(replayed: Replay, words: str) -> str:
    """Return what became of replayed requests."""
    values = replayed.values
    offered = replayed.offered_per_s
    late = f", of {number(offered)}/s that came: overloaded" if replayed.overloaded else ""
    rows = [
        [
            "requests",
            f"{values['requests']:,} in {si(values['span_s'], 's')} ({number(values['requests_per_s'])}/s){late}",
        ],
        ["TTFT", _three(values, "ttft_p50_s", "ttft_p90_s", "ttft_p99_s", "P50, P90, P99")],
        ["TPOT", _three(values, "tpot_s", "tpot_p90_s", None, "mean, P90")],
        [
            "energy",
            f"{number(values['energy_per_output_token_j'])} J/token, {si(values['energy_per_request_j'], 'J')}/request",
        ],
        ["power", f"{number(values['power_w'])} W, of {values['gpus']} GPUs"],
        [
            "busy",
            f"{number(100 * values['busy_share'])} % of the time, {number(values['running'])} requests decoding",
        ],
        ["output", f"{number(values['output_tokens_per_s'])} tokens/s"],
    ]
    if values["found_share"] > 0:
        rows.append(["prefixes", f"{number(100 * values['found_share'])} % of prompt tokens found in the caches"])
    if values["preempted"]:
        rows.append(["preempted", f"{values['preempted']:,} requests in all, for want of cache"])
    if values["refused"]:
        rows.append(["refused", f"{values['refused']:,} requests longer than the caches"])
    width = max(len(name) for name, _ in rows)
    table_lines = [f"{name.ljust(width)}  {value}" for name, value in rows]
    return "\n".join([words, *note_lines(replayed.notes), *_p90_lines(replayed), "", *table_lines])


def _p90_lines(replayed: Replay) -> list[str]:
    """Return the intervals of the 90th percentiles, where requests are few."""
    if replayed.requests.height >= FEW_REQUESTS:
        return []
    parts = []
    for name in ("ttft", "tpot"):
        low, high = (replayed.values[f"{name}_p90_{end}_s"] for end in ("lo", "hi"))
        if low is not None or high is not None:
            least = "0" if low is None else si(low, "s")
            parts.append(f"P90 {name.upper()} {least} to {'any' if high is None else si(high, 's')}")
    return [f"note: 80 % intervals by the number of requests alone: {'; '.join(parts)}"] if parts else []


def _three(values: Mapping[str, Any], first: str, second: str, third: str | None, said: str) -> str:
    seconds = [values[name] for name in (first, second, third) if name]
    return f"{', '.join('-' if value is None else si(value, 's') for value in seconds)} ({said})"
