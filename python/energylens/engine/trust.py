"""How far a GPU's numbers are trusted, as plain data that files carry along."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from energylens.inputs.plan import LoadedGpu

Account = dict[str, Any]
"""`trust` (a level); of a profile at hand `source`, `errors` (a row a fit), and the `lender` of its serving layer."""

_LENT = re.compile(r"transferred from ([\w-]+)")

_OTHERS = frozenset({"frameworks", "prior"})
_ERRORS = ("rows", "mape_percent", "median_percent", "p90_percent", "bias_percent")


def account(loaded: LoadedGpu) -> Account:
    """Return the level of trust of a profile, its source, and the errors of its fits on what they did not see."""
    whole = loaded.profile.sections
    told = {"trust": loaded.trust, "source": loaded.spec.source, "errors": _errors(whole, ())}
    lent = _LENT.match(str(whole.get("host", {}).get("source", "")))
    return told | ({"lender": lent[1]} if lent else {})


def levels(trust: Mapping[str, Account]) -> dict[str, str]:
    """Return the level of each GPU."""
    return {name: str(told["trust"]) for name, told in trust.items()}


def _errors(node: Any, path: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the fits below a section of a profile, each with its path; equal ones of one section once."""
    if isinstance(node, list):
        named = {str(item.get("name") or item.get("operation")): item for item in node if isinstance(item, dict)}
        return _errors(named, path)
    if not isinstance(node, dict):
        return []
    if "mape_percent" in node:
        own = {name: node[name] for name in _ERRORS if node.get(name) is not None}
        return [{"what": ".".join(part for part in path if part != "fit"), "data": node["data"], **own}]
    found: dict[str, dict[str, Any]] = {}
    for name, value in node.items():
        if name not in _OTHERS:
            for row in _errors(value, (*path, name)):
                found.setdefault(str({key: value for key, value in row.items() if key != "what"}), row)
    return list(found.values())
