"""Seconds and joules of a block of kernels beside one all-reduce on c SMs, and the fit of their coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import least_squares

from energylens.calibrate.kernels.formulas import Array, both, slower

Mask = NDArray[np.bool_]

SMS, GPUS = 108, 2
BLOCKS = (512, 1024)
PARTS = 5
"""The block is timed in five parts, told apart by where windows end: operations 0 and 1, 2, 3 and 4, 5, 6."""
LAST = {1: 0, 2: 1, 4: 2, 5: 3, 6: 4}
"""Last operation of a window: its last part."""
HEAVY = {0: 0, 2: 1, 3: 1, 5: 3, 6: 3}
"""First operation of a window: the part the collective starts with (3 and 6: with the one before, as measured)."""
LITERAL = {0: 0, 2: 1, 3: 2, 5: 3, 6: 4}
START = (0.27, 0.58, 0.06, 0.54, 1.15)
"""Milliseconds of the parts, and further down: of the collective, SMs, ratio of SMs: where fits start."""
COLLECTIVE = (0.41, 12.0, 1.8)
KEYS = ("overlap_start", "overlap_end", "comm_block_size", "comm_sm_number")
FULL = 0.0
SMOOTH = -1.0
"""What fewer SMs do to a part: nothing; or they slow it in proportion. A number: its thread blocks, in whole waves."""


@dataclass(frozen=True)
class Form:
    """One way to write the model down; the first is the one chosen, the others were tried."""

    opens: tuple[tuple[int, int], ...] = tuple(HEAVY.items())
    sharpness: float | None = 1.5
    contention: tuple[int | None, ...] = (0,) * PARTS
    waves: tuple[float, ...] = (SMOOTH,) * PARTS
    slows_compute: bool = False
    gives_back: bool = True
    after: float | None = 0.0
    watts: tuple[str, ...] = ("static", "sms")

    @property
    def alike(self) -> bool:
        return len(set(self.contention)) == len(set(self.waves)) == 1


@dataclass(frozen=True)
class Runs:
    """Configurations, in milliseconds and joules of both GPUs; a first operation of -1: one after the other."""

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    block: NDArray[np.int64]
    sms: Array
    ms: Array
    joules: Array

    def __len__(self) -> int:
        return len(self.ms)

    def only(self, mask: Mask) -> Runs:
        return Runs(*(part[mask] for part in vars(self).values()))

    @property
    def sequential(self) -> Mask:
        return np.asarray(self.first < 0)

    @property
    def windows(self) -> list[tuple[int, int]]:
        return sorted({(int(a), int(b)) for a, b in zip(self.first, self.last, strict=True) if a >= 0})

    def within(self, window: tuple[int, int], block: int | None = None) -> Mask:
        here = (self.first == window[0]) & (self.last == window[1])
        return np.asarray(here if block is None else here & (self.block == block))


def load(folder: Path, repeats: tuple[int, ...] = (0, 1, 2)) -> Runs:
    """Return the mean of the repeats of every configuration."""
    table = pl.read_parquet(folder / "overlap_energy.parquet").filter(pl.col("repeat").is_in(repeats))
    mean = table.group_by(KEYS).agg(pl.col("time_s").mean() * 1e3, pl.col("energy_total_j").mean()).sort(KEYS)
    first, last, block, sms = (mean[key].to_numpy() for key in KEYS)
    return Runs(first, last, block, sms.astype(float), mean["time_s"].to_numpy(), mean["energy_total_j"].to_numpy())


@dataclass(frozen=True)
class Coefficients:
    """What a fit finds: milliseconds, SMs and W of one GPU; `fixed_j` of both."""

    parts: Array
    collective: float
    saturating: float
    ratio: float
    sharpness: float
    contention: Array
    slows_compute: float
    after: float
    fixed_j: float = 0.0
    watts: tuple[float, ...] = ()


def _kinds(form: Form) -> int:
    return 1 + max((-1 if kind is None else kind) for kind in form.contention)


def _start(form: Form) -> Array:
    values = [*START, *COLLECTIVE, *[0.6] * _kinds(form)]
    values += [1.5] * (form.sharpness is None) + [0.05] * form.slows_compute + [0.1] * (form.after is None)
    return np.log(values)


def _unpack(form: Form, logs: Array) -> Coefficients:
    values = [float(value) for value in np.exp(np.clip(logs, -12, 8))]
    parts, (collective, saturating, ratio), rest = values[:PARTS], values[PARTS : PARTS + 3], values[PARTS + 3 :]
    result, rest = rest[: _kinds(form)], rest[_kinds(form) :]
    by_part = np.array([0.0 if kind is None else result[kind] for kind in form.contention])
    sharpness = rest.pop(0) if form.sharpness is None else form.sharpness
    slows = rest.pop(0) if form.slows_compute else 0.0
    after = rest.pop(0) if form.after is None else form.after
    return Coefficients(np.array(parts), collective, saturating, ratio, sharpness, by_part, slows, after)


def fewer(waves: float, sms: Array) -> Array:
    """Return how many times slower a part is on the SMs that the collective leaves."""
    if waves == FULL:
        return np.ones_like(sms)
    if waves == SMOOTH:
        return SMS / (SMS - sms)
    return np.asarray(np.ceil(waves / (SMS - sms)) / np.ceil(waves / SMS))


def seconds(form: Form, summary: Coefficients, runs: Runs) -> tuple[Array, Array]:
    """Return milliseconds of the whole block, and those during which the collective runs."""
    saturating = summary.saturating * np.where(runs.block == BLOCKS[0], summary.ratio, 1.0)
    alone = summary.collective * slower(runs.sms, saturating, summary.sharpness)  # type: ignore[arg-type]
    opens = dict(form.opens)
    part = np.arange(PARTS)
    first = np.array([opens.get(int(a), PARTS) for a in runs.first])[:, None]
    last = np.array([LAST.get(int(b), -1) for b in runs.last])[:, None]
    inside = np.where((part >= first) & (part <= last), summary.parts, 0.0)
    outside = summary.parts.sum() + summary.after - inside.sum(axis=1)
    pair, live = (_window if form.alike else _chain)(form, summary, inside, alone, runs.sms)
    return outside + pair, live


def _window(form: Form, summary: Coefficients, inside: Array, alone: Array, sms: Array) -> tuple[Array, Array]:
    """Beside kernels that are all alike: with the formula of the engine, one number of SMs at a time."""
    pair, live = np.zeros_like(alone), np.zeros_like(alone)
    contention = float(summary.contention[0])
    for count in np.unique(sms):
        here = sms == count
        slow = float(fewer(form.waves[0], np.array([count]))[0]) * (1 + summary.slows_compute) - 1
        compute, collective = inside[here].sum(axis=1), alone[here]
        if not form.gives_back:
            compute, slow = compute * (1 + slow), 0.0
        pair[here] = both(compute, collective, slow, contention)
        overlapped = np.minimum(compute * (1 + slow), collective * (1 + contention))
        live[here] = collective + overlapped * contention / (1 + contention)
    return pair, live


def _chain(form: Form, summary: Coefficients, inside: Array, alone: Array, sms: Array) -> tuple[Array, Array]:
    """Beside kernels that are not alike: one after the other, until the collective is through."""
    pair, live, left = np.zeros_like(alone), np.zeros_like(alone), alone.copy()
    for part in range(PARTS):
        slow = fewer(form.waves[part], sms) * (1 + summary.slows_compute)
        contention = summary.contention[part]
        overlapped = np.minimum(inside[:, part] * slow, left * (1 + contention))
        pair += inside[:, part] + overlapped * (1 - 1 / slow)
        live += overlapped
        left = np.maximum(left - overlapped / (1 + contention), 0.0)
    return pair + left, live + left


def _drawn(form: Form, runs: Runs, ms: Array, live: Array) -> Array:
    """Return the columns whose weights are joules and W: fixed energy, then the terms of the form."""
    terms = {"static": ms, "sms": runs.sms * live, "live": live}
    return np.array([np.ones_like(ms), *(GPUS * 1e-3 * terms[name] for name in form.watts)]).T


def predict(form: Form, summary: Coefficients, runs: Runs) -> tuple[Array, Array]:
    """Return milliseconds and joules."""
    ms, live = seconds(form, summary, runs)
    return ms, _drawn(form, runs, ms, live) @ np.array([summary.fixed_j, *summary.watts])


def fit(form: Form, runs: Runs) -> Coefficients:
    """Fit times (logarithms), then, with the times so predicted, joules (relative)."""

    def error(logs: Array) -> Array:
        return np.asarray(np.log(seconds(form, _unpack(form, logs), runs)[0] / runs.ms))

    summary = _unpack(form, least_squares(error, _start(form), x_scale="jac", max_nfev=300).x)
    columns = _drawn(form, runs, *seconds(form, summary, runs)) / runs.joules[:, None]
    fixed, *watts = (float(value) for value in np.linalg.lstsq(columns, np.ones(len(runs)), rcond=None)[0])
    return Coefficients(**{**vars(summary), "fixed_j": fixed, "watts": tuple(watts)})


def left_out(form: Form, runs: Runs) -> tuple[Array, Array]:
    """Predict every window by a fit without it, sequential runs by the fit to all."""
    ms, joules = predict(form, fit(form, runs), runs)
    for window in runs.windows:
        here = runs.within(window)
        ms[here], joules[here] = predict(form, fit(form, runs.only(~here)), runs.only(here))
    return ms, joules
