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
    values = []
    for unit in ("s", "j"):
        at, after, part = _between(grid["tokens"], decoding + read)
        base = grid[f"base_{unit}"]
        value = base[at] + part * (base[after] - base[at])
        if decoding:
            wide, cells = len(grid["contexts"]), grid[f"decode_{unit}"]
            (i, j, a), (m, n, b) = _between(grid["sequences"], decoding), _between(grid["contexts"], context)
            rows = [cells[k * wide + m] + b * (cells[k * wide + n] - cells[k * wide + m]) for k in (i, j)]
            value += rows[0] + a * (rows[1] - rows[0])
        values.append(value + sampled * grid[f"sample_{unit}"])
    return values[0], values[1]


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
    outcome = Outcome(requests, now=requests[0].arrival_s)
    coming, waiting = list(requests), list[Request]()
    reading: list[Request] = []
    while True:
        while coming and coming[0].arrival_s <= outcome.now:
            request = coming.pop(0)
            if request.prompt + request.output > cache_tokens:
                outcome.refused += 1
            else:
                waiting.append(request)

        def held() -> int:
            # Tokens decoded so far are cached but for the latest; prompts are held whole once admitted.
            return sum(request.prompt + request.made - 1 for request in outcome.running) + sum(
                request.goal for request in reading
            )

        while waiting and len(outcome.running) + len(reading) < most_running:
            request = waiting[0]
            goal = request.prompt + request.made
            alone = not outcome.running and not reading
            if held() + goal + len(outcome.running) >= cache_tokens and not alone:
                break
            waiting.pop(0)
            request.read, request.goal = 0, goal
            reading.append(request)
        if not outcome.running and not reading:
            if not coming:
                return outcome
            outcome.idle_j += (coming[0].arrival_s - outcome.now) * idle_w
            outcome.now = coming[0].arrival_s
            continue
        decodes = chunked or not reading
        decoding = len(outcome.running) if decodes else 0
        budget = max(token_budget - decoding, 1 if decoding == 0 else 0)
        read, ready = 0, list[Request]()
        extra_s = extra_j = 0.0
        for request in reading:
            left = request.goal - request.read
            if budget == 0 or (not chunked and left > budget and read > 0):
                break
            part = min(left, budget) if chunked else left
            extra_s += attended(grid, request.read + part, "s") - attended(grid, request.read, "s")
            extra_j += attended(grid, request.read + part, "j") - attended(grid, request.read, "j")
            request.read += part
            budget = max(0, budget - part)
            read += part
            if request.read == request.goal:
                ready.append(request)
        seen = sum(request.prompt + request.made - 1 for request in outcome.running)
        context = seen / max(1, decoding) if decoding else 0.0
        seconds, joules = step(grid, decoding, context, read, decoding + len(ready))
        outcome.now += seconds + extra_s
        outcome.energy_j += joules + extra_j
        outcome.steps += 1
        if decodes:
            for request in list(outcome.running):
                request.made += 1
                if request.made == request.output:
                    request.done_s = outcome.now - request.arrival_s
                    outcome.running.remove(request)
        for request in ready:
            reading.remove(request)
            if request.first_s is None:
                request.first_s = outcome.now - request.arrival_s
            request.made += 1
            if request.made == request.output:
                request.done_s = outcome.now - request.arrival_s
            else:
                outcome.running.append(request)
        while held() + len(outcome.running) > cache_tokens and len(outcome.running) > 1:
            request = outcome.running.pop()
            outcome.preempted += 1
            waiting.insert(0, request)
