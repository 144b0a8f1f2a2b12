"""Deployments name their models and GPUs as a person does: bundled names in any spelling, paths, loaded specs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from energylens.common.errors import FrameError, Problem
from energylens.inputs import library
from energylens.inputs.builder import Model
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.plan import LoadedGpu, LoadedModel, distinct

Models = Sequence[str | Path | Model | LoadedModel]
Gpus = Sequence[str | Path | LoadedGpu]


def resolved(
    points: pl.DataFrame, models: Models, gpus: Gpus
) -> tuple[pl.DataFrame, list[LoadedModel], list[LoadedGpu]]:
    """Return deployments with the names that their specs have, and those specs; raise `SpecError` or `FrameError`.

    A name is that of one of `models` or `gpus`, else that of a bundled spec in any spelling, or a path.
    """
    known: dict[str, dict[str, Any]] = {
        "model": {loaded.spec.name: loaded for loaded in distinct([load_model(model) for model in models], "model")},
        "GPU": {loaded.spec.name: loaded for loaded in distinct([load_gpu(gpu) for gpu in gpus], "GPU")},
    }
    load: dict[str, Callable[[str], Any]] = {"model": load_model, "GPU": load_gpu}
    for column, what in (("model", "model"), ("draft", "model"), ("gpu", "GPU")):
        if column in points.columns and points[column].dtype == pl.String:
            names = points[column].drop_nulls().unique(maintain_order=True).to_list()
            loaded, spec_names = library.resolved(names, known[what], load[what], what)
            known[what] = {item.spec.name: item for item in distinct([*known[what].values(), *loaded], what)}
            if any(name != spec for name, spec in spec_names.items()):
                points = points.with_columns(pl.col(column).replace(spec_names))
    return points, list(known["model"].values()), list(known["GPU"].values())


def single_deployment(deployment: Mapping[str, Any], models: Models, gpus: Gpus) -> tuple[pl.DataFrame, Models, Gpus]:
    """Return a deployment as a frame of one row, and the further specs with those that it holds in place of names."""
    if not isinstance(deployment, Mapping):
        fault = f"a deployment is a mapping of columns to values, not a {type(deployment).__name__}"
        raise FrameError(Problem(fault, hint='write {"model": "llama-3.1-8b", "gpu": "h100-sxm"}', code="frame"))
    row = {name: value.item() if isinstance(value, np.generic) else value for name, value in deployment.items()}
    more_models, more_gpus = list(models), list(gpus)
    for name in ("model", "draft", "gpu"):
        value = row.get(name)
        if value is None or isinstance(value, str):
            continue
        loaded: Any = load_gpu(value) if name == "gpu" else load_model(value)
        (more_gpus if name == "gpu" else more_models).append(loaded)
        row[name] = loaded.spec.name
    problems = [
        Problem(f"`{name}` of a deployment is one value, found {str(value)[:60]}", code="column-type")
        for name, value in row.items()
        if not (value is None or isinstance(value, (str, float)) or (isinstance(value, int) and abs(value) < 2**63))
    ]
    if problems:
        raise FrameError(problems)
    return pl.DataFrame([row], infer_schema_length=1), more_models, more_gpus
