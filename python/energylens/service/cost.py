"""What joules cost: money and carbon of a deployment, beyond the GPUs only where asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from energylens.errors import Problem, SpaceError

_J_PER_KWH = 3.6e6
_HOURS = 24


@dataclass(frozen=True)
class Costs:
    """Prices and surroundings of GPUs; what is not given is not counted.

    `gpu_hour`: price of a GPU-hour, one for all or by GPU name. `kwh`: price of a kWh. `pue`: power usage
    effectiveness, 1 counts the GPUs alone. `carbon_g_per_kwh`: intensity of the grid, one number or 24, of each hour
    of the day.
    `server_w_per_gpu`: watts of CPUs, memory, fans and network beside each GPU, drawn all the time.
    """

    gpu_hour: float | Mapping[str, float] | None = None
    kwh: float | None = None
    pue: float = 1.0
    carbon_g_per_kwh: float | Sequence[float] | None = None
    server_w_per_gpu: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        carbon = [] if self.carbon_g_per_kwh is None else np.atleast_1d(np.asarray(self.carbon_g_per_kwh)).tolist()
        prices = self.gpu_hour.values() if isinstance(self.gpu_hour, Mapping) else [self.gpu_hour]
        for name, values, least in (
            ("gpu_hour", prices, 0.0),
            ("kwh", [self.kwh], 0.0),
            ("pue", [self.pue], 1.0),
            ("carbon_g_per_kwh", carbon, 0.0),
            ("server_w_per_gpu", [self.server_w_per_gpu], 0.0),
        ):
            bad = [value for value in values if value is not None and not (np.isfinite(value) and value >= least)]
            problems += [Problem(f"`{name}` is {least:g} or more, found {value}", code="cost") for value in bad]
        if len(carbon) not in (0, 1, _HOURS):
            hint = "give one number, or 24, one for each hour of the day"
            problems.append(Problem(f"`carbon_g_per_kwh` has {len(carbon)} values", hint=hint, code="cost"))
        if problems:
            raise SpaceError(problems)

    @property
    def asked(self) -> bool:
        """Whether anything beyond the GPUs' joules is to be told."""
        given = (self.gpu_hour, self.kwh, self.carbon_g_per_kwh)
        return any(value is not None for value in given) or self.pue != 1.0 or self.server_w_per_gpu > 0.0

    def added(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return deployments with `energy_facility_per_output_token_j`, and money and grams per million output tokens.

        `E = pue·(energy_per_output_token_j + server_w·gpus/output_tokens_per_s)`; money: GPU-hours and kWh; carbon at
        the mean of the day, `_best` and `_worst` at its cleanest and dirtiest hour.
        """
        if not self.asked:
            return frame
        beside = self.server_w_per_gpu * pl.col("gpus") / pl.col("output_tokens_per_s")
        facility = self.pue * (pl.col("energy_per_output_token_j") + beside)
        frame = frame.with_columns(energy_facility_per_output_token_j=facility)
        kwh = pl.col("energy_facility_per_output_token_j") * 1e6 / _J_PER_KWH
        parts = []
        if self.gpu_hour is not None:
            price = pl.col("gpu").replace_strict(self._prices(frame), return_dtype=pl.Float64)
            parts.append(price * pl.col("gpus") / 3600.0 / pl.col("output_tokens_per_s") * 1e6)
        if self.kwh is not None:
            parts.append(kwh * self.kwh)
        if parts:
            frame = frame.with_columns(cost_per_million_output_tokens=pl.sum_horizontal(parts))
        if self.carbon_g_per_kwh is not None:
            hours = np.atleast_1d(np.asarray(self.carbon_g_per_kwh, dtype=np.float64))
            frame = frame.with_columns(carbon_g_per_million_output_tokens=kwh * float(hours.mean()))
            if len(hours) > 1:
                frame = frame.with_columns(
                    carbon_g_per_million_output_tokens_best=kwh * float(hours.min()),
                    carbon_g_per_million_output_tokens_worst=kwh * float(hours.max()),
                )
        return frame

    def _prices(self, frame: pl.DataFrame) -> dict[str, float]:
        names = frame["gpu"].unique().to_list()
        if not isinstance(self.gpu_hour, Mapping):
            return {name: float(self.gpu_hour or 0.0) for name in names}
        if missing := [name for name in names if name not in self.gpu_hour]:
            hint = f"prices are given for {', '.join(self.gpu_hour)}"
            raise SpaceError(Problem(f"no price of a GPU-hour for {', '.join(missing)}", hint=hint, code="cost"))
        return {name: float(self.gpu_hour[name]) for name in names}
