"""TTFT and TPOT of AIConfigurator 0.12 and of energylens on the same measured rows of its silicon sample.

`python experiments/002-accuracy/peer_latency.py --aic-python VENV/bin/python [--cache aic.jsonl] [--csv FILE]`

The constants of `closed_loop` are fitted on rows outside the validation, and on none of its
configurations.
`--json FILE` writes the headline tables, and the same errors for other seeds and with the suspect groups kept;
where ENERGYLENS_DATA is set, AIConfigurator is also asked for the serving runs of `run.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import serving_peer
import silicon
from closed_loop import Column, Load, Serving, Steady, steady_state
from numpy.typing import NDArray
from scipy.optimize import least_squares

from energylens.common.format import table

sys.path.append(str(Path(__file__).parents[1]))  # pages.py, which all experiments share

from pages import rounded

HERE = Path(__file__).parent
VALIDATION, SEED, OTHER_SEEDS = 1_000, 2026, range(1, 9)
TTFT_WEIGHT, SOFT = 1.0, 0.1
CONFIGURATION = (
    "mode", "model", "system", "backend", "precision", "isl", "osl", "concurrency",
    *(f"{pool}_{name}" for pool in ("prefill", "decode") for name in silicon.POOL),
)  # fmt: skip
COLUMNS = [(quantity, tool) for quantity in ("tpot", "ttft") for tool in ("own", "aic")]
TARGETS = {"tpot": (16.5, 8.5), "ttft": (27.5, 24.0)}

# Constant: start, scale, bounds; what follows the colon says which rows share a value (Hopper or Blackwell,
# weights of 16 bits or of fewer, whose inputs the tables quantise apart and frameworks fuse, harness).
CONSTANTS: dict[str, tuple[float, float, float, float]] = {
    "graph_share:hopper": (0.8, 0.2, 0.0, 1.5),
    "graph_share:blackwell": (0.4, 0.2, 0.0, 1.5),
    "decode_scale:wide": (1.0, 0.2, 0.5, 2.0),
    "decode_scale:narrow": (1.0, 0.2, 0.5, 2.0),
    "prefill_scale:hopper": (1.2, 0.3, 0.3, 6.0),
    "prefill_scale:blackwell": (1.2, 0.3, 0.3, 6.0),
    "eager_share": (2.0, 1.0, 0.0, 12.0),
    **{f"request_s:{harness}": (0.03, 0.03, 0.0, 1.0) for harness in silicon.HARNESSES},
    **{f"burst:{harness}": (0.06, 0.05, 0.0, 1.0) for harness in silicon.HARNESSES},
}
_START, _SCALE, _LOW, _HIGH = (np.array(values) for values in zip(*CONSTANTS.values(), strict=True))


def rows_of(aic_python: Path, passed: Path | None, keep_suspects: bool) -> pl.DataFrame:
    """Return the sample with reasons, and energylens' quantities of the usable rows."""
    result = "import aiconfigurator_core as a; print(a.__path__[0])"
    path = passed or Path(_output([str(aic_python), "-c", result]).strip()) / "systems" / "silicon_sample.csv"
    rows = silicon.label(silicon.read(path))
    rows = rows if keep_suspects else silicon.suspects(rows)
    usable = silicon.quantities(rows.filter(pl.col("why_not").is_null()))
    missing = pl.col("decode_s").is_null() | pl.col("prefill_s").is_null()
    usable = usable.with_columns(pl.when(missing).then(pl.lit("energylens: mesh does not split")).alias("why_not"))
    return pl.concat([rows.filter(pl.col("why_not").is_not_null()), usable], how="diagonal_relaxed")


def aic_predictions(rows: pl.DataFrame, python: Path, cache: Path | None) -> pl.DataFrame:
    """Return AIC's answers for rows, from the cache where it has them."""
    lines = cache.read_text().splitlines() if cache and cache.exists() else []
    known = {answer["id"]: answer for answer in map(json.loads, lines)}
    requested = [row for row in rows.iter_rows(named=True) if row["id"] not in known]
    if requested:
        text = "".join(json.dumps(row) + "\n" for row in requested)
        started = time.perf_counter()
        lines = _output([str(python), str(HERE / "aic.py")], text).splitlines()
        print(
            f"AIConfigurator answered {len(requested):,} rows in {time.perf_counter() - started:.0f} s", file=sys.stderr
        )
        known |= {answer["id"]: answer for answer in map(json.loads, lines)}
        if cache:
            cache.write_text("".join(json.dumps(answer) + "\n" for answer in known.values()))
    answers = [known[row] for row in rows["id"]]
    types = {"id": pl.String, "aic_ttft_ms": pl.Float64, "aic_tpot_ms": pl.Float64, "why_not": pl.String}
    return pl.DataFrame([{name: answer.get(name) for name in types} for answer in answers], schema=types)


def _output(command: list[str], text: str | None = None) -> str:
    """Return what a command prints; its complaints go to standard error."""
    return subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout


