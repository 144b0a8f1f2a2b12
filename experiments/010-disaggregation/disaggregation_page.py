"""Prefill and decode apart or together: joules per token under the same limits, with clocks of their own or not."""

from __future__ import annotations

import argparse
from pathlib import Path
from string import Template
from typing import Any

import altair as alt
import polars as pl
from pages import markdown, must, settled

from energylens.common.errors import SpaceError
from energylens.results.words import deployment_words, pool_row
from energylens.serving.plan import serve_plan
from energylens.serving.pools import serve_pools

HERE = Path(__file__).parent
MODEL = "llama-3.1-70b"
LIMITS = {
    "azure-conv": ("ttft<=1s", "tpot<=50ms"),
    "mooncake-conversation": ("ttft<=10s", "tpot<=50ms"),
    "reasoning": ("ttft<=2s", "tpot<=50ms"),
}
RATES = {"reasoning": 2.0}
TPS = (1, 2, 4, 8)
CLOCKS = (None, 1380, 1185)
FLEETS: dict[str, dict[str, Any]] = {
    "H100": {"gpus": "h100-sxm"},
    "H100, clocks": {"gpus": "h100-sxm", "sm_clock_mhz": list(CLOCKS)},
    "H100 and B200": {"gpus": ["h100-sxm", "b200"]},
}


def rows() -> pl.DataFrame:
    """Return the least joules together and apart, a row a workload and fleet."""
    result = []
    for workload, limits in LIMITS.items():
        rate = RATES.get(workload)
        for fleet, axes in FLEETS.items():
            passed = {**axes, "tp": list(TPS), "token_budget": 8192}
            together = serve_plan(MODEL, workload, rate_per_s=rate, limits=limits, **passed).best
            try:
                apart = serve_pools(MODEL, workload, rate_per_s=rate, limits=limits, prefill=passed, decode=passed).best
            except SpaceError:
                apart = {}
            row = {
                "workload": workload,
                "fleet": fleet,
                "together_j": together["energy_per_output_token_j"],
                "together_steady_j": together["steady_energy_per_output_token_j"],
                "together_gpus": together["gpus"],
                "together_on": deployment_words(together),
                "apart_j": apart.get("energy_per_output_token_j"),
                "apart_gpus": apart.get("gpus"),
                "apart_on": deployment_words(apart) if apart else None,
                "prefill_clock": pool_row(apart, "prefill").get("sm_clock_mhz") if apart else None,
                "decode_clock": pool_row(apart, "decode").get("sm_clock_mhz") if apart else None,
                "transfer_share": apart["energy_transfer_per_request_j"] / apart["energy_per_request_j"]
                if apart
                else None,
            }
            result.append(row)
    return pl.DataFrame(result, infer_schema_length=None)


def page(table: pl.DataFrame) -> dict[str, str]:
    """Return what the template asks for."""
    summary = table.with_columns(saved=100.0 * (1.0 - pl.col("apart_j") / pl.col("together_j")))
    must(max(summary["transfer_share"].drop_nulls()) < 0.01, "sending caches costs less than 1 % of the joules")
    lines = [
        [
            row["workload"], row["fleet"], f"{row['together_j']:.3g}", str(row["together_gpus"]), row["together_on"],
            "-" if row["apart_j"] is None else f"{row['apart_j']:.3g}",
            str(row["apart_gpus"] or "-"), row["apart_on"] or "-",
            "-" if row["saved"] is None else f"{row['saved']:+.0f}",
        ]
        for row in summary.iter_rows(named=True)
    ]  # fmt: skip
    head = ["workload", "fleet", "together, J/token", "GPUs", "on", "apart, J/token", "GPUs", "on", "saved, %"]

    def spread(workload: str) -> str:
        values = summary.filter(workload=workload)["saved"].drop_nulls()
        return f"{min(values):+.0f} to {max(values):+.0f} %"

    must(min(summary.filter(workload="mooncake-conversation")["saved"]) > 10, "pools save joules on long prompts")
    must(max(summary.filter(workload="reasoning")["saved"]) < 0, "pools cost joules on long outputs")
    group, clocked = (summary.filter(fleet=fleet)["together_j"] for fleet in ("H100", "H100, clocks"))
    steady = (summary["together_steady_j"] / summary["together_j"] - 1.0).abs()
    return {
        "table": markdown(head, lines),
        "long": spread("mooncake-conversation"),
        "chat": spread("azure-conv"),
        "reasoning": spread("reasoning"),
        "clock_saving": f"{100 * min(1 - clocked / group):.0f} to {100 * max(1 - clocked / group):.0f} %",
        "transfer": f"{100 * max(summary['transfer_share'].drop_nulls()):.2f}",
        "limits": "; ".join(f"{name}: {', '.join(limits)}" for name, limits in LIMITS.items()),
        "rates": ", ".join(f"{name} {rate:g}" for name, rate in RATES.items()),
        "steady": f"{100 * max(steady):.1f}",
    }


def draw(table: pl.DataFrame) -> None:
    """Draw joules per token together and apart."""
    both = pl.concat(
        [
            table.select("workload", "fleet", pl.col(f"{name}_j").alias("j"), pl.lit(name).alias("what"))
            for name in ("together", "apart")
        ]
    ).drop_nulls()
    colour = alt.Color("what:N", title=None).scale(domain=["together", "apart"], range=["#0072B2", "#E69F00"])
    charts = [
        alt.Chart(both.filter(workload=name), title=name, width=200, height=170)
        .mark_bar()
        .encode(
            alt.X("fleet:N", title=None, sort=list(FLEETS)).axis(labelAngle=-20),
            alt.Y("j:Q", title="J per output token"),
            colour,
            alt.XOffset("what:N").sort(["together", "apart"]),
        )
        for name in LIMITS
    ]
    title = alt.TitleParams(f"{MODEL}: prefill and decode together or apart, within the same limits", anchor="middle")
    alt.concat(*charts, columns=2, title=title).save(str(HERE / "apart.png"), scale_factor=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed page instead of writing")
    passed = parser.parse_args()
    table = rows()
    template = Template((HERE / "template.md").read_text(encoding="utf-8"))
    if settled(HERE, template.substitute(page(table)), {"pairs": table}, passed.check):
        draw(table)
