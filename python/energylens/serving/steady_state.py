"""Queueing: continuous batching of a mix of requests at an arrival rate, or with all slots of an engine always taken.

Batch size and waiting times come out of it. Where the batch size is known, `fixed_concurrency` has the mean step of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from energylens.serving.steps import Steps
from energylens.serving.sums import row_sums, weighted_sum

Column = NDArray[np.float64]
Rows = NDArray[np.int64]

_ROUNDS = 40
"""Iterations of the fixed point: at 90 % of capacity, as many again change latencies by 0.01 %."""

_DAMPING = 0.6
"""Share of each correction that is applied, against oscillation: running requests and tokens read raise each other."""

_MOST_READING = 0.98
"""Share of the time that reading prompts may take in the formulas: they diverge at 1, and results beyond capacity are
those of a full engine anyhow."""

_LEAST_SPARE_SLOTS = 0.02
"""Share of the slots taken to be free at least, where the delay formula would divide by none."""

# Rules that stand for a distribution by a few values and their shares. A 90th percentile is read off these values, so
# they are quantiles, and not the nodes of Gauss and Hermite, which match moments.
_ARRIVAL_POINTS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""How much of a step is left when a request arrives: uniform, by the middles of five equal parts."""

_NORMAL_POINTS = (-1.645, -0.675, 0.0, 0.675, 1.645)
"""The 5th, 25th, 50th, 75th and 95th percentile of a standard normal distribution."""

_NORMAL_SHARES = (0.1, 0.25, 0.3, 0.25, 0.1)
"""Share of the distribution that each of `_NORMAL_POINTS` stands for."""


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


