"""What a serving layer is worth: runs predicted with their model in the fit and out of it, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import polars as pl

from energylens import _core
from energylens.calibrate.engines import fit
from energylens.calibrate.engines.features import Column
from energylens.calibrate.engines.features import runs as features
from energylens.calibrate.engines.fit import Layer
from energylens.calibrate.engines.runs import SOURCE
from energylens.calibrate.profile_file import significant
from energylens.common.accuracy import Errors, errors
from energylens.inputs.gpu import Energy, Host
from energylens.inputs.library import load_gpu
from energylens.inputs.plan import LoadedGpu
from energylens.serving.fixed_concurrency import Z_80, steady_state

QUANTITIES: Final = ("itl_s", "output_tokens_per_s", "power_w_per_gpu", "energy_per_output_token_j")
"""What runs are measured by, and predictions judged by."""

CAUSES: Final = {
    "compute": 0.15,
    "hbm_weights": 0.1,
    "hbm_kv": 0.2,
    "hbm_activations": 0.2,
    "communication": 0.3,
    "static": 0.1,
    "waiting": 0.3,
}
"""Relative deviations of joules by cause: about what held-out kernels (times, watts) and collectives miss."""

COVERED: Final = 0.85
"""Share of left-out runs that the fitted intervals hold."""

FIRST: Final = "h100-sxm"
"""The GPU whose runs tell the mean input of the tasks: it has the most."""

_MEASURED_POWER: Final = frozenset({"h200-sxm", "b200"})
_KEYS: Final = ("model", "gpu", "weight_dtype", "tp", "dp", "ep", "batch", "output_tokens", "task")


def serving_rows(rows: pl.DataFrame, gpu: str) -> pl.DataFrame:
    """Return the runs of one GPU that a fit may use: of known models, and not paced by the host."""
    return rows.filter((pl.col("gpu") == gpu) & ~pl.col("suspect") & pl.col("model").is_not_null())


def base(gpu: LoadedGpu) -> LoadedGpu:
    """Return a profile as it was before any serving run was seen."""
    spec = gpu.spec
    assert spec.energy is not None
    prior = spec.energy.prior
    energy = Energy.model_validate(prior) if prior else spec.energy
    host = Host(host_s=1e-3, source="none")
    return LoadedGpu(spec.model_copy(update={"energy": energy, "host": host}), gpu.document)


def known(gpu: LoadedGpu) -> dict[str, float]:
    """Return what other GPUs' runs tell: the same requests ran on all, so their mean input is fitted once."""
    if gpu.spec.name == FIRST:
        return {}
    host = load_gpu(FIRST).spec.host
    tokens = (host.task_input_tokens if host else None) or {}
    return {"chat_input_tokens": tokens["lm-arena-chat"]} if "lm-arena-chat" in tokens else {}


def freedom(gpu: LoadedGpu) -> str:
    """Return how freely prices of a GPU may move: `measured` where its own kernel power was fitted, else `lent`."""
    return "measured" if gpu.spec.name in _MEASURED_POWER else "lent"


def predict(rows: pl.DataFrame, gpu: LoadedGpu) -> pl.DataFrame:
    """Return the steady state of each run under a profile, whose host knows each task's input length."""
    host = gpu.spec.host
    tokens = (host.task_input_tokens if host else None) or {}
    inputs = pl.col("task").replace_strict(tokens, default=fit.OTHER_INPUT_TOKENS, return_dtype=pl.Float64)
    keys = [name for name in (*_KEYS, "routing") if name in rows.columns]
    return steady_state(rows.select(keys).with_columns(inputs.alias("input_tokens")), gpus=[gpu])


