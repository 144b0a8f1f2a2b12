"""Continuous batching, step by step and slowly: what the replay of the core is held against."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


def _between(lines: Sequence[float], value: float) -> tuple[int, int, float]:
    at = max(0, min(bisect_right(lines, value) - 1, len(lines) - 2))
    after = min(at + 1, len(lines) - 1)
    part = (value - lines[at]) / (lines[after] - lines[at]) if after > at else 0.0
    return at, after, max(0.0, part)


def step(grid: dict[str, Any], decoding: int, context: float, read: int, sampled: int) -> tuple[float, float]:
    """Return seconds and joules of a step, from the lines of its grid."""
    told = []
    for unit in ("s", "j"):
        at, after, part = _between(grid["tokens"], decoding + read)
        base = grid[f"base_{unit}"]
        value = base[at] + part * (base[after] - base[at])
        if decoding:
            wide, cells = len(grid["contexts"]), grid[f"decode_{unit}"]
            (i, j, a), (m, n, b) = _between(grid["sequences"], decoding), _between(grid["contexts"], context)
            rows = [cells[k * wide + m] + b * (cells[k * wide + n] - cells[k * wide + m]) for k in (i, j)]
            value += rows[0] + a * (rows[1] - rows[0])
        told.append(value + sampled * grid[f"sample_{unit}"])
    return told[0], told[1]


def attended(grid: dict[str, Any], tokens: float, unit: str) -> float:
    """Return what the first tokens of a prompt attend to, in seconds or joules."""
    at, after, part = _between(grid["lengths"], tokens)
    mean = grid[f"attend_{unit}"]
    return float(tokens * (mean[at] + part * (mean[after] - mean[at])))


@dataclass
class Request:
    """A request on its way."""

    arrival_s: float
    prompt: int
    output: int
    read: int = 0
    goal: int = 0
    made: int = 0
    first_s: float | None = None
    done_s: float | None = None


@dataclass
class Outcome:
    """What became of all."""

    requests: list[Request]
    steps: int = 0
    energy_j: float = 0.0
    idle_j: float = 0.0
    preempted: int = 0
    refused: int = 0
    now: float = 0.0
    running: list[Request] = field(default_factory=list)


def batched(
    grid: dict[str, Any],
    requests: list[Request],
    *,
    most_running: int,
    token_budget: int,
    cache_tokens: int,
    chunked: bool,
    idle_w: float,
) -> Outcome:
    """Serve requests as they arrive: decode first, prompts in what the budget leaves; the latest goes back if full."""
    told = Outcome(requests, now=requests[0].arrival_s)
    coming, waiting = list(requests), list[Request]()
    reading: list[Request] = []
    while True:
        while coming and coming[0].arrival_s <= told.now:
            one = coming.pop(0)
            if one.prompt + one.output > cache_tokens:
                told.refused += 1
            else:
                waiting.append(one)

        def held() -> int:
            # Tokens decoded so far are cached but for the latest; prompts are held whole once admitted.
            return sum(one.prompt + one.made - 1 for one in told.running) + sum(one.goal for one in reading)

        while waiting and len(told.running) + len(reading) < most_running:
            one = waiting[0]
            goal = one.prompt + one.made
            alone = not told.running and not reading
            if held() + goal + len(told.running) >= cache_tokens and not alone:
                break
            waiting.pop(0)
            one.read, one.goal = 0, goal
            reading.append(one)
        if not told.running and not reading:
            if not coming:
                return told
            told.idle_j += (coming[0].arrival_s - told.now) * idle_w
            told.now = coming[0].arrival_s
            continue
        decodes = chunked or not reading
        decoding = len(told.running) if decodes else 0
        budget = max(token_budget - decoding, 1 if decoding == 0 else 0)
        read, ready = 0, list[Request]()
        extra_s = extra_j = 0.0
        for one in reading:
            left = one.goal - one.read
            if budget == 0 or (not chunked and left > budget and read > 0):
                break
            part = min(left, budget) if chunked else left
            extra_s += attended(grid, one.read + part, "s") - attended(grid, one.read, "s")
            extra_j += attended(grid, one.read + part, "j") - attended(grid, one.read, "j")
            one.read += part
            budget = max(0, budget - part)
            read += part
            if one.read == one.goal:
                ready.append(one)
        seen = sum(one.prompt + one.made - 1 for one in told.running)
        context = seen / max(1, decoding) if decoding else 0.0
        seconds, joules = step(grid, decoding, context, read, decoding + len(ready))
        told.now += seconds + extra_s
        told.energy_j += joules + extra_j
        told.steps += 1
        if decodes:
            for one in list(told.running):
                one.made += 1
                if one.made == one.output:
                    one.done_s = told.now - one.arrival_s
                    told.running.remove(one)
        for one in ready:
            reading.remove(one)
            if one.first_s is None:
                one.first_s = told.now - one.arrival_s
            one.made += 1
            if one.made == one.output:
                one.done_s = told.now - one.arrival_s
            else:
                told.running.append(one)
        while held() + len(told.running) > cache_tokens and len(told.running) > 1:
            one = told.running.pop()
            told.preempted += 1
            waiting.insert(0, one)
