"""Fits to runs of one's own cluster: the serving layer of a profile, or a closed form of few coefficients."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from energylens.calibrate.engines.features import Column
from energylens.calibrate.engines.features import runs as features
from energylens.calibrate.engines.fit import Layer
from energylens.calibrate.engines.fit import fit as fit_layer
from energylens.calibrate.engines.leave_one_out import CAUSES, COVERED
from energylens.calibrate.engines.runs import check_numbers, read_table
from energylens.calibrate.profile_file import ProfileFile, significant
from energylens.common.accuracy import Errors, errors, errors_text
from energylens.common.errors import EnergylensError, Problem, did_you_mean
from energylens.common.format import table
from energylens.inputs.bundled import bundled
from energylens.inputs.columns import Words, convert
from energylens.inputs.gpu import Host
from energylens.inputs.library import load_gpu, load_model, profile_path
from energylens.inputs.plan import LoadedGpu
from energylens.serving.fixed_concurrency import Z_80, steady_state

FEWEST: Final = 50
FEWEST_DISTINCT: Final = 12
FOLDS: Final = 5
MOST_PERCENT: Final = 40.0
"""Median error in the fit beyond which it is refused: some column is not what it is taken for."""
QUANTITIES: Final = ("itl_s", "output_tokens_per_s", "power_w_per_gpu", "energy_per_output_token_j")

REPORT_COLUMNS: Final = """\
model                 a bundled model or a path to a spec
batch                 mean running requests
input_tokens          mean prompt
output_tokens         mean output
itl_ms                median inter-token latency
output_tokens_per_s   of all GPUs
power_w_per_gpu       mean
tp, pp, dp, ep        parallelism (1 where left out)
weight_dtype          the spec's own where left out"""

_RANGES: Final = {
    "batch": (0.5, 1e5),
    "input_tokens": (1, 1e7),
    "output_tokens": (1, 1e7),
    "itl_ms": (0.1, 1e5),
    "output_tokens_per_s": (0.1, 1e7),
    "power_w_per_gpu": (20, 2500),
}
_OPTIONAL: Final = {"tp": 1, "pp": 1, "dp": 1, "ep": 1}
_MOST_CONDITION: Final = 1e4
_BY_CAUSE: Final = 0.06
"""About what the deviations of causes make of a step's joules together."""

STEP: Final = ("1", "1/g", "B/g", "B·L/g", "tp-1", "pp-1")
JOULES: Final = ("g·step", "1", "B", "B·L", "B·(tp-1)")
"""Terms of a step's seconds and joules: g GPUs, B requests, L mean context, 11 coefficients in all."""


@dataclass(frozen=True)
class Fitted:
    """What a fit to one's own runs gives."""

    form: str
    rows: int
    coefficients: dict[str, float]
    seen: dict[str, Errors]
    left_out: dict[str, Errors]
    how_left_out: str
    profile: tuple[ProfileFile, LoadedGpu] | None = None
    notes: list[str] = field(default_factory=list)
    common: float = 0.0
    most_batch: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "form": self.form,
            "rows": self.rows,
            "coefficients": self.coefficients,
            "in_sample": {name: error.as_dict() for name, error in self.seen.items()},
            "left_out": {name: error.as_dict() for name, error in self.left_out.items()},
            "left_out_by": self.how_left_out,
            "notes": self.notes,
        }

    def text(self) -> str:
        """Return coefficients and errors as tables."""
        shown = [[name, f"{value:.3g}"] for name, value in self.coefficients.items()]
        lines = [[name, errors_text(self.seen[name]), errors_text(self.left_out[name])] for name in self.seen]
        parts = [
            f"{self.rows} runs, form `{self.form}`",
            table(["coefficient", "value"], shown),
            "Errors in %: mean of the absolute error / median / 90th percentile (bias)",
            table(["quantity", "in sample", f"left out by {self.how_left_out}"], lines),
            *self.notes,
        ]
        return "\n\n".join(parts)

    def write(self, path: Path) -> None:
        """Write the profile, or the coefficients as JSON."""
        from energylens.common.parquet_file import write_file

        if self.profile is None:
            write_file(path, (json.dumps(self.as_dict(), indent=2) + "\n").encode())
            return
        file, gpu = self.profile
        spec = gpu.spec
        assert spec.host is not None and spec.energy is not None
        source = f"fitted to {self.rows} runs of one's own"
        fit = {
            name: {"data": f"left out by {self.how_left_out}", "rows": e.rows,
                   "mape_percent": significant(e.mape_percent),
                   "median_percent": significant(e.median_percent), "bias_percent": significant(e.bias_percent)}
            for name, e in self.left_out.items()
        }  # fmt: skip
        file.replace(
            host=spec.host.model_dump(exclude_none=True, exclude={"source", "fit", "task_input_tokens"})
            | {"source": source, "fit": fit},
            energy=spec.energy.model_dump(exclude_none=True, exclude={"source", "fit", "prior"})
            | {"source": f"{source}, from: {spec.energy.source}", "prior": _before(file)},
            uncertainty={**CAUSES, "common": significant(self.common, 2), "routed": 0.0, "narrow": 0.0}
            | {
                "source": f"{source}: 80 % intervals hold {100 * COVERED:.0f} % of runs left out by {self.how_left_out}"
            },
            range={"batch": self.most_batch, "context_tokens": 16384.0, "gpus": 8.0, "source": source},
        )
        file.rename(path.stem)
        file.write(path)


