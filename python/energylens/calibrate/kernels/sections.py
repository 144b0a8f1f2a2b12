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


def sections(spec: GpuSpec, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return `kernels`, `collectives` and `frameworks` of a profile, from what `calibrate.kernels.calibrate` found."""
    package, fitted = str(found["package"]), found["frameworks"]
    nccl, exchanges = found["nccl"], found["exchanges"]
    default = DEFAULT if fitted.get(DEFAULT, {}).get("gemm") else next(iter(fitted))
    others = {
        name: {
            "kernels": _kernels(spec, name, fitted, package),
            "collectives": _collectives(own, nccl, exchanges, package, name),
        }
        for name, own in fitted.items()
        if name != default and own.get("gemm")
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
        forms = {form for own in fitted.values() for form in own.get(kind, {})}
        sets = {}
        for form in sorted(forms, key=lambda form: (form != "bf16", form)):
            order = (framework, *(lender for lender in _LENDERS if lender != framework))
            found = [(name, one) for name in order if (one := fitted.get(name, {}).get(kind, {}).get(form))]
            if blackwell and len(found) > 1:
                found = [(name, one) for name, one in found if (name, kind, form) not in NOT_ON_BLACKWELL]
            good = [(name, one) for name, one in found if one["held_out"]["mape_percent"] <= most]
            measured, one = (good or found)[0]
            sets[form] = _set(spec, one, measured, framework, package)
        if kind == "grouped_gemm":
            sets = {
                form: {**one, "padding_rows": padding_rows(form, blackwell and not padded(framework, form))}
                | ({"idle_experts": 1.0} if padded(framework, form) else {})
                for form, one in sets.items()
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


def _set(spec: GpuSpec, one: Mapping[str, Any], measured: str, framework: str, package: str) -> dict[str, Any]:
    source = _source(package, measured, str(one["framework_version"]), str(one["kernel"]))
    if measured != framework:
        source += f"; {_SHOWN.get(framework, framework)} has no table of its own that the form fits"
    return coefficient_set(spec, one, source)


def coefficient_set(spec: GpuSpec, one: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return a fitted set of coefficients as a profile has it, with its source and held-out error."""
    coefficients = {name: value for name, value in one["coefficients"].items() if not _nothing(value)}
    coefficients.setdefault("t0_s", 0.0)
    if coefficients.pop("splits", None) == [1]:
        coefficients["split_s"] = NEVER_S
    peaks = spec.compute.peak_flops
    if one.get("arithmetic") == "fp8" and peaks.fp8:
        # Profiles state it as a share of the bf16 peak, in which the engine counts attention.
        coefficients["compute_efficiency"] = significant(coefficients["compute_efficiency"] * peaks.fp8 / peaks.bf16)
    coefficients["source"] = source
    coefficients["fit"] = _fit(one)
    return coefficients


def _nothing(value: object) -> bool:
    return isinstance(value, float) and abs(value) < _ZERO


def _fit(one: Mapping[str, Any]) -> dict[str, Any]:
    error = one["held_out"]
    fit: dict[str, Any] = {"data": f"fitted {DATE}; error on held-out shapes", "rows": error["rows"]}
    fit |= {name: error[name] for name in ("mape_percent", "median_percent", "p90_percent")}
    if "ranges" in one:
        fit["valid"] = one["ranges"]
    return fit


def _implementation(one: Mapping[str, Any], source: str) -> dict[str, Any]:
    def curve(own: Mapping[str, float]) -> dict[str, float]:
        return {**own, "bandwidth_bytes_per_s": min(own["bandwidth_bytes_per_s"], _MOST_BANDWIDTH)}

    found = {"name": one["name"]}
    if one.get("max_bytes"):
        found["max_bytes"] = one["max_bytes"]
    by_gpus = {size: curve(own) for size, own in one["by_gpus"].items()}
    return found | {"by_gpus": by_gpus, "source": source, "fit": _fit(one)}


def _pair(curve: Mapping[str, float]) -> dict[str, float]:
    """Return the curve of one GPU sending to another, from that of two that exchange halves of a message."""
    found = {name: curve[name] for name in ("alpha_s", "bandwidth_bytes_per_s")}
    return found | ({"max_bytes": curve["max_bytes"] / 2} if "max_bytes" in curve else {})


def _exchange(one: Mapping[str, Any], package: str) -> dict[str, Any]:
    source = _source(package, "sglang", str(one["framework_version"]), "DeepEP, in place of what other frameworks take")
    fit = _fit(one) | {"data": f"fitted {DATE}; error on held-out models"}
    return {name: one[name] for name in ("name", "phase", "copies", "bytes_per_element", "by_gpus")} | {
        "source": source,
        "fit": fit,
    }


_PAIR_SOURCE = "modelled: the 2-GPU all_to_all, of which half a message crosses, without its root term"


def send_recv(all_to_all: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the section of one GPU sending to another, from that of the exchange of all."""
    return [
        {"name": one["name"], "by_gpus": {"2": _pair(one["by_gpus"]["2"])}, "source": _PAIR_SOURCE}
        for one in all_to_all
    ]


def _collectives(
    own: Mapping[str, Any], nccl: Mapping[str, Any], exchanges: Mapping[str, Any], package: str, framework: str
) -> dict[str, Any] | None:
    """Return every operation; None if one has no table."""
    if any(name not in nccl for name in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")):
        return None
    name, _, number = package.partition(" ")
    found: dict[str, Any] = {}
    for operation, implementations in nccl.items():
        version = implementations[0]["framework_version"]
        source = f"{name} {number} (Apache-2.0), NCCL {version}, half"
        found[operation] = [_implementation(one, source) for one in implementations]
    for one in own.get("all_reduce", {}).get("custom", []):
        source = _source(package, framework, str(one["framework_version"]), "custom all-reduce in a CUDA graph")
        found["all_reduce"].append(_implementation(one, source))
    found["send_recv"] = send_recv(found["all_to_all"])
    return found | {operation: [_exchange(one, package) for one in ways] for operation, ways in exchanges.items()}
