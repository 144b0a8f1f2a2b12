"""Measured watts of vLLM's custom all-reduce on B200 against fits from which one number of GPUs was left out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens.calibrate.power import collective, meter
from energylens.calibrate.power.kernel_power import count, data_folder, read

TABLE = "kernel_power_allreduce.parquet"
SIZES = (2, 4, 8)


def measure() -> dict[str, Any]:
    """Return fits and errors (%) with all rows, and with each number of GPUs left out, and the left-out rows."""
    folder = data_folder()
    everything = collective.fit(folder)
    result: dict[str, Any] = {"all": _coefficients(everything) | {"errors": everything["errors"]}, "left_out": {}}
    points = []
    for size in SIZES:
        with tempfile.TemporaryDirectory() as name:
            table = pl.read_parquet(folder / TABLE)
            table.filter(pl.col("num_gpus") != size).write_parquet(Path(name) / TABLE)
            fit = collective.fit(Path(name))
        rows = _predict(folder, size, fit)
        errors = {"rows": rows.height, "bias": float(np.mean(_errors(rows, "predicted_w")))}
        for name, part in (("", rows), ("_from_1_ms", rows.filter(pl.col("us") >= 1000))):
            errors[f"mape{name}"] = float(np.mean(np.abs(_errors(part, "predicted_w"))))
        errors["worst"] = float(np.max(np.abs(_errors(rows, "predicted_w"))))
        errors["mape_without_meter"] = float(np.mean(np.abs(_errors(rows, "steady_w"))))
        result["left_out"][str(size)] = _coefficients(fit) | {name: round(value, 2) for name, value in errors.items()}
        points.append(rows)
    result["points"] = pl.concat(points).with_columns(pl.col(pl.Float64).round_sig_figs(4)).to_dict(as_series=False)
    result["mape"] = round(float(np.mean(np.abs(_errors(pl.concat(points), "predicted_w")))), 2)
    return result


def _errors(rows: pl.DataFrame, column: str) -> NDArray[np.float64]:
    """Return errors of predicted watts (%)."""
    errors: NDArray[np.float64] = 100 * (rows[column].to_numpy() / rows["watts"].to_numpy() - 1)
    return errors


def _coefficients(fit: dict[str, Any]) -> dict[str, Any]:
    return {name: fit[name] for name in ("static_w", "active_w", "link_j_per_byte", "link_range", "memory")}


def _predict(folder: Path, size: int, fit: dict[str, Any]) -> pl.DataFrame:
    """Return the rows of one number of GPUs with what a fit says the meter shows, and what the GPU draws."""
    raw = read(folder, "allreduce")
    rows = count(raw, "allreduce").with_columns(gpus=raw["num_gpus"]).sort("kernel", "gpus", "link").filter(gpus=size)
    seconds = rows["seconds"].to_numpy()
    key = rows["kernel"].to_numpy()
    starts = np.r_[True, key[1:] != key[:-1]]
    steady = fit["static_w"] + fit["active_w"] + fit["link_j_per_byte"] * rows["link"].to_numpy() / seconds
    shown = meter.smear(steady, np.array(fit["memory"])[meter.bucket(seconds)], starts)
    rows = rows.with_columns(predicted_w=shown, steady_w=steady)
    rows = rows.filter((pl.col("watts") > 0) & (pl.col("seconds") >= collective.MIN_SECONDS))
    return rows.select("gpus", "kernel", message_bytes="link", us=pl.col("seconds") * 1e6, watts="watts",
                       predicted_w="predicted_w", steady_w="steady_w")  # fmt: skip
