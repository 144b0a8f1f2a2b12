"""What is handed to the compiled core: single points and columns of points, with an attribute for each axis.

The core reads the attributes by name, so both sides stand in one place each: here, and in `points.rs` of the extension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from energylens.inputs import run_options

RunOptions = Mapping[str, int | bool | str]
"""How a point runs, by axis (those of `energylens.inputs.run_options`): 0 leaves an axis to the spec."""

Codes = NDArray[np.uint32]
Sizes = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One configuration; `model` and `gpu` are positions in the plan, a number format None is that of the spec."""

    model: int = 0
    gpu: int = 0
    weight_dtype: str | None = None
    kv_dtype: str | None = None
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    run_options: RunOptions = field(default_factory=lambda: run_options.for_core({}))
    batch: float = 1.0
    prompt_tokens: float = 1.0
    output_tokens: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PointColumns:
    """Points as columns of equal length; number formats and run options are positions in `dtypes` and `run_options`."""

    dtypes: Sequence[str | None]
    run_options: Sequence[RunOptions]
    model: Codes
    gpu: Codes
    weight_dtype: Codes
    kv_dtype: Codes
    tp: Codes
    pp: Codes
    dp: Codes
    ep: Codes
    run_option: Codes
    batch: Sizes
    prompt_tokens: Sizes
    output_tokens: Sizes
