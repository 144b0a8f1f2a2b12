"""The stages that write a profile, each from measurements of its own: kernels, then power, then serving runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from energylens.calibrate.profile_file import ProfileFile, significant
from energylens.common.errors import EnergylensError, Problem
from energylens.inputs.plan import LoadedGpu

Report = Callable[[str], None]


def _silent(_line: str) -> None:
    return None


def kernels(file: ProfileFile, tables: Path | None = None, report: Report = _silent) -> None:
    """Fit kernel and collective times to the tables of `aiconfigurator-core` and put them in the profile."""
    from energylens.calibrate.kernels.coefficients import calibrate
    from energylens.calibrate.kernels.sections import sections

    spec = file.loaded().spec
    file.replace(**sections(spec, calibrate(spec, tables, report=report)))


def power(file: ProfileFile, folder: Path, report: Report = _silent) -> None:
    """Fit prices of FLOPs and bytes to measured kernel power, or transfer them by the stated rules."""
    name = file.loaded().spec.name
    report(f"{name}: kernel power")
    file.replace(energy=energy_section(all_power(folder), name))


@lru_cache(maxsize=1)
def all_power(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the coefficients of every GPU with measured kernel power, and of those that take after one of them."""
    from energylens.calibrate.power import collective, kernel_power, transfer
    from energylens.calibrate.power import fit as fits

    measured = kernel_power.load(folder)
    link = collective.fit(folder)
    profiles = {gpu: transfer.profile(fits.fit(measured, gpu), link) for gpu in fits.STATIC_W}
    return profiles | {gpu: transfer.transfer(gpu, profiles, folder) for gpu in transfer.NEIGHBOUR}


def energy_section(profiles: Mapping[str, Mapping[str, Any]], gpu: str) -> dict[str, Any]:
    """Return the `energy` section of one GPU; raise `EnergylensError` if no rule covers it."""
    if gpu not in profiles:
        hint = f"known: {', '.join(profiles)}; for another GPU give an `energy` section by hand"
        raise EnergylensError(Problem(f"no kernel power and no rule of transfer for `{gpu}`", hint=hint, code="power"))
    fitted = profiles[gpu]
    section = {name: value for name, value in fitted.items() if name not in {"sources", "errors"}}
    section["source"] = "; ".join(f"{name}: {text}" for name, text in fitted["sources"].items())
    if fitted.get("errors"):
        section["fit"] = {
            f"{error['family']} {error['dtype']} {error['rows']}": {
                "data": "kernel power, error on held-out shapes",
                "rows": error["n"],
                "mape_percent": error["mape"],
                "median_percent": error["median"],
                "bias_percent": error["bias"],
            }
            for error in fitted["errors"]["table"]
        }
    return section


def serving(file: ProfileFile, folder: Path, report: Report = _silent) -> None:
    """Fit the serving layer to measured serving runs, with the deviations that left-out models show."""
    from energylens.calibrate.engines.leave_one_out import Account, serving_rows
    from energylens.calibrate.engines.runs import serving_runs

    gpu = file.loaded()
    rows = serving_rows(serving_runs(folder), gpu.spec.name)
    if rows.height == 0 and gpu.spec.name in LENDERS:
        from energylens.inputs.library import load_gpu

        report(f"{gpu.spec.name}: serving layer of {LENDERS[gpu.spec.name]}")
        return lend(file, load_gpu(LENDERS[gpu.spec.name]))
    if rows.height == 0:
        known = ", ".join(serving_runs(folder)["gpu"].drop_nulls().unique().sort())
        message = f"no serving runs of `{gpu.spec.name}`"
        raise EnergylensError(Problem(message, hint=f"there are runs of {known}", code="too-few-runs"))
    if gpu.spec.energy is None or gpu.spec.kernels is None:
        message = f"`{gpu.spec.name}` has no fitted kernels or prices of energy to build on"
        hint = "run `energylens calibrate kernels` and `calibrate power` on it first"
        raise EnergylensError(Problem(message, hint=hint, code="calibrate"))
    report(f"{gpu.spec.name}: {rows.height} serving runs")
    return file.replace(**Account.of(rows, gpu).sections())


LENDERS = {"h200-sxm": "h100-sxm", "a100-sxm-80gb": "h100-sxm", "l40s": "h100-sxm", "gb200": "b200"}
"""The GPU whose serving layer one without serving runs takes: of the same SM generation where there is one."""

_SAME_GENERATION = frozenset({"h200-sxm", "gb200"})
_WIDER = {True: 1.25, False: 1.6}
_LEAST = {"common": 0.1, "narrow": 0.1}
"""What a lent deviation is at least before it is widened: the lender's own runs may need none."""


def lend(file: ProfileFile, lender: LoadedGpu) -> None:
    """Give a profile its neighbour's serving layer and wider deviations; `active_w` grows as the neighbour's did."""
    spec, other = file.loaded().spec, lender.spec
    if other.host is None or other.energy is None or other.energy.prior is None or other.uncertainty is None:
        hint = f"run `energylens calibrate serving {other.name} --write` first"
        raise EnergylensError(Problem(f"`{other.name}` has no serving layer to lend", hint=hint, code="calibrate"))
    energy = dict(file.sections["energy"])
    prior = energy.get("prior") or {name: value for name, value in energy.items() if name != "fit"}
    factor = other.energy.active_w / float(other.energy.prior["active_w"])
    source = f"transferred from {other.name}: no serving runs of {spec.name}"
    energy["active_w"] = significant(float(prior["active_w"]) * factor)
    energy["sequence_j"] = other.energy.sequence_j
    energy["prior"] = prior
    energy["source"] = f"{prior['source']}; serving layer (active_w, sequence_j): {source}"
    wider = _WIDER[spec.name in _SAME_GENERATION]
    floor = wider * 0.1
    uncertainty = other.uncertainty.model_dump(exclude={"source"})
    host = other.host.model_dump(exclude_none=True, exclude={"source", "fit"})
    limits = other.range.model_dump(exclude={"source"}) if other.range else None
    file.replace(
        host=host | {"source": source},
        energy=energy,
        uncertainty={
            name: significant(wider * max(value, _LEAST.get(name, 0.0)), 2) for name, value in uncertainty.items()
        }
        | {"source": f"{source}; deviations {wider:g} times as wide, of all models at least {floor:.2g} (assumed)"},
        range=limits | {"source": source} if limits else None,
    )
