"""Energy coefficients of GPUs without kernel power of their own, by stated rules, with where each comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from energylens.calibrate.power.fit import ON_CHIP, VECTOR
from energylens.calibrate.power.kernel_power import data_folder
from energylens.calibrate.power.report import Fit, rounded
from energylens.common.errors import Problem, SpecError
from energylens.common.files import is_there
from energylens.common.tables import read_table
from energylens.inputs.gpu import GpuSpec, Kernels
from energylens.inputs.library import load_gpu
from energylens.inputs.profile import Profile

FITTED = "fitted: AIConfigurator repository kernel power tables (Apache-2.0)"
NEIGHBOUR = {"h100-sxm": "h200-sxm", "gb200": "b200", "a100-sxm-80gb": "h200-sxm", "l40s": "h200-sxm",
             "mi300x": "h200-sxm", "rtx-4090": "h200-sxm"}  # fmt: skip
"""The fitted GPU that lends what nothing nearer gives."""
SAME_CHIP = {"h100-sxm", "gb200"}
MEMORY_J = {
    "a100-sxm-80gb": (1.05e-10, "published: Antepara et al. SC'25 table 3, HBM2e of A100, 105 pJ/B"),
    "l40s": (2.8e-10, "published: GDDR6 2.6-3.1e-10 J/B (arjunds/efficient-ai, RTX A5000)"),
    "rtx-4090": (2.6e-10, "published: GDDR6 2.6-3.1e-10 J/B (arjunds/efficient-ai, RTX A5000), GDDR6X at its low end"),
}
"""J/B where the memory technology is not the neighbour's."""
BLOCK_FLOP, BLOCK_BYTES, BLOCK_BUS = 2.06e11, 5.3e8, 3.36e7
"""FLOP, HBM and bus bytes a GPU of an overlap_energy block (hidden 2048, 32 heads, 2 x 4096 tokens, TP 2)."""
BLOCK_REPEATS = 2
"""Assumed: a row holds both nano-batches; one block in 2.9 ms would cost 3 pJ/FLOP, over any published value."""


def profile(fit: Fit, link: dict[str, Any]) -> dict[str, Any]:
    """Return a fitted GPU's coefficients (W, J/FLOP, J/B), each with its source."""
    values = fit.coefficients
    price = {name: values.get(f"hbm_{name}", values.get("hbm", 0.0)) for name in ("weight", "kv", "activation")}
    flop = {name.removeprefix("flop_"): value for name, value in values.items() if name.startswith("flop_")}
    fitted_here = fit.gpu == "b200"
    return {
        "static_w": fit.static_w,
        "active_w": values["active"],
        "communication_w": link["active_w"],
        "flop_j": flop | {"vector": rounded(VECTOR * flop["bf16"])},
        "on_chip_j_per_byte": ON_CHIP,
        **{f"hbm_{name}_j_per_byte": value for name, value in price.items()},
        "link_j_per_byte": link["link_j_per_byte"],
        "sources": {
            "static_w": "published: arjunds/efficient-ai serving fits (vLLM 0.10.2); kernels that run cannot tell it",
            "active_w": f"{FITTED}; while any kernel runs",
            "flop_j": "; ".join([FITTED, *(f"{name}: {note}" for name, note in fit.notes.items())]),
            "on_chip_j_per_byte": "published: Antepara et al. SC'25 table 3, GH200 L1",
            "vector": "assumed 2 x bf16",
            "hbm": FITTED,
            "link": FITTED
            + (", vLLM custom all-reduce" if fitted_here else ", vLLM custom all-reduce on B200, assumed here"),
        },
        "errors": {"mean_over_families": fit.mean_error, "form": fit.form, "table": fit.errors, "at_cap": fit.at_cap},
    }


def transfer(gpu: str, fitted: dict[str, dict[str, Any]], folder: Path | None = None) -> dict[str, Any]:
    """Return the coefficients of a GPU (W, J/FLOP, J/B) from its neighbour's, data sheet and technology."""
    if gpu not in NEIGHBOUR:
        raise SpecError(Problem(f"no rule for `{gpu}`", hint=f"known: {', '.join(NEIGHBOUR)}", code="power"))
    near, spec = NEIGHBOUR[gpu], load_gpu(gpu).spec
    if near not in fitted:
        raise SpecError(Problem(f"`{gpu}` takes after `{near}`, which is not fitted", code="power"))
    lent = fitted[near]
    share = 1.0 if gpu in SAME_CHIP else spec.power.tdp_w / load_gpu(near).spec.power.tdp_w
    static = spec.power.static_w if spec.power.static_w is not None else rounded(0.2 * spec.power.tdp_w)
    price = {name: lent[f"hbm_{name}_j_per_byte"] for name in ("weight", "kv", "activation")}
    memory = f"transferred: HBM as fitted on {near}"
    if gpu in MEMORY_J:
        joules, memory = MEMORY_J[gpu]
        price = {name: rounded(joules * value / price["weight"]) for name, value in price.items()}
        memory += f"; KV and activations over weights as fitted on {near}"
    flop, source = dict(lent["flop_j"]), f"transferred: same SM generation, as fitted on {near}"
    if gpu not in SAME_CHIP:
        flop, source = _at_most_tdp(
            spec, static, price["weight"], lent, _overlap(folder) if gpu == "a100-sxm-80gb" else None
        )
    return {
        "static_w": static,
        "active_w": rounded(share * lent["active_w"]),
        "communication_w": rounded(share * lent["communication_w"]),
        "flop_j": flop,
        "on_chip_j_per_byte": lent["on_chip_j_per_byte"],
        **{f"hbm_{name}_j_per_byte": value for name, value in price.items()},
        "link_j_per_byte": lent["link_j_per_byte"],
        "sources": {
            "static_w": f"kept: {spec.power.source}",
            "active_w": f"transferred: {near} x {share:.3g} (TDP ratio; 1 for the same chip)",
            "flop_j": source,
            "on_chip_j_per_byte": lent["sources"]["on_chip_j_per_byte"],
            "vector": "assumed 2 x bf16",
            "hbm": memory,
            "link": "transferred: vLLM custom all-reduce on B200, per byte of message",
        },
        "errors": None,
    }