@dataclass(frozen=True)
class Account:
    """Runs of one GPU, the layer fitted to them, and those fitted without one model each."""

    rows: pl.DataFrame
    start: LoadedGpu
    layer: Layer
    without: dict[str, Layer]

    @classmethod
    def of(cls, rows: pl.DataFrame, gpu: LoadedGpu) -> Account:
        """Fit; raises `EnergylensError` for too few runs."""
        start = base(gpu)
        columns = features(rows, start)
        arguments = (columns, start, freedom(start), known(start))
        return cls(rows, start, fit.fit(*arguments), fit.left_out(*arguments))

    @cached_property
    def fitted(self) -> pl.DataFrame:
        """Predictions with every model in the fit."""
        return predict(self.rows, self.layer.applied(self.start))

    @cached_property
    def left_out(self) -> pl.DataFrame:
        """Predictions of each model's runs by the layer fitted without it, in the order of the runs."""
        parts = []
        numbered = self.rows.with_row_index("_row")
        for model, layer in self.without.items():
            model_rows = numbered.filter(pl.col("model") == model)
            parts.append(model_rows.select("_row").hstack(predict(model_rows, layer.applied(self.start))))
        return pl.concat(parts).sort("_row").drop("_row")

    def errors(self, predicted: pl.DataFrame, where: Sequence[bool] | pl.Series | None = None) -> dict[str, Errors]:
        """Return the error of each quantity over the runs, or some of them."""
        keep = pl.Series(where) if where is not None else pl.repeat(True, self.rows.height, eager=True)
        return {
            name: errors(predicted[name].filter(keep).to_numpy(), self.rows[name].filter(keep).to_numpy())
            for name in QUANTITIES
        }

    @cached_property
    def deviations(self) -> dict[str, float]:
        """Relative deviations whose 80 % intervals hold `COVERED` of the left-out runs."""
        return deviations(self._needed(), self._kinds())

    @cached_property
    def coverage(self) -> float:
        """Share of runs in their interval, its deviations taken from the other models' left-out runs (percent)."""
        needed, kinds = self._needed(), self._kinds()
        names = self.rows["model"].to_numpy()
        inside = np.zeros(len(names), dtype=bool)
        for model in np.unique(names):
            others = names != model
            uncertainty = deviations(
                {k: v[others] for k, v in needed.items()}, {k: v[others] for k, v in kinds.items()}
            )
            inside |= ~others & (needed["whole"] <= relative(uncertainty, needed, kinds))
        return float(100.0 * inside.mean())

    def _kinds(self) -> dict[str, Column]:
        narrow = self.rows["weight_dtype"].is_in(["fp8", "fp8_block", "nvfp4", "mxfp4"]).fill_null(False)
        mxfp4 = self.rows["model"].str.starts_with("gpt-oss")
        routed = self.rows["model"].str.contains("-a[0-9]+b") | mxfp4
        return {"narrow": (narrow | mxfp4).cast(pl.Float64).to_numpy(), "routed": routed.cast(pl.Float64).to_numpy()}

    def _needed(self) -> dict[str, Column]:
        """Return the deviation each left-out run would have needed, and what its causes give by themselves."""
        ratio = (
            self.left_out["energy_per_output_token_j"].to_numpy() / self.rows["energy_per_output_token_j"].to_numpy()
        )
        whole = np.maximum(ratio, 1.0 / ratio) - 1.0
        shares = np.stack([self.left_out[f"share_{cause}"].to_numpy() for cause in _core.CAUSES])
        by_cause = np.array([[CAUSES[cause]] for cause in _core.CAUSES])
        return {"whole": whole / Z_80, "causes": np.sqrt(((shares * by_cause) ** 2).sum(axis=0))}

    def sections(self) -> dict[str, Any]:
        """Return `host`, `energy`, `uncertainty` and `range` of the profile."""
        applied = self.layer.applied(self.start).spec
        start_energy, energy, host = self.start.spec.energy, applied.energy, applied.host
        assert energy is not None and start_energy is not None and host is not None
        prior = start_energy.model_dump(exclude_none=True, exclude={"fit", "prior"})
        fit = {name: _fit(self.errors(self.fitted)[name], self.errors(self.left_out)[name]) for name in QUANTITIES}
        source = f"fitted to {self.rows.height} runs of {SOURCE}"
        return {
            "host": host.model_dump(exclude_none=True, exclude={"source", "fit"}) | {"source": source, "fit": fit},
            "energy": energy.model_dump(exclude_none=True, exclude={"source", "fit", "prior"})
            | {"source": f"{source}, from those of `prior`", "prior": prior},
            "uncertainty": {name: significant(value, 2) for name, value in self.deviations.items()}
            | {"source": f"80 % intervals hold {100 * COVERED:.0f} % of left-out runs; {SOURCE}"},
            "range": {
                "batch": float(np.ceil(float(self.rows["batch"].max() or 1.0))),  # type: ignore[arg-type]
                "context_tokens": 16384.0,
                "gpus": 8.0,
                "source": "the largest batch of the serving runs; decode attention and collectives as measured",
            },
        }


def _fit(seen: Errors, left_out: Errors) -> dict[str, Any]:
    return {
        "data": "serving runs; mean, median and 90th percentile of runs whose model was left out",
        "rows": left_out.rows,
        "mape_percent": significant(left_out.mape_percent),
        "median_percent": significant(left_out.median_percent),
        "p90_percent": significant(left_out.p90_percent),
        "bias_percent": significant(left_out.bias_percent),
        "notes": f"with every model in the fit: mean {seen.mape_percent:.1f} %, median {seen.median_percent:.1f} %",
    }


def relative(uncertainty: dict[str, float], needed: dict[str, Column], kinds: dict[str, Column]) -> Column:
    """Return relative deviations of the runs' energy: √(causes² + common² + routed² + narrow²)."""
    whole = (
        uncertainty["common"] ** 2
        + (uncertainty["routed"] * kinds["routed"]) ** 2
        + (uncertainty["narrow"] * kinds["narrow"]) ** 2
    )
    deviation: Column = np.sqrt(needed["causes"] ** 2 + whole)
    return deviation


def deviations(needed: dict[str, Column], kinds: dict[str, Column]) -> dict[str, float]:
    """Return the least deviations that let so many runs be in their interval: of all models, then of each kind."""
    uncertainty = dict(CAUSES) | {"common": 0.0, "routed": 0.0, "narrow": 0.0}
    routed, narrow = kinds["routed"] > 0, kinds["narrow"] > 0
    plain = ~routed & ~narrow
    for name, rows in (("common", plain), ("routed", routed & ~narrow), ("narrow", narrow)):
        if rows.any():
            have = relative(uncertainty, needed, kinds)
            missing = np.sqrt(np.maximum(0.0, needed["whole"] ** 2 - have**2))[rows]
            uncertainty[name] = float(np.quantile(missing, COVERED, method="higher"))
    return uncertainty
