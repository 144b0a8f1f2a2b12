"""Time and energy of one collective, alone or beside a kernel (physics.md section 7)."""

import math
from dataclasses import dataclass
from typing import Any

from .exchange import KINDS, entry_of
from .local import Env

PAIRWISE = ("all_to_all", *KINDS)


@dataclass(frozen=True)
class Collective:
    """One collective: `gpus` GPUs out of `span` consecutive ones, its message, what it makes whole, over what."""

    kind: str
    gpus: int
    span: int
    message: float
    tensor: str = ""
    group: str = ""  # "tp" (over tp alone), "cp", or anything else
    across: float = 1.0  # of a dispatch or a combine: share of its message that counts between nodes
    load: float = 1.0  # of these, in time: bytes of the busiest GPU over those of a mean one


def bus_factor(kind: str, n: float) -> float:
    """Bytes moved per GPU and byte of message (Eq. 7.7)."""
    if kind == "send_recv":
        return 1.0
    return (2.0 if kind == "all_reduce" else 1.0) * (n - 1) / n


def nodes_and_members(env: Env, collective: Collective) -> tuple[int, float]:
    """Count the nodes, and the members in each (Eq. 7.5)."""
    nodes = min(collective.gpus, math.ceil(collective.span / env.gpu["link"]["gpus_per_node"]))
    return nodes, max(1.0, collective.gpus / nodes)


def implementations(env: Env, kind: str) -> list[dict[str, Any]]:
    """Ways to run a collective: those of its kind, of which a dispatch or a combine has one, or else all_to_all's."""
    if kind not in KINDS:
        return list(env.gpu["collectives"][kind])
    entry = entry_of(env, kind)
    return list(env.gpu["collectives"]["all_to_all"]) if entry is None else [entry]


def inside_node_time(env: Env, kind: str, members: float, message: float, slower: float) -> float:
    """Fastest implementation inside a node, with its bytes taking `slower` times as long (Eq. 7.6)."""
    best = math.inf
    for implementation in implementations(env, kind):
        sizes = sorted(int(size) for size in implementation["by_gpus"])
        size = next((size for size in sizes if size >= members), sizes[-1])
        entry = implementation["by_gpus"][str(size)]
        limits = (implementation.get("max_bytes"), entry.get("max_bytes"))
        if any(limit is not None and message > limit for limit in limits):
            continue
        time = entry["alpha_s"] + bus_factor(kind, members) * message / entry["bandwidth_bytes_per_s"] * slower
        if kind != "send_recv":
            time += entry["root_s_per_sqrt_byte"] * math.sqrt(message)
        best = min(best, time)
    if best == math.inf:
        raise ValueError(f"no {kind} takes a message of {message} bytes")
    return best


def collective_time(env: Env, collective: Collective, message: float, slower: float = 1.0) -> float:
    """Seconds of a collective for a message of so many bytes (Eq. 7.6, 7.8)."""
    kind = collective.kind
    nodes, members = nodes_and_members(env, collective)
    message *= collective.load
    time = 0.0
    if members > 1:
        time += inside_node_time(env, kind, members, message, slower)
    if nodes > 1:
        link = env.gpu["link"]
        share = 1.0 if kind in (*PAIRWISE, "send_recv") else members
        once = kind == "all_reduce" and bool(link.get("net_reduction"))
        moved = (1.0 if once else bus_factor(kind, nodes)) * message * collective.across / share
        hops = 1 if kind in (*PAIRWISE, "send_recv") else math.ceil(math.log2(nodes))
        time += hops * link["net_alpha_s"] + moved / link["net_bandwidth_bytes_per_s"]
    return time


def collective_energy(env: Env, collective: Collective) -> float:
    """Dynamic joules of a GPU (Eq. 7.9)."""
    kind, message = collective.kind, collective.message
    nodes, members = nodes_and_members(env, collective)
    moved = message if members > 1 else 0.0
    if nodes > 1:
        moved += message * collective.across / (1.0 if kind in PAIRWISE else members)
    return float(env.gpu["energy"]["link_j_per_byte"] * (1.0 if kind == "all_reduce" else 0.5) * moved)


def pair(env: Env, gpus: int, message: float) -> Collective:
    """Build a send_recv between neighbours among `gpus` GPUs: inside a node if they all are."""
    per_node = env.gpu["link"]["gpus_per_node"]
    return Collective("send_recv", 2, per_node * (2 if gpus > per_node else 1), message)


def on_sms(env: Env, sms: int) -> float:
    """How many times as long the bytes of a collective take on `sms` SMs (Eq. 7.11)."""
    wanted, sharpness = env.gpu["link"]["sms_to_saturate"] / sms, env.gpu["link"].get("sms_sharpness")
    if sharpness is None:
        return float(max(1.0, wanted))
    return float((1 + wanted**sharpness) ** (1 / sharpness))


def both(env: Env, kernel: float, collective: float) -> float:
    """Seconds until a kernel and a collective that start together have both ended (Eq. 7.10)."""
    contention = env.gpu["link"].get("contention") or {}
    slow_c, slow_r = contention.get("compute") or 0.0, contention.get("communication") or 0.0
    together = min(kernel * (1 + slow_c), collective * (1 + slow_r))
    return float(max(kernel + together * slow_c / (1 + slow_c), collective + together * slow_r / (1 + slow_r)))
