"""Measured serving runs: the table, checked, and what each column has to be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import polars as pl

from energylens.common import tables
from energylens.common.errors import EnergylensError, Problem
from energylens.common.files import is_there, printable

TABLE: Final = "serving_energy.parquet"
SOURCE: Final = "ML.ENERGY leaderboard v3 (Apache-2.0): steady-state vLLM 0.11.1 serving on H100 and B200"

MODELS: Final = {
    "Qwen/Qwen3-14B": "qwen3-14b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "qwen3-30b-a3b",
    "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8": "qwen3-235b-a22b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "meta-llama/Llama-3.1-70B-Instruct": "llama-3.1-70b",
    "meta-llama/Llama-3.1-405B-Instruct-FP8": "llama-3.1-405b",
    "openai/gpt-oss-20b": "gpt-oss-20b",
}
GPUS: Final = {"H100": "h100-sxm", "B200": "b200"}
FORMATS: Final = {
    "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8": "fp8_block",
    "meta-llama/Llama-3.1-405B-Instruct-FP8": "fp8",
}
"""Weight formats that differ from the bundled spec's: block-scaled FP8 (Qwen), FP8 by row (Llama)."""

_NUMBERS: Final = {
    "num_gpus": (1, 64),
    "attn_tp": (1, 64),
    "attn_dp": (1, 64),
    "moe_ep": (1, 64),
    "avg_batch_size": (0.5, 1e5),
    "avg_output_len": (1, 1e6),
    "energy_per_token_j": (1e-4, 1e4),
    "avg_power_w_per_gpu": (20, 2000),
    "output_tok_per_s": (1, 1e7),
    "median_itl_ms": (0.1, 1e5),
}
"""Columns and the range any real run lies in: a wrong unit leaves it."""


def data_dir(data_folder: Path | None = None) -> Path:
    """Return the folder of measured data: the one given, else that of `ENERGYLENS_DATA`; raise `EnergylensError`."""
    named = data_folder or os.environ.get("ENERGYLENS_DATA")
    if not named:
        hint = (
            "give --data DIR or set ENERGYLENS_DATA; experiments/002-accuracy/README.md says where the data is public"
        )
        raise EnergylensError(Problem("no folder of measured data is known", hint=hint, code="no-data"))
    folder = Path(named)
    if not folder.is_dir():
        raise EnergylensError(Problem(f"`{folder}` is not a folder", hint="give --data DIR", code="no-data"))
    return folder


def read_table(path: Path) -> pl.DataFrame:
    """Return a Parquet or CSV table; raise `EnergylensError` if it is missing or cannot be read."""
    if not is_there(path):
        hint = "give --data DIR" if path.name == TABLE else "is the path right?"
        raise EnergylensError(Problem(f"there is no `{printable(str(path))}`", hint=hint, code="no-data"))
    kind = "csv" if path.suffix == ".csv" else "parquet"
    return tables.read_table(
        path, "table", kind=kind, error=EnergylensError, hint="it may be truncated: fetch it again"
    )


def _shown(value: object) -> str:
    return "nothing" if value is None else f"{value}"


def check_numbers(frame: pl.DataFrame, ranges: dict[str, tuple[float, float]], file: str) -> None:
    """Raise `EnergylensError` with every column that is missing, not a number, or outside the range of real values."""
    if frame.height == 0:
        raise EnergylensError(Problem(f"`{file}` has no rows", hint="is it the right file?", code="no-rows"))
    problems: list[Problem] = []
    for name, (least, most) in ranges.items():
        if name not in frame.columns:
            problems.append(Problem(f"`{file}` has no column `{name}`", code="missing-column", where=file))
            continue
        column = frame[name]
        if not column.dtype.is_numeric():
            problems.append(
                Problem(f"column `{name}` should hold numbers, found {column.dtype}", code="column-type", where=file)
            )
            continue
        bad = ~column.is_between(least, most).fill_null(False)
        if bad.any():
            row = int(bad.arg_max() or 0)
            message = (
                f"column `{name}` should lie between {least:g} and {most:g}, found {_shown(column[row])} in row {row}"
            )
            hint = f"{int(bad.sum())} of {len(bad)} rows are wrong: is the unit right, are two columns swapped?"
            where = f"{file}:{row + 2}" if file.endswith(".csv") else file
            problems.append(Problem(message, hint=hint, code="column-value", where=where))
    if problems:
        raise EnergylensError(problems)


