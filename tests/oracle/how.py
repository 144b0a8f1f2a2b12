"""How a point runs (physics.md section 11): what it asks for, no physics."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Run:
    """Overlap, sequence parallelism, fused norm, clock, cap, routing and placement that a point asks for."""

    stages: int = 0
    sms: int = 0
    where: str = "prefill"
    sequence_parallel: bool = False
    fused_norm: bool = False
    sm_clock_mhz: float | None = None
    power_cap_w: float | None = None
    routing: str | None = None  # JSON of a law; None: that of the routed rank
    placement: str = "contiguous"

    @property
    def copies(self) -> int:
        """Return r, the copies of experts besides."""
        name, _, number = self.placement.partition(":")
        return int(number) if name == "replicated" else 0

    @property
    def placement_code(self) -> int:
        """Return the placement as the table of loads knows it."""
        return 1 + self.copies if self.placement != "contiguous" else 0

    def overlaps(self, phase: str) -> bool:
        """Whether the point itself (not the spec) overlaps everything in a phase."""
        return self.stages >= 2 and self.where in (phase, "both")

    def measured(self) -> bool:
        """Whether measured serving runs ran like this: none of section 11, no routing or placement."""
        return self in (Run(), Run(stages=1))

    def phases(self) -> list[str]:
        """Return the phases in which the point itself overlaps everything."""
        return [phase for phase in ("prefill", "decode") if self.overlaps(phase)]


AS_IT_IS = Run()


def law_json(law: dict[str, Any]) -> str:
    """Return a law without its name, as the table of loads knows it."""
    return json.dumps({key: law[key] for key in ("law", "value") if key in law})


def read_run(point: dict[str, Any], routings: list[dict[str, Any]]) -> Run:
    """Read how a point runs; keys that are absent or None take their defaults. `routings` are those of the plan."""
    named = {law["name"]: law_json(law) for law in routings}
    return Run(
        stages=int(point.get("overlap_stages") or 0),
        sms=int(point.get("overlap_sms") or 0),
        where=point.get("overlap_where") or "prefill",
        sequence_parallel=bool(point.get("sequence_parallel")),
        fused_norm=bool(point.get("fused_norm")),
        sm_clock_mhz=point.get("sm_clock_mhz"),
        power_cap_w=point.get("power_cap_w"),
        routing=named[point["routing"]] if point.get("routing") else None,
        placement=point.get("placement") or "contiguous",
    )
