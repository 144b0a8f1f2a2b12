"""What tokens load on the GPUs that hold the experts: a row of the table over T (physics.md section 6)."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from energylens import _core

from .local import Env


@dataclass(frozen=True)
class Loads:
    """Experts held by a GPU, worked on by a mean one (E), by the busiest (E_b); its tiles by rows (W_m, Eq. 6.2).

    `excess`: its tokens over those of a mean one (Eq. 7.4, by expert).
    """

    held: float
    mean: float
    busiest: float
    tiles: dict[int, float]
    excess: float

    def with_idle(self, share: float) -> "Loads":
        """Add the share of experts without tokens that a kernel works on all the same, with a tile each (Eq. 6.7)."""
        idle = share * (self.held - self.busiest)
        tiles = {rows: number + idle for rows, number in self.tiles.items()}
        mean = self.mean + share * (self.held - self.mean)
        return replace(self, mean=mean, busiest=self.busiest + idle, tiles=tiles)


@cache
def table(law: str, experts: int, active: int, ep: int, placement: int, copies: int, tokens: float) -> Loads:
    """Interpolate the table at T; its rows are data, drawn by the core (Eq. 6.1)."""
    hit, busiest, most, tiles = _core.routing_loads(law, experts, active, ep, placement, [tokens])
    by_rows = {rows: number[0] for rows, number in zip(_core.TILE_ROWS, tiles, strict=True)}
    return Loads((experts + copies) / ep, hit[0], busiest[0], by_rows, most[0] * ep / (tokens * active))


def loads(env: Env, routed: str) -> Loads:
    """Loads by the tokens of a pass."""
    extent, active, run = env.model.extents[routed], env.model.active[routed], env.run
    law = run.routing or env.model.routing[routed]
    return table(law, extent, active, env.mesh.ep, run.placement_code, run.copies, env.tokens())


def worked(env: Env, routed: str, entry: dict[str, Any]) -> Loads:
    """Loads of a kernel with a coefficient set: E', E'_b and W' (Eq. 6.7)."""
    return loads(env, routed).with_idle(entry.get("idle_experts", 0.0))


def experts_hit(env: Env, routed: str) -> float:
    """E, the experts of a mean GPU hit by at least one token of the pool."""
    return loads(env, routed).mean
