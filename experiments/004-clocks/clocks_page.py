"""The page, the tables and the pictures of clocks.py: README.md from template.md, sweep.csv, clocks.png, caps.png."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from string import Template

import polars as pl
from clocks import (
    CAPS,
    CLOCKS,
    GPUS,
    HERE,
    PCIE,
    SATURATED,
    WORKS,
    Law,
    best,
    cap_against_lock,
    idle_law,
    inferred_voltages,
    measured,
    profile_voltages,
    published_sweep,
    same_watts,
    sweep,
)
from clocks_draw import NAMES, SATURATED_SWEEPS, draw_caps, draw_clocks
from pages import markdown, must, settled

KNEE = {"a100-sxm-80gb": 1110, "h100-sxm": 1200}
"""The highest clock (MHz) with the lowest voltage."""
SLOWER = (1.1, 1.25)
"""Times as long as without a limit at which cap and lock are compared."""
WITHIN = 4
"""Percent."""


def span(values: pl.Series | Sequence[float], pattern: str = "{:.0f}") -> str:
    low, high = (pattern.format(v) for v in (min(values), max(values)))
    low, high = ("0" if end in ("+0", "-0") else end for end in (low, high))
    return low if low == high else f"{low} to {high}"


def saved(ratio: pl.Series) -> pl.Series:
    """Return max/min of the energy as percent saved."""
    return 100 * (1 - 1 / ratio)


def clock_figures(table: pl.DataFrame) -> dict[str, str]:
    """Return the table of the best clocks and the figures of the text."""
    result = best(table.filter(knob="clock"), ["gpu", "phase", "work"])
    rows = [
        [work, *(cell for gpu in GPUS for cell in _best_cells(result.filter(gpu=gpu, work=work).row(0, named=True)))]
        for work in map(str, WORKS)
    ]
    head = ["predicted"]
    for short in GPUS.values():
        head += [f"{short}: MHz of least J", "J saved", "time", "W at full clock", "W there"]
    out = {"table_clocks": markdown(head, rows)}
    for (gpu, short), phase in ((entry, phase) for entry in GPUS.items() for phase in ("prefill", "decode")):
        here = result.filter(gpu=gpu, phase=phase)
        must(phase == "decode" or set(here["mhz"]) == {KNEE[gpu]}, "prefill costs least at the knee of the voltage")
        name = f"{short}_{phase}"
        at, full = (table.filter(gpu=gpu, phase=phase, knob="clock", value=mhz) for mhz in (KNEE[gpu], CLOCKS[gpu][-1]))
        out |= {
            f"{name}_knee_saved": span(100 * (1 - at["j_per_token"] / full["j_per_token"])),
            f"{name}_knee_slower": span(100 * (at["time_s"] / full["time_s"] - 1)),
        }
        out |= {
            f"{name}_mhz": span(here["mhz"], "{:,.0f}"),
            f"{name}_saved": span(saved(here["energy"])),
            f"{name}_slower": span(100 * (here["time"] - 1)),
            f"{name}_watts": span(here["watts"]),
            f"{name}_of": str(CAPS[gpu][-1]),
        }
    return out


def _best_cells(row: dict[str, float]) -> list[str]:
    share = 100 * (1 - 1 / row["energy"])
    return [
        f"{row['mhz']:,}",
        f"{share:.0f} %",
        f"{row['time']:.2f}×",
        f"{row['watts']:.0f}",
        f"{row['least_watts']:.0f}",
    ]


def published_figures(runs: pl.DataFrame) -> dict[str, str]:
    """Return the measured sweeps against the predicted ones, and the errors of the measured runs."""
    both = published_sweep(runs)
    sides = [both.filter(side=side) for side in ("measured", "predicted")]
    rows = []
    for here, there in zip(*(side.rows(named=True) for side in sides), strict=True):
        shape = (here["model"], here["batch"], here["prompt_tokens"])
        kind = "long" if shape[1] * shape[2] >= SATURATED else "short"
        cells = [
            f"{here[name]:{form}} / **{there[name]:{form}}**"
            for name, form in (("mhz", ""), ("energy", ".2f"), ("time", ".2f"), ("watts", ".0f"))
        ]
        rows.append([f"{NAMES[shape[0]]}, batch {shape[1]}, {shape[2]:,} tokens", kind, *cells])
    head = [
        "measured / **predicted**",
        "pass",
        "MHz of least J",
        "J highest clock / least",
        "time least / highest clock",
    ]
    groups = runs.group_by("gpu", "model", "runs", "saturated").agg(
        n=pl.len(), j=pl.mean("j_error"), ms=pl.mean("ms_error"), w=pl.mean("w_error")
    )
    errors = [
        [
            NAMES[gpu], NAMES[model], "510 to 1,410" if kind == "clock sweep" else "900" if gpu == PCIE else "1,830",
            "long" if full else "short", str(n), f"{j:+.0f} %", f"{ms:+.0f} %", f"{w:+.0f} %",
        ]
        for gpu, model, kind, full, n, j, ms, w in groups.sort(~pl.col("saturated"), "gpu", "model", "runs").rows()
    ]  # fmt: skip
    shapes = [(PCIE, "opt-1.3b", 1, 1024), (PCIE, "opt-1.3b", 4, 1024), (PCIE, "opt-1.3b", 16, 1024)]
    shapes += [(PCIE, "opt-1.3b", 1, 128), (PCIE, "qwen2-1.5b", 1, 1024), (PCIE, "qwen2-1.5b", 8, 1024)]
    shapes += [(PCIE, "qwen2-1.5b", 1, 8192), ("h100-sxm", "opt-1.3b", 1, 1024), ("h100-sxm", "opt-1.3b", 4, 2048)]
    shapes += [("h100-sxm", "opt-1.3b", 16, 1024), ("h100-sxm", "qwen2-1.5b", 1, 1024)]
    shapes += [("h100-sxm", "qwen2-1.5b", 8, 1024), ("h100-sxm", "qwen2-1.5b", 8, 4096)]
    single = runs.filter(runs="one clock").sort("attention")
    rows_of = []
    for gpu, model, batch, tokens in shapes:
        run = single.filter(gpu=gpu, model=model, batch=batch, prompt_tokens=tokens).row(0, named=True)
        times = [f"{run['time_ms']:.4g}", f"{run['predicted_ms']:.4g}", f"{run['ms_error']:+.0f} %"]
        joules = [f"{run['energy_j']:.4g}", f"{run['predicted_j']:.4g}", f"{run['j_error']:+.0f} %"]
        where = f"{NAMES[gpu]}, {run['sm_clock_mhz']:,} MHz"
        rows_of.append([where, f"{NAMES[model]}, batch {batch}, {tokens:,} tokens", *joules, *times])
    wide = [both.filter(pl.struct("model", "batch", "prompt_tokens").is_in(
        [dict(zip(("model", "batch", "prompt_tokens"), shape, strict=True)) for shape in SATURATED_SWEEPS]
    ), side=side) for side in ("measured", "predicted")]  # fmt: skip
    out = {
        "table_published": markdown([*head, "W at the highest clock"], rows),
        "table_errors": markdown(["GPU", "model", "MHz", "pass", "runs", "joules", "time", "watts"], errors),
        "table_runs": markdown(
            ["GPU", "prefill", "J measured", "J predicted", "error", "ms measured", "ms predicted", "error"], rows_of
        ),
    }
    for side, here in zip(("measured", "predicted"), wide, strict=True):
        out |= {f"{side}_mhz": span(here["mhz"]), f"{side}_saved": span(saved(here["energy"]))}
        out |= {f"{side}_time": span(here["time"], "{:.2f}")}
    pcie, h100 = (runs.filter(pl.col("saturated"), gpu=gpu) for gpu in (PCIE, "h100-sxm"))
    for short, here in (("pcie", pcie), ("h100", h100)):
        means = here.select(pl.mean("j_error", "ms_error")).row(0)
        out |= {f"{short}_{what}": f"{abs(mean):.0f} %" for what, mean in zip(("j", "ms"), means, strict=True)}
        must(max(means) < 0, "joules and times are predicted too low")
    throttled = runs.filter(pl.col("mean_mhz") < pl.col("sm_clock_mhz") - 5, pl.col("saturated"))
    out["throttled"] = span(throttled["mean_mhz"], "{:,.0f}")
    eager, other = (single.filter(gpu=PCIE, attention=kind) for kind in ("eager", "default"))
    same = eager.filter(pl.col("saturated")).join(other, on=["model", "batch", "prompt_tokens"])
    out["alike"] = f"{100 * max((same['energy_j'] / same['energy_j_right'] - 1).abs().to_list()):.1f} %"
    for side, column, end in (("measured", "energy_j", 1230), ("predicted", "predicted_j", 1320)):
        rising = runs.filter(pl.col("saturated"), runs="clock sweep", model="opt-1.3b")
        at, below, above = (rising.filter(sm_clock_mhz=mhz)[column] for mhz in (end, end - 90, 1410))
        flat = max((above / at - 1).abs().to_list()) < 0.02
        must(flat and min((at / below).to_list()) > 1.03, f"the {side} rise ends at {end} MHz")
    slow, good = (runs.filter(pl.col("saturated"), runs="clock sweep", sm_clock_mhz=mhz) for mhz in (510, 960))
    for name, column in (
        ("measured_510_j", "energy_j"), ("measured_510_ms", "time_ms"),
        ("predicted_510_j", "predicted_j"), ("predicted_510_ms", "predicted_ms"),
    ):  # fmt: skip
        out[name] = span(100 * (slow[column] / good[column] - 1))
    return out


def cap_figures(table: pl.DataFrame) -> dict[str, str]:
    """Return how cap and lock compare at equal slow-down and at equal watts, and the best caps."""
    rows = []
    slowed: dict[str, list[float]] = {"prefill": [], "decode": []}
    drawn: dict[str, list[float]] = {"prefill": [], "decode": []}
    far: set[tuple[str, int]] = set()
    for work, (gpu, short) in ((work, gpu) for work in WORKS for gpu in GPUS.items()):
        here = table.filter(gpu=gpu, work=str(work))
        free = here.filter(knob="clock", value=CLOCKS[gpu][-1])["watts"].item()
        cells = []
        for slower in SLOWER:
            result = cap_against_lock(here, slower)
            if result is None:
                sys.exit("no longer true: some cap of the sweep slows every work down by that much")
            cap, mhz, cap_j, mhz_j = result
            if mhz:
                slowed[work.phase].append(100 * (cap_j / mhz_j - 1))
            lock = f"{mhz:,.0f} MHz: {100 * (mhz_j - 1):+.0f} %" if mhz else "none is so slow"
            cells += [f"{cap:.0f} W: {100 * (cap_j - 1):+.0f} %", lock]
        differ = [100 * (ratio - 1) for ratio in same_watts(here)]
        drawn[work.phase] += differ
        if max(map(abs, differ)) > WITHIN:
            far.add((gpu, work.batch))
        rows.append([str(work), short, f"{free:.0f} of {CAPS[gpu][-1]}", *cells])
    must(max(map(abs, drawn["prefill"])) < 2, "in prefill a cap is nearly a lock of its watts")
    must(max(drawn["decode"]) < 1, "in decode no cap is dearer than a lock of its watts")
    head = ["predicted", "GPU", "W without a limit"]
    head += [f"{kind}, {100 * (slower - 1):.0f} % slower" for slower in SLOWER for kind in ("cap", "lock")]
    out = {"table_caps": markdown(head, rows)}
    for phase in slowed:
        out |= {f"{phase}_slowed": span(slowed[phase], "{:+.0f}"), f"{phase}_drawn": span(drawn[phase], "{:+.0f}")}
    within = [abs(value) for value in drawn["decode"]]
    out["decode_within"] = f"{100 * sum(value <= WITHIN for value in within) / len(within):.0f} %"
    out |= {
        "within": str(WITHIN),
        "decode_best": f"{min(drawn['decode']):.0f}",
    }
    must(
        far == {("a100-sxm-80gb", 1), ("a100-sxm-80gb", 32)},
        "only on A100, and not at batch 256, cap and lock differ much",
    )
    for gpu, short in GPUS.items():
        caps = table.filter(gpu=gpu, knob="cap", phase="decode")
        best_caps = caps.group_by("work").agg(pl.col("value").get(pl.col("j_per_token").arg_min()))
        out[f"{short}_best_cap"] = span(best_caps["value"])
        knee, full = (
            table.filter(gpu=gpu, knob="clock", phase="decode", value=mhz) for mhz in (KNEE[gpu], CLOCKS[gpu][-1])
        )
        highest = max(knee["watts"].to_list())
        entry = min(watts for watts in CAPS[gpu] if watts >= highest)
        capped = caps.filter(value=entry)
        must(capped["work"].to_list() == full["work"].to_list(), "one cap is tried on every decode")
        out[f"{short}_one_cap"] = str(entry)
        out[f"{short}_knee_watts"] = span(knee["watts"])
        out[f"{short}_one_cap_saved"] = span(100 * (1 - capped["j_per_token"] / full["j_per_token"]))
    return out


def law_figures(law: Law, rows: pl.DataFrame) -> dict[str, str]:
    """Return the law and the tables that follow from it."""
    computed = inferred_voltages(law)
    must(computed == profile_voltages(), "the H100's voltages are what the law gives")
    must(law.error < 0.01, "the law holds within 1 %")
    lines = [[f"{f:,.0f}", f"{1e3 * v:.5g}", f"{w:.1f}", f"{p:.1f}"] for f, v, w, p in rows.rows()]
    return {
        "law": f"{law.a:g} + {law.b:g}·V²",
        "law_error": f"{100 * law.error:.1f} %",
        "shares": f"{law.shares[0]:g} + {law.shares[1]:g}·(V/Vmax)²",
        "table_law": markdown(["MHz", "mV, published", "idle W, published", "idle W by the law"], lines),
        "table_voltages": markdown(["MHz", *(f"{f:,}" for f, _ in computed)], [["mV", *(str(v) for _, v in computed)]]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare the committed results with a fresh run")
    check = parser.parse_args().check
    table, runs = sweep(), measured()
    figures = clock_figures(table) | published_figures(runs) | cap_figures(table) | law_figures(*idle_law())
    readme = Template((HERE / "template.md").read_text(encoding="utf-8")).substitute(figures)
    if settled(HERE, readme, {"sweep": table.drop("phase", "model")}, check):
        draw_clocks(table, runs).save(HERE / "clocks.png", scale_factor=1.5)
        draw_caps(table).save(HERE / "caps.png", scale_factor=1.5)


if __name__ == "__main__":
    main()
