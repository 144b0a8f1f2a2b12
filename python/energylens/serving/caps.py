"""Power caps on GPUs without a table of clocks: how far they slow down is unknown, so no step may reach the cap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens.common.errors import InfeasibleError, Problem
from energylens.inputs import routing
from energylens.inputs.axes import LARGEST, POINT_DEFAULTS
from energylens.inputs.bundled import bundled
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.plan import LoadedGpu, Plan
from energylens.results.breakdown import drawn_w
from energylens.serving.fixed_concurrency import ample

if TYPE_CHECKING:
    from energylens.serving.steps import Steps

Column = NDArray[np.float64]
Rows = NDArray[np.int64]

PIECE: Final = 128
"""Prompt tokens of one sequence in steps that read but attend to little."""
_FINE = 4
"""Lines of the grid of a replay's check for each line of the table of steps."""
_GROUPS = 11
"""Groups of watts that one replay tells apart: with marks of 10^(25·g), the largest is within the range of a double."""
_DIGITS = 25
"""Powers of ten between the marks of two groups of watts: a sum of marks tells the highest of them."""
_MOST_SHORTFALL = 15
"""Powers of ten by which a sum may fall short of its mark, of which a step near another line counts a small part; by
the other ten it may exceed it, summed over many steps."""
_SLACK: Final = 1e-9
"""Share by which rounding may put a step above a cap that it just reaches."""


class CapBinds(InfeasibleError):
    """A step draws more than a cap whose effect is not known; `lowest_w` is the lowest cap that it does not reach."""

    def __init__(self, problem: Problem, lowest_w: float) -> None:
        super().__init__(problem)
        self.lowest_w = lowest_w


@dataclass(frozen=True)
class Drawn:
    """Watts that a GPU of an engine draws in steps, a row each, and the cap on them.

    A step that decodes B sequences at mean context t and reads p prompt tokens draws what one of n = B + p sequences at
    mean context B·t/n does: as many tokens, and as many bytes of caches read. Of a pipeline it is the stage that draws
    the most.
    """

    cap_w: Column
    """Infinite where no cap binds in any step of the grid."""
    tokens: Column
    base_w: Column
    """Watts of a step that reads so many tokens that attend to little."""
    sequences: Column
    contexts: Column
    decode_w: Column
    lengths: Column
    more_w: Column
    """Watts that a prompt of such a length, read at once, draws beyond that."""

    def of(self, rows: Rows, decoding: Column, context: Column, read: Column, length: Column) -> Column:
        """Return the watts of steps, each on the engine of its row, that read tokens of prompts of such a length."""
        watts = np.zeros(len(rows))
        for row in np.unique(rows[np.isfinite(self.cap_w[rows])]):
            mask = rows == row
            worked, shared = np.maximum(decoding[mask] + read[mask], 1e-9), context[mask]
            alone = np.interp(worked, self.tokens[row], self.base_w[row])
            some = self._decoding(int(row), worked, decoding[mask] * shared / worked)
            more = read[mask] / worked * np.interp(length[mask], self.lengths[row], self.more_w[row])
            watts[mask] = np.where(decoding[mask] > 0, some, alone) + more
        return watts

    def _decoding(self, row: int, sequences: Column, context: Column) -> Column:
        """Return the watts of steps of one engine that decode so many sequences, each at its mean context."""
        return _bilinear(self.sequences[row], self.contexts[row], self.decode_w[row], sequences, context)

    def most(self, row: int, reading: Reading) -> tuple[Column, Column, Column, Column]:
        """Return sequences and contexts of a fine grid, and the watts that a step at its lines draws at the most.

        That is whatever it reads besides; last are the watts of steps that only read.
        """
        sequences, contexts = _finer(self.sequences[row]), _finer(self.contexts[row])
        reached = self.lengths[row] <= max(reading.longest, self.lengths[row][1])
        more = float(self.more_w[row][reached].max()) if reading.longest > 0 else 0.0
        watts = np.zeros((len(sequences), len(contexts)))
        for at, decoding in enumerate(sequences):
            least = decoding + reading.shortest
            totals = np.append(least, sequences[sequences > least]) if reading.mixes else np.zeros(0)
            worked = np.append(decoding, totals[totals <= reading.token_budget])
            each = np.repeat(worked, len(contexts))
            base_w = self._decoding(row, each, np.tile(contexts, len(worked)) * decoding / each)
            extra = more * (1.0 - decoding / worked)
            watts[at] = (base_w.reshape(len(worked), len(contexts)) + extra[:, None]).max(axis=0)
        return sequences, contexts, watts, np.where(self.tokens[row] < reading.shortest, 0.0, self.base_w[row] + more)


@dataclass(frozen=True)
class Reading:
    """What steps of a replay read: tokens in all of a step, whether along with decoding, and lengths of prompts."""

    token_budget: int
    mixes: bool
    shortest: float
    """Fewest tokens of a prompt that are read where it is read in one step."""
    longest: float
    """0 if none are read."""