def _before(file: ProfileFile) -> dict[str, Any]:
    """Return the prices of a profile as they were before any fit to serving runs."""
    energy = file.loaded().spec.energy
    assert energy is not None
    return energy.prior or energy.model_dump(exclude_none=True, exclude={"fit", "prior"})


def fit_file(path: Path, gpu: str, form: str) -> Fitted:
    """Fit a form (`layer` or `closed`) to a file of runs; raise `EnergylensError` with every problem of the file."""
    if form not in {"layer", "closed"}:
        raise EnergylensError(
            Problem(
                f"unknown form `{form}`", hint=did_you_mean(form, ["layer", "closed"]) or "layer or closed", code="form"
            )
        )
    if "@" in gpu:
        hint = f"start from `{gpu.partition('@')[0]}`; the fit says how much slower or faster your framework is"
        raise EnergylensError(Problem("a fit starts from the profile's own framework", hint=hint, code="options"))
    rows = read_runs(path)
    return _layer(rows, gpu) if form == "layer" else _closed(rows)


def read_runs(path: Path) -> pl.DataFrame:
    """Return the runs of a file, checked, in SI; raise `EnergylensError`."""
    frame = read_table(path)
    if "model" not in frame.columns:
        hint = did_you_mean("model", frame.columns) or "`energylens calibrate mine FILE --columns` lists the columns"
        raise EnergylensError(Problem(f"`{path}` has no column `model`", hint=hint, code="missing-column"))
    ranges = dict(_RANGES) | {name: (1, 1024) for name in _OPTIONAL if name in frame.columns}
    check_numbers(frame, ranges, str(path))
    for name in (name for name in ("model", "weight_dtype", "kv_dtype") if name in frame.columns):
        column, faults = convert(frame[name], Words(null=name != "model"))
        if faults:
            raise EnergylensError(faults)
        frame = frame.with_columns(column)
    if frame.height < FEWEST:
        message = f"`{path}` has {frame.height} run{'s' * (frame.height != 1)}; a fit needs {FEWEST}"
        raise EnergylensError(Problem(message, hint="measure more batch sizes and lengths", code="too-few-runs"))
    frame = frame.with_columns(
        pl.lit(value).alias(name) for name, value in _OPTIONAL.items() if name not in frame.columns
    )
    distinct = frame.select(*_OPTIONAL, "model", "batch", "input_tokens", "output_tokens").n_unique()
    if distinct < FEWEST_DISTINCT:
        message = f"`{path}` has {distinct} different configurations; a fit needs {FEWEST_DISTINCT}"
        raise EnergylensError(Problem(message, hint="vary batch, lengths and parallelism", code="too-few-runs"))
    for name in ("weight_dtype", "kv_dtype"):
        if name not in frame.columns:
            frame = frame.with_columns(pl.lit(None, dtype=pl.String).alias(name))
    names = {model_name: _name(model_name) for model_name in frame["model"].unique()}
    gpus = pl.col("tp") * pl.col("pp") * pl.col("dp")
    frame = frame.with_columns(
        pl.col("model").replace_strict(names), gpus.alias("gpus"), (pl.col("itl_ms") / 1e3).alias("itl_s")
    )
    joules = pl.col("power_w_per_gpu") * pl.col("gpus") / pl.col("output_tokens_per_s")
    faster = frame.filter(pl.col("output_tokens_per_s") > 1.3 * pl.col("batch") / pl.col("itl_s"))
    if faster.height > frame.height // 2:
        message = f"`{path}`: tokens/s exceed batch over ITL in {faster.height} of {frame.height} runs"
        hint = "output_tokens_per_s is that of all GPUs, itl_ms is in milliseconds: is a unit or a column swapped?"
        raise EnergylensError(Problem(message, hint=hint, code="column-value"))
    return frame.with_columns(joules.alias("energy_per_output_token_j"))


