"""How far predictions are from measurements: writes README.md from template.md, results.json and peer.json.

`--refresh` works results.json and the plots out again from the measured runs (ENERGYLENS_DATA); peer_latency.py --json
writes peer.json. `--check` compares what is committed: README.md always, results.json where ENERGYLENS_DATA is set.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from string import Template
from typing import Any

from pages import differences, markdown, must, rounded

HERE = Path(__file__).parent
RESULTS, PEER, README = HERE / "results.json", HERE / "peer.json", HERE / "README.md"
TOLERANCE = 0.05
DIGITS = 3
TOP1_TARGET = 85
GPUS = {"h100-sxm": "H100", "b200": "B200"}
PAPER = {
    "Llama-3-8B, 1 GPU": ("11.31", "11.30", (("llama-3.1-8b", 1),)),
    "Llama-3-70B, TP": ("12.18", "12.39", (("llama-3.1-70b", 1),)),
    "Qwen3-30B-A3B, TP and EP": ("9.25", "21.85", (("qwen3-30b-a3b", 1), ("qwen3-30b-a3b", 2))),
    "Qwen3-30B-A3B, decode": ("13.19", "27.16", (("qwen3-30b-a3b", 1), ("qwen3-30b-a3b", 2))),
}
OTHERS = ("qwen3-14b", "qwen3-32b", "gpt-oss-20b", "llama-3.1-405b", "qwen3-235b-a22b")
QUANTITIES = {
    "itl_s": "ITL",
    "output_tokens_per_s": "tokens/s",
    "power_w_per_gpu": "W/GPU",
    "energy_per_output_token_j": "J/token",
}
FITS = {"in_sample": "in the fit", "left_out": "left out"}


def few_digits(value: float) -> float | None:
    """Return a number of few digits, and none that JSON does not know."""
    return round(value, DIGITS) if value == value else None


def paper(meshes: list[dict[str, Any]]) -> str:
    """Return the table of the paper's cases beside the nearest runs, and below it the other models."""
    lines = []

    def add(case: str, energy: str, latency: str, models: Sequence[tuple[str, int]]) -> None:
        for gpu, short in GPUS.items():
            for row in meshes:
                if row["gpu"] == gpu and (row["model"], row["ep"]) in models:
                    mesh = f"TP {row['tp']}" + (f", EP {row['ep']}" if row["ep"] > 1 else "")
                    cells = [
                        f"{row[f'{name}_in_sample']:.1f} / {row[f'{name}_left_out']:.1f}" for name in ("energy", "itl")
                    ]
                    lines.append([case, energy, latency, f"{row['model']}, {short}, {mesh}", str(row["rows"]), *cells])

    for case, (energy, latency, models) in PAPER.items():
        if case.endswith("decode"):
            at = next(i for i, line in enumerate(lines) if line[0] == "Qwen3-30B-A3B, TP and EP")
            for line in lines[at:]:
                line[0], line[1], line[2] = f"{line[0]}; decode", f"{line[1]}; {energy}", f"{line[2]}; {latency}"
        else:
            add(case, energy, latency, models)
    for model in OTHERS:
        add("", "", "", [(model, ep) for ep in (1, 2, 4, 8)])
    head = ["the paper's case", "its energy", "its latency", "nearest runs here", "rows", "J/token", "ITL"]
    return markdown(head, lines)


def four(row: dict[str, Any]) -> str:
    mean, median, most, bias = (row[f"{name}_percent"] for name in ("mape", "median", "p90", "bias"))
    return f"{mean:.1f} / {median:.1f} / {most:.0f} ({bias:+.0f})"


def overall(summary: dict[str, Any]) -> str:
    lines = []
    for gpu, short in GPUS.items():
        for fit, statistics in FITS.items():
            group = summary["by_gpu"][gpu][fit]
            lines.append([short, statistics, str(group["itl_s"]["rows"]), *(four(group[name]) for name in QUANTITIES)])
    return markdown(["GPU", "its model was", "rows", *QUANTITIES.values()], lines)


def cut(rows: list[dict[str, Any]], name: str, order: Sequence[str] = ()) -> list[list[str]]:
    """Return lines of one cut: mean errors of ITL and J/token, model in the fit / left out."""
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = cells.setdefault((row["gpu"], row[name]), {"rows": row["rows"]})
        key[f"{row['quantity']} {row['fit']}"] = f"{row['mape_percent']:.1f}"
    ranked = sorted(cells, key=lambda key: (list(GPUS).index(key[0]), order.index(key[1]) if order else key[1]))
    wanted = ("itl_s", "energy_per_output_token_j")
    return [
        [GPUS[gpu], value, str(cells[gpu, value]["rows"]),
         *(" / ".join(cells[gpu, value][f"{quantity} {fit}"] for fit in FITS) for quantity in wanted)]
        for gpu, value in ranked
    ]  # fmt: skip