def serving_runs(folder: Path) -> pl.DataFrame:
    """Return the measured serving runs as points with `model, gpu, tp, dp, ep, batch, output_tokens`, and SI results.

    Measured: `itl_s` (median), `output_tokens_per_s`, `power_w_per_gpu`, `energy_per_output_token_j`; `suspect` marks
    runs whose pace the host set. Raises `EnergylensError` with every problem of the table.
    """
    path = folder / TABLE
    frame = read_table(path)
    check_numbers(frame, _NUMBERS, str(path))
    names = [
        name for name in ("model_id", "gpu_model", "task", "host_bound_suspect", "run_id") if name not in frame.columns
    ]
    if names:
        raise EnergylensError([Problem(f"`{path}` has no column `{name}`", code="missing-column") for name in names])
    wrong = [
        Problem(f"column `{name}` of `{path}` should hold {kind}, found {frame[name].dtype}", code="column-type")
        for name, kind, right in (
            ("model_id", "names", frame["model_id"].dtype == pl.String),
            ("gpu_model", "names", frame["gpu_model"].dtype == pl.String),
            ("task", "names", frame["task"].dtype == pl.String),
            ("host_bound_suspect", "true or false", frame["host_bound_suspect"].dtype == pl.Boolean),
        )
        if not right
    ]
    if wrong:
        raise EnergylensError(wrong)
    if not frame["gpu_model"].is_in(list(GPUS)).any():
        hint = f"known are {', '.join(GPUS)}"
        raise EnergylensError(Problem(f"`{path}` has no run of a known GPU", hint=hint, code="no-data"))
    checks = {
        "attn_tp times attn_dp is not num_gpus": pl.col("attn_tp") * pl.col("attn_dp") != pl.col("num_gpus"),
        "p90_itl_ms is below median_itl_ms": pl.col("p90_itl_ms") < 0.999 * pl.col("median_itl_ms"),
        "avg_batch_size is above max_num_seqs": pl.col("avg_batch_size") > pl.col("max_num_seqs") + 0.5,
    }
    for column, test in checks.items():
        needed = set(test.meta.root_names())
        if needed <= set(frame.columns) and (wrong_rows := int(frame.select(test.sum()).item())):
            hint = "are two columns swapped?"
            raise EnergylensError(Problem(f"`{path}`: {column} in {wrong_rows} rows", hint=hint, code="column-value"))
    identity = pl.col("energy_per_token_j") * pl.col("output_tok_per_s")
    off = (identity / (pl.col("avg_power_w_per_gpu") * pl.col("num_gpus")) - 1).abs()
    worst = frame.select(off.max()).item()
    if worst > 0.05:
        message = f"`{path}`: J/token times tokens/s is off watts times GPUs by {worst:.0%}"
        raise EnergylensError(Problem(message, hint="are two of these columns swapped?", code="column-value"))
    return frame.select(
        "run_id",
        "task",
        pl.col("model_id").replace_strict(MODELS, default=None).alias("model"),
        pl.col("gpu_model").replace_strict(GPUS, default=None).alias("gpu"),
        pl.col("num_gpus").alias("gpus"),
        pl.col("attn_tp").alias("tp"),
        pl.col("attn_dp").alias("dp"),
        pl.col("moe_ep").alias("ep"),
        pl.col("model_id").replace_strict(FORMATS, default=None, return_dtype=pl.String).alias("weight_dtype"),
        pl.col("avg_batch_size").alias("batch"),
        pl.col("avg_output_len").alias("output_tokens"),
        (pl.col("median_itl_ms") / 1e3).alias("itl_s"),
        pl.col("output_tok_per_s").alias("output_tokens_per_s"),
        pl.col("avg_power_w_per_gpu").alias("power_w_per_gpu"),
        pl.col("energy_per_token_j").alias("energy_per_output_token_j"),
        pl.col("host_bound_suspect").alias("suspect"),
    )
