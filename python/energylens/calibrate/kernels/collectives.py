"""Fits of collectives inside a node: `alpha + root sqrt(S) + busfactor S/bandwidth`, in pieces by message size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens import _core
from energylens.calibrate.fitting import rounded, score
from energylens.calibrate.kernels import pieces
from energylens.calibrate.kernels.formulas import Array
from energylens.calibrate.kernels.pieces import MOST
from energylens.calibrate.kernels.tables import ABSENT, Table, check_units, fault, load

OPERATIONS = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "all_to_all": "alltoall",
}
"""Names of the operations in the NCCL tables."""

ELEMENT = 2
"""Bytes of one element of a message."""

WAYS = {"deepep_normal": ("normal", "prefill", "gpu"), "deepep_low_latency": ("ll", "decode", "expert")}
"""Ways of DeepEP: their tables, the phase that SGLang's `--deepep-mode auto` takes them in, what a copy is for."""

SENT = {"dispatch": 1 + 4 / 128, "combine": 2.0}
"""Bytes of an element: FP8 with a scale of 4 bytes for 128 of them, and bf16 back."""

CUSTOM_MOST = 8 * 2**20
"""Bytes up to which the error of a framework's own all-reduce is told; larger messages it mostly leaves to NCCL."""

EXCHANGING = {"gb200": 4, "gb300": 4}
"""GPUs that DeepEP was measured on, where not 8."""

FEWEST = 8
FOLDS = 5
FASTEST = 1e15
"""Bytes/s of a piece whose time does not grow with the bytes."""

Fit = dict[str, object]
Curve = dict[str, float]


def busfactor(operation: str, gpus: int) -> float:
    """Return the share of a message that crosses the link of one GPU."""
    return (2 if operation == "all_reduce" else 1) * (gpus - 1) / gpus


def _curve(values: Array, cut: float | None, factor: float) -> Curve:
    """Return one piece as a profile has it."""
    curve = {
        "alpha_s": rounded(float(values[0])),
        "root_s_per_sqrt_byte": rounded(float(values[1])),
        "bandwidth_bytes_per_s": rounded(min(float(factor / values[2]) if values[2] > 0 else np.inf, FASTEST)),
    }
    return curve if cut is None else curve | {"max_bytes": rounded(cut)}


def fit_curve(size: Array, seconds: Array, factor: float) -> tuple[list[Curve], Array]:
    """Return the pieces of one operation over one number of GPUs, the unlimited one first, and its times at sizes held
    out in turn, in s."""
    fold = np.arange(len(size)) % FOLDS
    predicted = np.empty_like(seconds)
    for part in range(FOLDS):
        training = fold != part
        predicted[~training] = pieces.fit(size[training], seconds[training]).seconds(size[~training])
    fitted = pieces.fit(size, seconds)
    cuts: list[float | None] = [*fitted.cuts, None]
    curves = [_curve(values, cut, factor) for values, cut in zip(fitted.values, cuts, strict=True)]
    return curves[::-1], predicted


def _implementations(
    name: str, rows: pl.DataFrame, operation: str, table: Table, link: float, largest: float
) -> list[Fit]:
    measured: dict[int, tuple[Array, Array]] = {}
    for gpus in sorted(rows["num_gpus"].unique().to_list()):
        part = rows.filter(pl.col("num_gpus") == gpus)
        part = part.group_by("message_size").agg(pl.col("latency").median()).sort("message_size")
        size = part["message_size"].to_numpy().astype(np.float64) * ELEMENT
        seconds = part["latency"].to_numpy().astype(np.float64) * 1e-3
        if len(size) < FEWEST or gpus < 2:
            continue
        if size.max() >= 2**26:
            check_units(seconds, busfactor(operation, gpus) * size / (2.5 * link), table.path)
        measured[gpus] = (size, seconds)
    if not measured:
        raise fault(f"no rows of `{operation}` over two or more GPUs", table.path)
    curves = curves_of(name, measured, partial(busfactor, operation), largest)
    return [curve | {"framework_version": table.version} for curve in curves]


def curves_of(
    name: str, measured: Mapping[int, tuple[Array, Array]], factor: Callable[[int], float], largest: float = np.inf
) -> list[Fit]:
    """Return the pieces of one operation, each with its curves by number of GPUs, and the error of all of them.

    `measured` has sizes (bytes, rising) and seconds by number of GPUs; the error is that of sizes up to `told`, held
    out in turn.
    """
    curves: dict[str, list[Curve]] = {}
    times: list[Array] = []
    for gpus, (size, seconds) in measured.items():
        curves[str(gpus)], predicted = fit_curve(size, seconds, factor(gpus))
        times.append(np.stack([predicted, seconds])[:, size <= largest])
    predicted, seconds = np.concatenate(times, axis=1)
    error: Fit = {"held_out": score(predicted, seconds).as_dict()}
    most = max(len(pieces_of_size) for pieces_of_size in curves.values())
    names = [name, f"{name}-middle", f"{name}-small"] if most == MOST else [name, f"{name}-small"][:most]
    # A number of GPUs with fewer pieces has its unlimited one again, or that of the next larger number would serve.
    return [
        {
            "name": piece_name,
            "by_gpus": {
                size: pieces_of_size[piece] if piece < len(pieces_of_size) else pieces_of_size[0]
                for size, pieces_of_size in curves.items()
            },
            **error,
        }
        for piece, piece_name in enumerate(names)
    ]


