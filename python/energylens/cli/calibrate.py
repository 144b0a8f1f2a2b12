"""`energylens calibrate kernels`, `power`, `serving`, `mine` and `runs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from energylens.cli import axes
from energylens.cli.app import app, emit
from energylens.cli.command import OUT, App, Parameter
from energylens.cli.options import Json
from energylens.cli.output import document
from energylens.common.errors import EnergylensError, Problem

calibrate = App(
    name="calibrate",
    help="Fit GPU profiles to measured kernels, kernel power and serving runs; with a file of `energylens measure` in "
    "place of a command, `calibrate runs`.",
    file_command="runs",
)
app.group(calibrate)

_GPU = "Bundled GPU or a path to a profile; several separated by commas."
_WRITE = "Write the profile here; without it and --write it is printed."
Gpus = Annotated[str, Parameter(help=_GPU)]
Out = Annotated[Path | None, Parameter(name=OUT, help=_WRITE)]
Write = Annotated[bool, Parameter(name="--write", help="Write the profile in its place.")]
Data = Annotated[Path | None, Parameter(help="Folder of measured data; ENERGYLENS_DATA if not given.")]


def _checked_target(out: Path) -> Path:
    from energylens.common.parquet_file import checked_target

    return checked_target(out)


def _each(gpu: str, out: Path | None, write: bool) -> list[Path]:
    from energylens.inputs.library import profile_path

    paths = [profile_path(name) for name in axes.names(gpu)]
    if out is not None and write:
        message = "--out and --write exclude each other: one writes another file, the other the profile in its place"
        raise EnergylensError(Problem(message, hint="leave one of them out", code="options"))
    if out is not None and len(paths) > 1:
        hint = "give one GPU with --out, or --write for profiles in their places"
        raise EnergylensError(Problem(f"--out holds one profile, not {len(paths)}", hint=hint, code="options"))
    if out is not None:
        _checked_target(out)
    return paths


def _done(file: object, out: Path | None, write: bool) -> None:
    from energylens.calibrate.profile_file import ProfileFile

    assert isinstance(file, ProfileFile)
    if out is None and not write:
        file.loaded()
        document(file.text)
        return
    print(f"wrote {file.write(out)}", file=sys.stderr)


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


@calibrate.command
def kernels(
    gpu: Gpus,
    /,
    *,
    tables: Annotated[
        Path | None,
        Parameter(help="Folder of the unpacked aiconfigurator-core wheel; the installed package if not given."),
    ] = None,
    out: Out = None,
    write: Write = False,
) -> None:
    """Fit kernel and collective times to the measured tables of aiconfigurator-core (extra `calibrate`).

    Example: energylens calibrate kernels h100-sxm --out h100-sxm.yaml
    """
    from energylens.calibrate import stages
    from energylens.calibrate.profile_file import ProfileFile

    for path in _each(gpu, out, write):
        file = ProfileFile(path)
        stages.kernels(file, tables, _tell)
        _done(file, out, write)


@calibrate.command
def power(gpu: Gpus, /, *, data: Data = None, out: Out = None, write: Write = False) -> None:
    """Fit joules per FLOP and byte to measured kernel power, or transfer them from a neighbour.

    Example: energylens calibrate power h200-sxm --data measured/ --out h200-sxm.yaml
    """
    from energylens.calibrate import stages
    from energylens.calibrate.engines.runs import data_dir
    from energylens.calibrate.profile_file import ProfileFile

    paths = _each(gpu, out, write)
    folder = data_dir(data)
    for path in paths:
        file = ProfileFile(path)
        stages.power(file, folder, _tell)
        _done(file, out, write)


@calibrate.command
def serving(gpu: Gpus, /, *, data: Data = None, out: Out = None, write: Write = False) -> None:
    """Fit the serving layer to measured serving runs, and the intervals to those of left-out models.

    Example: energylens calibrate serving h100-sxm --data measured/ --out h100-sxm.yaml
    """
    from energylens.calibrate import stages
    from energylens.calibrate.engines.runs import data_dir
    from energylens.calibrate.profile_file import ProfileFile

    paths = _each(gpu, out, write)
    folder = data_dir(data)
    for path in paths:
        file = ProfileFile(path)
        stages.serving(file, folder, _tell)
        _done(file, out, write)


@calibrate.command
def mine(
    runs: Annotated[Path | None, Parameter(help="CSV or Parquet of your runs; `--columns` says what is in it.")] = None,
    /,
    *,
    gpu: Annotated[str, Parameter(help="The profile your GPUs start from.")] = "h100-sxm",
    form: Annotated[
        str, Parameter(help="layer (the serving layer) or closed (a closed form in TP, PP, batch, lengths).")
    ] = "layer",
    columns: Annotated[bool, Parameter(help="Print the columns a file needs, and end.")] = False,
    out: Annotated[
        Path | None,
        Parameter(name=OUT, help="Write the profile (layer) or the coefficients (closed) here."),
    ] = None,
    json: Json = False,
) -> None:
    """Fit to runs of your own cluster, from 50 of them on, with the same account of the error.

    Example: energylens calibrate mine runs.csv --gpu h100-sxm --out my-h100.yaml
    """
    from energylens.calibrate.engines import cluster

    if columns:
        if json:
            emit({"columns": cluster.REPORT_COLUMNS})
        else:
            print(cluster.REPORT_COLUMNS)
        return
    if runs is None:
        hint = "`energylens calibrate mine --columns` says what a file needs"
        raise EnergylensError(Problem("no file of runs is given", hint=hint, code="options"))
    if out is not None:
        _checked_target(out)
        wanted = {"layer": (".yaml", ".yml"), "closed": (".json",)}.get(form, ())
        if wanted and out.suffix not in wanted:
            hint = f"name it {out.stem}{wanted[0]}"
            raise EnergylensError(
                Problem(f"`{out}`: the form `{form}` is written as {wanted[0][1:]}", hint=hint, code="options")
            )
    fit = cluster.fit_file(runs, gpu, form)
    if out is not None:
        fit.write(out)
    if json:
        emit(fit.as_dict())
        return
    print(fit.text())
    if out is not None:
        print(f"wrote {out}", file=sys.stderr)


@calibrate.command
def runs(
    file: Annotated[Path, Parameter(help="Parquet file of `energylens measure`.")],
    /,
    *,
    gpu: Annotated[
        str | None, Parameter(help="The profile to start from, a data sheet perhaps; the bundled one if not given.")
    ] = None,
    parts: Annotated[
        str | None,
        Parameter(help="What to take: kernels,energy,clock,collectives; all that was measured if not given."),
    ] = None,
    out: Annotated[
        Path | None, Parameter(name=OUT, help="Write the profile here, named after the file; printed if not given.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a profile of kernels and joules measured on one's own GPU, merged with what was known of it.

    `energylens calibrate runs.parquet` is the same. With `--parts energy` the measured joules go into a profile whose
    kernels and serving layer stay.

    Example: energylens calibrate runs runs.parquet --out my-gpu.yaml
    """
    from energylens.calibrate.own_gpu import profile

    target = _checked_target(out) if out is not None else None
    if target is not None and target.suffix not in (".yaml", ".yml"):
        problem = Problem(f"`{out}`: a profile is written as yaml", hint=f"name it {target.stem}.yaml", code="options")
        raise EnergylensError(problem)
    calibration = profile.calibrate(file, gpu, axes.names(parts) if parts is not None else None)
    if target is not None:
        calibration.file.rename(target.stem)
        calibration.file.write(target)
    if json:
        emit(calibration.as_dict())
        return
    _tell(calibration.text())
    if target is None:
        document(calibration.file.text)
        return
    print(f"wrote {target}", file=sys.stderr)
