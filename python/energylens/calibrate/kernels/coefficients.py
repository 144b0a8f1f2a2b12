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

Found = dict[str, object]
Fit = Callable[[Path, str, str, str, Device], Found]

FITS: dict[str, tuple[tuple[str, ...], Fit]] = {
    "gemm": (tuple(GEMM_FORMS), fit_gemm),
    "grouped_gemm": (tuple(MOE_FORMS), fit_moe),
    "attention_prefill": (KV_DTYPES, fit_prefill),
    "attention_decode": (KV_DTYPES, fit_decode),
}
"""Number formats and fit of every kernel class of a framework."""


def _on(at: Callable[[str, Device], Found], gpu: Device, form: str) -> Found:
    return at(form, gpu)


def _custom(directory: Path, system: str, framework: str, link: float, _form: str) -> list[Found]:
    return fit_custom(directory, system, framework, link)


def _nccl(directory: Path, system: str, link: float, operation: str) -> list[Found]:
    return fit_nccl(directory, system, operation, link)


def _error(found: object) -> str:
    """Return the held-out error of a fit in words; pieces of one collective share theirs."""
    one: Any = found[0] if isinstance(found, list) else found
    return f"{one['held_out']['mape_percent']:.1f} % held out"


def _each(
    forms: Sequence[str],
    one: Callable[[str], Found | list[Found]],
    left_out: list[str],
    what: str,
    told: Callable[[str], None],
) -> Found:
    """Return the fits of all number formats that have a table; note the others."""
    found: Found = {}
    for form in forms:
        try:
            found[form] = one(form)
            told(f"{what} {form}: {_error(found[form])}")
        except SpecError as error:
            if error.problems[0].code != ABSENT:
                raise
            left_out.append(f"{what} {form}: {error.problems[0].message}")
    return found


def calibrate(
    spec: GpuSpec,
    tables: Path | None = None,
    *,
    system: str | None = None,
    frameworks: Sequence[str] = FRAMEWORKS,
    told: Callable[[str], None] = lambda _line: None,
) -> Found:
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
    by_framework: Found = {}
    for framework in frameworks:
        found: Found = {}
        for what, (forms, one) in FITS.items():
            at = partial(one, directory, folder, framework)
            found[what] = _each(forms, partial(_on, at, gpu), left_out, f"{framework} {what}", told)
        own = partial(_custom, directory, folder, framework, link)
        found["all_reduce"] = _each(("custom",), own, left_out, f"{framework} all_reduce", told)
        by_framework[framework] = found
    nccl = _each(tuple(OPERATIONS), partial(_nccl, directory, folder, link), left_out, "nccl", told)
    exchanges = _each(tuple(SENT), partial(fit_exchange, directory, folder), left_out, "deepep", told)
    return {
        "gpu": spec.name,
        "system": folder,
        "package": f"aiconfigurator-core {package_version(directory)}",
        "frameworks": by_framework,
        "nccl": nccl,
        "exchanges": exchanges,
        "left_out": left_out,
    }
