"""All kernel coefficients of one GPU, by serving framework, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from energylens.calibrate.device import SYSTEMS, Device, device
from energylens.calibrate.kernels.attention import fit_decode, fit_prefill
from energylens.calibrate.kernels.collectives import OPERATIONS, SENT, fit_custom, fit_exchange, fit_nccl
from energylens.calibrate.kernels.gemm import FORMS as GEMM_FORMS
from energylens.calibrate.kernels.gemm import fit_gemm
from energylens.calibrate.kernels.moe import FORMS as MOE_FORMS
from energylens.calibrate.kernels.moe import fit_moe
from energylens.calibrate.kernels.tables import ABSENT, fault, home, package_version
from energylens.common.errors import SpecError, did_you_mean
from energylens.inputs.gpu import GpuSpec

FRAMEWORKS = ("vllm", "trtllm", "sglang")
KV_DTYPES = ("bf16", "fp8")

Fit = dict[str, object]
FitFunction = Callable[[Path, str, str, str, Device], Fit]

FITS: dict[str, tuple[tuple[str, ...], FitFunction]] = {
    "gemm": (tuple(GEMM_FORMS), fit_gemm),
    "grouped_gemm": (tuple(MOE_FORMS), fit_moe),
    "attention_prefill": (KV_DTYPES, fit_prefill),
    "attention_decode": (KV_DTYPES, fit_decode),
}
"""Number formats and fit of every kernel class of a framework."""


def _on(at: Callable[[str, Device], Fit], gpu: Device, form: str) -> Fit:
    return at(form, gpu)


def _custom(directory: Path, system: str, framework: str, link: float, _form: str) -> list[Fit]:
    return fit_custom(directory, system, framework, link)


def _nccl(directory: Path, system: str, link: float, operation: str) -> list[Fit]:
    return fit_nccl(directory, system, operation, link)


def _error(fitted: object) -> str:
    """Return the held-out error of a fit in words; pieces of one collective share theirs."""
    fit: Any = fitted[0] if isinstance(fitted, list) else fitted
    return f"{fit['held_out']['mape_percent']:.1f} % held out"


def _each(
    forms: Sequence[str],
    fit: Callable[[str], Fit | list[Fit]],
    left_out: list[str],
    what: str,
    report: Callable[[str], None],
) -> Fit:
    """Return the fits of all number formats that have a table; note the others."""
    fitted: Fit = {}
    for form in forms:
        try:
            fitted[form] = fit(form)
            report(f"{what} {form}: {_error(fitted[form])}")
        except SpecError as error:
            if error.problems[0].code != ABSENT:
                raise
            left_out.append(f"{what} {form}: {error.problems[0].message}")
    return fitted


def calibrate(
    spec: GpuSpec,
    tables: Path | None = None,
    *,
    system: str | None = None,
    frameworks: Sequence[str] = FRAMEWORKS,
    report: Callable[[str], None] = lambda _line: None,
) -> Fit:
    """Return coefficients and held-out errors by framework, those of NCCL, and what had no usable table.

    `system` is the folder of the GPU's tables where the profile's name does not tell; `told` hears of every fit.
    """
    directory = home(tables)
    folder = system or SYSTEMS.get(spec.name)
    if folder is None or not (directory / folder).is_dir():
        known = sorted(path.name for path in directory.iterdir() if path.is_dir())
        name = folder or spec.name
        raise fault(f"no measured tables of `{name}`", directory, did_you_mean(name, known))
    gpu, link = device(spec), spec.link.bandwidth_bytes_per_s
    left_out: list[str] = []
    by_framework: Fit = {}
    for framework in frameworks:
        fitted: Fit = {}
        for what, (forms, fit) in FITS.items():
            at = partial(fit, directory, folder, framework)
            fitted[what] = _each(forms, partial(_on, at, gpu), left_out, f"{framework} {what}", report)
        fit_custom = partial(_custom, directory, folder, framework, link)
        fitted["all_reduce"] = _each(("custom",), fit_custom, left_out, f"{framework} all_reduce", report)
        by_framework[framework] = fitted
    nccl = _each(tuple(OPERATIONS), partial(_nccl, directory, folder, link), left_out, "nccl", report)
    exchanges = _each(tuple(SENT), partial(fit_exchange, directory, folder), left_out, "deepep", report)
    return {
        "gpu": spec.name,
        "system": folder,
        "package": f"aiconfigurator-core {package_version(directory)}",
        "frameworks": by_framework,
        "nccl": nccl,
        "exchanges": exchanges,
        "left_out": left_out,
    }