def drawn(steps: Steps, points: pl.DataFrame, bound: NDArray[np.bool_], options: Mapping[str, Any]) -> Drawn:
    """Return the watts of engines whose steps are those without a cap; a cap is held against those `bound`."""
    each = steps.gpus[:, None]
    base_w = steps.base_j / steps.base_s / each

    def base_at(values: Column, counts: Column) -> Column:
        interpolated_rows = [
            np.interp(row, tokens, line) for row, tokens, line in zip(counts, steps.tokens, values, strict=True)
        ]
        return np.array(interpolated_rows)

    read = steps.lanes[:, None] * steps.lengths
    with np.errstate(invalid="ignore"):
        long_w = base_at(steps.base_j, read) + read * steps.attend_j
        long_w /= (base_at(steps.base_s, read) + read * steps.attend_s) * each
    sampled_s, sampled_j = (v[:, None] * steps.sequences for v in (steps.sample_s, steps.sample_j))
    alone_s, alone_j = (base_at(v, steps.sequences) for v in (steps.base_s, steps.base_j))
    decode_w = steps.decode_j + (alone_j + sampled_j)[:, :, None]
    decode_w /= (steps.decode_s + (alone_s + sampled_s)[:, :, None]) * each[:, :, None]
    for row in np.flatnonzero(bound & (points["pp"].to_numpy() > 1)):
        base_w[row], long_w[row, 1:], decode_w[row] = _of_stages(steps, int(row), points, options)
    more_w = np.maximum(0.0, long_w - base_at(base_w, read))
    more_w[:, 0] = 0.0
    cap_w = np.where(bound, points["power_cap_w"].cast(pl.Float64).fill_null(np.inf).to_numpy(), np.inf)
    return Drawn(
        cap_w, steps.tokens, base_w, steps.sequences, steps.contexts, decode_w, steps.lengths, more_w
    )  # fmt: skip