def bands(tables: dict[str, list[dict[str, Any]]]) -> str:
    order = ("<= 16", "17-64", "65-256", "> 256")
    lines = [[line[0], f"{line[1]} requests", *line[2:]] for line in cut(tables["batch_band"], "batch_band", order)]
    for name in ("kind", "format"):
        statistics = {"own": "the spec's own format"}
        lines += [[line[0], statistics.get(line[1], line[1]), *line[2:]] for line in cut(tables[name], name)]
    return markdown(["GPU", "runs", "rows", "ITL", "J/token"], lines)


def ranking(statistics: dict[str, Any]) -> str:
    lines = [
        [GPUS[gpu], name, f"{group['spearman_median']:.3f} / {group['spearman_least']:.3f}",
         f"{group['top1_percent']:.0f} % of {group['choices']}",
         f"{group['top1_strictly_percent']:.0f} %"]
        for gpu in GPUS for name, group in statistics[gpu].items()
    ]  # fmt: skip
    return markdown(["GPU", "order by", "Spearman, median / least of the models", "right choice", "strictly"], lines)


def baseline(rows: list[dict[str, Any]]) -> str:
    units = {"energy": "J/token", "itl": "ITL", "tokens": "tokens/s"}
    result: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        result.setdefault((units[row["quantity"]], row["by"]), {})[row["gpu"]] = four(row)
    lines = [[unit, by, *(cells[gpu] for gpu in GPUS)] for (unit, by), cells in result.items()]
    return markdown(["", "predicted by", *GPUS.values()], lines)


def wins(rows: list[dict[str, Any]]) -> tuple[list[str], int]:
    """Return where a baseline's mean error of J/token is below ours with the model left out, and of how many cases."""
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row["quantity"] == "energy":
            cells.setdefault((row["gpu"], row["model"]), {})[row["by"]] = row["mape_percent"]
    better = []
    for (gpu, model), group in sorted(cells.items(), reverse=True):
        ours = group["energylens, model left out"]
        for name, value in group.items():
            if not name.startswith("energylens") and "in the fit" not in name and value < ours:
                better.append(f"{model} on {GPUS[gpu]} ({name.split(',')[0]}: {value:.1f} against {ours:.1f} %)")
    return better, len(cells)


def two(values: Sequence[float]) -> str:
    mean, median, bias = values
    return f"{mean:.1f} / {median:.1f} / {bias:+.0f}"


def peer_table(rows: list[dict[str, Any]], first: str) -> str:
    names = ("tpot_own", "tpot_aic", "ttft_own", "ttft_aic")
    head = [first, "rows", "TPOT energylens", "TPOT AIC", "TTFT energylens", "TTFT AIC"]
    return markdown(head, [[row["group"], f"{row['rows']:,}", *(two(row[name]) for name in names)] for row in rows])


def serving_table(statistics: dict[str, Any]) -> str:
    lines = []
    for gpu, short in GPUS.items():
        for row in [*statistics["gpu"], *statistics["model"]]:
            group, _, model = row["group"].partition(" ")
            if group == gpu:
                cells = [two(row[name]) for name in ("aic", "in_sample", "left_out")]
                lines.append([short, model or "all", str(row["rows"]), *cells])
    return markdown(["GPU", "model", "rows", "AIConfigurator", "energylens, in the fit", "energylens, left out"], lines)


def span(values: Iterable[float]) -> str:
    result = list(values)
    return f"{min(result):.1f} to {max(result):.1f}"