def serving(values: NDArray[np.float64], rows: pl.DataFrame) -> Serving:
    """Return the constants as columns, one value for each row's kind."""
    blackwell = rows["gpu"].str.contains("b200").to_numpy()
    chosen = {"hopper": ~blackwell, "blackwell": blackwell}
    narrow = rows["precision"].is_in(["fp8", "fp4"]).fill_null(False).to_numpy()
    chosen |= {"narrow": narrow, "wide": ~narrow}
    chosen |= {harness: (rows["harness"] == harness).to_numpy() for harness in silicon.HARNESSES}
    columns: dict[str, Column] = {field.name: np.zeros(rows.height) for field in fields(Serving)}
    for name, value in zip(CONSTANTS, values, strict=True):
        constant, _, kind = name.partition(":")
        columns[constant] = np.where(chosen[kind], value, columns[constant]) if kind else np.full(rows.height, value)
    return Serving(**columns)


def fitted(rows: pl.DataFrame) -> NDArray[np.float64]:
    """Return the constants of least robust log error (soft L1 at 10 %)."""
    load: Load = silicon.loads(rows)
    ttft_s, tpot_s = (rows[name].to_numpy() / 1e3 for name in silicon.MEASURED)

    def residuals(scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        result: Steady = steady_state(load, serving(scaled * _SCALE, rows))
        return np.concatenate([np.log(result.tpot_s / tpot_s), TTFT_WEIGHT * np.log(result.ttft_s / ttft_s)])

    bounds = (_LOW / _SCALE, _HIGH / _SCALE)
    result = least_squares(residuals, _START / _SCALE, bounds=bounds, loss="soft_l1", f_scale=SOFT)
    values: NDArray[np.float64] = result.x * _SCALE
    return values


def predicted(rows: pl.DataFrame) -> tuple[pl.DataFrame, list[list[Any]]]:
    """Add energylens' TTFT and TPOT, constants fitted for each framework and mode on rows with `fit`."""
    parts, constants = [], []
    for kind, part in rows.group_by("backend", "mode", maintain_order=True):
        fit = part.filter("fit")
        values = fitted(fit) if fit.height > len(CONSTANTS) else _START
        result = steady_state(silicon.loads(part), serving(values, part))
        columns = [pl.Series("own_ttft_ms", result.ttft_s * 1e3), pl.Series("own_tpot_ms", result.tpot_s * 1e3)]
        parts.append(part.with_columns(columns))
        constants.append([" ".join(map(str, kind)), fit.height, *(f"{value:.3g}" for value in values)])
    return pl.concat(parts), sorted(constants)


def split(rows: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Mark 1,000 seeded rows that both tools predict as `validation`, and as `fit` those of other configurations."""
    both = rows.filter(pl.col("aic_tpot_ms").is_not_null())
    drawn = both["id"].sort().sample(min(VALIDATION, both.height), seed=seed, shuffle=True)
    rows = rows.with_columns(pl.col("id").is_in(drawn.implode()).alias("validation"))
    seen = pl.col("validation").any().over(*CONFIGURATION)
    return rows.with_columns((~seen).alias("fit"))


def _shown(value: object, how: str = ".1f") -> str:
    """Return a mean or median as text; nothing for no rows."""
    return format(value, how) if isinstance(value, float) else "-"


def errors(rows: pl.DataFrame, by: Sequence[str] = ()) -> list[list[Any]]:
    """Return, for each group, rows and MAPE / median / bias in % of TPOT and TTFT, energylens then AIC."""
    lines = []
    for result in figures(rows, by):
        cells = [
            " / ".join((_shown(mean), _shown(median), _shown(bias, "+.0f")))
            for mean, median, bias in (result[f"{quantity}_{tool}"] for quantity, tool in COLUMNS)
        ]
        lines.append([result["group"], result["rows"], *cells])
    return lines


def figures(rows: pl.DataFrame, by: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return, for each group, its rows and mean, median and bias (signed median) in % for both quantities and tools."""
    lines = []
    groups = rows.sort(by).group_by(by, maintain_order=True) if by else [(("all",), rows)]
    for names, group in groups:
        line: dict[str, Any] = {"group": " ".join(str(name or "own") for name in names), "rows": group.height}
        for quantity, tool in COLUMNS:
            error = 100 * (group[f"{tool}_{quantity}_ms"] / group[f"silicon_{quantity}_ms"] - 1).drop_nulls()
            line[f"{quantity}_{tool}"] = [error.abs().mean(), error.abs().median(), error.median()]
        lines.append(line)
    return lines


def noise(rows: pl.DataFrame) -> list[list[Any]]:
    """Return how far measurements of one configuration lie from their median, in %: mean and median."""
    repeats = rows.filter(pl.len().over(*CONFIGURATION) > 1)
    lines = []
    for quantity in silicon.MEASURED:
        away = (100 * (pl.col(quantity) / pl.col(quantity).median().over(*CONFIGURATION) - 1)).abs()
        result = repeats.select(away.mean().alias("mean"), away.median().alias("median"))
        lines.append([quantity, repeats.height, f"{result['mean'][0]:.1f} / {result['median'][0]:.1f}"])
    return lines


def report(rows: pl.DataFrame, constants: list[list[Any]], every: pl.DataFrame) -> str:
    """Return all tables."""
    head = ["rows", *(f"{quantity} {tool}" for quantity in ("TPOT", "TTFT") for tool in ("energylens", "AIC"))]
    checked = rows.filter("validation")
    cuts = (["gpu"], ["backend", "mode"], ["model"], ["precision"], ["model", "precision", "backend"])
    reasons = every.group_by("why_not").len().sort("len", descending=True).rows()
    parts = [
        table(["left out because", "rows"], [[why or "usable", f"{count:,}"] for why, count in reasons]),
        table(["framework", "fit rows", *CONSTANTS], constants),
        "MAPE / median / bias, %, on the validation rows:",
        *(table(["", *head], errors(checked, cut)) for cut in ((), *cuts)),
        "the rows of the fit, AIC on those of them that it predicts:",
        table(["", *head], errors(rows.filter("fit"), ["mode"])),
        table(["repeats of a configuration", "rows", "mean / median, %"], noise(rows)),
    ]
    result = figures(checked)[0]
    for quantity, (mean, median) in TARGETS.items():
        subset = " / ".join(f"{value:.1f}" for value in result[f"{quantity}_own"][:2])
        verdict = "reached" if reached(result, quantity) else "missed"
        parts.append(f"{quantity}: {subset} %, target {mean} / {median} %: {verdict}")
    return "\n\n".join(parts)


def reached(result: dict[str, Any], quantity: str) -> bool:
    """Return whether mean and median of our errors are within the targets."""
    mean, median, _ = result[f"{quantity}_own"]
    return bool(mean <= TARGETS[quantity][0] and median <= TARGETS[quantity][1])


def headline(rows: pl.DataFrame, constants: list[list[Any]], every: pl.DataFrame) -> dict[str, Any]:
    """Return the tables of the report as plain data."""
    checked = rows.filter("validation")
    cuts = {"gpu": ["gpu"], "framework": ["backend", "mode"], "model": ["model"], "format": ["precision"]}
    reasons = every.group_by("why_not").len().sort("len", "why_not", descending=True).rows()
    return {
        "all": figures(checked)[0],
        **{name: figures(checked, cut) for name, cut in cuts.items()},
        "left_out": [[why or "usable", count] for why, count in reasons],
        "constants": {"names": list(CONSTANTS), "values": constants},
        "noise": noise(rows),
        "targets": TARGETS,
    }


def joined(options: argparse.Namespace, keep_suspects: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the usable rows with AIC's answers, and all rows with reasons."""
    every = rows_of(options.aic_python, options.csv, keep_suspects)
    usable = every.filter(pl.col("why_not").is_null()).drop("why_not")
    answers = aic_predictions(usable, options.aic_python, options.cache).rename({"why_not": "aic_why_not"})
    return usable.join(answers, on="id", how="left", maintain_order="left"), every


def whole(options: argparse.Namespace, summary: dict[str, Any], usable: pl.DataFrame) -> dict[str, Any]:
    """Return what `--json` writes: the headline, other seeds, suspects kept, and AIC on the serving runs."""

    def other(rows: pl.DataFrame, seed: int) -> dict[str, Any]:
        result = figures(predicted(split(rows, seed))[0].filter("validation"))[0]
        return {"seed": seed, **result, "reached": {quantity: reached(result, quantity) for quantity in TARGETS}}

    suspects = other(joined(options, keep_suspects=True)[0], SEED)
    content = {
        "seed": options.seed,
        **summary,
        "seeds": [other(usable, seed) for seed in OTHER_SEEDS],
        "suspects": suspects,
    }
    if os.environ.get("ENERGYLENS_DATA"):
        requested = serving_peer.questions()
        answers = aic_predictions(requested, options.aic_python, options.cache)
        content["serving"] = serving_peer.compared(requested, answers)
    return content


def main() -> None:
    """Read, run both tools, fit, and print."""
    parser = argparse.ArgumentParser(description="Latency errors of energylens and AIConfigurator.")
    parser.add_argument("--aic-python", type=Path, required=True, help="a Python with aiconfigurator==0.12.0")
    parser.add_argument("--cache", type=Path, help="keep AIC's answers in this file")
    parser.add_argument("--csv", type=Path, help="silicon_sample.csv (that of the installed aiconfigurator_core)")
    parser.add_argument("--out", type=Path, help="write every usable row with both predictions, Parquet")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the validation rows ({SEED})")
    parser.add_argument("--with-suspects", action="store_true", help="keep the groups `silicon.suspects` names")
    parser.add_argument("--json", type=Path, help="write the headline tables, other seeds too")
    options = parser.parse_args()
    if options.json and (options.with_suspects or options.seed != SEED):
        parser.error("--json writes the tables of the default seed and groups")
    usable, every = joined(options, options.with_suspects)
    rows, constants = predicted(split(usable, options.seed))
    if options.out:
        rows.write_parquet(options.out)
    print(report(rows, constants, every))
    if options.json:
        content = whole(options, headline(rows, constants, every), usable)
        summary = rounded(content, lambda value: round(value, 2))
        options.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
