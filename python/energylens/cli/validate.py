"""`energylens validate`."""

from __future__ import annotations

import io
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from energylens.cli import axes
from energylens.cli.app import app, emit
from energylens.cli.command import OUT, Parameter
from energylens.cli.options import Json, check_out
from energylens.common.errors import EnergylensError, Problem
from energylens.common.format import table

_CUTS = ("model", "kind", "format", "gpus", "batch_band")
_SHOWN = {
    "itl_s": "ITL",
    "output_tokens_per_s": "tokens/s",
    "power_w_per_gpu": "W/GPU",
    "energy_per_output_token_j": "J/token",
}


@app.command
def validate(
    runs: Annotated[
        Path | None, Parameter(help="File of `energylens measure`: compare profiles with its transformer instead.")
    ] = None,
    /,
    *,
    data: Annotated[Path | None, Parameter(help="Folder of measured data; ENERGYLENS_DATA if not given.")] = None,
    gpu: Annotated[
        str | None, Parameter(help="Only these GPUs, separated by commas; with a file the profiles to compare.")
    ] = None,
    plots: Annotated[Path | None, Parameter(help="Also draw the errors into this folder (extra `report`).")] = None,
    out: Annotated[Path | None, Parameter(name=OUT, help="Also write every run as Parquet.")] = None,
    json: Json = False,
) -> None:
    """Compare the bundled profiles with measured serving runs: errors, ranks, choices, intervals.

    Each run is predicted twice: with its model among those the serving layer was fitted to, and with it left out.
    With a file of `energylens measure`, profiles are compared with the transformer in it, which no fit sees.

    Example: energylens validate --data measured/ --plots out/
    """
    if runs is not None:
        if data is not None or plots is not None:
            option = "--data" if data is not None else "--plots"
            message = f"{option} and a file of `energylens measure` exclude each other: {option} is of serving runs"
            hint = "leave out the file to compare with serving runs"
            raise EnergylensError(Problem(message, hint=hint, code="options"))
        _end_to_end(runs, gpu, out, json)
        return
    from energylens.calibrate.validate import plots as draw
    from energylens.calibrate.validate import validate as account_of

    check_out(out)
    if plots is not None and plots.exists() and not plots.is_dir():
        raise EnergylensError(Problem(f"`{plots}` is not a folder", hint="give --plots DIR", code="options"))
    account = account_of(data, axes.names(gpu) if gpu else None)
    drawn = draw(account, plots) if plots else []
    if out:
        from energylens.common.parquet_file import write_file

        buffer = io.BytesIO()
        account.runs.write_parquet(buffer)
        write_file(out, buffer.getvalue())
    if json:
        tables = {cut: account.table(cut).to_dicts() for cut in _CUTS}
        emit(
            account.summary()
            | {
                "tables": tables,
                "ranking": account.ranking().fill_nan(None).to_dicts(),
                "excluded": account.excluded.to_dicts(),
            }
        )
        return
    print("Errors in %: mean of the absolute error / median / 90th percentile (bias)")
    for cut in (None, *_CUTS):
        print()
        _errors(account.table(cut), cut)
    print()
    _ranking(account)
    print()
    print(f"{account.excluded.height} runs are in no fit and no table:")
    excluded = account.excluded.group_by(["gpu", "model", "task", "reason"], maintain_order=True).len()
    print(table(["GPU", "model", "task", "runs", "because"], [[r[0], r[1], r[2], r[4], r[3]] for r in excluded.rows()]))
    for path in [*drawn, *([out] if out else [])]:
        print(f"wrote {path}", file=sys.stderr)


def _end_to_end(path: Path, gpu: str | None, out: Path | None, json: bool) -> None:
    from energylens.calibrate.own_gpu.profile import base_of
    from energylens.measurement.end_to_end import end_to_end
    from energylens.measurement.runs import Runs
    from energylens.results.parquet import write_parquet

    check_out(out)
    runs = Runs.read(path)
    comparison = end_to_end(runs, axes.names(gpu) if gpu else [str(base_of(runs, None))])
    if out:
        write_parquet(comparison.rows, out, "")
    if json:
        emit(comparison.as_dict())
        return
    print(comparison.text())
    if out:
        print(f"wrote {out}", file=sys.stderr)


def _errors(errors: Any, cut: str | None) -> None:
    from energylens.common.accuracy import Errors, errors_text

    names_of_errors = [field.name for field in fields(Errors)]
    keys = ["gpu"] if cut is None else ["gpu", cut]
    lines = []
    for values, group in errors.group_by([*keys, "fit"], maintain_order=True):
        *names, fit = values
        cells = {
            row["quantity"]: errors_text(Errors(*(row[name] for name in names_of_errors)))
            for row in group.iter_rows(named=True)
        }
        lines.append([*names, fit.replace("_", " "), group["rows"][0], *(cells[name] for name in _SHOWN)])
    print(
        table(
            [*("GPU" if key == "gpu" else key.replace("_", " ") for key in keys), "fit", "rows", *_SHOWN.values()],
            lines,
        )
    )


def _ranking(account: Any) -> None:
    from energylens.calibrate.validate import LIMITS_MS, TOLERANCE

    summary = account.summary()["by_gpu"]
    lines = [
        [
            gpu,
            fit.replace("_", " "),
            f"{gpu_summary[fit]['spearman_median']:.3f}",
            f"{gpu_summary[fit]['spearman_least']:.3f}",
            f"{gpu_summary[fit]['top1_percent']:.0f} % of {gpu_summary[fit]['choices']}",
            f"{gpu_summary[fit]['top1_strictly_percent']:.0f} %",
            f"{gpu_summary['coverage_percent']:.0f} %" if fit == "left_out" else "",
            f"{gpu_summary['bundled_coverage_percent']:.0f} %" if fit == "left_out" else "",
        ]
        for gpu, gpu_summary in summary.items()
        for fit in ("in_sample", "left_out")
    ]
    limits = ", ".join(f"{limit:g}" for limit in LIMITS_MS)
    print("Within each model and task: rank correlation of J/token; how often the run predicted cheapest under an ITL")
    print(f"limit of {limits} ms is the cheapest, to {TOLERANCE:.0%} in measured cost and ITL (strictly: in")
    print(
        "cost alone); and how many left-out runs lie in an 80 % interval fitted to other models, and in the profile's"
    )
    print(
        table(
            ["GPU", "fit", "Spearman, median", "least", "right choice", "strictly", "in interval", "in the profile's"],
            lines,
        )
    )