def _at_most_tdp(
    spec: Any, static: float, price: float, lent: dict[str, Any], measured: dict[str, float] | None
) -> tuple[dict[str, float], str]:
    """Return J/FLOP by arithmetic such that a large GEMM at its fitted rate draws TDP at most, and how."""
    peaks = spec.compute.peak_flops
    rate = peaks.bf16 * reached(spec, "bf16")
    # A large GEMM moves about a tenth of its HBM's bandwidth.
    room = spec.power.tdp_w - static - 0.1 * price * spec.memory.bandwidth_bytes_per_s
    limit = room / rate
    bf16, text = limit, "transferred: such that a large GEMM at its fitted rate draws TDP"
    if measured is not None:
        seen = measured["flop_bf16"]
        bf16 = min(seen, limit)
        text += (
            f" ({limit:.3g} J/FLOP); sequential rows of overlap_energy (Kareus, "
            f"arXiv 2601.17654) give {seen:.3g} if a row "
            f"holds {BLOCK_REPEATS} blocks (assumed), "
            f"and {measured['static_and_communication_w']:g} W while communicating"
        )
    prices = {"bf16": rounded(bf16), "vector": rounded(VECTOR * bf16)}
    if peaks.fp8 is not None and "fp8" in lent["flop_j"]:
        prices["fp8"] = rounded(bf16 * lent["flop_j"]["fp8"] / lent["flop_j"]["bf16"])
        prices["fp8"] = min(prices["fp8"], rounded(room / (peaks.fp8 * reached(spec, "fp8"))))
    return prices, text


def reached(spec: GpuSpec, form: str) -> float:
    """Return the share of the peak that large matrix products reach."""
    kernels = (spec.kernels or Kernels.model_validate(Profile.of(spec).sections["kernels"])).gemm
    chosen = getattr(kernels, form) or kernels.bf16
    return float(chosen.compute_efficiency * max((share for _, _, share in chosen.tiles or ()), default=1.0))


def _overlap(folder: Path | None) -> dict[str, float]:
    return overlap((folder or data_folder()) / "overlap_energy.parquet")


def overlap(path: Path, link: float = 4.97e-10, hbm: float = MEMORY_J["a100-sxm-80gb"][0]) -> dict[str, float]:
    """Return W while the all-reduce runs and J/FLOP from the sequential rows: `E/2 = W·t + dynamic` over SM counts."""
    if not is_there(path):
        raise SpecError(Problem(f"no table `{path.name}`", where=str(path.parent), code="no-data"))
    rows = read_table(path, "table", kind="parquet").filter(pl.col("overlap_start") == -1)
    seconds, joules = rows["time_s"].to_numpy(), rows["energy_total_j"].to_numpy() / 2
    if len(rows) < 10 or np.ptp(seconds) < 0.1 * seconds.mean():
        raise SpecError(
            Problem(f"`{path.name}` has no sequential rows of different times", where=str(path), code="no-data")
        )
    weight = np.ones(len(rows))
    line = np.zeros(2)
    for _ in range(40):
        pull = np.sqrt(weight)
        line = np.linalg.lstsq(
            np.column_stack([seconds, np.ones(len(rows))]) * pull[:, None], joules * pull, rcond=None
        )[0]
        weight = 1 / np.maximum(np.abs(joules - line @ np.vstack([seconds, np.ones(len(rows))])), 1e-4 * joules)
    error = 100 * np.abs((line[0] * seconds + line[1]) / joules - 1)
    flop = (line[1] - hbm * BLOCK_REPEATS * BLOCK_BYTES - link * BLOCK_BUS) / (BLOCK_REPEATS * BLOCK_FLOP)
    return {
        "static_and_communication_w": rounded(float(line[0])),
        "dynamic_j": rounded(float(line[1])),
        "flop_bf16": rounded(float(flop)),
        "mape": rounded(float(error.mean())),
    }
