"""What schemas say of texts that code reads: laws of routing, placements, values of axes, names of bundled specs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, get_args

from energylens import _core
from energylens.inputs import routing, run_options

Schema = dict[str, Any]

_NUMBERED = "|".join(name for name, number in routing.LAWS.items() if number is not None)
_PLAIN = "|".join(name for name, number in routing.LAWS.items() if number is None)
_LAW = rf"{_PLAIN}|({_NUMBERED}):[^,]+|counts:"
_PLACEMENT = "contiguous|balanced|replicated:[0-9]+"
_NUMBERS = r"[0-9]+\s*(:\s*[0-9]+\s*){0,2}"

LAW: Final[Schema] = {
    "pattern": f"^({_LAW}.+)$",
    "examples": ["uniform", routing.DEFAULT, "zipf:0.5", "power_law:1.2", "balanced", "counts:picks.csv"],
}
PLACEMENT: Final[Schema] = {
    "pattern": f"^({_PLACEMENT})$",
    "examples": ["contiguous", "balanced", "replicated:32"],
}


def bundled_names(kind: Any) -> Callable[[Schema], None]:
    """Return what puts the names of bundled specs into a schema as examples, when the schema is asked for."""

    def put(schema: Schema) -> None:
        from energylens.inputs.bundled import bundled

        told = next((one for one in schema.get("anyOf", ()) if one.get("type") == "string"), schema)
        told["examples"] = list(bundled(kind))

    return put


def one_or_list(*items: Mapping[str, Any]) -> Schema:
    """Return the schema of a value, or a list of values."""
    item = {"anyOf": list(items)} if len(items) > 1 else dict(items[0])
    return {"anyOf": [*items, {"type": "array", "items": item, "minItems": 1}]}


def _several(word: str) -> str:
    return rf"^\s*({word})\s*(,\s*({word})\s*)*$"


def _text(word: str, examples: list[str]) -> Schema:
    return {"type": "string", "pattern": _several(word), "examples": examples}


def axis(name: str, most: int) -> Schema:
    """Return the schema of values of an axis of a sweep; those of sizes go up to `most`."""
    own = name in ("weight_dtype", "kv_dtype") or run_options.RUNNING.get(name, 1) is None
    found = one_or_list(*_values(name, most, own), *([{"type": "null"}] if own else []))
    if not own:
        found["anyOf"].append({"type": "null"})
    return found


def _values(name: str, most: int, own: bool) -> list[Schema]:
    known = {
        "weight_dtype": ["own", *_core.DTYPES],
        "kv_dtype": ["own", *_core.DTYPES],
        "overlap_where": list(get_args(run_options.Where)),
        "sequence_parallel": ["off", "on"],
        "fused_norm": ["off", "on"],
    }.get(name)
    if known:
        switch: list[Schema] = [{"type": "boolean"}] if "off" in known else []
        more = "|true|false" if switch else ""
        return [{"enum": known}, *switch, _text("|".join(known) + more, [",".join(known[:2])])]
    if name == "routing":
        return [_text(f"own|{_LAW}[^,]+", ["own", *LAW["examples"]])]
    if name == "placement":
        return [_text(_PLACEMENT, PLACEMENT["examples"])]
    top, examples = {
        "batch": (most, ["1:512", "1,2,4"]),
        "prompt_tokens": (most, ["16:8192:16", "512,1024"]),
        "output_tokens": (most, ["16:8192:16", "128,256"]),
        "sm_clock_mhz": (10_000, ["own,1200:1900:100"]),
        "power_cap_w": (20_000, ["own,300:700:50"]),
        "overlap_stages": (1024, ["own,1,4"]),
        "overlap_sms": (1024, ["0,8,16"]),
    }.get(name, (1024, ["1,2,4", "1:8"]))
    number = {"type": "integer", "minimum": int(name != "overlap_sms"), "maximum": top}
    return [number, _text(f"own|{_NUMBERS}" if own else _NUMBERS, examples)]