def _of_stages(steps: Steps, row: int, points: pl.DataFrame, options: Mapping[str, Any]) -> list[Column]:
    """Return the watts of the stage of a pipeline that draws the most: of steps that read, of prompts, of decoding."""
    point = dict.fromkeys(POINT_DEFAULTS) | points.row(row, named=True)
    models, gpus = ({item.spec.name: item for item in options[name]} for name in ("models", "gpus"))
    model = models.get(point["model"]) or load_model(str(point["model"]))
    plan = Plan([model], [ample(gpus[point["gpu"]])], LARGEST, routing.laws([point.get("routing")]))
    lanes, lengths = steps.lanes[row], steps.lengths[row, 1:]
    tokens = steps.tokens[row] / lanes

    def watts(phase: str, batches: Column, prompts: Column) -> Column:
        lines = zip(np.rint(batches), np.rint(prompts), strict=True)
        each = [point | {"batch": batch, "prompt_tokens": prompt, "output_tokens": 2} for batch, prompt in lines]
        return np.array([drawn_w(plan, single_point)[phase] for single_point in each])

    base = watts("prefill", lanes * np.maximum(1.0, tokens // PIECE), np.minimum(tokens, PIECE))
    long = watts("prefill", np.full(len(lengths), lanes), lengths)
    sequences, contexts = steps.sequences[row], steps.contexts[row]
    decode = watts("decode", np.repeat(sequences, len(contexts)), np.tile(contexts, len(sequences)))
    return [base, long, decode.reshape(len(sequences), len(contexts))]


def _finer(lines: Column) -> Column:
    """Return lines with others between them."""
    at = np.arange((len(lines) - 1) * _FINE + 1) / _FINE
    return np.interp(at, np.arange(len(lines)), lines)


def _bilinear(first: Column, second: Column, values: Column, at_first: Column, at_second: Column) -> Column:
    """Return values between the lines of a grid; beyond its ends those of the ends."""
    places = []
    for lines, value in ((first, at_first), (second, at_second)):
        inside = np.clip(value, lines[0], lines[-1])
        before = np.clip(np.searchsorted(lines, inside, side="right") - 1, 0, len(lines) - 2)
        places.append((before, (inside - lines[before]) / (lines[before + 1] - lines[before])))
    (i, a), (j, b) = places
    low = values[i, j] * (1.0 - b) + values[i, j + 1] * b
    high = values[i + 1, j] * (1.0 - b) + values[i + 1, j + 1] * b
    interpolated: Column = low * (1.0 - a) + high * a
    return interpolated


def replay_w(
    drawn: Drawn, row: int, steps: Mapping[str, Any], reading: Reading, joules: Callable[[dict[str, Any]], float]
) -> int | None:
    """Return the lowest cap in whole watts that no step of a replay draws more than; None if its own cap is one.

    What a step reads along with what it decodes is taken as what draws the most of all that it may read.

    Parameters
    ----------
    drawn, row
        The watts of the engine.
    steps
        Its steps as the core takes them: seconds decide which steps there are.
    reading
        What steps read.
    joules
        Replays all requests on such steps and returns the joules: marks in their place tell which steps there were.
    """
    lowest = _marked(drawn, row, steps, replace(reading, shortest=min(1.0, reading.shortest)), joules)
    if lowest is None or reading.shortest <= 1.0:
        return lowest
    # Where no step was full, every prompt was read in one step.
    full = [float(tokens >= reading.token_budget) for tokens in drawn.tokens[row]]
    none = {name: [0.0] * len(steps[name]) for name in ("decode_j", "attend_j")} | {"sample_j": 0.0}
    if joules(dict(steps) | none | {"base_j": full}) != 0.0:
        return lowest
    return _marked(drawn, row, steps, reading, joules)


def _marked(
    drawn: Drawn, row: int, steps: Mapping[str, Any], reading: Reading, joules: Callable[[dict[str, Any]], float]
) -> int | None:
    """Return what `replay_w` does, by marks in place of joules: 10^(25·g) at lines of the grid of group g of watts."""
    sequences, contexts, decode_w, base_w = drawn.most(row, reading)
    cap = math.floor(float(drawn.cap_w[row]))
    decode, base = (np.ceil(watts * (1.0 - _SLACK)) - cap for watts in (decode_w, base_w))
    decode_s = _bilinear(
        drawn.sequences[row],
        drawn.contexts[row],
        np.reshape(steps["decode_s"], drawn.decode_w[row].shape),
        np.repeat(sequences, len(contexts)),
        np.tile(contexts, len(sequences)),
    )
    fine = dict(steps) | {"sequences": sequences.tolist(), "contexts": contexts.tolist()}
    fine |= {"decode_s": decode_s.tolist(), "sample_j": 0.0, "attend_j": [0.0] * len(steps["attend_j"])}
    low, high = 0, int(max(decode.max(), base.max()))
    while low < high:
        width = -(-(high - low) // _GROUPS)
        marks = {"decode_j": _marks(decode, low, width), "base_j": _marks(base, low, width)}
        total = abs(joules(fine | marks))
        if total == 0.0:
            break
        group = max(0, math.floor((math.log10(total) + _MOST_SHORTFALL) / _DIGITS))
        low, high = low + group * width, min(high, low + (group + 1) * width)
        if width == 1:
            return cap + high
    return None if low == 0 else cap + low


def _marks(levels: Column, low: int, width: int) -> list[float]:
    """Return a mark for every level above one, the same for so many levels each."""
    group = np.clip((levels - low - 1) // width, 0, _GROUPS - 1)
    marks: list[float] = np.where(levels <= low, 0.0, 10.0 ** (_DIGITS * group)).ravel().tolist()
    return marks


def binds(gpu: str, cap_w: float, lowest_w: float, what: str, gpus: Sequence[LoadedGpu]) -> Problem:
    """Return that a cap binds in a step on a GPU without clocks, the lowest that does not, and GPUs with clocks."""
    by_name = {loaded.spec.name: loaded for loaded in gpus}
    loaded = by_name.get(gpu) or load_gpu(gpu)
    tdp_w = math.floor(loaded.profile.tdp_w)
    lowest = min(math.ceil(lowest_w * (1.0 - _SLACK)), tdp_w)
    known = [name for name in bundled("hardware") if not capless(load_gpu(name))]
    message = (
        f"a power cap of {cap_w:g} W binds: {gpu} would draw {min(lowest_w, tdp_w):.0f} W in {what}, "
        "and its profile has no table of clocks that says how far it slows down"
    )
    hint = f"a cap of {lowest} W or more does not bind here"
    return Problem(message, hint=f"{hint}; tables of clocks have {', '.join(known)}" if known else hint, code="power")


def uncapped(points: pl.DataFrame, gpus: Iterable[LoadedGpu]) -> pl.DataFrame:
    """Return points without the caps of GPUs whose clocks are not known: one that does not bind changes nothing."""
    names = [loaded.spec.name for loaded in gpus if capless(loaded)]
    if "power_cap_w" not in points.columns or not names:
        return points
    cap = pl.when(pl.col("gpu").cast(pl.String).is_in(names)).then(None).otherwise(pl.col("power_cap_w"))
    return points.with_columns(cap.alias("power_cap_w"))


def capless(loaded: LoadedGpu) -> bool:
    """Return whether it is unknown what a lower clock does to a GPU, and so a cap that binds."""
    clock = loaded.spec.clock
    tables = [table for table in (clock.voltage_mv, clock.idle_w) if table] if clock is not None else []
    return clock is None or not tables or max(table[0][0] for table in tables) > clock.max_mhz


def in_range(points: pl.DataFrame, gpus: Iterable[LoadedGpu]) -> NDArray[np.bool_]:
    """Return which points have a cap on a GPU whose clocks are not known that is one its board can keep."""
    if "power_cap_w" not in points.columns:
        return np.zeros(points.height, dtype=np.bool_)
    bounds = {loaded.spec.name: loaded.profile.sections["power"] for loaded in gpus if capless(loaded)}
    rows = points.select("gpu", "power_cap_w").iter_rows()
    fits = [
        cap is not None and gpu in bounds and bounds[gpu]["static_w"] < cap <= bounds[gpu]["tdp_w"] for gpu, cap in rows
    ]
    return np.array(fits, dtype=np.bool_)
