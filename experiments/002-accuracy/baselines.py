"""Simpler predictions of the same serving runs: TDP times time, and a roofline."""

from __future__ import annotations

from typing import Any

import polars as pl

from energylens.calibrate.engines.leave_one_out import predict
from energylens.common.accuracy import errors
from energylens.inputs.gpu import GpuSpec
from energylens.inputs.library import load_gpu
from energylens.inputs.plan import LoadedGpu

IDEAL: dict[str, Any] = {
    "t0_s": 0.0,
    "compute_efficiency": 1.0,
    "memory_efficiency": 1.0,
    "root_s_per_sqrt_byte": 0.0,
    "sharpness": 16,
    "source": "roofline",
}
"""A kernel at peak FLOP/s or at peak bandwidth, whichever takes longer; everything else of a kernel is 0 by default."""
UNCAPPED_W = 1e5


def roofline(gpu: LoadedGpu) -> LoadedGpu:
    """Return a profile of peaks: no fixed times, tiles of one element, links at full bandwidth, no host, no cap.

    It keeps our joules per FLOP and byte, our static power, and each task's input length.
    """
    spec = gpu.spec
    data = spec.model_dump(exclude_none=True)
    formats = {name: dict(IDEAL) | {"tiles": [[1, 1, 1.0]]} for name in ("bf16", "fp8", "fp8_block", "nvfp4", "mxfp4")}
    caches = {"bf16": dict(IDEAL), "fp8": dict(IDEAL)}
    curve = {"alpha_s": 0.0, "bandwidth_bytes_per_s": spec.link.bandwidth_bytes_per_s}
    ring = [{"name": "ideal", "by_gpus": {"8": curve}, "source": "roofline"}]
    names = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
    host, energy = spec.host, spec.energy
    assert host is not None and energy is not None
    data |= {
        "kernels": {
            "gemm": formats,
            "grouped_gemm": formats,
            "attention_prefill": caches,
            "attention_decode": caches,
            "elementwise": dict(IDEAL),
        },
        "collectives": dict.fromkeys(names, ring),
        "host": {"host_s": 0.0, "source": "roofline", "task_input_tokens": host.task_input_tokens},
        "energy": energy.model_copy(update={"active_w": 0.0, "communication_w": 0.0, "sequence_j": 0.0}).model_dump(
            exclude_none=True
        ),
        "power": data["power"] | {"tdp_w": UNCAPPED_W, "static_w": energy.static_w},
    }
    data.pop("frameworks", None)
    return LoadedGpu(GpuSpec.model_validate(data), gpu.document)


def predicted(runs: pl.DataFrame) -> pl.DataFrame:
    """Add the baselines' columns to the runs of `energylens.calibrate.validate`."""
    parts = []
    for (name,), subset in runs.group_by(["gpu"], maintain_order=True):
        gpu = load_gpu(str(name))
        bare = predict(subset, roofline(gpu))
        whole = gpu.spec.power.tdp_w * subset["gpus"]
        tokens_per_s = bare["output_tokens_per_s"]
        parts.append(
            subset.with_columns(
                bare["itl_s"].alias("roofline_itl_s"),
                tokens_per_s.alias("roofline_tokens_per_s"),
                bare["energy_per_output_token_j"].alias("roofline_joules"),
                (whole / tokens_per_s).alias("roofline_tdp"),
                *(
                    (whole / subset[f"output_tokens_per_s_{fit}"]).alias(f"tdp_{fit}")
                    for fit in ("in_sample", "left_out")
                ),
            )
        )
    return pl.concat(parts)


PREDICTIONS = {
    "energy": {
        "energylens, model in the fit": "energy_per_output_token_j_in_sample",
        "energylens, model left out": "energy_per_output_token_j_left_out",
        "TDP x our time, model in the fit": "tdp_in_sample",
        "TDP x our time, model left out": "tdp_left_out",
        "TDP x roofline time": "roofline_tdp",
        "roofline, our joules": "roofline_joules",
    },
    "itl": {
        "energylens, model in the fit": "itl_s_in_sample",
        "energylens, model left out": "itl_s_left_out",
        "roofline": "roofline_itl_s",
    },
    "tokens": {
        "energylens, model in the fit": "output_tokens_per_s_in_sample",
        "energylens, model left out": "output_tokens_per_s_left_out",
        "roofline": "roofline_tokens_per_s",
    },
}
MEASURED = {"energy": "energy_per_output_token_j", "itl": "itl_s", "tokens": "output_tokens_per_s"}


def table(runs: pl.DataFrame, by: str) -> list[dict[str, Any]]:
    """Return errors of every prediction of `predicted` runs, by GPU and a column (energy only, but for `all`)."""
    rows = []
    for (gpu, cut), group in runs.sort("gpu", by).group_by(["gpu", by], maintain_order=True):
        for quantity, columns in PREDICTIONS.items():
            if by != "all" and quantity != "energy":
                continue
            for name, column in columns.items():
                result = errors(group[column].to_numpy(), group[MEASURED[quantity]].to_numpy()).as_dict()
                rows.append({"gpu": gpu, by: cut, "quantity": quantity, "by": name, **result})
    return rows
