"""A profile of one's own GPU from a file of `energylens measure`: times, prices, clocks, merged with what was known."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from energylens.calibrate.engines.leave_one_out import CAUSES
from energylens.calibrate.own_gpu import kernels, power
from energylens.calibrate.own_gpu.power import Prices
from energylens.calibrate.power.fit import ON_CHIP, VECTOR
from energylens.calibrate.profile_file import ProfileFile, significant
from energylens.common.errors import EnergylensError, Problem, did_you_mean
from energylens.common.format import table
from energylens.inputs.bundled import bundled
from energylens.inputs.library import load_gpu, profile_path
from energylens.inputs.plan import LoadedGpu
from energylens.measurement.runs import GO_ON, Runs
from energylens.serving.fixed_concurrency import Z_80

PARTS: Final = ("kernels", "energy", "clock", "collectives")
"""What of a profile can be measured."""

NAMES: Final = {
    "A100-SXM4-80GB": "a100-sxm-80gb",
    "H100 80GB HBM3": "h100-sxm",
    "H200": "h200-sxm",
    "GB200": "gb200",
    "B200": "b200",
    "L40S": "l40s",
    "GeForce RTX 4090": "rtx-4090",
}
"""Bundled profiles by what the driver calls the GPU, without `NVIDIA`."""

_LEAST: Final = 0.03
"""A deviation is at least this: one GPU differs from the next."""
_CLASSES: Final = ("gemm", "grouped_gemm", "attention_prefill", "attention_decode", "elementwise")
_HBM: Final = ("weight", "kv", "activation")
_Z_90: Final = 1.6448536269514722
_SMS_SOURCE: Final = re.compile(r"; sms_to_saturate: measured by .*")


@dataclass
class OwnGpu:
    """A profile made of measurements, and what the fits said."""

    file: ProfileFile
    runs: Runs
    wanted: bool
    """Whether parts were asked for by name: one that was not measured is then a mistake."""
    parts: list[str] = field(default_factory=list)
    errors: list[tuple[str, float, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measured: set[str] = field(default_factory=set)
    """Classes of kernels that were measured."""
    lent: list[str] = field(default_factory=list)
    """Prices that are as before."""

    @cached_property
    def base(self) -> LoadedGpu:
        """The profile that was started from."""
        return load_gpu(self.file.path)

    @cached_property
    def free(self) -> pl.DataFrame:
        """Means of the rows at the free clock."""
        return self.runs.means.filter(pl.col("sm_clock_lock_mhz").is_null())

    @cached_property
    def source(self) -> str:
        """Where the numbers come from."""
        return kernels.source_of(self.runs.gpu)

    def add_error(self, what: str, error_percent: float, on: str) -> None:
        """Note the error of a fit."""
        self.errors.append((what, error_percent, on))

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "parts": self.parts,
            "errors": [dict(zip(("fit", "mape_percent", "on"), line, strict=True)) for line in self.errors],
            "notes": self.notes,
            "sections": json.loads(json.dumps(self.file.sections)),
        }

    def text(self) -> str:
        """Return the errors of the fits, and the notes."""
        lines = [(what, f"{error:.1f}", on) for what, error, on in self.errors]
        shown = [table(["fit", "mean error, %", "on"], lines)] if lines else []
        return "\n\n".join([f"measured: {', '.join(self.parts)}", *shown, *self.notes])


def base_of(runs: Runs, gpu: str | None) -> Path:
    """Return the profile to start from: that given, or the bundled one of the GPU's name; raise `EnergylensError`."""
    if gpu is not None:
        return profile_path(gpu)
    name = str(runs.gpu["name"]).removeprefix("NVIDIA ")
    if name in NAMES:
        return bundled("hardware")[NAMES[name]]
    hint = "give --gpu: a bundled profile, or the data sheet of your GPU (docs/how-to/own-gpu.md)"
    raise EnergylensError(
        Problem(f"there is no bundled profile of `{runs.gpu['name']}`", hint=hint, code="unknown-gpu")
    )