def serving_figures(results: dict[str, Any]) -> dict[str, str]:
    """Return the figures about the serving runs."""
    out: dict[str, str] = {}
    summary = results["summary"]
    for gpu, short in GPUS.items():
        group = summary["by_gpu"][gpu]
        out[f"coverage_{short}"] = f"{group['coverage_percent']:.0f} %"
        for fit in FITS:
            out[f"rows_{short}"] = str(group[fit]["itl_s"]["rows"])
            out[f"top1_{short}_{fit}"] = f"{group[fit]['top1_percent']:.0f} %"
            out[f"strict_{short}_{fit}"] = f"{group[fit]['top1_strictly_percent']:.0f} %"
            reached = group[fit]["top1_percent"] >= TOP1_TARGET
            statistics = "the target of right choices is reached on H100 with every model in the fit, missed else"
            must(reached == (short == "H100" and fit == "in_sample"), statistics)
            must(group[fit]["top1_strictly_percent"] < TOP1_TARGET, "strictly, it is missed on both")
            for name, word in (("energy_per_output_token_j", "energy"), ("itl_s", "itl")):
                out[f"{word}_{short}_{fit}"] = f"{group[fit][name]['mape_percent']:.1f} %"
        ranks = results["ranking"][gpu]
        simple = ranks["more requests are better; our ITL, model left out"]
        ours = ranks["energylens, model left out"]
        must(abs(simple["top1_percent"] - ours["top1_percent"]) < 4, "ordering by requests alone chooses about as well")
        wrong = results["choices"]["left_out"][gpu]
        out |= {f"{name}_{short}": str(wrong[name]) for name in ("over", "dear", "over_by_6_percent_at_most")}
        out[f"over_median_{short}"] = f"{wrong['over_median_percent']:.0f} %"
        spread = results["spread"][gpu]
        out |= {f"{name}_{short}": str(spread[name]) for name in ("pairs", "watts_fall", "itl_fall")}
        out[f"watts_fall_most_{short}"] = f"{spread['watts_fall_most_percent']:.0f} %"
        for row in results["power"]:
            if row["gpu"] == gpu and row["busy"]:
                where = "cool" if row["cool"] else "hot"
                out[f"{where}_{short}"] = f"{row['mape_percent']:.0f} %"
                out[f"{where}_bias_{short}"] = f"{row['bias_percent']:+.0f} %"
                out[f"{where}_rows_{short}"] = str(row["rows"])
        for row in results["small_batch"]:
            if row["gpu"] == gpu and row["small"]:
                word = "itl" if row["quantity"] == "itl_s" else "energy"
                out[f"moe_{word}_{short}_{row['fit']}"] = f"{row['mape_percent']:.0f} %"
    out |= {
        "table_paper": paper(results["meshes"]),
        "table_overall": overall(summary),
        "table_bands": bands(results["tables"]),
    }
    out |= {"table_ranking": ranking(results["ranking"]), "table_baselines": baseline(results["baselines"]["all"])}
    better, cases = wins(results["baselines"]["model"])
    out |= {"wins": "; ".join(better) or "nowhere", "cases": str(cases)}
    near = {(row["gpu"], row["model"], row["ep"]): row for row in results["meshes"]}
    for model, energy, latency in (("llama-3.1-8b", 11.31, 11.3), ("llama-3.1-70b", 12.18, 12.39)):
        row = near["h100-sxm", model, 1]
        below = max(row["energy_left_out"], row["energy_in_sample"]) < energy
        must(below and max(row["itl_left_out"], row["itl_in_sample"]) < latency, "dense, H100: below the paper's")
    small = {
        gpu: [row for (on, model, _), row in near.items() if (on, model) == (gpu, "qwen3-30b-a3b")] for gpu in GPUS
    }
    must(max(row["energy_left_out"] for row in small["h100-sxm"]) < 9.25, "30B-A3B: energy below 9.25 % on H100")
    must(min(row["energy_left_out"] for row in small["b200"]) > 9.25, "30B-A3B: energy above 9.25 % on B200")
    must(max(row["itl_left_out"] for row in chain(*small.values())) < 21.85, "30B-A3B: ITL below 21.85 %")
    repeats = results["repeats"]
    out |= {"repeats": str(repeats["pairs"])}
    out |= {f"repeats_{end}": f"{repeats[f'{end}_percent']:.0f}" for end in ("least", "most")}
    excluded = results["excluded"]
    out["excluded_runs"] = str(sum(row["len"] for row in excluded))
    must(summary["excluded_runs"] == int(out["excluded_runs"]), "every excluded run is told")
    must({(row["gpu"], row["task"]) for row in excluded} == {("b200", "gpqa")}, "excluded are B200 runs of gpqa")
    host = results["host"]
    must(min(row["itl_min"] for row in host) > 2, "excluded runs take twice the time of the chat runs at least")
    out["host_itl"] = span(row[f"itl_{end}"] for row in host for end in ("min", "max"))
    out["host_watts"] = " to ".join(
        f"{100 * pick(row[f'watts_{end}'] for row in host):.0f}" for pick, end in ((min, "min"), (max, "max"))
    )
    out["host_pairs"] = str(sum(row["pairs"] for row in host))
    return out


