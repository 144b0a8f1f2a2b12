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
from energylens.engine.result_columns import DEFAULT_OBJECTIVES as DEFAULT_OBJECTIVES
from energylens.engine.result_columns import LARGER_IS_BETTER, RESULTS, UNITS
from energylens.engine.trust import Account, account
from energylens.inputs import axis_values, routing, run_options
from energylens.inputs.axes import AXES, Axes
from energylens.inputs.axis_lists import different, listed
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.plan import MAX_BATCHED_TOKENS, LoadedGpu, LoadedModel, Plan, core_problems, distinct

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
        if what == "limit" and name in AXES:
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
class Space(Axes):
    """Axes and limits of a search.

    Parameters
    ----------
    models, gpus
        Bundled names, paths to specs, objects of `Model`: one, or a list.
    tp, pp, dp, ep, cp
        Ranks of tensor, pipeline, attention data, expert and context parallelism.
    overlap_stages, overlap_sms, overlap_where
        Stages that kernels are cut into so that collectives run alongside, the SMs that these take, and the phases in
        which they do: 1 stage and 0 SMs are no overlap, None is what the model's spec says. Values that would change
        nothing are infeasible, so that no configuration is counted twice.
    sequence_parallel, fused_norm
        True or false.
    sm_clock_mhz, power_cap_w
        Locked SM clock, MHz, and cap on the power of each GPU, W; None leaves them as they are.
    routing, placement
        Law by which tokens choose experts (None: that of the spec), and which GPU holds which expert.
    batch, prompt_tokens, output_tokens
        Sequences running in the engine, and tokens of each request.
    weight_dtype, kv_dtype
        Number formats; None is that of the spec.
    max_batched_tokens
        Most prompt tokens of one prefill pass.
    limits
        Bounds on result columns, such as `tpot<=50ms`.
    objectives
        One to six result columns, each minimised unless larger is better.

    Raises
    ------
    SpaceError
        When its points are counted or read: with every problem of its values.

    Notes
    -----
    Every axis takes a value, a list, or text such as `1,2,4`, `1:512` or `16:8192:16`; `default` in a text is None.
    A point is an integer below `size`; the last of the axes varies fastest.

    Examples
    --------
    >>> Space(models="llama-3.1-8b", gpus="h100-sxm", tp="1:4", batch=[1, 64]).size
    8
    """

    max_batched_tokens: int = MAX_BATCHED_TOKENS
    limits: Sequence[str] = ()
    objectives: Sequence[str] = field(default=DEFAULT_OBJECTIVES)

    @cached_property
    def plan(self) -> Plan:
        """The plan of the space's models and GPUs."""
        models: list[LoadedModel] = distinct([load_model(m) for m in listed(self.models)], "model")
        gpus: list[LoadedGpu] = distinct([load_gpu(g) for g in listed(self.gpus)], "GPU")
        texts = [law for law in self._values["routing"] if isinstance(law, str)]
        laws = [law for law in routing.laws(texts) if routing.problem(law) is None]
        return Plan(models, gpus, self.max_batched_tokens, laws)

    @cached_property
    def _values(self) -> dict[str, list[Any]]:
        """Values of each axis but models and GPUs, read once: the plan needs the laws of routing, `axes` all."""
        return {
            name: [
                value
                for part in listed(getattr(self, name))
                for value in (axis_values.parse(part, name) if isinstance(part, str) else [part])
            ]
            for name, axis in AXES.items()
            if not axis.required
        }

    @cached_property
    def axes(self) -> dict[str, list[Any]]:
        """Values of each axis, slowest first, as names and numbers; duplicates are dropped."""
        values = {"model": self.plan.model_names, "gpu": self.plan.gpu_names} | self._values
        return {name: different(values[name], name) for name in AXES}

    @cached_property
    def json(self) -> str:
        """The space as the core reads it; raises `SpaceError` with every problem."""
        content = dict(self.axes)
        content["model"] = list(range(len(self.plan.model_names)))
        content["gpu"] = list(range(len(self.plan.gpu_names)))
        problems = []
        for name, values in self._values.items():
            wrong = axis_values.first_problem(content[name], name)
            problems += [wrong] if wrong else []
            if self._is_default(name):
                del content[name]  # so that a space without run options keeps its text, and its hash
            elif not wrong:
                content[name] = [run_options.plain(value, name, self.plan.routings) for value in content[name]]
            if not values:
                problems.append(Problem(f"axis `{name}` has no value: the space is empty", code="empty-space"))
        problems += [
            Problem(f"axis `{name}` has no value: the space is empty", code="empty-space")
            for name in ("model", "gpu")
            if not content[name]
        ]
        if problems:
            raise SpaceError(problems)
        text = json.dumps(content)
        try:
            self.plan.core.space_size(text)
        except _core.PlanError as error:
            raise SpaceError(core_problems(error)) from None
        return text

    def _is_default(self, name: str) -> bool:
        """Return whether an axis is a run option that only has its default."""
        return AXES[name].run_option and self.axes[name] == [AXES[name].default]

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
            fault = f"`{twice}` twice" if twice else f"{len(names)}"
            raise SpaceError(Problem(f"give one to six different objectives, found {fault}", code="objectives"))
        return [(name, -1.0 if name in LARGER_IS_BETTER else 1.0) for name in names]

    def points(self, indices: NDArray[np.uint64]) -> pl.DataFrame:
        """Return the points of some indices as a frame of axis values."""
        digits = self.plan.core.space_digits(self.json, indices)
        return pl.DataFrame(
            {
                name: pl.Series(name, values, dtype=axis_values.polars_type(name)).gather(digits[name])
                for name, values in self.axes.items()
                if not self._is_default(name)
            }
        )

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
    model_sources: Mapping[str, str | None] = field(default_factory=dict)

    @cached_property
    def plan(self) -> Plan:
        """The plan, from its content."""
        return Plan.thaw(self.content)

    @cached_property
    def trust(self) -> Mapping[str, Account]:
        """As it was when the plan was made."""
        return self.accounts

    @cached_property
    def sources(self) -> Mapping[str, str | None]:
        """As they were when the plan was made."""
        return self.model_sources
