"""Advice as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from energylens.common.format import number, si, table
from energylens.reports.text.service import note_lines, seconds_words
from energylens.results.words import deployment_words

if TYPE_CHECKING:
    from energylens.serving.advice.batch import BatchAdvice
    from energylens.serving.advice.levers import Levers
    from energylens.serving.advice.sweet_spots import SweetSpots


def batch_text(model: str, advice: BatchAdvice) -> str:
    """Return the batch to run, the curve, and what replicas give."""
    chosen = advice.curve.filter(pl.col("batch") == advice.batch).row(0, named=True)
    most = advice.curve.row(-1, named=True)
    lines = [
        f"run {advice.batch} requests at once: {number(chosen['energy_per_output_token_j'])} J/token, "
        f"{number(chosen['output_tokens_per_s'])} tokens/s, TPOT {si(chosen['tpot_s'], 's')} - "
        "the most with a gain above "
        f"{advice.epsilon:g} and a TPOT within {advice.slowdown:g} times that at 32 ({model}; "
        f"{most['batch']} requests: {number(most['energy_per_output_token_j'])} J/token, "
        f"TPOT {si(most['tpot_s'], 's')})",
        *note_lines(advice.notes),
        "",
    ]
    rows = [
        [
            row["batch"],
            number(row["output_tokens_per_s"]),
            number(1e3 * row["tpot_s"]),
            number(row["power_w"]),
            number(row["energy_per_output_token_j"]),
            f"{number(row['energy_per_output_token_lo_j'])} to {number(row['energy_per_output_token_hi_j'])}",
            number(row["gain"]),
            "yes" if row["kept"] else "no",
        ]
        for row in advice.curve.iter_rows(named=True)
    ]
    lines.append(table(["batch", "tokens/s", "TPOT ms", "W", "J/token", "80 %", "gain", "kept"], rows))
    if advice.replicas.height > 1:
        copies = [
            [
                row["replicas"],
                number(row["output_tokens_per_s"]),
                number(1e3 * row["tpot_s"]),
                number(row["power_w"]),
                number(row["energy_per_output_token_j"]),
            ]
            for row in advice.replicas.iter_rows(named=True)
        ]
        lines += [
            "",
            f"copies of the engine in the memory that {advice.batch} requests leave (MPS, by the host's share):",
        ]
        lines.append(table(["copies", "tokens/s", "TPOT ms", "W", "J/token"], copies))
    return "\n".join(lines)


def sweet_spots_text(what: str, spots: SweetSpots) -> str:
    """Return the best and worst cells, the map, and the surface."""
    best, worst = spots.best, spots.worst
    ratio = worst["energy_per_output_token_j"] / best["energy_per_output_token_j"]
    lines = [
        f"{what}: least {number(best['energy_per_output_token_j'])} J per output token at "
        f"{best['prompt_tokens']:,} in, {best['output_tokens']:,} out; "
        f"most {number(worst['energy_per_output_token_j'])} at {worst['prompt_tokens']:,} in, "
        f"{worst['output_tokens']:,} out: {number(ratio)} times as much",
        "",
    ]
    wide = spots.cells.pivot("output_tokens", index="prompt_tokens", values="energy_per_output_token_j").sort(
        "prompt_tokens"
    )
    rows = [[row[0], *("-" if cell is None else number(cell) for cell in row[1:])] for row in wide.iter_rows()]
    lines.append(table(["in \\ out", *wide.columns[1:]], rows))
    terms = " + ".join(f"{value:.3g}·{term}" for term, value in spots.coefficients.items() if value > 0)
    lines += [
        "",
        f"joules of a request: {terms.replace('·1 ', ' ')} (mean error {number(spots.error_percent)} % of the cells)",
    ]
    prompt = int(best["prompt_tokens"])
    ahead = spots.best_output_tokens(prompt)
    if ahead < 1e7:
        lines.append(f"by the surface, prompts of {prompt:,} tokens are cheapest at {number(ahead)} output tokens")
    return "\n".join(lines)


def levers_text(advice: Levers) -> str:
    """Return what to change first, and the ranking."""
    now = advice.now
    within = f" within {', '.join(map(str, advice.limits))}" if advice.limits else ""
    useful = advice.frame.filter(pl.col("keeps") & (pl.col("saved_j") > 0))
    first = "no single change saves joules" + within
    if advice.limits and not now["keeps"]:
        times = f"P90 TTFT {si(now['ttft_p90_s'], 's')}, P90 TPOT {seconds_words(now['tpot_p90_s'])}"
        first = f"now outside {', '.join(map(str, advice.limits))} ({times}); no single change saves joules within them"
    if useful.height:
        top = useful.row(0, named=True)
        first = (
            f"change first{within}: {top['change']} - saves {number(top['saved_j'])} J/token, "
            f"{number(100 * top['saved_share'])} % (80 %: {number(top['saved_lo_j'])} to {number(top['saved_hi_j'])} J)"
        )
    as_is = f"now {number(now['energy_per_output_token_j'])} J/token - {now['model']} on {deployment_words(now)}"
    rows = [
        [
            row["change"],
            number(row["saved_j"]),
            f"{number(row['saved_lo_j'])} to {number(row['saved_hi_j'])}",
            f"{100 * row['saved_share']:.1f}",
            number(row["ttft_p90_s"]),
            "-" if row["tpot_p90_s"] is None else number(1e3 * row["tpot_p90_s"]),
            row["gpus"],
            "yes" if row["keeps"] else "no",
            "" if row["replayed"] else "not replayed",
            "extrapolated" if row["extrapolated"] else "",
        ]
        for row in advice.frame.iter_rows(named=True)
    ]
    head = ["change", "saves J/token", "80 %", "%", "P90 TTFT s", "P90 TPOT ms", "GPUs", "within limits", "", ""]
    said = (
        "times and joules of replays; other tp and GPUs: with as many engines as the load and the limits then ask for\n"
        "extrapolated: no measured serving run had it, intervals are twice as wide"
    )
    return "\n".join([first, as_is, *note_lines(advice.notes), "", table(head, rows), "", said])
