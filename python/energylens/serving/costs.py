"""What joules cost: money and carbon of a deployment, of the GPUs alone or of the site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens.common.errors import Problem, SpaceError, SpecError
from energylens.common.show import shown
from energylens.inputs.library import load_gpu
from energylens.serving.sums import weighted_sum

FACILITY: Final = "energy_facility_per_output_token_j"
MONEY: Final = "cost_per_million_output_tokens"
CARBON: Final = "carbon_g_per_million_output_tokens"

_J_PER_KWH = 3.6e6
_HOURS = 24
_BOUNDS: Final = {
    "gpu_hour": (0.0, 1e6),
    "kwh": (0.0, 1e6),
    "pue": (1.0, 100.0),
    "carbon_g_per_kwh": (0.0, 1e6),
    "server_w_per_gpu": (0.0, 1e6),
}
"""Least and greatest of each number, far beyond what any site or currency has."""


def _fault(name: str, value: object) -> Problem | None:
    """Return what is wrong with a number of a price."""
    least, most = _BOUNDS[name]
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if number and least <= value <= most:  # type: ignore[operator]
        return None
    fault = f"`{name}` is a number from {least:g} to {most:,.0f}, found {shown(value)}"
    return Problem(fault, hint=_HINTS.get(name), code="cost")


_HINTS: Final = {
    "pue": "it is the site's energy over that of its servers, as in 1.3",
    "carbon_g_per_kwh": "it is grams of a kWh, as in 380",
}


@dataclass(frozen=True)
class Costs:
    """Prices and surroundings of GPUs; what is left out is not counted.

    Parameters
    ----------
    gpu_hour
        Price of a GPU-hour: one for all, or by GPU name.
    kwh
        Price of a kWh.
    pue
        Power usage effectiveness of the site, 1 to 100; 1 counts the servers alone.
    carbon_g_per_kwh
        Grams of CO2 of a kWh of the grid: one number, or 24, one for each hour of the day from midnight.
    server_w_per_gpu
        Watts of CPUs, memory, fans and network for each GPU, drawn all the time.

    Raises
    ------
    SpaceError
        With every number that is out of range; all but `pue` are 0 to 10⁶.

    Examples
    --------
    >>> Costs(gpu_hour=2.5, kwh=0.12).columns()
    ['energy_facility_per_output_token_j', 'cost_per_million_output_tokens']
    """

    gpu_hour: float | Mapping[str, float] | None = None
    kwh: float | None = None
    pue: float = 1.0
    carbon_g_per_kwh: float | Sequence[float] | None = None
    server_w_per_gpu: float = 0.0

    def __post_init__(self) -> None:
        carbon = [] if self.carbon_g_per_kwh is None else np.atleast_1d(np.asarray(self.carbon_g_per_kwh)).tolist()
        several = isinstance(self.gpu_hour, Mapping)
        prices = list(self.gpu_hour.values()) if isinstance(self.gpu_hour, Mapping) else [self.gpu_hour]
        numbers: dict[str, list[Any]] = {
            "gpu_hour": prices if several or self.gpu_hour is not None else [],
            "kwh": [] if self.kwh is None else [self.kwh],
            "pue": [self.pue],
            "carbon_g_per_kwh": carbon,
            "server_w_per_gpu": [self.server_w_per_gpu],
        }
        problems = [fault for name, values in numbers.items() for value in values if (fault := _fault(name, value))]
        if len(carbon) not in (0, 1, _HOURS):
            hint = "give one number, or 24, one for each hour of the day"
            problems.append(Problem(f"`carbon_g_per_kwh` has {len(carbon)} values", hint=hint, code="cost"))
        if problems:
            raise SpaceError(problems)

    @property
    def requested(self) -> bool:
        """Whether anything besides the GPUs' joules is counted."""
        prices = (self.gpu_hour, self.kwh, self.carbon_g_per_kwh)
        return any(value is not None for value in prices) or self.pue != 1.0 or self.server_w_per_gpu > 0.0

    @property
    def by_hour(self) -> bool:
        """Whether carbon differs from hour to hour."""
        return self.carbon_g_per_kwh is not None and np.atleast_1d(np.asarray(self.carbon_g_per_kwh)).size == _HOURS

    def columns(self) -> list[str]:
        """Return the columns that `added` adds."""
        names = [FACILITY] if self.requested else []
        names += [MONEY] if self.gpu_hour is not None or self.kwh is not None else []
        if self.carbon_g_per_kwh is not None:
            names += [CARBON, *((f"{CARBON}_best", f"{CARBON}_worst") if self.by_hour else ())]
        return names

    def added(self, frame: pl.DataFrame, hours: Sequence[tuple[float, float]] = ()) -> pl.DataFrame:
        """Return deployments with `energy_facility_per_output_token_j`, and money and grams per million output tokens.

        `E = pue·(energy_per_output_token_j + server_w·gpus/output_tokens_per_s)`; money: GPU-hours and kWh; carbon at
        the hours in which the joules are spent, `_best` and `_worst` at the cleanest and dirtiest hour of the day.

        Parameters
        ----------
        frame
            Deployments with the columns of `serve`; `share_static`, if there is one, or `idle_share` is the share of
            the joules that does not follow the load.
        hours
            Share of the time and of the output tokens in each of the 24 hours (`Workload.hours`). Joules that do not
            follow the load are spent evenly over that time, the others with the output tokens. Without, all are spent
            evenly over the day.
        """
        if not self.requested:
            return frame
        server_j = self.server_w_per_gpu * pl.col("gpus") / pl.col("output_tokens_per_s")
        facility = self.pue * (pl.col("energy_per_output_token_j") + server_j)
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
            by_hour = np.atleast_1d(np.asarray(self.carbon_g_per_kwh, dtype=np.float64))
            grams = self._grams_per_kwh(frame, by_hour, hours)
            frame = frame.with_columns(carbon_g_per_million_output_tokens=kwh * grams)
            if len(by_hour) > 1:
                frame = frame.with_columns(
                    carbon_g_per_million_output_tokens_best=kwh * float(by_hour.min()),
                    carbon_g_per_million_output_tokens_worst=kwh * float(by_hour.max()),
                )
        return frame

    def _grams_per_kwh(
        self, frame: pl.DataFrame, by_hour: NDArray[np.float64], hours: Sequence[tuple[float, float]]
    ) -> pl.Expr:
        """Return the mean grams of a kWh over the joules of each deployment."""
        if len(by_hour) < _HOURS or not hours:
            return pl.lit(float(by_hour.mean()))
        time, work = np.array(hours, dtype=np.float64).T
        over_time, over_work = weighted_sum(time, by_hour), weighted_sum(work, by_hour)
        known = [name for name in ("share_static", "idle_share") if name in frame.columns]
        steady = pl.col(known[0]).fill_null(0.0) if known else pl.lit(0.0)
        energy = pl.col("energy_per_output_token_j")
        server = self.server_w_per_gpu * pl.col("gpus") / pl.col("output_tokens_per_s")
        share = (steady * energy + server) / (energy + server)
        return share * over_time + (1.0 - share) * over_work

    def _prices(self, frame: pl.DataFrame) -> dict[str, float]:
        names = frame["gpu"].unique().to_list()
        if not isinstance(self.gpu_hour, Mapping):
            return {name: float(self.gpu_hour or 0.0) for name in names}
        prices = {_spec_name(name, names): float(price) for name, price in self.gpu_hour.items()}
        if missing := [name for name in names if name not in prices]:
            hint = f"there are prices for {', '.join(map(str, self.gpu_hour))}"
            raise SpaceError(Problem(f"no price of a GPU-hour for {', '.join(missing)}", hint=hint, code="cost"))
        return {name: prices[name] for name in names}


def _spec_name(text: str | Path, names: Sequence[str]) -> str:
    """Return the name that the spec of a GPU has, which may be meant in another spelling or by its path."""
    if text in names:
        return str(text)
    try:
        return load_gpu(text).spec.name
    except SpecError:
        return str(text)
