"""The page, the tables and the pictures: README.md from template.md, shares.csv, fleets.csv, ways.csv, two PNGs."""

from __future__ import annotations

import argparse
import json
from string import Template
from typing import Any

import allreduce_power
import altair as alt
import polars as pl
from communication import BATCHES, FLEETS, FOLDED, GPUS, HERE, LENGTHS, TPOT_S, TPS, TTFT_S, fleets, shares, ways
from pages import markdown, must, settled

PAPER_SHARE = 0.23
TARGET_PERCENT = 8
REFERENCE_BATCH = 16
PARTS = {"moved": "bytes over link and HBM", "running": "SMs that move them", "static": "static meanwhile"}
COLOURS = ["#D55E00", "#56B4E9", "#999999"]  # Okabe-Ito and grey
RESULTS = HERE / "results.json"


def span(values: pl.Series, pattern: str = "{:.0f}", scale: float = 100) -> str:
    low, high = (pattern.format(scale * v) for v in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def share_figures(table: pl.DataFrame, measured: dict[str, Any]) -> dict[str, str]:
    """Return the shares, their parts, and what the paper's share would need."""
    out: dict[str, str] = {}
    rows, parts = [], []
    for phase, (gpu, short) in ((phase, gpu) for phase in LENGTHS for gpu in GPUS.items()):
        here = table.filter(phase=phase, gpu=gpu)
        for tp in TPS:
            cells = [
                "does not fit" if entry.is_empty() else f"{100 * entry['share'].item():.1f} %"
                for entry in (here.filter(tp=tp, batch=batch) for batch in BATCHES)
            ]
            rows.append([phase, short, str(tp), *cells])
        entry = here.filter(tp=8, batch=REFERENCE_BATCH).row(0, named=True)
        cells = [f"{100 * entry[part] / entry['communication']:.0f} %" for part in PARTS]
        watts = [f"{entry['communication_w']:.0f}", f"{entry['mean_w']:.0f}"]
        parts.append(
            [phase, short, f"{100 * entry['share']:.1f} %", f"{100 * entry['time_share']:.0f} %", *cells, *watts]
        )
        eight = here.filter(tp=8)
        out |= {
            f"{short}_{phase}": span(eight["share"]),
            f"{short}_{phase}_time": span(eight["time_share"]),
            f"{short}_{phase}_static": span(eight["static"] / eight["communication"]),
        }
    low, high = measured["all"]["link_range"]
    a100 = table.filter(gpu="a100-sxm-80gb", tp=8, phase="prefill")
    more = a100["moved"] * (high / measured["all"]["link_j_per_byte"] - 1)
    upper = (a100["communication"] + more) / (a100["energy"] + more)
    needed = (a100["energy"] - a100["communication"]) * PAPER_SHARE / (1 - PAPER_SHARE) / a100["seconds"] / 8
    must(max(upper) < PAPER_SHARE, "even the upper joules per byte leave the A100 below the paper's share")
    head = ["predicted", "GPU", "TP", *(f"batch {batch}" for batch in BATCHES)]
    wide = ["predicted", "GPU", "share of joules", "share of time", *(f"of it {part}" for part in PARTS.values())]
    return out | {
        "table_shares": markdown(head, rows),
        "table_parts": markdown([*wide, "W of a GPU meanwhile", "W on average"], parts),
        "reference": str(REFERENCE_BATCH),
        "b200_limit": span(table.filter(gpu="b200", tp=2, phase="prefill")["mean_w"], "{:,.0f}", 1),
        "paper": f"{100 * PAPER_SHARE:.0f} %",
        "upper": f"{100 * max(upper):.0f} %",
        "needed": span(needed, scale=1),
        "mean_a100": span(a100["mean_w"], scale=1),
        "meanwhile_a100": span(a100["communication_w"], scale=1),
        "link_low": f"{1e10 * low:.3g}",
        "link_high": f"{1e10 * high:.3g}",
    }


def fleet_figures(table: pl.DataFrame) -> dict[str, str]:
    """Return the least joules per output token of each number of GPUs, for each limit."""
    rows = []
    for gpu, tp in FLEETS:
        cells = []
        for ttft in TTFT_S:
            for tpot in TPOT_S:
                entry = table.filter(gpu=gpu, tp=tp, tpot_limit_s=tpot, ttft_limit_s=ttft)
                if entry.is_empty():
                    cells.append("-")
                    continue
                result = entry.row(0, named=True)
                joules, share = result["energy_per_output_token_j"], 100 * result["share"]
                cells.append(f"{joules:.2f} ({result['batch']}; {share:.1f} %)")
        rows.append([f"{tp} {GPUS.get(gpu, 'L40S')}", *cells])
    head = ["predicted"]
    for ttft in TTFT_S:
        head += [f"TTFT {ttft:g} s, TPOT {1e3 * tpot:.0f} ms" for tpot in TPOT_S]
    out = {"table_fleets": markdown(head, rows)}
    l40s = table.filter(gpu="l40s")
    must(l40s.filter(ttft_limit_s=TTFT_S[0]).is_empty(), "L40S keep no TTFT of 1 s")
    out["l40s"] = f"{100 * max(l40s['share']):.0f} %"
    best = table.filter(ttft_limit_s=TTFT_S[0]).sort("energy_per_output_token_j").group_by("tpot_limit_s")
    must((best.first()["gpu"] == "b200").all() and (best.first()["tp"] == 2).all(), "2 B200 cost least in TTFT 1 s")
    for name, ttft in zip(("strict", "free"), TTFT_S, strict=True):
        for gpu, tp in (("b200", 1), ("b200", 2), ("h100-sxm", 8), ("a100-sxm-80gb", 8)):
            entry = table.filter(gpu=gpu, tp=tp, tpot_limit_s=0.05, ttft_limit_s=ttft)
            out[f"{GPUS[gpu]}_{tp}_{name}"] = f"{entry['energy_per_output_token_j'].item():.2f}"
            out[f"{GPUS[gpu]}_{tp}_{name}_share"] = f"{100 * entry['share'].item():.1f} %"
    return out


def way_figures(table: pl.DataFrame) -> dict[str, str]:
    """Return time and joules of every way against plain all-reduces, not overlapped."""
    rows: list[list[str]] = []
    out: dict[str, str] = {}
    order = table.unique(["overlap_stages", "overlap_sms"], maintain_order=True)
    for stages, sms in order.select("overlap_stages", "overlap_sms").rows():
        cells = []
        for gpu in ("a100-sxm-80gb", "h100-sxm"):
            base = table.filter(pl.col("overlap_stages").is_null(), gpu=gpu, way=FOLDED[0]).row(0, named=True)
            for run_options in FOLDED:
                same = pl.col("overlap_stages").is_null() if stages is None else pl.col("overlap_stages") == stages
                entry = table.filter(same, gpu=gpu, way=run_options, overlap_sms=sms).row(0, named=True)
                time, joules = (100 * (entry[name] / base[name] - 1) for name in ("ttft_s", "energy_prefill_j"))
                cells.append(f"{time:+.0f} / {joules:+.0f}")
        rows.append(["none" if stages is None else f"{stages} stages, {sms} SMs", *cells])
    head = [
        "predicted: % time / % joules",
        *(f"{short}, {run_options}" for short in ("A100", "H100") for run_options in FOLDED),
    ]
    for gpu, short in (("a100-sxm-80gb", "A100"), ("h100-sxm", "H100")):
        here = table.filter(gpu=gpu)
        base = here.row(0, named=True)
        out |= {f"base_{short}": f"{base['ttft_s']:.3g}", f"base_{short}_j": f"{base['energy_prefill_j']:,.0f}"}
        for what, column in (("fastest", "ttft_s"), ("cheapest", "energy_prefill_j")):
            entry = here.sort(column).row(0, named=True)
            stages = entry["overlap_stages"]
            overlap = "no overlap" if stages is None else f"{stages} stages of {entry['overlap_sms']} SMs"
            time, joules = (100 * (entry[name] / base[name] - 1) for name in ("ttft_s", "energy_prefill_j"))
            out[f"{short}_{what}"] = f"{entry['way']}, {overlap} ({time:+.0f} % time, {joules:+.0f} % joules)"
        hidden = pl.col("overlap_stages").is_not_null()
        least = (
            here.filter(side).group_by("way", maintain_order=True).agg(pl.min("ttft_s")) for side in (~hidden, hidden)
        )
        plain, overlapped = (side["ttft_s"] for side in least)
        out[f"{short}_overlap"] = span(1 - overlapped / plain)
        must(here.sort("energy_prefill_j")["overlap_stages"][0] is None, "no overlap costs the fewest joules")
        must(
            short == "H100" or here.sort("ttft_s").row(0, named=True)["overlap_stages"] is None,
            "A100: no overlap is best",
        )
        most = here.filter(overlap_stages=4, overlap_sms=32, way=FOLDED[0]).row(0, named=True)
        time, joules = (100 * (most[name] / base[name] - 1) for name in ("ttft_s", "energy_prefill_j"))
        out[f"{short}_most"] = f"{time:+.0f} % time, {joules:+.0f} % joules"
    return out | {"table_ways": markdown(head, rows)}


def power_figures(measured: dict[str, Any]) -> dict[str, str]:
    """Return the errors of the all-reduce's watts, left out by number of GPUs."""
    must(measured["mape"] <= TARGET_PERCENT, "the held-out error meets its target")
    rows = []
    for size, fit in measured["left_out"].items():
        coefficients = [f"{fit['active_w']:.3g}", f"{1e10 * fit['link_j_per_byte']:.3g}"]
        errors = [f"{fit[name]:.1f} %" for name in ("mape", "mape_from_1_ms", "worst", "mape_without_meter")]
        rows.append([size, str(fit["rows"]), *coefficients, f"{fit['bias']:+.1f} %", *errors])
    head = ["GPUs left out", "rows", "fitted W", "fitted 10⁻¹⁰ J/B", "mean signed", "mean", "from 1 ms on", "worst"]
    fit = measured["all"]
    return {
        "table_power": markdown([*head, "mean, without the meter"], rows),
        "held_out": f"{measured['mape']:.1f} %",
        "active": f"{fit['active_w']:.3g}",
        "static": f"{fit['static_w']:g}",
        "link": f"{1e10 * fit['link_j_per_byte']:.3g}",
        "target": str(TARGET_PERCENT),
    }


def draw_shares(table: pl.DataFrame) -> alt.ConcatChart:
    """Return the share of communication in the joules by TP, stacked by its parts."""
    charts = []
    colour = alt.Color("part:N", title=None, sort=list(PARTS.values()))
    colour = colour.scale(domain=list(PARTS.values()), range=COLOURS)
    for phase, (gpu, short) in ((phase, gpu) for phase in LENGTHS for gpu in GPUS.items()):
        here = table.filter(phase=phase, gpu=gpu, batch=REFERENCE_BATCH)
        parts = here.select("tp", pl.col(*PARTS) / pl.col("energy") * 100).unpivot(
            list(PARTS), index="tp", variable_name="part"
        )
        rank = pl.col("part").replace_strict(list(PARTS), range(len(PARTS)))
        parts = parts.with_columns(rank=rank, part=pl.col("part").replace_strict(list(PARTS), list(PARTS.values())))
        title = alt.TitleParams(f"{phase}, {short}", subtitle=f"batch {REFERENCE_BATCH}, 1,024 prompt tokens")
        scale = alt.Scale(domain=[0, 25], nice=False)
        x = alt.X("value:Q", title="% of the joules", scale=scale)
        bar = alt.Chart(parts, title=title, width=250, height=110).mark_bar()
        bars = bar.encode(x, alt.Y("tp:O", title="TP"), colour, order="rank:Q")
        paper = pl.DataFrame({"x": [100 * PAPER_SHARE], "tp": [8], "label": ["paper"]})
        mark = (
            alt.Chart(paper).mark_tick(color="black", thickness=2, size=30).encode(alt.X("x:Q", scale=scale), y="tp:O")
        )
        label = alt.Chart(paper).mark_text(dx=-22).encode(alt.X("x:Q", scale=scale), y="tp:O", text="label")
        charts.append(bars + mark + label if (phase, short) == ("prefill", "A100") else bars)
    head = alt.TitleParams("Share of communication, Llama-3.1-70B, predicted", anchor="middle")
    both: alt.ConcatChart = alt.concat(*charts, columns=len(GPUS), title=head)
    return both


def draw_power(measured: dict[str, Any]) -> alt.ConcatChart:
    """Return measured watts against those predicted by fits without that number of GPUs."""
    rows = pl.DataFrame(measured["points"]).with_columns(mb=pl.col("message_bytes") / 1e6)
    names = ["measured", "predicted, left out"]
    charts = []
    for size in allreduce_power.SIZES:
        for kernel in ("eager", "graph"):
            here = rows.filter(pl.col("kernel").str.ends_with(kernel), gpus=size)
            long = pl.concat(
                here.select("mb", watts=column, what=pl.lit(name))
                for column, name in zip(("watts", "predicted_w"), names, strict=True)
            )
            title = alt.TitleParams(f"{size} GPUs, {kernel}", fontSize=12)
            x = alt.X("mb:Q", title="message (MB)").scale(type="log", domain=[1e-4, 2e3]).axis(format="~g", tickCount=7)
            y = alt.Y("watts:Q", title="W of a GPU").scale(domain=[200, 600])
            what = alt.Color("what:N", title=None).scale(domain=names, range=["#0072B2", "#E69F00"])
            shape = alt.Shape("what:N", title=None).scale(domain=names, range=["circle", "triangle-up"])
            chart = alt.Chart(long, title=title, width=250, height=130).mark_point(filled=True, size=35, opacity=0.9)
            charts.append(chart.encode(x, y, what, shape))
    head = alt.TitleParams("Power of vLLM's custom all-reduce on B200", anchor="middle")
    both: alt.ConcatChart = alt.concat(*charts, columns=2, title=head)
    return both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare the committed results with a fresh run")
    parser.add_argument("--refresh", action="store_true", help="fit the measured all-reduces again (ENERGYLENS_DATA)")
    requested = parser.parse_args()
    if requested.refresh:
        RESULTS.write_text(json.dumps(allreduce_power.measure(), indent=1) + "\n", encoding="utf-8")
    measured = json.loads(RESULTS.read_text(encoding="utf-8"))
    tables = {"shares": shares(), "fleets": fleets(), "ways": ways()}
    figures = share_figures(tables["shares"], measured) | fleet_figures(tables["fleets"])
    figures |= way_figures(tables["ways"]) | power_figures(measured)
    readme = Template((HERE / "template.md").read_text(encoding="utf-8")).substitute(figures)
    if settled(HERE, readme, tables, requested.check):
        draw_shares(tables["shares"]).save(HERE / "shares.png", scale_factor=1.5)
        draw_power(measured).save(HERE / "power.png", scale_factor=1.5)


if __name__ == "__main__":
    main()
