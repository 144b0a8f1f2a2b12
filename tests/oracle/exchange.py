"""How many copies of a token go to its experts' GPUs, and by which entry of the profile (physics.md section 7)."""

import math
from typing import Any

from .equations import Model
from .local import BYTES, Env

KINDS = ("dispatch", "combine")


def entry_of(env: Env, kind: str) -> dict[str, Any] | None:
    """Return the first entry for the phase of a dispatch or a combine; None: it goes as an all_to_all."""
    entries = env.gpu["collectives"].get(kind) or []
    return next((dict(entry) for entry in entries if entry.get("phase") in (None, env.step.phase)), None)


def none_in(whole: float, part: float, drawn: int) -> float:
    """Chance that none of `drawn` different ones of `whole` is among `part` of them (Eq. 7.2)."""
    return math.prod(max(0.0, whole - part - i) / (whole - i) for i in range(drawn))


def parts_met(parts: float, extent: float, drawn: int) -> float:
    """How many of `parts` equal parts of `extent` experts hold at least one of `drawn`, on average (Eq. 7.2)."""
    return parts * (1 - none_in(extent, extent / parts, drawn))


def reach(model: Model, routed: str, parts: int) -> float:
    """How many of so many GPUs, or nodes, hold an expert of a token (Eq. 7.2, 7.3)."""
    extent, active = model.extents[routed], model.active[routed]
    if routed not in model.groups:
        return parts_met(parts, extent, active)
    groups, some = model.groups[routed]
    share = some / groups
    if parts % groups == 0:
        return parts_met(parts * share, extent * share, active)
    if groups % parts:
        return parts_met(parts, extent, active)
    wide, each = groups // parts, extent // groups
    missed = 0.0
    for shared in range(min(wide, some) + 1):
        chance = math.comb(wide, shared) * math.comb(groups - wide, some - shared) / math.comb(groups, some)
        missed += chance * none_in(some * each, shared * each, active)
    return parts * (1 - missed)


def by_gpu(env: Env, kind: str) -> bool:
    """Whether a token is sent once to a GPU, however many of its experts are there."""
    entry = entry_of(env, kind)
    return entry is not None and entry["copies"] == "gpu"


def copies(env: Env, kind: str, routed: str, parts: int) -> float:
    """Copies of a token that are sent to so many GPUs or nodes (Eq. 7.1)."""
    return reach(env.model, routed, parts) if by_gpu(env, kind) else float(env.model.active[routed])


def element_bytes(env: Env, kind: str) -> float:
    """Bytes that an element of a token takes on its way (Eq. 7.1)."""
    entry = entry_of(env, kind)
    return BYTES[env.model.dtypes["activations"]] if entry is None else float(entry["bytes_per_element"])