def calibrate(path: Path, gpu: str | None = None, parts: Sequence[str] | None = None) -> OwnGpu:
    """Return the profile that measured rows make of the one they start from; `parts` of `PARTS`, all if None.

    What was measured takes the place of what was known, the rest stays. With `kernels` the profile is that of plain
    PyTorch: kernels back to back, no host between, no other frameworks. With `energy` alone a serving layer stays: its
    factor on `active_w` and its joules of sequences are kept, on measured prices.
    Raises `EnergylensError` for a faulty file, too few rows, or a part that was not measured.
    """
    requested = PARTS if parts is None else tuple(parts)
    if unknown := [part for part in requested if part not in PARTS]:
        hint = did_you_mean(unknown[0], PARTS) or f"parts are {', '.join(PARTS)}"
        raise EnergylensError(Problem(f"unknown part `{unknown[0]}`", hint=hint, code="options"))
    runs = Runs.read(path)
    profile = OwnGpu(ProfileFile(base_of(runs, gpu)), runs, parts is not None)
    prices = None
    if {"energy", "clock"} & set(requested):
        prices = power.fit(profile.free, profile.base.spec, float(runs.gpu["l2_bytes"]))
    if "kernels" in requested:
        _kernels(profile)
    if "energy" in requested and prices is not None:
        _energy(profile, prices)
    if "clock" in requested and prices is not None:
        _clock(profile, prices)
    if "collectives" in requested:
        _collectives(profile)
    if "kernels" in profile.parts:
        _uncertainty(profile, prices)
    limit_w, tdp_w = float(runs.gpu["limit_w"]), profile.base.spec.power.tdp_w
    if abs(limit_w / tdp_w - 1) > 0.01:
        note = f"the limit in force was {limit_w:g} W, the profile's `tdp_w` is {tdp_w:g}: set it, if it stays"
        profile.notes.append(note)
    profile.file.loaded()  # or the sections do not make a profile
    return profile


def _kernels(profile: OwnGpu) -> None:
    made = kernels.kernels(profile.free, profile.base.spec, profile.source, profile.add_error)
    if not made:
        raise _missing("kernels", GO_ON)
    known = profile.file.sections.get("kernels") or profile.base.profile.sections["kernels"]
    merged: dict[str, Any] = {}
    for kind, before in known.items():
        mine = made.get(kind, before)
        merged[kind] = mine if "t0_s" in mine or "t0_s" in before else before | mine
    profile.measured = set(made)
    if absent := [kind for kind in _CLASSES if kind not in made]:
        profile.notes.append(f"not measured, as before: {', '.join(absent)}")
    profile.parts.append("kernels")
    source = f"{profile.source}; CUDA graphs back to back: no host between steps, no serving engine"
    profile.file.replace(kernels=merged, host={"host_s": 0.0, "source": source}, frameworks=None)


def _energy(profile: OwnGpu, prices: Prices) -> None:
    before, completed = profile.file.sections.get("energy"), profile.base.profile.sections["energy"]
    values = {name: value for name, value in prices.values.items() if value > 0}
    flop = {name: value for name, value in completed["flop_j"].items() if value is not None}
    measured_prices = {name: values[f"flop_{name}"] for name in ("bf16", "fp8") if f"flop_{name}" in values}
    hbm = {f"hbm_{kind}_j_per_byte": values[f"{kind}_rate"] for kind in _HBM if f"{kind}_rate" in values}
    link = power.collective_watts(profile.free, prices.static_w) or {}
    lent = [f"flop_j.{name}" for name in flop if name not in measured_prices and name != "vector"]
    lent += [f"hbm_{kind}_j_per_byte" for kind in _HBM if f"hbm_{kind}_j_per_byte" not in hbm]
    lent += [name for name in ("communication_w", "link_j_per_byte") if name not in link]
    lent += [] if "active" in values else ["active_w"]
    flop |= measured_prices
    energy: dict[str, Any] = {
        "static_w": significant(prices.static_w),
        "active_w": values.get("active", completed.get("active_w", 0.0)),
        "communication_w": completed.get("communication_w", 0.0),
        "flop_j": flop | {"vector": significant(VECTOR * flop["bf16"])},
        "on_chip_j_per_byte": ON_CHIP,
        **{f"hbm_{kind}_j_per_byte": completed[f"hbm_{kind}_j_per_byte"] for kind in _HBM},
        "link_j_per_byte": completed["link_j_per_byte"],
        **hbm,
        **link,
        "source": "; ".join(
            [
                f"{profile.source}; energy counter",
                f"static_w: {prices.floor} without kernels",
                "on chip: Antepara et al. SC'25 table 3",
                "vector: assumed 2 x bf16",
                *([f"not measured, as before: {', '.join(lent)}"] if lent else []),
            ]
        ),
        "fit": {
            error["family"]: {
                "data": "watts of kernels below the board limit whose shapes no fit saw",
                "rows": error["n"],
            }
            | {f"{name}_percent": error[name] for name in ("mape", "median", "bias")}
            for error in prices.errors
        },
    }
    for error in prices.errors:
        profile.add_error(f"W, {error['family']}", error["mape"], f"{error['n']} kernels, their shapes held out")
    profile.parts.append("energy")
    profile.lent = lent
    if "kernels" not in profile.parts and before and before.get("prior"):
        prior = {name: value for name, value in energy.items() if name != "fit"}
        factor = float(before["active_w"]) / max(float(before["prior"]["active_w"]), 1e-9)
        energy |= {"active_w": significant(factor * energy["active_w"]), "prior": prior}
        energy |= {"sequence_j": before["sequence_j"]} if "sequence_j" in before else {}
        energy["source"] += "; active_w and sequence_j with the serving layer of before"
        profile.notes.append("the serving layer is the one of before, on measured prices")
    elif "kernels" not in profile.parts and before and before.get("sequence_j"):
        profile.notes.append("the serving layer's prices were not told apart, and are gone: fit it again")
    if prices.static_w > (least := float(profile.free["power_w"].min() or prices.static_w)):  # type: ignore[arg-type]
        idle = profile.free.filter(pl.col("power_w") == least)["case"][0]
        if not str(idle).startswith("idle"):
            profile.notes.append(
                f"waiting took {prices.static_w:.0f} W, more than {idle} ({least:.0f} W): measure again"
            )
    if prices.floor == "deep":
        profile.notes.append("static_w is that of a GPU without any kernel: its clock may have fallen")
    profile.file.replace(energy=energy)