def reach(gpus: int, experts: Array, active: Array) -> Array:
    """Return the GPUs of `gpus` that have any of the `active` of `experts` of a token (docs/physics.md, section 7)."""
    return np.array([_core.reach(gpus, *shape) for shape in zip(experts, active, strict=True)])


def _sent(values: Array, bytes_sent: Array, sms: Array) -> Array:
    """Return `alpha + root sqrt(S) + S/bandwidth max(1, n/SMs)` in s, S the bytes that leave the GPU."""
    alpha, root, slope, wanted = np.exp(values)
    seconds: Array = alpha + root * np.sqrt(bytes_sent) + slope * bytes_sent * np.maximum(1.0, wanted / sms)
    return seconds


def fit_exchange(directory: Path, system: str, operation: str) -> list[Fit]:
    """Return DeepEP's curves of one leg inside a node; held-out errors are of hidden sizes and experts left out."""
    return [_exchange_mode(directory, system, operation, name) for name in WAYS]


def _exchange_mode(directory: Path, system: str, operation: str, name: str) -> Fit:
    from scipy.optimize import least_squares

    mode, phase, copies = WAYS[name]
    model = ("hidden_size", "num_topk", "num_experts")
    normal = mode == "normal"
    columns = ("node_num", *model, "num_token", *((f"{operation}_sms",) if normal else ()))
    latency = f"{operation}_transmit_us" if normal else f"{operation}_avg_t_us"
    several = (pl.col("node_num") == 1) & (pl.col("num_topk") > 1)
    table = load(directory, system, "comm", "sglang", f"wideep_deepep_{mode}", columns, where=several, latency=latency)
    keys = [name for name in columns if name != "node_num"]
    rows = table.rows.group_by(keys).agg(pl.col("latency").median()).sort(keys)
    if rows.height < FEWEST:
        raise fault(f"no rows of {name} inside a node", table.path, code=ABSENT)
    tokens, hidden, active, experts = (
        rows[name].to_numpy().astype(np.float64) for name in ("num_token", "hidden_size", "num_topk", "num_experts")
    )
    sms = rows[f"{operation}_sms"].to_numpy().astype(np.float64) if normal else np.full(len(tokens), 1.0)
    gpus = EXCHANGING.get(system, 8)
    factor = busfactor("all_to_all", gpus)
    size = tokens * hidden * SENT[operation] * (reach(gpus, experts, active) if copies == "gpu" else active)
    seconds = 1e-3 * rows["latency"].to_numpy().astype(np.float64)
    which = rows.select(pl.struct(model).rank("dense")).to_series().to_numpy() % FOLDS

    def fitted(keep: NDArray[np.bool_]) -> Array:
        def residuals(values: Array) -> Array:
            errors: Array = np.log(_sent(values, factor * size[keep], sms[keep]) / seconds[keep])
            return errors

        wanted = (np.log(sms.min()), np.log(sms.max()) + 1e-9)
        bounds = ([-np.inf, -60.0, -np.inf, wanted[0]], [0.0, 0.0, 0.0, wanted[1]])
        start = [np.log(2e-5), np.log(2e-9), np.log(3e-12), wanted[0] + 0.8 * (wanted[1] - wanted[0])]
        values: Array = least_squares(residuals, start, bounds=bounds, loss="soft_l1", f_scale=0.05).x
        return values

    predicted = np.empty_like(seconds)
    for part in range(FOLDS):
        out = which == part
        if out.any():
            predicted[out] = _sent(fitted(~out), factor * size[out], sms[out])
    alpha, root, slope, _ = np.exp(fitted(np.full(len(seconds), True)))
    check_units(seconds, factor * size * slope, table.path)
    curve = {"alpha_s": rounded(float(alpha)), "bandwidth_bytes_per_s": rounded(float(1.0 / slope))}
    if root > 1e-12:
        curve["root_s_per_sqrt_byte"] = rounded(float(root * np.sqrt(factor)))
    return {
        "name": name,
        "phase": phase,
        "copies": copies,
        "bytes_per_element": SENT[operation],
        "by_gpus": {str(gpus): curve},
        "held_out": score(predicted, seconds).as_dict(),
        "framework_version": table.version,
    }


def fit_nccl(directory: Path, system: str, operation: str, link: float) -> list[Fit]:
    """Return the NCCL curves of one operation by number of GPUs, a piece an implementation; `link` in bytes/s."""
    columns = ("op_name", "nccl_dtype", "num_gpus", "message_size")
    table = load(directory, system, "comm", "nccl", "nccl", columns)
    rows = table.rows.filter((pl.col("op_name") == OPERATIONS[operation]) & (pl.col("nccl_dtype") == "half"))
    return _implementations("nccl", rows, operation, table, link, np.inf)


def fit_custom(directory: Path, system: str, framework: str, link: float) -> list[Fit]:
    """Return the curves of a framework's own all-reduce by number of GPUs, in a CUDA graph where that is told apart."""
    columns = ("kernel_source", "num_gpus", "message_size")
    table = load(directory, system, "comm", framework, "custom_allreduce", columns)
    rows = table.rows.filter(~pl.col("kernel_source").str.contains("eager"))
    return _implementations("custom", rows, "all_reduce", table, link, CUSTOM_MOST)
