"""Fitted kernels as sections of a profile: coefficients, source, held-out error, range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from energylens.calibrate.profile_file import significant
from energylens.inputs.gpu import GpuSpec
from energylens.inputs.library import DEFAULT_FRAMEWORK as DEFAULT

DATE = "2026-11-21"
"""Day the method of the fits last changed."""

_SHOWN = {"vllm": "vLLM", "trtllm": "TensorRT-LLM", "sglang": "SGLang"}
_LENDERS = ("sglang", "trtllm", "vllm")
"""Frameworks in the order in which they lend a table that another lacks."""

MOST_PERCENT = {"gemm": 20.0, "grouped_gemm": 25.0, "attention_prefill": 20.0, "attention_decode": 16.0}
"""Held-out mean error beyond which another framework's table of the same kernels serves, if its own is below."""

NOT_ON_BLACKWELL = frozenset({("trtllm", "grouped_gemm", "mxfp4")})
"""Tables of kernels that the framework does not run there: it multiplies MXFP4 in 8 bits, the table in 16."""

_ZERO = 1e-30
NEVER_S = 1.0
"""Seconds of joining a split depth where splitting never pays."""
_MOST_BANDWIDTH = 1e15

ELEMENTWISE = {
    "t0_s": 2e-6,
    "compute_efficiency": 1.0,
    "memory_efficiency": 0.8,
    "sharpness": 4,
    "source": "modelled: a short fused kernel in a CUDA graph takes about 2 us; 0.8 of the memory bandwidth assumed",
}


def sections(spec: GpuSpec, fits: Mapping[str, Any]) -> dict[str, Any]:
    """Return `kernels`, `collectives` and `frameworks` of a profile, from what `calibrate.kernels.calibrate` found."""
    package, fitted = str(fits["package"]), fits["frameworks"]
    nccl, exchanges = fits["nccl"], fits["exchanges"]
    default = DEFAULT if fitted.get(DEFAULT, {}).get("gemm") else next(iter(fitted))
    others = {
        name: {
            "kernels": _kernels(spec, name, fitted, package),
            "collectives": _collectives(fitted_here, nccl, exchanges, package, name),
        }
        for name, fitted_here in fitted.items()
        if name != default and fitted_here.get("gemm")
    }
    return {
        "kernels": _kernels(spec, default, fitted, package),
        "collectives": _collectives(fitted[default], nccl, exchanges, package, default),
        "frameworks": others or None,
    }


def _kernels(spec: GpuSpec, framework: str, fitted: Mapping[str, Any], package: str) -> dict[str, Any]:
    kernels: dict[str, Any] = {}
    blackwell = spec.compute.peak_flops.fp4 is not None
    for kind, most in MOST_PERCENT.items():
        forms = {form for fitted_here in fitted.values() for form in fitted_here.get(kind, {})}
        sets = {}
        for form in sorted(forms, key=lambda form: (form != "bf16", form)):
            order = (framework, *(lender for lender in _LENDERS if lender != framework))
            candidates = [
                (name, candidate) for name in order if (candidate := fitted.get(name, {}).get(kind, {}).get(form))
            ]
            if blackwell and len(candidates) > 1:
                candidates = [
                    (name, candidate) for name, candidate in candidates if (name, kind, form) not in NOT_ON_BLACKWELL
                ]
            good = [
                (name, candidate) for name, candidate in candidates if candidate["held_out"]["mape_percent"] <= most
            ]
            measured, candidate = (good or candidates)[0]
            sets[form] = _set(spec, candidate, measured, framework, package)
        if kind == "grouped_gemm":
            sets = {
                form: {**candidate, "padding_rows": padding_rows(form, blackwell and not padded(framework, form))}
                | ({"idle_experts": 1.0} if padded(framework, form) else {})
                for form, candidate in sets.items()
            }
        kernels[kind] = sets
    return kernels | {"elementwise": ELEMENTWISE}


def padding_rows(form: str, blackwell: bool) -> int:
    """Return the rows of the smallest block a grouped product multiplies for an expert hit, whatever its tokens.

    On Hopper and before, 128 in 8 bits (DeepGEMM and CUTLASS align the rows of an expert to it) and 32 otherwise
    (Triton and Marlin take 16 to 64); on Blackwell 8
    (the least of TensorRT-LLM's generated kernels, which vLLM uses too).
    """
    if blackwell:
        return 8
    return 128 if form.startswith("fp8") else 32


def padded(framework: str, form: str) -> bool:
    """Return whether a grouped product works on every expert of a GPU, 128 rows at least, hit or not.

    vLLM's kernels of block-wise FP8 experts (DeepGEMM, contiguous layout) are launched without knowing how many tokens
    each expert has, for `tokens*active + experts*(128 - 1)` rows:
    its `compute_aligned_M`. So do versions 0.11 and 0.12; from 0.16 on they do not (experiments/002-accuracy).
    """
    return framework == "vllm" and form == "fp8_block"


def _source(package: str, framework: str, version: str, kernel: str) -> str:
    name, _, number = package.partition(" ")
    return f"{name} {number} (Apache-2.0), {_SHOWN.get(framework, framework)} {version}: {kernel}"


