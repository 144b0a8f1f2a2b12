"""What requests wait for in steady state: times to the first token and per output token, with 90th percentiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from energylens.serving.steady_state import MOST_READING, Batching, Flow, Mix, step_cost
from energylens.serving.steps import Steps
from energylens.serving.sums import row_sums, weighted_sum

Column = NDArray[np.float64]


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
    load = np.minimum(rate * tokens * flow.more_s, MOST_READING)
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
    step_with_it_s = step_cost(
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
