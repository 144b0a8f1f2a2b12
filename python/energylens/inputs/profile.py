"""The profile of a GPU as results are calculated from it: every section present, and the form that the core reads.

A spec is what a person writes. Two things happen to it before the core sees it, both here: what is missing is filled
in by the rules of `energylens.inputs.datasheet`, and numbers are brought to where the core takes them from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from energylens.inputs import datasheet
from energylens.inputs.gpu import GpuSpec

_WITHOUT_EFFECT: Final = frozenset({"source", "fit", "prior"})
"""Fields that say where numbers come from, and change no result."""

_INVERSE_SECONDS: Final = frozenset({"compute_efficiency", "memory_efficiency"})
_SECONDS: Final = frozenset(
    ("t0_s", "root_s_per_sqrt_byte", "split_s", "quantise_bytes", "expert_s", "routed_bytes", "sequence_head_s")
)
"""Coefficients that kernel times are inversely proportional to, and those that they are proportional to."""

_POWER_OF_ENERGY: Final = ("active_w", "communication_w", "sequence_j")
"""Fields that profiles fit with the joules, in `energy`, and that the core reads with the draws, in `power`."""


@dataclass(frozen=True)
class Profile:
    """A GPU whose sections are all present.

    `sections` are those of `GpuSpec` as plain data, `static_w` always in `power`; `modelled` says whether a rule filled
    in any.
    """

    sections: dict[str, Any]
    modelled: bool

    @classmethod
    def of(cls, spec: GpuSpec) -> Profile:
        """Return the profile of a spec."""
        sections = spec.model_dump(exclude_none=True)
        power, energy = sections["power"], sections.get("energy", {})
        if "static_w" in energy:
            power["static_w"] = energy.pop("static_w")
        filled = datasheet.missing(spec, power.get("static_w"))
        for name, values in filled.items():
            sections[name] = sections.get(name, {}) | values
        return cls(sections, bool(filled))

    @property
    def static_w(self) -> float:
        """Draw of a GPU with a model loaded that waits, W."""
        return float(self.sections["power"]["static_w"])

    @property
    def tdp_w(self) -> float:
        """Limit of the board, W."""
        return float(self.sections["power"]["tdp_w"])

    @property
    def communication_w(self) -> float:
        """Watts besides while the GPU waits for collectives."""
        return float(self.sections["energy"].get("communication_w", 0.0))

    @property
    def host_s(self) -> float:
        """Seconds that the host takes for a step, whatever it holds."""
        return float(self.sections["host"].get("host_s", 0.0))

    @property
    def gpus_per_node(self) -> int:
        """GPUs that one link domain connects."""
        return int(self.sections["link"]["gpus_per_node"])

    def canonical(self) -> dict[str, Any]:
        """Return the profile as the core reads it: numbers only, with tiles and factors in each kernel class."""
        profile: dict[str, Any] = _without_sources(self.sections)
        profile.pop("frameworks", None)
        energy, kernels, host = profile["energy"], profile["kernels"], profile["host"]
        profile["power"] |= {name: energy.pop(name, 0.0) for name in _POWER_OF_ENERGY}
        host.pop("task_input_tokens", None)
        if "tiles" in kernels:
            tiles = kernels.pop("tiles")["shapes"]
            for formats in (kernels["gemm"], kernels["grouped_gemm"]):
                for coefficients in formats.values():
                    coefficients.setdefault("tiles", tiles)
        classes = {name: [*kernels[name].values()] for name in ("gemm", "grouped_gemm")}
        classes["attention"] = [*kernels["attention_prefill"].values(), *kernels["attention_decode"].values()]
        for name, factor in host.pop("stretch", {}).items():
            for coefficients in classes[name]:
                _scale_seconds(coefficients, factor)
        return profile


def _scale_seconds(coefficients: dict[str, Any], factor: float) -> None:
    """Multiply all seconds that the coefficients of a kernel class give by a factor."""
    for name in coefficients:
        if name in _INVERSE_SECONDS:
            coefficients[name] /= factor
        elif name in _SECONDS:
            coefficients[name] *= factor


def _without_sources(node: Any) -> Any:
    if isinstance(node, dict):
        fields = ((key, value) for key, value in node.items() if key not in _WITHOUT_EFFECT and value is not None)
        return {key: _without_sources(value) for key, value in fields}
    return [_without_sources(value) for value in node] if isinstance(node, (list, tuple)) else node