def _set(
    spec: GpuSpec, fit_of_kernel: Mapping[str, Any], measured: str, framework: str, package: str
) -> dict[str, Any]:
    source = _source(package, measured, str(fit_of_kernel["framework_version"]), str(fit_of_kernel["kernel"]))
    if measured != framework:
        source += f"; {_SHOWN.get(framework, framework)} has no table of its own that the form fits"
    return coefficient_set(spec, fit_of_kernel, source)


def coefficient_set(spec: GpuSpec, fit_of_kernel: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return a fitted set of coefficients as a profile has it, with its source and held-out error."""
    coefficients = {name: value for name, value in fit_of_kernel["coefficients"].items() if not _nothing(value)}
    coefficients.setdefault("t0_s", 0.0)
    if coefficients.pop("splits", None) == [1]:
        coefficients["split_s"] = NEVER_S
    peaks = spec.compute.peak_flops
    if fit_of_kernel.get("arithmetic") == "fp8" and peaks.fp8:
        # Profiles state it as a share of the bf16 peak, in which the engine counts attention.
        coefficients["compute_efficiency"] = significant(coefficients["compute_efficiency"] * peaks.fp8 / peaks.bf16)
    coefficients["source"] = source
    coefficients["fit"] = _fit(fit_of_kernel)
    return coefficients


def _nothing(value: object) -> bool:
    return isinstance(value, float) and abs(value) < _ZERO


def _fit(kernel_fit: Mapping[str, Any]) -> dict[str, Any]:
    error = kernel_fit["held_out"]
    fit: dict[str, Any] = {"data": f"fitted {DATE}; error on held-out shapes", "rows": error["rows"]}
    fit |= {name: error[name] for name in ("mape_percent", "median_percent", "p90_percent")}
    if "ranges" in kernel_fit:
        fit["valid"] = kernel_fit["ranges"]
    return fit


def _implementation(curve_fit: Mapping[str, Any], source: str) -> dict[str, Any]:
    def curve(values: Mapping[str, float]) -> dict[str, float]:
        return {**values, "bandwidth_bytes_per_s": min(values["bandwidth_bytes_per_s"], _MOST_BANDWIDTH)}

    implementation = {"name": curve_fit["name"]}
    if curve_fit.get("max_bytes"):
        implementation["max_bytes"] = curve_fit["max_bytes"]
    by_gpus = {size: curve(values) for size, values in curve_fit["by_gpus"].items()}
    return implementation | {"by_gpus": by_gpus, "source": source, "fit": _fit(curve_fit)}


def _pair(curve: Mapping[str, float]) -> dict[str, float]:
    """Return the curve of one GPU sending to another, from that of two that exchange halves of a message."""
    pair = {name: curve[name] for name in ("alpha_s", "bandwidth_bytes_per_s")}
    return pair | ({"max_bytes": curve["max_bytes"] / 2} if "max_bytes" in curve else {})


def _exchange(exchange_fit: Mapping[str, Any], package: str) -> dict[str, Any]:
    source = _source(
        package, "sglang", str(exchange_fit["framework_version"]), "DeepEP, in place of what other frameworks take"
    )
    fit = _fit(exchange_fit) | {"data": f"fitted {DATE}; error on held-out models"}
    return {name: exchange_fit[name] for name in ("name", "phase", "copies", "bytes_per_element", "by_gpus")} | {
        "source": source,
        "fit": fit,
    }


_PAIR_SOURCE = "modelled: the 2-GPU all_to_all, of which half a message crosses, without its root term"


def send_recv(all_to_all: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the section of one GPU sending to another, from that of the exchange of all."""
    return [
        {
            "name": implementation["name"],
            "by_gpus": {"2": _pair(implementation["by_gpus"]["2"])},
            "source": _PAIR_SOURCE,
        }
        for implementation in all_to_all
    ]


def _collectives(
    fits: Mapping[str, Any], nccl: Mapping[str, Any], exchanges: Mapping[str, Any], package: str, framework: str
) -> dict[str, Any] | None:
    """Return every operation; None if one has no table."""
    if any(name not in nccl for name in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")):
        return None
    name, _, number = package.partition(" ")
    implementations_by_operation: dict[str, Any] = {}
    for operation, implementations in nccl.items():
        version = implementations[0]["framework_version"]
        source = f"{name} {number} (Apache-2.0), NCCL {version}, half"
        implementations_by_operation[operation] = [
            _implementation(implementation, source) for implementation in implementations
        ]
    for implementation in fits.get("all_reduce", {}).get("custom", []):
        source = _source(
            package, framework, str(implementation["framework_version"]), "custom all-reduce in a CUDA graph"
        )
        implementations_by_operation["all_reduce"].append(_implementation(implementation, source))
    implementations_by_operation["send_recv"] = send_recv(implementations_by_operation["all_to_all"])
    return implementations_by_operation | {
        operation: [_exchange(exchange, package) for exchange in ways] for operation, ways in exchanges.items()
    }
