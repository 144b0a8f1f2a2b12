"""A profile of one's own GPU from a file of `energylens measure`: times, prices, clocks, merged with what was known."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from energylens.calibrate import measured_kernels, measured_power
from energylens.calibrate.account import CAUSES
from energylens.calibrate.measured_power import Prices
from energylens.calibrate.power import ON_CHIP, VECTOR
from energylens.calibrate.profile import ProfileFile, significant
from energylens.errors import EnergylensError, Problem, did_you_mean
from energylens.library import bundled, profile_path
from energylens.measurement.runs import Runs
from energylens.report.text import table
from energylens.steady import Z_80

PARTS: Final = ("kernels", "energy", "clock", "collectives")
"""What of a profile can be measured."""

NAMES: Final = {
    "a100-sxm4-80gb": "a100-sxm-80gb",
    "h100 80gb hbm3": "h100-sxm",
    "h200": "h200-sxm",
    "gb200": "gb200",
    "b200": "b200",
    "l40s": "l40s",
    "rtx 4090": "rtx-4090",
}
"""Bundled profiles by what the driver calls the GPU."""

_LEAST: Final = 0.03
"""A deviation is at least this: one GPU differs from the next."""
_UNMEASURED: Final = ("communication", "waiting")
"""Causes of which kernels alone tell nothing."""


@dataclass
class OwnGpu:
    """A profile made of measurements, and what the fits said."""

    file: ProfileFile
    parts: list[str]
    errors: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def told(self, what: str, error_percent: float, on: str) -> None:
        """Note the error of a fit."""
        self.errors.append([what, f"{error_percent:.1f}", on])

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "parts": self.parts,
            "errors": [dict(zip(("fit", "error", "on"), line, strict=True)) for line in self.errors],
            "notes": self.notes,
            "sections": json.loads(json.dumps(self.file.sections)),
        }

    def text(self) -> str:
        """Return the errors of the fits, and the notes."""
        shown = table(["fit", "mean error, %", "on"], self.errors)
        return "\n\n".join([f"measured: {', '.join(self.parts)}", shown, *self.notes])


def base_of(runs: Runs, gpu: str | None) -> Path:
    """Return the profile to start from: that given, or the bundled one of the GPU's name; raise `EnergylensError`."""
    if gpu is not None:
        return profile_path(gpu)
    name = str(runs.gpu["name"]).lower()
    for text, known in NAMES.items():
        if text in name:
            return bundled("hardware")[known]
    hint = "give --gpu: a bundled profile, or the data sheet of your GPU (docs/how-to/own-gpu.md)"
    raise EnergylensError(
        Problem(f"there is no bundled profile of `{runs.gpu['name']}`", hint=hint, code="unknown-gpu")
    )


def calibrate(path: Path, gpu: str | None = None, parts: list[str] | None = None) -> OwnGpu:
    """Return the profile that measured rows make of the one they start from; `parts` of `PARTS`, all if None.

    What was measured takes the place of what was known, the rest stays. With `kernels` the profile is that of plain
    PyTorch: kernels back to back, no host between, no other frameworks. With `energy` alone a serving layer stays: its
    factor on `active_w` and its joules of sequences are kept, on measured prices.
    Raises `EnergylensError` for a faulty file, too few rows, or a part that was not measured.
    """
    asked = list(PARTS) if parts is None else list(parts)
    if unknown := [part for part in asked if part not in PARTS]:
        hint = did_you_mean(unknown[0], PARTS) or f"parts are {', '.join(PARTS)}"
        raise EnergylensError(Problem(f"unknown part `{unknown[0]}`", hint=hint, code="options"))
    runs = Runs.read(path)
    found = OwnGpu(ProfileFile(base_of(runs, gpu)), [])
    free = runs.means.filter(pl.col("sm_clock_lock_mhz").is_null())
    source = measured_kernels.source_of(runs.gpu)
    needs_prices = {"energy", "clock"} & set(asked)
    prices = measured_power.fit(free, found.file.loaded().spec) if needs_prices else None
    if "kernels" in asked:
        _kernels(found, free, source)
    if "energy" in asked and prices is not None:
        _energy(found, free, prices, source)
    if "clock" in asked and prices is not None:
        _clock(found, runs.means, prices, source, parts is not None)
    if "collectives" in asked:
        _collectives(found, free, source, parts is not None)
    limit_w, tdp_w = float(runs.gpu["limit_w"]), found.file.loaded().spec.power.tdp_w
    if abs(limit_w / tdp_w - 1) > 0.01:
        found.notes.append(
            f"the limit in force was {limit_w:g} W, the profile's `tdp_w` is {tdp_w:g}: set it, if it stays"
        )
    if "kernels" in found.parts:
        _trusted(found, free, prices, source)
    return found


def _missing(part: str, hint: str) -> EnergylensError:
    return EnergylensError(Problem(f"the file does not tell enough for `{part}`", hint=hint, code="too-few-runs"))


def _kernels(found: OwnGpu, free: pl.DataFrame, source: str) -> None:
    loaded = found.file.loaded()
    made = measured_kernels.kernels(free, loaded.spec, source, found.told)
    if not made:
        raise _missing("kernels", "run `energylens measure` to its end: the same command goes on")
    known = found.file.sections.get("kernels") or loaded.completed[0]["kernels"]
    kept: dict[str, Any] = {}
    for kind, own in known.items():
        mine = made.get(kind, own)
        kept[kind] = mine if "t0_s" in mine or "t0_s" in own else own | mine
    absent = [kind for kind in known if kind not in made and kind != "tiles"]
    if absent:
        found.notes.append(f"not measured, as before: {', '.join(absent)}")
    found.parts.append("kernels")
    host = {"host_s": 0.0, "source": f"{source}; CUDA graphs back to back: no host between steps, no serving engine"}
    found.file.replace(kernels=kept, host=host, frameworks=None)