def peer_figures(peer: dict[str, Any]) -> dict[str, str]:
    """Return the figures about AIConfigurator."""
    seeds, reached = peer["seeds"], {}
    for quantity in ("tpot", "ttft"):
        reached[quantity] = [str(entry["seed"]) for entry in seeds if not entry["reached"][quantity]]
    must(not reached["tpot"] and reached["ttft"], "all seeds reach the TPOT target, some miss that of TTFT")
    out = {"missed_ttft": ", ".join(reached["ttft"])}
    must(peer["suspects"]["reached"] == {"tpot": True, "ttft": False}, "suspect groups kept: TPOT alone is reached")
    out["both_reached"] = str(sum(all(entry["reached"].values()) for entry in seeds))
    out["seeds"] = str(len(seeds))
    for column in ("tpot_own", "tpot_aic", "ttft_own", "ttft_aic"):
        out[f"range_{column}"] = " / ".join(span(entry[column][i] for entry in seeds) for i in (0, 1))
        out[f"suspects_{column}"] = " / ".join(f"{value:.1f}" for value in peer["suspects"][column][:2])
        out[column] = " / ".join(f"{value:.1f}" for value in peer["all"][column][:2])
    out |= {f"target_{name}": " / ".join(f"{value:g}" for value in pair) for name, pair in peer["targets"].items()}
    cuts = {"gpu": "GPU", "framework": "framework", "model": "model", "format": "format"}
    for name, first in cuts.items():
        out[f"table_peer_{name}"] = peer_table(peer[name], first)
    out["table_peer_all"] = peer_table([peer["all"]], "")
    out["table_left_out"] = markdown(
        ["left out because", "rows"], [[why, f"{count:,}"] for why, count in peer["left_out"]]
    )
    constants = peer["constants"]
    turned = zip(*(row[1:] for row in constants["values"]), strict=True)
    names = ["rows of the fit", *constants["names"]]
    lines = [[name, *map(str, values)] for name, values in zip(names, turned, strict=True)]
    out["table_constants"] = markdown(["", *(row[0] for row in constants["values"])], lines)
    noise = {row[0]: row for row in peer["noise"]}
    out |= {f"noise_{name}": noise[f"silicon_{name}_ms"][2] for name in ("tpot", "ttft")}
    lost = [
        f"{row['group']} ({quantity.upper()})"
        for name in cuts for row in peer[name] for quantity in ("tpot", "ttft")
        if min(row[f"{quantity}_aic"][i] - row[f"{quantity}_own"][i] for i in (0, 1)) < 0
    ]  # fmt: skip
    out["lost"] = ", ".join(lost)
    serving = peer["serving"]
    out |= {
        "asked": str(serving["asked"]),
        "answered": str(serving["answered"]),
        "table_serving": serving_table(serving),
    }
    better = [row["group"] for row in serving["model"] if row["aic"][0] < row["left_out"][0]]
    must(not better, "AIConfigurator is better nowhere")
    return out


def readme() -> str:
    """Return README.md as the committed results make it."""
    results, peer = (json.loads(path.read_text(encoding="utf-8")) for path in (RESULTS, PEER))
    figures = serving_figures(results) | peer_figures(peer) | {"top1_target": str(TOP1_TARGET)}
    return Template((HERE / "template.md").read_text(encoding="utf-8")).substitute(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the committed results with a fresh run")
    parser.add_argument(
        "--refresh", action="store_true", help="work results.json and the plots out again from the data"
    )
    options = parser.parse_args()
    have = bool(os.environ.get("ENERGYLENS_DATA"))
    if options.check:
        must(README.read_text(encoding="utf-8") == readme(), "README.md is what run.py writes")
        print("README.md is what the committed results make it")
        if have:
            import measure

            fresh = json.loads(json.dumps(rounded(measure.results()[0], few_digits)))
            committed = json.loads(RESULTS.read_text(encoding="utf-8"))
            off = differences(committed, fresh, lambda old, new: abs(old - new) <= TOLERANCE)
            must(not off, "\n".join(["results.json is what the data give", *off[:20]]))
            print("results.json is what the data give")
        else:
            print("skipped: results.json (ENERGYLENS_DATA is not set)")
        print("skipped: peer.json (peer_latency.py --json writes it, with AIConfigurator)")
        return
    if options.refresh:
        if not have:
            sys.exit("set ENERGYLENS_DATA: README.md says where the data are public")
        import measure

        result, account = measure.results()
        RESULTS.write_text(
            json.dumps(rounded(result, few_digits), separators=(",", ":")).replace("},", "},\n") + "\n",
            encoding="utf-8",
        )
        measure.draw(account, HERE)
    README.write_text(readme(), encoding="utf-8")
