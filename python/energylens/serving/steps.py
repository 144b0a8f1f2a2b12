"""Seconds and joules of the steps of engines, read between the lines of tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]


@dataclass(frozen=True)
class Steps:
    """Steps of engines, one a row; all GPUs of an engine together.

    A step that decodes B sequences at mean context t and reads p prompt tokens takes
    `base_s(B + p) + decode_s(B, t) + sample_s·(B + prompts that end) + p·attend_s(length)`, joules alike: `base` is
    that of all kernels at so many tokens that attend to little, `decode` what B sequences attend to, `attend` what
    prompt tokens do, a mean over the prompt.
    """

    tokens: Column
    base_s: Column
    base_j: Column
    sequences: Column
    contexts: Column
    decode_s: Column
    decode_j: Column
    sample_s: Column
    sample_j: Column
    lengths: Column
    attend_s: Column
    attend_j: Column
    idle_w: Column
    gpus: Column
    lanes: Column
    """Data-parallel ranks times pipeline stages: a prompt is read on one of them."""

    def of(self, rows: NDArray[np.int64], decoding: Column, context: Column, read: Column) -> tuple[Column, Column]:
        """Return seconds and joules of steps, each on the engine of its row, without what prompts attend to."""
        base = between(self.tokens[rows], decoding + read)
        first, second = between(self.sequences[rows], np.maximum(decoding, 1e-9)), between(self.contexts[rows], context)
        some = np.minimum(1.0, decoding)

        def value(base_of: Column, decode_of: Column) -> Column:
            values: Column = interpolated(base_of[rows], base) + some * _interpolated_twice(
                decode_of[rows], first, second
            )
            return values

        seconds, joules = value(self.base_s, self.decode_s), value(self.base_j, self.decode_j)
        return seconds + decoding * self.sample_s[rows], joules + decoding * self.sample_j[rows]

    def attending(self, rows: NDArray[np.int64], length: Column) -> tuple[Column, Column]:
        """Return mean seconds and joules that a token of prompts of such a length takes for what it attends to."""
        at = between(self.lengths[rows], length)
        return interpolated(self.attend_s[rows], at), interpolated(self.attend_j[rows], at)

    def of_core(self, row: int) -> dict[str, Any]:
        """Return the steps of one engine in the form that the core reads."""
        single = {"sample_s", "sample_j"}
        lists = ("tokens", "base_s", "base_j", "sequences", "contexts", "decode_s", "decode_j")
        columns = {
            name: getattr(self, name)[row].ravel().tolist() for name in (*lists, "lengths", "attend_s", "attend_j")
        }
        return columns | {name: float(getattr(self, name)[row]) for name in single}


Place = tuple[NDArray[np.int64], NDArray[np.int64], Column]


def between(lines: Column, value: Column) -> Place:
    """Return where values lie between rising lines, one row of lines a value: before, after, and how far."""
    before = np.clip((lines <= value[:, None]).sum(axis=1) - 1, 0, lines.shape[1] - 2)
    rows = np.arange(len(value))
    low, high = lines[rows, before], lines[rows, before + 1]
    return before, before + 1, np.maximum(0.0, (value - low) / (high - low))


def interpolated(values: Column, place: Place) -> Column:
    """Return values at places between lines."""
    before, after, part = place
    rows = np.arange(len(part))
    low = values[rows, before]
    result: Column = low + part * (values[rows, after] - low)
    return result


def _interpolated_twice(values: Column, first: Place, second: Place) -> Column:
    rows = np.arange(len(first[2]))
    left, right, part = second

    def along(line: NDArray[np.int64]) -> Column:
        low = values[rows, line, left]
        result: Column = low + part * (values[rows, line, right] - low)
        return result

    low = along(first[0])
    result: Column = low + first[2] * (along(first[1]) - low)
    return result
