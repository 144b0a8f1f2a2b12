"""How a batch of tokens loads the GPUs that hold a model's experts (docs/physics.md, section 6)."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from energylens import _core
from energylens.common.errors import Problem, SpaceError, SpecError
from energylens.inputs.library import load_model
from energylens.inputs.routing import Law, placement_code, placement_problem, read

if TYPE_CHECKING:
    from energylens.inputs.builder import Model
    from energylens.inputs.plan import LoadedModel

_TILE_ROWS = 16
"""Rows of the tiles that are counted: the smallest of grouped GEMM kernels."""


def loads(
    model: str | Path | Model,
    *,
    gpus: Sequence[int] = (8,),
    tokens: Sequence[float] = (64, 1024, 8192),
    routings: Sequence[str | None] = (None,),
    placements: Sequence[str] = ("contiguous",),
) -> pl.DataFrame:
    """Return how tokens load the GPUs that hold a model's experts, a row for each combination.

    Parameters
    ----------
    model
        A bundled name, a path to a spec, or a `Model`; it has routed experts.
    gpus
        Numbers of GPUs that the experts are dealt to; each divides the number of experts and of copies.
    tokens
        Numbers of tokens that are routed together.
    routings
        Laws of routing such as `dirichlet:0.8`; None is the law of the spec.
    placements
        Which GPU holds which expert: `contiguous`, `balanced` or `replicated:COPIES`.

    Returns
    -------
    polars.DataFrame
        `routing, placement, gpus, tokens`; `experts_per_gpu` (copies each GPU holds), `experts_hit` (experts with at
        least one token on a mean GPU), `busiest_experts_hit` and `busiest_tokens` (the same and its tokens on the GPU
        with the most tokens), `load` (`busiest_tokens` over the mean, `tokens * active / gpus`) and `tiles_16` (tiles
        of 16 rows on the busiest GPU).

    Raises
    ------
    SpecError
        For a model that cannot be read.
    SpaceError
        With every problem of the other arguments.

    Examples
    --------
    >>> loads("qwen3-30b-a3b", gpus=[8], tokens=[64]).select("routing", "gpus", "experts_per_gpu").row(0)
    ('dirichlet:0.35', 8, 16.0)
    """
    loaded = load_model(model)
    spec = loaded.spec
    routed = [rank for rank in spec.ranks.values() if rank.active is not None]
    if not routed:
        raise SpaceError(Problem(f"{spec.name} has no routed experts", code="routing"))
    experts, active, default_law = routed[0].extent, routed[0].active or 1, routed[0].routing
    problems = [wrong for text in placements if (wrong := placement_problem(text))]
    problems += _wrong_numbers(tokens, gpus)
    laws, faults = _laws(loaded, [default_law if text is None else text for text in routings], default_law)
    valid = [text for text in placements if placement_problem(text) is None]
    problems += faults + _indivisible(experts, valid, gpus)
    if problems:
        raise SpaceError(list({problem.message: problem for problem in problems}.values()))
    rows = []
    for law, placement, count in itertools.product(laws, valid, gpus):
        copies = experts + _extra_copies(placement)
        hit, busiest_hit, busiest, tiles = _core.routing_loads(
            json.dumps(law.canonical()), experts, active, count, placement_code(placement), [float(n) for n in tokens]
        )
        rows += [
            {
                "routing": law.text, "placement": placement, "gpus": count, "experts_per_gpu": copies / count,
                "tokens": n, "experts_hit": hit[i], "busiest_experts_hit": busiest_hit[i], "busiest_tokens": busiest[i],
                "load": busiest[i] * count / (n * active), "tiles_16": tiles[_core.TILE_ROWS.index(_TILE_ROWS)][i],
            }
            for i, n in enumerate(tokens)
        ]  # fmt: skip
    return pl.DataFrame(rows).unique(maintain_order=True)


def _wrong_numbers(tokens: Sequence[float], gpus: Sequence[int]) -> list[Problem]:
    numbers: tuple[tuple[str, Sequence[float], type], ...] = (("tokens", tokens, float), ("GPUs", gpus, int))
    return [
        Problem(f"{what} are {'whole ' if kind is int else ''}numbers from 1, found `{bad[0]}`", code="axis-value")
        for what, values, kind in numbers
        if (bad := [n for n in values if not (isinstance(n, (int, kind)) and 1 <= n < math.inf)])
    ]


def _laws(loaded: LoadedModel, texts: Sequence[str], default_law: str) -> tuple[list[Law], list[Problem]]:
    """Return the different laws, and what is wrong with them for this model."""
    rank = next(rank for rank in loaded.spec.ranks.values() if rank.active is not None)
    laws: list[Law] = []
    problems: list[Problem] = []
    for text in dict.fromkeys(texts):
        try:
            law = read(text, loaded.folder if text == default_law else None)
        except SpecError as error:
            problems += error.problems
            continue
        if fault := _core.routing_fault(json.dumps(law.canonical()), rank.extent, rank.active or 1):
            hint = f"{loaded.spec.name} has {rank.extent} experts"
            problems.append(Problem(f"{law.text}: {fault}", hint=hint, code="routing"))
        laws.append(law)
    return laws, problems


def _indivisible(experts: int, placements: Sequence[str], gpus: Sequence[int]) -> list[Problem]:
    """Return a problem for every number of GPUs that experts or copies cannot be dealt to evenly."""
    problems: list[Problem] = []
    counts = [count for count in gpus if isinstance(count, int) and count >= 1]
    for placement, count in itertools.product(placements, counts):
        extra = _extra_copies(placement)
        if experts % count:
            hint = f"use a divisor of {experts}"
            problems.append(Problem(f"{experts} experts do not divide over {count} GPUs", hint=hint, code="experts"))
        elif extra % count:
            hint = f"use a multiple of {count}"
            problems.append(Problem(f"{extra} copies do not divide over {count} GPUs", hint=hint, code="placement"))
    return problems


def _extra_copies(placement: str) -> int:
    """Return how many copies of experts a placement has beyond one of each."""
    return max(0, placement_code(placement) - 1)