def _clock(profile: OwnGpu, prices: Prices) -> None:
    spec = profile.base.spec
    top = spec.clock.max_mhz if spec.clock else float(profile.runs.gpu["max_sm_clock_mhz"])
    tables = power.clocks(profile.runs.means, prices, spec, top)
    if tables is None:
        if profile.wanted:
            raise _missing("clock", "measure with --clocks, the highest among them, where locking is allowed")
        return
    known = spec.clock.model_dump(exclude_none=True) if spec.clock else {"max_mhz": top}
    source = f"{profile.source}; voltage from joules of a matrix product by clock"
    source += f"; above {tables.seen_mhz:g} MHz as before: {known['source']}" if tables.seen_mhz < 0.97 * top else ""
    clock = known | {"voltage_mv": tables.voltage_mv, "idle_w": tables.idle_w, "source": source}
    profile.file.head(clock=clock)
    profile.parts.append("clock")


def _collectives(profile: OwnGpu) -> None:
    made = kernels.collectives(profile.free, profile.source, profile.add_error)
    if made is None:
        if profile.wanted:
            raise _missing("collectives", "measure on a machine with several free GPUs")
        return
    profile.file.replace(collectives=made)
    profile.parts.append("collectives")
    if sms := kernels.saturating_sms(profile.free):
        assert profile.base.document is not None
        link = profile.base.document.data["link"]
        source = _SMS_SOURCE.sub("", str(link.get("source", ""))) + f"; sms_to_saturate: {profile.source}"
        profile.file.head(link=link | {"sms_to_saturate": significant(sms, 2), "source": source.removeprefix("; ")})


def _uncertainty(profile: OwnGpu, prices: Prices | None) -> None:
    """Write deviations and range: zero by cause where that was measured, in common what held-out kernels miss."""
    spec = profile.base.spec
    missed = [fitted["fit"]["p90_percent"] / 100 / _Z_90 for fitted in _sets(profile.file.sections["kernels"])]
    deviation = max(_LEAST, float(np.hypot(prices.miss / Z_80 if prices else 0.2, np.median(missed))))
    measured_causes: set[str] = set()
    if prices is not None and "energy" in profile.parts:
        measured_causes = {"compute", "static"} if "gemm" in profile.measured else set()
        kinds = {"weight": "hbm_weights", "kv": "hbm_kv", "activation": "hbm_activations"}
        measured_causes |= {cause for kind, cause in kinds.items() if f"hbm_{kind}_j_per_byte" not in profile.lent}
    source = (
        "common: of watts (80th percentile) and seconds (90th, the median class) of kernels held out, as deviations"
    )
    gpus = profile.free["gpus"].max() if "collectives" in profile.parts else spec.range.gpus if spec.range else 1
    tokens = profile.free.filter(pl.col("family") != "grouped_gemm")["tokens"].max()
    profile.file.replace(
        uncertainty={cause: 0.0 if cause in measured_causes else CAUSES[cause] for cause in CAUSES}
        | {"common": significant(deviation, 2), "routed": 0.0, "narrow": 0.0, "source": f"{source}; {profile.source}"},
        range={
            "batch": float(profile.free["batch"].max() or 1.0),  # type: ignore[arg-type]
            "context_tokens": float(tokens or 1.0),  # type: ignore[arg-type]
            "gpus": float(gpus or 1.0),  # type: ignore[arg-type]
            "source": profile.source,
        },
    )
    links = {"communication_w", "link_j_per_byte"}
    if prices is not None and profile.measured >= set(_CLASSES) and not set(profile.lent) - links - {"flop_j.fp4"}:
        profile.file.head(trust="measured")


def _sets(kernels: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the measured sets of coefficients."""
    by_class = [entry for kind, entry in kernels.items() if kind != "tiles"]
    sets = [entry_set for entry in by_class for entry_set in ([entry] if "t0_s" in entry else entry.values())]
    return [entry_set for entry_set in sets if str(entry_set.get("source", "")).startswith("measured by")]


def _missing(part: str, hint: str) -> EnergylensError:
    return EnergylensError(Problem(f"the file does not tell enough for `{part}`", hint=hint, code="too-few-runs"))
