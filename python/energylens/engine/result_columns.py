"""Columns of results: names, units, and whether larger is better."""

from __future__ import annotations

from typing import Final

from energylens.inputs.axes import AXES

ENERGY: Final = "energy_per_output_token_j"
"""The column that every result is judged by."""

DEFAULT_OBJECTIVES: Final = (ENERGY, "latency_s")
"""What a space trades off where no objectives are given."""

UNITS: Final[dict[str, str]] = {
    **{name: axis.unit for name, axis in AXES.items() if axis.unit is not None},
    "gpus": "GPUs",
    "latency_s": "s",
    "ttft_s": "s",
    "tpot_s": "s",
    "energy_j": "J",
    "energy_per_output_token_j": "J/token",
    "energy_per_request_j": "J/request",
    "energy_prefill_j": "J",
    "energy_decode_j": "J",
    "energy_decode_step_j": "J/step",
    "power_w_per_gpu": "W",
    "output_tokens_per_s": "tokens/s",
    "output_tokens_per_s_per_gpu": "tokens/s",
    "memory_bytes_per_gpu": "bytes",
    "energy_lo_j": "J",
    "energy_hi_j": "J",
    "ttft_p50_s": "s",
    "ttft_p90_s": "s",
    "ttft_p99_s": "s",
    "tpot_p90_s": "s",
    "running": "requests",
    "slots": "requests",
    "requests_per_s": "requests/s",
    "power_w": "W",
    "max_num_seqs": "sequences",
    "token_budget": "tokens",
    "energy_per_output_token_lo_j": "J/token",
    "energy_per_output_token_hi_j": "J/token",
    "energy_facility_per_output_token_j": "J/token",
    "cost_per_million_output_tokens": "currency",
    "carbon_g_per_million_output_tokens": "g",
}

RESULTS: Final[tuple[str, ...]] = (
    "gpus",
    "latency_s",
    "ttft_s",
    "tpot_s",
    "energy_j",
    "energy_lo_j",
    "energy_hi_j",
    "energy_per_output_token_j",
    "energy_per_request_j",
    "energy_prefill_j",
    "energy_decode_j",
    "energy_decode_step_j",
    "power_w_per_gpu",
    "output_tokens_per_s",
    "output_tokens_per_s_per_gpu",
    "memory_bytes_per_gpu",
    "extrapolated",
)
"""Result columns in the order they are shown."""

LARGER_IS_BETTER: Final[frozenset[str]] = frozenset({"output_tokens_per_s", "output_tokens_per_s_per_gpu"})


def unit(column: str) -> str | None:
    """Return the unit of a column; breakdown columns end in `_j` and are joules."""
    return UNITS.get(column, "J" if column.endswith("_j") else None)
