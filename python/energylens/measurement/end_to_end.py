"""The small transformer, measured end to end, against what profiles predict of the same spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from energylens.common.accuracy import Errors, errors, errors_text
from energylens.common.errors import EnergylensError, Problem
from energylens.common.format import table
from energylens.engine.evaluate import evaluate
from energylens.inputs.gpu import Energy, Host
from energylens.inputs.library import load_gpu
from energylens.inputs.plan import LoadedGpu
from energylens.measurement.runs import GO_ON, Runs
from energylens.measurement.transformer import spec

QUANTITIES = ("seconds", "joules")


@dataclass(frozen=True)
class EndToEnd:
    """Measured prefills and decode steps, with the prediction of each profile."""

    rows: pl.DataFrame
    """A row a case and profile: `gpu, phase, batch, tokens, seconds, joules`, and `predicted_` both."""

    def errors(self, gpu: str, phase: str, quantity: str) -> Errors:
        """Return the errors of one profile, phase and quantity."""
        phase_rows = self.rows.filter((pl.col("gpu") == gpu) & (pl.col("phase") == phase))
        return errors(phase_rows[f"predicted_{quantity}"].to_numpy(), phase_rows[quantity].to_numpy())

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """Profiles and phases, in their order."""
        return self.rows.select("gpu", "phase").unique(maintain_order=True).rows()

    def as_dict(self) -> dict[str, Any]:
        """Return errors and rows as plain data."""
        error_table = [
            {"gpu": gpu, "phase": phase, "quantity": quantity} | self.errors(gpu, phase, quantity).as_dict()
            for gpu, phase in self.kinds
            for quantity in QUANTITIES
        ]
        return {"errors": error_table, "rows": self.rows.to_dicts()}

    def text(self) -> str:
        """Return errors by profile and phase, and every case."""
        shown = [
            [gpu, phase, str(self.errors(gpu, phase, "seconds").rows)]
            + [errors_text(self.errors(gpu, phase, quantity)) for quantity in QUANTITIES]
            for gpu, phase in self.kinds
        ]
        lines = [
            [row["gpu"], row["phase"], str(row["batch"]), str(row["tokens"])]
            + [f"{row[name]:.4g}" for quantity in QUANTITIES for name in (quantity, f"predicted_{quantity}")]
            for row in self.rows.iter_rows(named=True)
        ]
        names = ["profile", "phase", "batch", "tokens", "s", "predicted", "J", "predicted"]
        return "\n\n".join(
            [
                "Errors in %: mean of the absolute error / median / 90th percentile (bias)",
                table(["profile", "phase", "cases", "seconds", "joules"], shown),
                table(names, lines),
            ]
        )


def end_to_end(runs: Runs, gpus: Sequence[str]) -> EndToEnd:
    """Return the measured transformer beside predictions of it by profiles, kernels back to back and no host between.

    No fit sees these rows. A serving layer is left out of the prediction: CUDA graphs have no host and no sampling.
    Raises `EnergylensError` where the file has no row of the transformer.
    """
    model = spec()
    measured = runs.means.filter((pl.col("family") == "model") & pl.col("sm_clock_lock_mhz").is_null())
    if not measured.height:
        raise EnergylensError(Problem("the file has no row of the transformer", hint=GO_ON, code="too-few-runs"))
    profiles = [bare(load_gpu(name)) for name in gpus]
    names = [gpu.spec.name for gpu in profiles]
    if twice := [name for name in names if names.count(name) > 1]:
        hint = "`energylens calibrate runs.parquet -o other.yaml` names a profile after its file"
        raise EnergylensError(Problem(f"two profiles are called `{twice[0]}`", hint=hint, code="options"))
    parts = []
    for gpu in profiles:
        for (phase,), phase_rows in measured.group_by(["variant"], maintain_order=True):
            prefill = phase == "prefill"
            points = phase_rows.select(
                model=pl.lit(model.spec.name),
                gpu=pl.lit(gpu.spec.name),
                batch="batch",
                prompt_tokens="tokens" if prefill else pl.col("tokens") - 1,
                output_tokens=pl.lit(2),
            )
            most = int((phase_rows["batch"] * phase_rows["tokens"]).max() or 1)  # type: ignore[arg-type]
            predicted = evaluate(points, models=[model], gpus=[gpu], max_batched_tokens=most)
            seconds, joules = ("ttft_s", "energy_prefill_j") if prefill else ("tpot_s", "energy_decode_step_j")
            parts.append(
                phase_rows.select(
                    gpu=pl.lit(gpu.spec.name), phase="variant", batch="batch", tokens="tokens", seconds="seconds",
                    joules="joules", predicted_seconds=predicted[seconds], predicted_joules=predicted[joules],
                )
            )  # fmt: skip
    return EndToEnd(pl.concat(parts))


def bare(gpu: LoadedGpu) -> LoadedGpu:
    """Return a profile without its serving layer: no host, no sampling, the prices of before its fit."""
    energy = gpu.spec.energy
    if energy is not None and energy.prior:
        energy = Energy.model_validate(energy.prior)
    host = Host(host_s=0.0, source="kernels back to back")
    return LoadedGpu(gpu.spec.model_copy(update={"host": host, "energy": energy}), gpu.document)
