"""Rings in a graph of what refers to what: those of the package and of the core."""

from __future__ import annotations


def rings(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the sets of modules that refer to each other, directly or through others."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for target in edges[waiting.pop()] - seen:
                seen.add(target)
                waiting.append(target)
        return seen

    reach = {name: reachable(name) for name in edges}
    inside = (sorted(other for other in reach[name] if name in reach[other]) for name in edges)
    return sorted({tuple(ring): ring for ring in inside if ring}.values())
