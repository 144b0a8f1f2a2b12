"""A space of configurations: axes of values, limits, objectives; a point is an integer into it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens import _core
from energylens.common.errors import Problem, SpaceError, did_you_mean
from energylens.common.show import shown
from energylens.common.units import LARGER_IS_BETTER, RESULTS, UNITS
from energylens.engine.trust import Account, account
from energylens.inputs import routing, run_options
from energylens.inputs.axis_lists import different, listed
from energylens.inputs.axis_text import is_whole, numbers
from energylens.inputs.columns import SPEC_WORD
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.plan import LARGEST, MAX_BATCHED_TOKENS, LoadedGpu, LoadedModel, Plan, core_problems, distinct

DEFAULT_OBJECTIVES = ("energy_per_output_token_j", "latency_s")
DEFAULT_BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)

_PARTS = tuple(name for name in _core.COLUMNS if name not in RESULTS)
LIMITED = (*RESULTS, *_PARTS)
"""Columns of a result that limits may bound: all that are numbers, joules by phase and cause among them."""

_LIMIT = re.compile(r"^\s*(\w+)\s*(<=|>=)\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]+)\s*([a-zA-Z]*)\s*$")
_SHORT = {"ttft": "ttft_s", "tpot": "tpot_s", "itl": "tpot_s", "latency": "latency_s", "power": "power_w_per_gpu"}
_SCALES: dict[str, dict[str, float]] = {
    "s": {"s": 1.0, "ms": 1e-3, "us": 1e-6},
    "J": {"J": 1.0, "mJ": 1e-3, "kJ": 1e3, "MJ": 1e6},
    "W": {"W": 1.0, "kW": 1e3},
    "bytes": {"B": 1.0, "MB": 1e6, "GB": 1e9, "GiB": 2.0**30},
}


@dataclass(frozen=True)
class Limit:
    """A bound on a result column, in its own unit."""

    column: str
    lowest: float
    highest: float

    @classmethod
    def parse(cls, text: str, columns: Sequence[str] = LIMITED, short: Mapping[str, str] | None = None) -> Limit:
        """Read `tpot_s<=0.05`, `tpot<=50ms` or `gpus<=8`; raise `SpaceError`.

        `columns` are those that may be limited, all numbers of a result if not given; `short` other names of them.
        """
        match = _LIMIT.match(text) if isinstance(text, str) else None
        if match is None:
            hint = "write a column, <= or >=, and a number: tpot<=50ms, gpus<=8"
            raise SpaceError(Problem(f"cannot read the limit `{shown(text)}`", hint=hint, code="limit"))
        name, sense, number, suffix = match.groups()
        column = result_column((_SHORT if short is None else short).get(name.lower(), name), "limit", columns)
        scales = {"": 1.0} | _SCALES.get(str(UNITS.get(column)).split("/")[0], {})
        if suffix not in scales:
            known = ", ".join(name for name in scales if name) or "a plain number"
            raise SpaceError(
                Problem(f"`{suffix}` is not a unit of {column} in `{text}`", hint=f"use {known}", code="limit")
            )
        value = float(number) * scales[suffix]
        if not math.isfinite(value):
            raise SpaceError(Problem(f"the limit `{text}` is not finite", code="limit"))
        return cls(column, -np.inf, value) if sense == "<=" else cls(column, value, np.inf)

    def __str__(self) -> str:
        return (
            f"{self.column} <= {self.highest:g}" if np.isfinite(self.highest) else f"{self.column} >= {self.lowest:g}"
        )


def result_column(name: str, what: str, columns: Sequence[str] = RESULTS) -> str:
    """Return the name of a result column; raise `SpaceError` if there is none."""
    if name not in columns:
        hint = did_you_mean(shown(name), columns) or f"columns are {', '.join(c for c in columns if c not in _PARTS)}"
        if what == "limit" and name in _core.AXES:
            hint = f"`{name}` is an axis: give the values that it may have"
        raise SpaceError(Problem(f"unknown {what} `{shown(name)}`", hint=hint, code=f"unknown-{what}"))
    return name


def space_of(space: Space | None, axes: Mapping[str, Any]) -> Space:
    """Return a space with some of its fields changed, or that of the fields alone; raise `SpaceError`."""
    if space is not None and not isinstance(space, Space):
        hint = f'name its axes: models="{shown(space)}"' if isinstance(space, (str, Path)) else "give a `Space`"
        raise SpaceError(Problem(f"a space is not a {type(space).__name__}", hint=hint, code="unknown-axis"))
    known = [item.name for item in fields(Space)]
    problems = [
        Problem(f"unknown axis `{shown(name)}`", hint=did_you_mean(name, known), code="unknown-axis")
        for name in axes
        if name not in known
    ]
    if space is None:
        problems += [
            Problem(f"axis `{name}` has no value: the space is empty", hint="it has no default", code="empty-space")
            for name in ("models", "gpus")
            if name not in axes
        ]
    if problems:
        raise SpaceError(problems)
    return Space(**axes) if space is None else replace(space, **axes) if axes else space


@dataclass(frozen=True)
class Space:
    """Axes and limits of a search.

    Every axis takes a value, a list, or text such as `1:512` or `16:8192:16`; `weight_dtype` and `kv_dtype` take None
    for the spec's own format. `overlap_stages` with `overlap_sms` overlap collectives in the phases of `overlap_where`
    (1 stage and 0 SMs: not at all; None: as the spec says), `sm_clock_mhz` locks the SM clock, `power_cap_w` caps the
    power; overlap that would change nothing is infeasible, not repeated. A prefill pass takes at most
    `max_batched_tokens` prompt tokens. `limits` are strings such as `tpot<=50ms`; `objectives` are result columns, each
    minimised unless larger is better.
    """

    models: Any
    gpus: Any
    tp: Any = (1, 2, 4, 8)
    pp: Any = (1,)
    dp: Any = (1,)
    ep: Any = (1,)
    cp: Any = (1,)
    overlap_stages: Any = None
    overlap_sms: Any = 0
    overlap_where: Any = "prefill"
    sequence_parallel: Any = False
    fused_norm: Any = False
    sm_clock_mhz: Any = None
    power_cap_w: Any = None
    routing: Any = None
    placement: Any = "contiguous"
    batch: Any = DEFAULT_BATCHES
    prompt_tokens: Any = 1024
    output_tokens: Any = 256
    weight_dtype: Any = None
    kv_dtype: Any = None
    max_batched_tokens: int = MAX_BATCHED_TOKENS
    limits: Sequence[str] = ()
    objectives: Sequence[str] = field(default=DEFAULT_OBJECTIVES)

    @cached_property
    def plan(self) -> Plan:
        """The plan of the space's models and GPUs."""
        models: list[LoadedModel] = distinct([load_model(m) for m in listed(self.models)], "model")
        gpus: list[LoadedGpu] = distinct([load_gpu(g) for g in listed(self.gpus)], "GPU")
        words = [law for law in self._running["routing"] if isinstance(law, str)]
        sound = [law for law in routing.laws(words) if routing.problem(law) is None]
        return Plan(models, gpus, self.max_batched_tokens, sound)

    @cached_property
    def _running(self) -> dict[str, list[Any]]:
        """Values of the axes of ways to run, read once: the plan needs the laws of routing, the axes all of them."""
        return {
            name: [
                value
                for part in listed(getattr(self, name))
                for value in (run_options.values(part, name) if isinstance(part, str) else [part])
            ]
            for name in run_options.RUNNING
        }

    @cached_property
    def axes(self) -> dict[str, list[Any]]:
        """Values of each axis, slowest first, as names and numbers; duplicates are dropped."""
        plan = self.plan
        given = set(_core.AXES) - {"model", "gpu"} - set(run_options.RUNNING)
        raw = {name: listed(getattr(self, name)) for name in given}
        for name in ("weight_dtype", "kv_dtype"):
            raw[name] = [None if isinstance(v, str) and v == SPEC_WORD else v for v in raw[name]]
        for name in ("tp", "pp", "dp", "ep", "batch", "prompt_tokens", "output_tokens"):
            raw[name] = [v for part in raw[name] for v in (numbers(part, name) if isinstance(part, str) else [part])]
        axes = {"model": plan.model_names, "gpu": plan.gpu_names} | raw | self._running
        return {name: different(axes[name], name) for name in _core.AXES}

    @cached_property
    def json(self) -> str:
        """The space as the core reads it; raises `SpaceError` with every problem."""
        content = dict(self.axes)
        content["model"] = list(range(len(self.plan.model_names)))
        content["gpu"] = list(range(len(self.plan.gpu_names)))
        problems = []
        for name in ("tp", "pp", "dp", "ep", "batch", "prompt_tokens", "output_tokens"):
            top = 1024 if name in {"tp", "pp", "dp", "ep"} else LARGEST
            whole = [is_whole(value, 1, top) for value in content[name]]
            if not all(whole):
                bad = content[name][whole.index(False)]
                message = f"axis `{name}` needs whole numbers from 1 to {top:,}, found `{shown(bad)}`"
                problems.append(Problem(message, code="axis-value"))
            else:
                kind = int if top == 1024 else float
                content[name] = [kind(v) for v in content[name]]
        for name in ("weight_dtype", "kv_dtype"):
            bad = [value for value in content[name] if value is not None and value not in _core.DTYPES]
            if bad:
                hint = did_you_mean(shown(bad[0]), _core.DTYPES)
                problems.append(
                    Problem(f"unknown data type `{shown(bad[0])}` in `{name}`", hint=hint, code="unknown-dtype")
                )
        for name in run_options.RUNNING:
            wrong = next(filter(None, (run_options.problem(value, name) for value in content[name])), None)
            problems += [wrong] if wrong else []
            if content[name] == [run_options.RUNNING[name]]:
                del content[name]
            elif not wrong:
                content[name] = [run_options.plain(value, name, self.plan.routings) for value in content[name]]
        for name, values in content.items():
            if not values:
                problems.append(Problem(f"axis `{name}` has no value: the space is empty", code="empty-space"))
        if problems:
            raise SpaceError(problems)
        text = json.dumps(content)
        try:
            self.plan.core.space_size(text)
        except _core.PlanError as error:
            raise SpaceError(core_problems(error)) from None
        return text

    @cached_property
    def size(self) -> int:
        """Number of points."""
        return self.plan.core.space_size(self.json)

    @cached_property
    def parsed_limits(self) -> list[Limit]:
        """Limits as bounds on columns."""
        return [Limit.parse(text) for text in listed(self.limits)]

    @cached_property
    def bounds(self) -> list[tuple[str, float, float]]:
        """Limits as the core takes them."""
        return [(limit.column, limit.lowest, limit.highest) for limit in self.parsed_limits]

    @cached_property
    def signed_objectives(self) -> list[tuple[str, float]]:
        """Objectives with their sign, 1 to minimise."""
        names = [result_column(name, "objective") for name in listed(self.objectives)]
        if not 1 <= len(names) <= 6 or len(set(names)) != len(names):
            twice = next((name for name in names if names.count(name) > 1), None)
            found = f"`{twice}` twice" if twice else f"{len(names)}"
            raise SpaceError(Problem(f"give one to six different objectives, found {found}", code="objectives"))
        return [(name, -1.0 if name in LARGER_IS_BETTER else 1.0) for name in names]

    def points(self, indices: NDArray[np.uint64]) -> pl.DataFrame:
        """Return the points of some indices as a frame of axis values."""
        digits = self.plan.core.space_digits(self.json, indices)
        columns: dict[str, pl.Series] = {}
        for name, values in self.axes.items():
            if name in run_options.RUNNING and values == [run_options.RUNNING[name]]:
                continue
            kind: Any = pl.String if name in {"model", "gpu", "weight_dtype", "kv_dtype"} else pl.UInt32
            kind = run_options.typed(name) if name in run_options.RUNNING else kind
            columns[name] = pl.Series(name, values, dtype=kind).gather(digits[name])
        return pl.DataFrame(columns)

    @cached_property
    def trust(self) -> Mapping[str, Account]:
        """How far each GPU's numbers are trusted."""
        return {gpu.spec.name: account(gpu) for gpu in self.plan.gpus}

    @cached_property
    def sources(self) -> Mapping[str, str | None]:
        """Where each model comes from."""
        return {model.spec.name: model.spec.source for model in self.plan.models}

    def describe(self) -> Mapping[str, Any]:
        """Return axes, limits and objectives as plain data."""
        return {
            "axes": self.axes,
            "limits": listed(self.limits),
            "objectives": listed(self.objectives),
            "points": self.size,
        }


@dataclass(frozen=True)
class FrozenSpace(Space):
    """A space whose models and GPUs are those of a plan's content, with what was known of their trust."""

    content: Any = None
    accounts: Mapping[str, Account] = field(default_factory=dict)
    told_sources: Mapping[str, str | None] = field(default_factory=dict)

    @cached_property
    def plan(self) -> Plan:
        """The plan, from its content."""
        return Plan.thaw(self.content)

    @cached_property
    def trust(self) -> Mapping[str, Account]:
        """As it was told."""
        return self.accounts

    @cached_property
    def sources(self) -> Mapping[str, str | None]:
        """As they were told."""
        return self.told_sources