def _name(name: str) -> str:
    """Return the name of a bundled model in its own spelling; a spec elsewhere goes by its path."""
    load_model(name)
    return name.lower() if name.lower() in bundled("models") else name


def _refuse_bad(seen: dict[str, Errors]) -> None:
    worst = max(seen, key=lambda name: seen[name].median_percent)
    if seen[worst].median_percent > MOST_PERCENT:
        message = f"even in the fit, half of the runs miss `{worst}` by more than {seen[worst].median_percent:.0f} %"
        hint = "is a model, a unit or a column another than it says (output_tokens_per_s is of all GPUs)?"
        raise EnergylensError(Problem(message, hint=hint, code="bad-fit"))


def _folds(rows: pl.DataFrame) -> tuple[str, Column]:
    models = rows["model"].unique().sort().to_list()
    if len(models) >= 3:
        return "model", np.array([models.index(name) for name in rows["model"]], dtype=float)
    return f"{FOLDS} folds", (np.random.default_rng(1).permutation(rows.height) % FOLDS).astype(float)


def _errors(rows: pl.DataFrame, predicted: dict[str, Column]) -> dict[str, Errors]:
    return {name: errors(predicted[name], rows[name].to_numpy()) for name in QUANTITIES}


def _layer(rows: pl.DataFrame, gpu: str) -> Fitted:
    if (rows["pp"] > 1).any():
        raise EnergylensError(
            Problem(
                "the serving layer is fitted to runs without pipeline stages", hint="use --form closed", code="form"
            )
        )
    loaded = load_gpu(gpu)
    spec = loaded.spec
    start = LoadedGpu(
        spec.model_copy(update={"name": "mine", "host": Host(host_s=1e-3, source="none")}), loaded.document
    )
    if start.spec.energy is None:
        raise EnergylensError(
            Problem(
                f"`{gpu}` has no `energy` section to start from",
                hint="copy that of the bundled GPU nearest to it into the file: `energylens gpus` lists them",
                code="form",
            )
        )
    rows = rows.with_columns(pl.lit("mine").alias("gpu"))
    columns = features(rows, start)
    known = {"chat_input_tokens": 0.0}
    layer = fit_layer(columns, start, "lent", known)

    def predict(part: pl.DataFrame, fitted: Layer) -> dict[str, Column]:
        points = part.select(
            "model", "gpu", "weight_dtype", "kv_dtype", "tp", "pp", "dp", "ep", "batch", "input_tokens", "output_tokens"
        )
        predicted = steady_state(points, gpus=[fitted.applied(start)])
        return {name: predicted[name].to_numpy() for name in QUANTITIES}

    how, fold = _folds(rows)
    out = {name: np.zeros(rows.height) for name in QUANTITIES}
    for number in np.unique(fold):
        held = fold == number
        fitted = fit_layer(columns.take(~held), start, "lent", known)
        for name, values in predict(rows.filter(pl.Series(held)), fitted).items():
            out[name][held] = values
    times = {name: value for name, value in layer.time.items() if name != "chat_input_tokens"}
    coefficients = times | {f"{name} (factor)": significant(value) for name, value in layer.price.items()}
    applied = layer.applied(start)
    named = LoadedGpu(applied.spec.model_copy(update={"name": spec.name}), loaded.document)
    profile = (ProfileFile(profile_path(gpu)), named)
    _refuse_bad(_errors(rows, predict(rows, layer)))
    ratio = out["energy_per_output_token_j"] / rows["energy_per_output_token_j"].to_numpy()
    needed = (np.maximum(ratio, 1 / ratio) - 1) / Z_80
    common = float(np.sqrt(np.maximum(0.0, np.quantile(needed, COVERED) ** 2 - _BY_CAUSE**2)))
    errors_seen, errors_out = _errors(rows, predict(rows, layer)), _errors(rows, out)
    most = float(np.ceil(rows["batch"].cast(pl.Float64).to_numpy().max()))
    return Fitted("layer", rows.height, coefficients, errors_seen, errors_out, how, profile, [], common, most)


