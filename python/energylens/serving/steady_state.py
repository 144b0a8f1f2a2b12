"""Queueing: continuous batching of a mix of requests at an arrival rate, or with all slots of an engine always taken.

Batch size and waiting times come out of it. Where the batch size is known, `fixed_concurrency` has the mean step of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from energylens.serving.steps import Steps
from energylens.serving.sums import weighted_sum

Column = NDArray[np.float64]
Rows = NDArray[np.int64]

_ROUNDS = 40
"""Iterations of the fixed point: at 90 % of capacity, as many again change latencies by 0.01 %."""

_DAMPING = 0.6
"""Share of each correction that is applied, against oscillation: running requests and tokens read raise each other."""

MOST_READING = 0.98
"""Share of the time that reading prompts may take in the formulas: they diverge at 1, and results beyond capacity are
those of a full engine anyhow."""


@dataclass(frozen=True)
class Mix:
    """Requests by kind, with `weight` adding up to 1."""

    prompt_tokens: Column
    output_tokens: Column
    weight: Column
    crowded: float = 0.0
    """Share of requests just before which others arrive, beyond chance."""
    crowd: float = 0.0
    """How many, on average, where any do."""

    @property
    def decoded(self) -> float:
        """Mean tokens after the first."""
        return weighted_sum(self.weight, self.output_tokens - 1.0)

    @property
    def context(self) -> float:
        """Mean tokens that a decoded token attends to."""
        steps = self.weight * (self.output_tokens - 1.0)
        attended = self.prompt_tokens + self.output_tokens / 2.0
        total = float(np.add.reduce(steps))
        return weighted_sum(steps, attended) / total if total > 0 else self.read

    @property
    def read(self) -> float:
        """Mean prompt tokens."""
        return weighted_sum(self.weight, self.prompt_tokens)

    @property
    def square(self) -> float:
        """Mean square of prompt tokens that arrive together, for each request."""
        return weighted_sum(self.weight, self.prompt_tokens**2) + 2.0 * self.crowded * self.crowd * self.read**2


@dataclass(frozen=True)
class Batching:
    """How engines batch; columns of one length."""

    rows: Rows
    """Engines, rows of `Steps`."""
    slots: Column
    """Requests that may run at once: `max_num_seqs`, or what the caches hold."""
    token_budget: Column
    chunked: NDArray[np.bool_]
    read_share: Column
    """Share of prompt tokens that is not found in the cache."""
    tokens_per_step: Column
    """Tokens of a sequence that a step works on: 1, or γ + 1 with speculation."""
    made_per_step: Column
    """Tokens of a sequence that a step makes: 1, or those accepted and one."""
    draft: Rows
    """Which of `drafts` proposes tokens; -1: proposals cost nothing."""
    drafts: Sequence[Steps] = ()
    """Steps of models that propose tokens, rows as those of the engines."""

    def take(self, at: Rows) -> Batching:
        """Return the batching of some rows."""
        names = ("rows", "slots", "token_budget", "chunked", "read_share", "tokens_per_step", "made_per_step", "draft")
        return replace(self, **{name: getattr(self, name)[at] for name in names})

    def free(self, running: Column) -> Column:
        """Return the prompt tokens that a step has room for besides running requests."""
        taken = np.where(self.chunked, running * self.tokens_per_step, 0.0)
        room: Column = np.maximum(self.token_budget - taken, 1.0)
        return room


@dataclass(frozen=True)
class Flow:
    """Steady state, in columns."""

    rate_per_s: Column
    running: Column
    """Mean requests that decode."""
    plain_s: Column
    """Seconds of a step that only decodes."""
    token_s: Column
    """Seconds that a prompt token adds to a step."""
    more_s: Column
    """Seconds that one more adds to a step that reads."""
    step_s: Column
    """Mean seconds of a step."""
    busy_share: Column
    """Share of the time in which any request runs."""
    power_w: Column
    """Watts of all GPUs of an engine, waiting for requests included."""


def step_cost(
    steps: Steps, how: Batching, mix: Mix, running: Column, read: Column, decodes: NDArray[np.bool_]
) -> tuple[Column, Column]:
    """Return seconds and joules of steps that decode so many requests (where they do) and read so many tokens."""
    decoding = np.where(decodes, running, 0.0)
    context = mix.context / how.tokens_per_step
    seconds, joules = steps.of(how.rows, decoding * how.tokens_per_step, context, read)
    for number, draft in enumerate(how.drafts):
        drafted = np.flatnonzero((how.draft == number) & (decoding > 0))
        draft_s, draft_j = draft.of(
            how.rows[drafted], decoding[drafted], np.full(len(drafted), mix.context), np.zeros(len(drafted))
        )
        proposed = how.tokens_per_step[drafted] - 1.0
        seconds[drafted] += proposed * draft_s
        joules[drafted] += proposed * draft_j
    return seconds, joules


def _reading(steps: Steps, how: Batching, mix: Mix, running: Column, along: Column) -> tuple[Column, Column, Column]:
    """Return seconds and joules that a prompt token adds to steps, and seconds that one more adds to a step that reads.

    The first two are means over prompts that `along` tokens of others are read with.
    """
    count, kinds = len(running), len(mix.weight)
    at = np.repeat(np.arange(count), kinds)
    each, free = how.take(at), how.free(running)
    plain_s, plain_j = step_cost(steps, how, mix, running, np.zeros(count), how.chunked)
    lanes = steps.lanes[each.rows]
    length = np.tile(mix.prompt_tokens, count)
    unread = np.maximum(length * each.read_share, 1.0)
    together = unread + along[at]
    pieces = np.ceil(together / free[at])
    part_s, part_j = step_cost(steps, each, mix, running[at], together / pieces, each.chunked)
    # A prompt is read on one lane; the others wait for it where there are not prompts for all.
    longest = np.maximum(together, lanes * unread) / pieces
    lane_s = step_cost(steps, each, mix, running[at], longest, each.chunked)[0]
    part_s, part_j = lane_s, part_j + (lane_s - part_s) * steps.idle_w[each.rows]
    attend_s, attend_j = _attending(steps, each, length)
    weight = np.tile(mix.weight, count)
    unread_share = unread / together * pieces

    def total(part: Column, plain: Column, attend: Column) -> Column:
        terms = weight * (unread_share * (part - plain[at]) + unread * attend)
        sums: Column = terms.reshape(count, kinds).sum(axis=1)
        return sums

    tokens = np.maximum(mix.read * how.read_share, 1.0)
    most = np.minimum(2.0 * (tokens + along), free)
    ends = [step_cost(steps, how, mix, running, most * part, how.chunked)[0] for part in (0.5, 1.0)]
    attended = weighted_sum(mix.weight, mix.prompt_tokens**2) / mix.read
    more_s = 2.0 * (ends[1] - ends[0]) / most + _attending(steps, how, np.full(count, attended))[0]
    return total(part_s, plain_s, attend_s) / tokens, total(part_j, plain_j, attend_j) / tokens, more_s


def _attending(steps: Steps, how: Batching, length: Column) -> tuple[Column, Column]:
    """Return seconds and joules a prompt token takes for what it attends to, what is found included."""
    beyond = 2.0 - how.read_share
    seconds, joules = steps.attending(how.rows, length)
    return seconds * beyond, joules * beyond


def open_loop(steps: Steps, how: Batching, mix: Mix, rate_per_s: Column) -> Flow:
    """Return the steady state at rates of arrival, one of each row; beyond capacity, that of a full engine."""
    return _settle(steps, how, mix, rate_per_s)


def closed_loop(steps: Steps, how: Batching, mix: Mix) -> Flow:
    """Return the steady state with all slots taken: a request that ends is replaced at once."""
    return _settle(steps, how, mix, None)


def _settle(steps: Steps, how: Batching, mix: Mix, wanted: Column | None) -> Flow:
    """Return the fixed point of

    B = λ·(O − 1)/made·s̄       Little's law: requests that decode
    a = step(B),  b            a step that only decodes, and what a prompt token adds
    ρ = λ·I·b,  s̄ = a/(1 − ρ)  prompts that arrive in a step are read in the next: s̄ = a + b·λ·I·s̄

    as long as a step has room for them: `λ·I·s̄ ≤ budget − B`. Unchunked, steps that read do not decode.
    """
    count = len(how.rows)
    made = mix.decoded / how.made_per_step
    tokens = mix.read * how.read_share
    square = mix.square * how.read_share**2
    none, yes = np.zeros(count), np.ones(count, dtype=bool)
    rate = np.full(count, 1e-3) if wanted is None else wanted.astype(np.float64)
    running = how.slots.astype(np.float64) if wanted is None else np.minimum(1.0, how.slots)
    along = np.zeros(count)
    for _ in range(_ROUNDS):
        free, busy = how.free(running), np.maximum(running, 1e-9)
        plain_s, _ = step_cost(steps, how, mix, busy, none, yes)
        token_s, token_j, more_s = _reading(steps, how, mix, busy, along)
        alone_s = np.where(how.chunked, plain_s, 0.0)
        if wanted is None:
            most = free / np.maximum(tokens, 1e-9) / np.maximum(alone_s + token_s * free, 1e-12)
            wish = how.slots / (how.slots * tokens * token_s + np.maximum(made * plain_s, 1e-12))
            rate = rate + _DAMPING * (np.minimum(wish, most) - rate)
        step_s = plain_s / (1.0 - np.minimum(rate * tokens * token_s, MOST_READING))
        keep = np.minimum(rate * tokens * more_s, MOST_READING)
        # A prompt meets long steps oftener, and all that arrived in them.
        met = step_s + more_s**2 * rate * square / (1.0 - keep**2)
        along = along + _DAMPING * (np.minimum(rate * tokens * met, how.token_budget) - along)
        running = running + _DAMPING * (np.minimum(rate * made * step_s, how.slots) - running)
    busy_share = np.ones(count)
    if wanted is not None:
        # Idle: no prompt is being read (a queue of one server) and no request decodes (a queue of a server for each).
        unread = np.maximum(0.0, 1.0 - rate * (plain_s + tokens * token_s))
        busy_share = 1.0 - unread * np.exp(-rate * made * step_s)
    there = np.minimum(np.maximum(running / np.maximum(busy_share, 1e-9), 1e-9), how.slots)
    while_s, while_j = step_cost(steps, how, mix, there, none, yes)
    # Prompts are paid once each; the rest of the busy time are steps that decode.
    each_s = np.maximum(busy_share - np.minimum(rate * tokens * token_s, MOST_READING), 0.0) / while_s
    idle = (1.0 - busy_share) * steps.idle_w[how.rows]
    power = each_s * while_j + rate * tokens * token_j + idle
    return Flow(rate, running, plain_s, token_s, more_s, step_s, busy_share, power)