def _step(
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
    plain_s, plain_j = _step(steps, how, mix, running, np.zeros(count), how.chunked)
    lanes = steps.lanes[each.rows]
    length = np.tile(mix.prompt_tokens, count)
    unread = np.maximum(length * each.read_share, 1.0)
    together = unread + along[at]
    pieces = np.ceil(together / free[at])
    part_s, part_j = _step(steps, each, mix, running[at], together / pieces, each.chunked)
    # A prompt is read on one lane; the others wait for it where there are not prompts for all.
    longest = np.maximum(together, lanes * unread) / pieces
    lane_s = _step(steps, each, mix, running[at], longest, each.chunked)[0]
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
    ends = [_step(steps, how, mix, running, most * part, how.chunked)[0] for part in (0.5, 1.0)]
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
        plain_s, _ = _step(steps, how, mix, busy, none, yes)
        token_s, token_j, more_s = _reading(steps, how, mix, busy, along)
        alone_s = np.where(how.chunked, plain_s, 0.0)
        if wanted is None:
            most = free / np.maximum(tokens, 1e-9) / np.maximum(alone_s + token_s * free, 1e-12)
            wish = how.slots / (how.slots * tokens * token_s + np.maximum(made * plain_s, 1e-12))
            rate = rate + _DAMPING * (np.minimum(wish, most) - rate)
        step_s = plain_s / (1.0 - np.minimum(rate * tokens * token_s, _MOST_READING))
        keep = np.minimum(rate * tokens * more_s, _MOST_READING)
        # A prompt meets long steps oftener, and all that arrived in them.
        met = step_s + more_s**2 * rate * square / (1.0 - keep**2)
        along = along + _DAMPING * (np.minimum(rate * tokens * met, how.token_budget) - along)
        running = running + _DAMPING * (np.minimum(rate * made * step_s, how.slots) - running)
    busy_share = np.ones(count)
    if wanted is not None:
        # Nobody reads (as behind one server), and nobody decodes (as in a system where all are served at once).
        unread = np.maximum(0.0, 1.0 - rate * (plain_s + tokens * token_s))
        busy_share = 1.0 - unread * np.exp(-rate * made * step_s)
    there = np.minimum(np.maximum(running / np.maximum(busy_share, 1e-9), 1e-9), how.slots)
    while_s, while_j = _step(steps, how, mix, there, none, yes)
    # Prompts are paid once each; the rest of the busy time are steps that decode.
    each_s = np.maximum(busy_share - np.minimum(rate * tokens * token_s, _MOST_READING), 0.0) / while_s
    idle = (1.0 - busy_share) * steps.idle_w[how.rows]
    power = each_s * while_j + rate * tokens * token_j + idle
    return Flow(rate, running, plain_s, token_s, more_s, step_s, busy_share, power)


@dataclass(frozen=True)
class Latency:
    """What requests wait for, in columns."""

    ttft_p50_s: Column
    ttft_p90_s: Column
    ttft_s: Column
    """Mean."""
    tpot_s: Column
    """Mean over requests of their mean time per output token."""
    tpot_p90_s: Column


def latency(steps: Steps, how: Batching, mix: Mix, flow: Flow, shares: Column, many: int = 1) -> Latency:
    """Return times to the first token and per output token, over kinds of requests and moments of arrival.

    Prompts that arrive in a step are read in the next: tokens a step reads have variance `λ·E[I²]·s̄/(1 − ρ²)`. A
    request meets a step with a chance that grows with its length, waits for the rest of it, and is read with what
    else came. Of every `many` rows, rates of one engine, with a share of the requests each, all together make one row
    of the result.
    """
    groups = len(how.rows) // many
    rate, token_s = flow.rate_per_s, flow.token_s
    unread = mix.prompt_tokens[None, :] * how.read_share[:, None]
    tokens = row_sums(unread, mix.weight)
    free = how.free(flow.running)
    mean_read = rate * flow.step_s * tokens
    load = np.minimum(rate * tokens * flow.more_s, _MOST_READING)
    variance = rate * mix.square * how.read_share**2 * flow.step_s / (1.0 - load**2)
    moments = _moments(flow, mean_read, variance)
    times, weights, after = [], [], np.zeros_like(unread)
    # Of requests that arrive together the first is read alone; the others wait for it and are read with each other.
    first_s = flow.plain_s + token_s * tokens
    order = [(1.0 - mix.crowded, 0.0), *([(mix.crowded, mix.crowd)] if mix.crowded > 0 else [])]
    for chance, current, wait in moments:
        for part, behind in order:
            along = unread + ((rate * current + np.maximum(behind - 1.0, 0.0)) * tokens)[:, None]
            reading = np.ceil(along / free[:, None]) * flow.plain_s[:, None] + token_s[:, None] * along
            times.append((wait * current + (first_s if behind > 0 else 0.0))[:, None] + reading)
            weights.append(part * chance[:, None] * mix.weight[None, :])
            after += part * chance[:, None] * reading
    time = np.concatenate(times, axis=1).reshape(groups, -1)
    weight = (np.concatenate(weights, axis=1) * shares[:, None]).reshape(groups, -1)
    # What arrives while a request is read follows it: its first steps are longer, fading with ρ.
    made, keep = how.made_per_step[:, None], load[:, None]
    decode_steps = np.maximum((mix.output_tokens - 1.0)[None, :] / made, 1.0)
    carried = (after - flow.step_s[:, None]) * keep * (1.0 - keep**decode_steps) / (1.0 - keep) / decode_steps
    carried += (mix.crowded * mix.crowd * tokens * token_s)[:, None] / decode_steps
    # A request that decodes shares its steps with the others.
    step_with_it_s = _step(
        steps, how, mix, np.minimum(flow.running + 1.0, how.slots), np.zeros_like(rate), np.ones(len(rate), dtype=bool)
    )[0]
    between = flow.step_s[:, None] * (np.maximum(step_with_it_s, flow.plain_s) / flow.plain_s)[:, None] + carried
    extra = token_s[:, None] * np.sqrt(variance)[:, None]
    spread = np.minimum(extra, extra * np.sqrt((1.0 + keep) / (1.0 - keep) / decode_steps))
    kinds = np.where(mix.output_tokens > 1.0, mix.weight, 0.0)[None, :] * shares[:, None]
    kinds, per_token, spread = (part.reshape(groups, -1) for part in (kinds, between / made, spread / made))
    tpot = (per_token * kinds).sum(axis=1) / np.maximum(kinds.sum(axis=1), 1e-12)
    scattered = np.concatenate([per_token + node * spread for node in _NORMAL_POINTS], axis=1)
    tpot_p90 = weighted_quantile(scattered, np.concatenate([kinds * part for part in _NORMAL_SHARES], axis=1), 0.9)
    p50, p90 = (weighted_quantile(time, weight, part) for part in (0.5, 0.9))
    mean = (time * weight).sum(axis=1) / weight.sum(axis=1)
    waits = _slot_waits(how, mix, flow)
    part = shares.reshape(groups, many) / shares.reshape(groups, many).sum(axis=1)[:, None]
    added = [(wait_s.reshape(groups, many) * part).sum(axis=1) for wait_s in waits]
    return Latency(p50 + added[0], p90 + added[1], mean + added[2], tpot, tpot_p90)


def _slot_waits(how: Batching, mix: Mix, flow: Flow) -> tuple[Column, Column, Column]:
    """Return median, 90th percentile and mean of the seconds for which requests wait for a slot.

    Erlang's delay formula, `P(wait) ≈ 1/(1 + β·Φ(β)/φ(β))` with `β = (c − a)/√a` (Halfin and Whitt), c slots and a
    taken on average; who waits does so for `T/(c − a)·(1 + cv²)/2` on average, T being how long a slot is held, with
    the scatter cv of the tokens made, exponentially.
    """
    from scipy.special import ndtr

    held_s = mix.decoded / how.made_per_step * flow.step_s + flow.step_s + mix.read * how.read_share * flow.token_s
    taken = np.maximum(flow.rate_per_s * held_s, 1e-9)
    spare = np.maximum(how.slots - taken, _LEAST_SPARE_SLOTS * how.slots)
    beta = spare / np.sqrt(taken)
    density = np.exp(-(beta**2) / 2.0) / np.sqrt(2.0 * np.pi)
    chance = 1.0 / (1.0 + beta * ndtr(beta) / np.maximum(density, 1e-300))
    tokens = mix.output_tokens - 1.0
    scatter = weighted_sum(mix.weight, tokens**2) / max(mix.decoded, 1e-9) ** 2 - 1.0 if mix.decoded > 0 else 0.0
    each = held_s / spare * (1.0 + max(0.0, scatter)) / 2.0

    def beyond(share: float) -> Column:
        seconds: Column = np.maximum(0.0, each * np.log(np.maximum(chance / (1.0 - share), 1e-300)))
        return seconds

    return beyond(0.5), beyond(0.9), chance * each


def _moments(flow: Flow, mean_read: Column, variance: Column) -> list[tuple[Column, Column, float]]:
    """Return when a request may arrive: chances, the step it meets, and how much of that is left."""
    # Steps are a chain of two kinds, each with the chance that something arrived in the one before.
    starts = -np.expm1(-flow.rate_per_s * flow.plain_s)
    share = np.maximum(starts, 1e-12)
    for _ in range(8):
        stays = -np.expm1(-flow.rate_per_s * (flow.plain_s + flow.token_s * mean_read / share))
        share = np.clip(starts / np.maximum(starts + 1.0 - stays, 1e-12), 1e-12, 1.0)
    first = np.maximum(mean_read / share, 1e-12)
    sigma = np.sqrt(np.log(np.maximum((variance + mean_read**2) / share / first**2, 1.0)))
    in_plain = flow.busy_share * np.minimum((1.0 - share) * flow.plain_s / flow.step_s, 1.0)
    moments: list[tuple[Column, Column, float]] = [(1.0 - flow.busy_share, np.zeros_like(share), 0.0)]
    moments += [(in_plain / len(_ARRIVAL_POINTS), flow.plain_s, wait) for wait in _ARRIVAL_POINTS]
    # A step is met with a chance that grows with its length: with its tokens, whose distribution is then moved by σ².
    in_reading = flow.busy_share - in_plain
    read_s = flow.token_s * first
    for part, node in zip(_NORMAL_SHARES, _NORMAL_POINTS, strict=True):
        for weight, moved in ((flow.plain_s, -0.5), (read_s, 0.5)):
            length = flow.plain_s + read_s * np.exp(sigma * node + moved * sigma**2)
            chance = in_reading * part * weight / (flow.plain_s + read_s) / len(_ARRIVAL_POINTS)
            moments += [(chance, length, wait) for wait in _ARRIVAL_POINTS]
    return moments


def weighted_quantile(values: Column, weights: Column, share: float) -> Column:
    """Return of each row the value that `share` of the weight stays below."""
    order = np.argsort(values, axis=1, kind="stable")
    below = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
    at = np.argmax(below >= share * below[:, -1:] * (1 - 1e-12), axis=1)
    quantiles: Column = np.take_along_axis(values, order, axis=1)[np.arange(len(values)), at]
    return quantiles
