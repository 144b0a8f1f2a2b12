"""Energy of Llama-3.1-70B by tensor-parallel degree, batch and length: writes the CSVs, the pictures and README.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from string import Template

import altair as alt
import polars as pl

import energylens as el

sys.path.append(str(Path(__file__).parents[1]))  # pages.py, which all experiments share

from pages import markdown, must, settled

HERE = Path(__file__).parent
MODEL = "llama-3.1-70b"
GPUS = {"a100-sxm-80gb": "A100", "h100-sxm": "H100"}
TPS = (1, 2, 4, 8)
BATCHES = tuple(2**i for i in range(7))
PROMPTS = tuple(2**i for i in range(8, 14))
OUTPUTS = {"prefill": (1,), "decode": (256, 1024, 4096, 7680)}
LENGTHS = {"prefill": ["prompt_tokens"], "decode": ["prompt_tokens", "output_tokens"]}
REFERENCE = {"prefill": {"prompt_tokens": 1024}, "decode": {"prompt_tokens": 1024, "output_tokens": 1024}}
REFERENCE_BATCH, NODE_GPUS, NODE_SEQUENCES = 16, 8, 64
PAPER = {"prefill": 1.47, "decode": 52.9, "prefill_batch": 64, "decode_batch": 16, "all_reduce": 0.23}
CAUSES = {
    "compute": ("compute, running", "#0072B2"),
    "hbm_weights": ("HBM: weights", "#E69F00"),
    "hbm_kv": ("HBM: KV cache", "#F0E442"),
    "hbm_activations": ("HBM: activations", "#56B4E9"),
    "communication": ("communication", "#D55E00"),
    "static": ("static, kernels running", "#BBBBBB"),
    "waiting": ("static, waiting", "#555555"),
}
TP_COLOURS = ["#E69F00", "#0072B2", "#CC79A7"]  # these and the above: Okabe-Ito, and greys
HEADS = {
    "spread": ["TP", "batch", "length", "TP and batch", "everything", "everything, the paper's batches"],
    "price": ["energy of TP 8 over TP 2", "time of TP 2 over TP 8"],
    "comm": [
        "share of energy",
        "most at",
        "share of time there",
        "W of a GPU meanwhile",
        "W on average",
        f"W for {100 * PAPER['all_reduce']:.0f} %",
    ],
    "cause": ["TP", "J/token", *(label for label, _ in CAUSES.values())],
    "load": ["4 engines of TP 2", "2 of TP 4", "1 of TP 8"],
    "fit": [f"TP {tp}" for tp in TPS],
}


def evaluate(phase: str) -> pl.DataFrame:
    """Return the grid with joules per prompt token (prefill) or output token (decode), in all and by cause."""
    axes = {"gpu": GPUS, "tp": TPS, "prompt_tokens": PROMPTS, "output_tokens": OUTPUTS[phase], "batch": BATCHES}
    points = pl.DataFrame(list(product([MODEL], *axes.values())), schema=["model", *axes], orient="row")
    tokens = pl.col("batch") * (pl.col("prompt_tokens") if phase == "prefill" else pl.col("output_tokens") - 1)
    result = el.evaluate(points, breakdown=True).select(
        *("gpu", "tp", *LENGTHS[phase], "batch", "reason"),
        gb=pl.col("memory_bytes_per_gpu") / 1e9,
        time_s=pl.col("ttft_s" if phase == "prefill" else "tpot_s"),
        j_per_token=pl.col(f"energy_{phase}_j") / tokens,
        **{cause: pl.col(f"energy_{phase}_{cause}_j") / tokens for cause in CAUSES},
    )
    step = pl.col("j_per_token") * (tokens if phase == "prefill" else pl.col("batch"))
    watts = step / pl.col("time_s") / pl.col("tp")
    return result.with_columns(share=pl.col("communication") / pl.col("j_per_token"), watts=watts)


def limits(column: pl.Series) -> tuple[float, float]:
    values = column.drop_nulls().to_list()
    return float(min(values)), float(max(values))


def spread(frame: pl.DataFrame, keys: Sequence[str]) -> tuple[float, float]:
    """Return the least and the greatest max/min of the energy of a token among points with equal keys."""
    group = frame.with_columns(all_rows=1).group_by("all_rows", *keys)
    result = group.agg(n=pl.len(), ratio=pl.max("j_per_token") / pl.min("j_per_token"))
    return limits(result.filter(pl.col("n") > 1)["ratio"])


def times(low_high: tuple[float, float]) -> str:
    low, high = (f"{v:.3g}" for v in low_high)
    return f"{high}×" if low == high else f"{low} to {high}×"


def percent(low: float, high: float) -> str:
    return f"{100 * high:.0f} %" if low == high else f"{100 * low:.0f} to {100 * high:.0f} %"


def best_tp(table: pl.DataFrame, phase: str) -> str:
    """Return the table of the TP of least energy; in decode a cell has one digit for each output length."""
    keys = ["gpu", *LENGTHS[phase], "batch"]
    fastest = pl.col("tp").get(pl.col("time_s").arg_min())
    order = table.filter(pl.col("reason") == "ok").sort("j_per_token")
    best = order.group_by(keys).agg(tp=pl.first("tp"), least=pl.min("tp"), fastest=fastest)
    must((best["tp"] == best["least"]).all(), "the smallest TP that fits needs the least energy")
    must((best["fastest"] == max(TPS)).all(), "TP 8 is the fastest everywhere")
    cells = best.sort(keys).group_by("gpu", "prompt_tokens", "batch", maintain_order=True)
    wide = cells.agg(pl.col("tp").cast(str)).with_columns(pl.col("tp").list.join(" "))
    a100, h100 = (wide.filter(gpu=gpu).pivot("batch", index="prompt_tokens", values="tp") for gpu in GPUS)
    must(a100.equals(h100), "the best TP is the same on both GPUs")
    rows = [[f"{prompt:,}", *tps] for prompt, *tps in a100.rows()]
    return markdown(["prompt tokens", *(f"batch {batch}" for batch in BATCHES)], rows)


def all_reduce(here: pl.DataFrame, gpu: str, phase: str) -> dict[str, str]:
    """Look at the point of TP 8 with the largest share of communication: its time, its power, the power for 23 %."""
    tp8 = here.filter(tp=8)
    point = tp8.sort("share", descending=True).row(0, named=True)
    lengths = {key: point[key] for key in LENGTHS[phase]}
    result = el.predict(MODEL, gpu, tp=8, batch=point["batch"], **({"output_tokens": 1} | lengths))
    seconds = result.kernels.filter(phase=phase).select(pl.col("runs") * pl.col("communication_s")).to_series().sum()
    energy = point["watts"] * point["time_s"]  # of one GPU
    needed = (1 - point["share"]) * energy * PAPER["all_reduce"] / (1 - PAPER["all_reduce"])
    watts = {"link": point["share"] * energy / seconds, "mean": point["watts"], "needed": needed / seconds}
    where = ", ".join([f"batch {point['batch']}", *(f"{n:,} {name.split('_')[0]}" for name, n in lengths.items())])
    shares = {"comm": percent(*limits(tp8["share"])), "at": where, "busy": f"{100 * seconds / point['time_s']:.0f} %"}
    return shares | {name: f"{w:.0f}" for name, w in watts.items()}


def by_cause(here: pl.DataFrame, phase: str) -> list[list[str]]:
    """Return joules per token by cause at the reference point, and the causes of the growth from TP 2 to 8."""
    ends = here.filter(batch=REFERENCE_BATCH, **REFERENCE[phase]).sort("tp").rows(named=True)
    rows = [[str(r["tp"]), f"{r['j_per_token']:.3g}", *(f"{r[c]:.2g}" for c in CAUSES)] for r in ends]
    rise = {name: ends[-1][name] - ends[0][name] for name in ("j_per_token", *CAUSES)}
    shares = [f"{100 * rise[cause] / rise['j_per_token']:.0f} %" for cause in CAUSES]
    return [*rows, ["2 to 8", f"+{rise['j_per_token']:.2g}", *shares]]


def figures(tables: dict[str, pl.DataFrame]) -> dict[str, str]:
    """Return every figure and table that template.md names."""
    rows: dict[str, list[list[str]]] = {name: [] for name in HEADS}
    out = {f"best_{phase}": best_tp(table, phase) for phase, table in tables.items()}
    for phase, (gpu, short) in product(tables, GPUS.items()):
        table, lengths = tables[phase].filter(gpu=gpu), LENGTHS[phase]
        here = table.filter(reason="ok")
        rises = here.sort("batch").group_by("tp", *lengths).agg(up=pl.col("j_per_token").diff().max())
        must((rises["up"].drop_nulls() < 1e-12).all(), "a larger batch never costs more energy a token")
        groups = {"tp": ["batch", *lengths], "batch": ["tp", *lengths], "length": ["tp", "batch"], "both": lengths}
        paper = spread(here.filter(pl.col("batch") <= PAPER[f"{phase}_batch"]), [])
        result = {name: times(spread(here, keys)) for name, keys in groups.items()}
        result |= {"all": times(spread(here, [])), "paper": times(paper)}
        both = here.pivot("tp", index=["batch", *lengths], values=["j_per_token", "time_s"])
        energy = percent(*limits(both["j_per_token_8"] / both["j_per_token_2"] - 1))
        speed = times(limits(both["time_s_2"] / both["time_s_8"]))
        even = here.filter(pl.col("batch") == pl.col("tp") * (NODE_SEQUENCES // NODE_GPUS), **REFERENCE[phase])
        load = dict(even.select("tp", "j_per_token").rows())
        must((load[8] < load[2]) == (phase == "decode"), "at equal load TP 2 wins prefill and TP 8 wins decode")
        fits = table.group_by("tp").agg(ok=(pl.col("reason") == "ok").sum(), n=pl.len())
        shared = all_reduce(here, gpu, phase)
        rows["spread"].append([phase, short, *result.values()])
        rows["price"].append([phase, short, energy, speed])
        rows["comm"].append([phase, short, *shared.values()])
        rows["cause"] += [[phase, short, *row] for row in by_cause(here, phase)]
        rows["load"].append([phase, short, *(f"{load[tp]:.3g}" for tp in TPS[1:])])
        rows["fit"].append([phase, short, *(f"{ok} of {n}" for _, ok, n in fits.sort("tp").rows())])
        named = result | shared | {"price": energy, "speed": speed, "watts": f"{limits(here['watts'])[1]:.0f} W"}
        named |= {f"{name}_up": text.split(" to ")[-1] for name, text in result.items()}
        ratio = paper[1] / PAPER[phase]
        must(0.6 < ratio < 1.5 if phase == "prefill" else ratio < 0.6, "the verdicts on the spread")
        must(limits(here.filter(tp=8)["share"])[1] < PAPER["all_reduce"], "the verdict on all-reduce")
        named["load"] = f"{max(load[2], load[8]) / min(load[2], load[8]):.3g}×"
        out |= {f"{phase}_{short}_{name}": text for name, text in named.items()}
    out |= {f"table_{name}": markdown(["phase", "GPU", *head], rows[name]) for name, head in HEADS.items()}
    tp1 = tables["prefill"].filter(tp=1).sort("gb").row(0, named=True)
    try:
        el.predict(MODEL, tp1["gpu"], tp=1, prompt_tokens=tp1["prompt_tokens"], output_tokens=1)
    except el.EnergylensError as error:
        out["message"] = str(error)
    must("message" in out, "TP 1 fits nowhere")
    out["tp2_gb"] = f"{limits(tables['prefill'].filter(tp=2)['gb'])[0]:.1f} GB"
    out["rest"] = f"{PAPER['decode'] / PAPER['decode_batch']:.2g}×"
    out |= {name: f"{value:g}" for name, value in PAPER.items()}
    out["all_reduce_percent"] = percent(PAPER["all_reduce"], PAPER["all_reduce"])
    facts = el.gpus().select("gpu", "trust", tdp=pl.col("tdp_w").cast(int), static=pl.col("static_w").cast(int))
    for row in facts.filter(pl.col("gpu").is_in(list(GPUS))).rows(named=True):
        out |= {f"{GPUS[row['gpu']]}_{name}": str(value) for name, value in row.items()}
    return out


def draw(tables: dict[str, pl.DataFrame]) -> dict[str, alt.ConcatChart]:
    """Return the pictures by file name."""
    curves, bars = [], []
    tp_names, labels = [str(tp) for tp in TPS[1:]], [label for label, _ in CAUSES.values()]
    colour = alt.Color("tp:N", title="TP", scale=alt.Scale(domain=tp_names, range=TP_COLOURS))
    shape = alt.Shape("tp:N", title="TP", scale=alt.Scale(domain=tp_names, range=["circle", "square", "triangle-up"]))
    cause_colour = alt.Color("cause:N", title=None).scale(domain=labels, range=[c for _, c in CAUSES.values()])
    batch = alt.X("batch:Q", title="batch (sequences)").scale(type="log", base=2).axis(values=BATCHES, labelFlush=False)
    for phase, (gpu, short) in product(tables, GPUS.items()):
        unit = f"J per {'prompt' if phase == 'prefill' else 'output'} token"
        scale = alt.Scale(domain=[0, 0.3]) if phase == "prefill" else alt.Scale(type="log", domain=[0.5, 30])
        top = 0.3 if phase == "prefill" else 3.0
        here = tables[phase].filter(reason="ok", gpu=gpu, **REFERENCE[phase]).cast({"tp": pl.String})
        at = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in REFERENCE[phase].items())
        energy = alt.Y("j_per_token:Q", title=unit, scale=scale)
        line = alt.Chart(here, title=alt.TitleParams(f"{phase}, {short}", subtitle=at), width=330, height=220)
        curves.append(line.mark_line(point={"size": 55, "filled": True}).encode(batch, energy, colour, shape))
        causes = here.filter(batch=REFERENCE_BATCH).unpivot(list(CAUSES), index="tp", variable_name="cause")
        rank = pl.col("cause").replace_strict(list(CAUSES), range(len(CAUSES)))
        causes = causes.with_columns(rank=rank, cause=pl.col("cause").replace_strict(list(CAUSES), labels))
        title = alt.TitleParams(f"{phase}, {short}", subtitle=f"batch {REFERENCE_BATCH}, {at}")
        bar = alt.Chart(causes, title=title, width=330, height=130).mark_bar()
        joules = alt.X("value:Q", title=unit).scale(domain=[0, top]).axis(tickCount=6, labelFlush=False)
        bars.append(bar.encode(joules, alt.Y("tp:O", title="TP"), cause_colour, order="rank:Q"))
    heads = {"energy_by_batch.png": "Predicted energy of a token", "energy_by_cause.png": "Where the joules go"}
    return {
        name: alt.concat(*charts, columns=2, title=alt.TitleParams(f"{head}, Llama-3.1-70B", anchor="middle"))
        for (name, head), charts in zip(heads.items(), (curves, bars), strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare the committed results with a fresh run")
    check = parser.parse_args().check
    tables = {phase: evaluate(phase) for phase in OUTPUTS}
    readme = Template((HERE / "template.md").read_text(encoding="utf-8")).substitute(figures(tables))
    retained = {
        phase: table.filter(reason="ok").drop("reason", "share", "watts", *CAUSES) for phase, table in tables.items()
    }
    if settled(HERE, readme, retained, check):
        for name, chart in draw(tables).items():
            chart.save(HERE / name, scale_factor=1.5)


if __name__ == "__main__":
    main()