def _terms(rows: pl.DataFrame) -> tuple[Column, Column]:
    tp, pp, gpus, batch, inputs, outputs = (
        rows[name].cast(pl.Float64).to_numpy()
        for name in ("tp", "pp", "gpus", "batch", "input_tokens", "output_tokens")
    )
    length = inputs + outputs / 2
    ones = np.ones_like(batch)
    step = np.stack([ones, ones / gpus, batch / gpus, batch * length / gpus, tp - 1, pp - 1], axis=1)
    joules = np.stack([gpus, ones, batch, batch * length, batch * (tp - 1)], axis=1)
    return step, joules


def _solve(columns: Column, target: Column, names: tuple[str, ...], notes: list[str]) -> Column:
    """Return non-negative coefficients of least relative error; raise `EnergylensError` if runs cannot tell them."""
    from scipy.optimize import nnls

    relative = columns / target[:, None]
    scale = np.linalg.norm(relative, axis=0)
    used = scale > 0
    scaled = relative[:, used] / scale[used]
    condition = float(np.linalg.cond(scaled))
    if condition > _MOST_CONDITION:
        weakest = np.linalg.svd(scaled)[2][-1]
        mixed = [name for name, part in zip(np.array(names)[used], weakest, strict=True) if abs(part) > 0.3]
        message = f"the runs cannot tell the terms {', '.join(mixed)} apart (condition number {condition:.1e})"
        hint = "vary batch, lengths and parallelism independently of each other"
        raise EnergylensError(Problem(message, hint=hint, code="rank"))
    for name in np.array(names)[~used]:
        note = f"The runs never vary `{name}`: its coefficient is 0."
        if note not in notes:
            notes.append(note)
    values = np.zeros(len(names))
    values[used] = nnls(scaled, np.ones(len(target)))[0] / scale[used]
    return values


def _closed(rows: pl.DataFrame) -> Fitted:
    if rows["model"].n_unique() > 1:
        message = f"the closed form is of one model; the file has {rows['model'].n_unique()}"
        raise EnergylensError(
            Problem(message, hint="fit each model's runs by themselves, or use --form layer", code="form")
        )
    notes: list[str] = []
    step_terms, joule_terms = _terms(rows)
    batch, gpus = (rows[name].cast(pl.Float64).to_numpy() for name in ("batch", "gpus"))
    step_s = batch / rows["output_tokens_per_s"].to_numpy()
    joules = rows["energy_per_output_token_j"].to_numpy() * batch
    ratio = rows["itl_s"].to_numpy() / step_s

    def fit(keep: Column) -> tuple[Column, Column, float]:
        seconds = _solve(step_terms[keep], step_s[keep], STEP, notes)
        watts = joule_terms.copy()
        watts[:, 0] *= step_terms @ seconds
        return seconds, _solve(watts[keep], joules[keep], JOULES, notes), float(np.median(ratio[keep]))

    def predict(seconds: Column, prices: Column, itl_share: float) -> dict[str, Column]:
        step = step_terms @ seconds
        terms = joule_terms.copy()
        terms[:, 0] *= step
        energy = terms @ prices
        return {
            "itl_s": itl_share * step,
            "output_tokens_per_s": batch / step,
            "power_w_per_gpu": energy / step / gpus,
            "energy_per_output_token_j": energy / batch,
        }

    every = np.ones(rows.height, dtype=bool)
    seconds, prices, share = fit(every)
    how, fold = _folds(rows)
    out = {name: np.zeros(rows.height) for name in QUANTITIES}
    for number in np.unique(fold):
        for name, values in predict(*fit(fold != number)).items():
            out[name][fold == number] = values[fold == number]
    coefficients = {f"step_s: {name}": significant(float(value)) for name, value in zip(STEP, seconds, strict=True)}
    coefficients |= {f"step_j: {name}": significant(float(value)) for name, value in zip(JOULES, prices, strict=True)}
    coefficients["itl over step"] = significant(share)
    return Fitted(
        "closed",
        rows.height,
        coefficients,
        _errors(rows, predict(seconds, prices, share)),
        _errors(rows, out),
        how,
        None,
        notes,
    )