def _energy(found: OwnGpu, free: pl.DataFrame, prices: Prices, source: str) -> None:
    before, completed = found.file.sections.get("energy"), found.file.loaded().completed[0]["energy"]
    values = prices.values
    flop = {name: value for name, value in completed["flop_j"].items() if value is not None}
    flop |= {name: values[f"flop_{name}"] for name in ("bf16", "fp8") if values.get(f"flop_{name}")}
    flop["vector"] = significant(VECTOR * flop["bf16"])
    hbm = {kind: values.get(f"{kind}_rate") or values["weight_rate"] for kind in ("weight", "kv", "activation")}
    link = measured_power.collective_watts(free, prices.static_w)
    told = [
        f"{source}; energy counter",
        f"static_w: {prices.floor} without kernels",
        "on chip: Antepara et al. SC'25 table 3",
        "vector: assumed 2 x bf16",
        "link: all-reduce" if link else "link, communication_w and formats not measured: as before",
    ]
    fit = {
        one["family"]: {"data": "power of kernels below the board limit, error on held-out shapes", "rows": one["n"]}
        | {f"{name}_percent": one[name] for name in ("mape", "median", "bias")}
        for one in prices.errors
    }
    energy: dict[str, Any] = {
        "static_w": significant(prices.static_w),
        "active_w": values["active"],
        "communication_w": completed.get("communication_w", 0.0),
        "flop_j": flop,
        "on_chip_j_per_byte": ON_CHIP,
        **{f"hbm_{kind}_j_per_byte": price for kind, price in hbm.items()},
        "link_j_per_byte": completed["link_j_per_byte"],
        **(link or {}),
        "source": "; ".join(told),
        "fit": fit,
    }
    for one in prices.errors:
        found.told(f"W, {one['family']}", one["mape"], f"{one['n']} shapes, held out")
    found.parts.append("energy")
    if "kernels" not in found.parts and before and before.get("prior"):
        prior = {name: value for name, value in energy.items() if name != "fit"}
        factor = float(before["active_w"]) / max(float(before["prior"]["active_w"]), 1e-9)
        energy |= {"active_w": significant(factor * energy["active_w"]), "prior": prior}
        energy |= {"sequence_j": before["sequence_j"]} if "sequence_j" in before else {}
        energy["source"] += "; active_w and sequence_j with the serving layer of before"
        found.notes.append("the serving layer is the one of before, on measured prices")
    if prices.floor == "deep":
        found.notes.append("static_w is that of a GPU without any kernel: its clock may have fallen")
    found.file.replace(energy=energy)


def _clock(found: OwnGpu, means: pl.DataFrame, prices: Prices, source: str, wanted: bool) -> None:
    spec = found.file.loaded().spec
    tables = measured_power.clock_tables(means, prices, spec)
    if tables is None:
        if wanted:
            raise _missing("clock", "measure with --clocks, where locking is allowed")
        return
    top = max(tables["voltage_mv"][-1][0], tables["idle_w"][-1][0])
    clock = {"max_mhz": spec.clock.max_mhz if spec.clock else top}
    told = "voltage from joules of a large matrix product by clock"
    found.file.head(clock=clock | tables | {"source": f"{source}; {told}"})
    found.parts.append("clock")


def _collectives(found: OwnGpu, free: pl.DataFrame, source: str, wanted: bool) -> None:
    made = measured_kernels.collectives(free, source, found.told)
    if made is None:
        if wanted:
            raise _missing("collectives", "measure on a machine with several free GPUs")
        return
    found.file.replace(collectives=made)
    found.parts.append("collectives")
    if sms := measured_kernels.saturating_sms(free):
        link = found.file.written("link")
        told = f"{link['source']}; sms_to_saturate: {source}" if "source" in link else source
        found.file.head(link=link | {"sms_to_saturate": significant(sms, 2), "source": told})


def _trusted(found: OwnGpu, free: pl.DataFrame, prices: Prices | None, source: str) -> None:
    times = [own["fit"]["mape_percent"] for own in _sets(found.file.sections["kernels"]) if "fit" in own]
    miss = np.hypot(prices.miss if prices else 0.2, float(np.median(times)) / 100 if times else 0.2)
    deviation = max(_LEAST, float(miss) / Z_80)
    causes = {cause: CAUSES[cause] if cause in _UNMEASURED else 0.0 for cause in CAUSES}
    told = "80th percentile of watts and median error of times of kernels held out, together"
    found.file.replace(
        uncertainty=causes
        | {"common": significant(deviation, 2), "routed": 0.0, "narrow": 0.0, "source": f"{told}; {source}"},
        range={
            "batch": float(free["batch"].max() or 1.0),  # type: ignore[arg-type]
            "context_tokens": float(free.filter(pl.col("family") != "grouped_gemm")["tokens"].max() or 1.0),  # type: ignore[arg-type]
            "gpus": float(free["gpus"].max() or 1.0),  # type: ignore[arg-type]
            "source": source,
        },
    )
    if prices is not None:
        found.file.head(trust="measured")


def _sets(kernels: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the measured sets of coefficients."""
    by_class = [own for kind, own in kernels.items() if kind != "tiles"]
    sets = [one for own in by_class for one in ([own] if "t0_s" in own else own.values())]
    return [one for one in sets if str(one.get("source", "")).startswith("measured by")]
