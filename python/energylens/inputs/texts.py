"""What schemas say of texts that code reads: laws of routing, placements, values of axes, names of bundled specs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, get_args

from energylens import _core
from energylens.inputs import routing
from energylens.inputs.axes import Axis, Where
from energylens.inputs.axis_text import DEFAULT
from energylens.inputs.bundled import Kind, bundled

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


FOLDERS: Final[Mapping[str, Kind]] = {"model": "models", "gpu": "hardware"}
"""Folders of the bundled specs that the values of an axis name."""


def bundled_names(kind: Kind) -> Callable[[Schema], None]:
    """Return what puts the names of bundled specs into a schema as examples, when the schema is requested."""

    def put(schema: Schema) -> None:
        text = next((part for part in schema.get("anyOf", ()) if part.get("type") == "string"), schema)
        text["examples"] = list(bundled(kind))

    return put


def value_or_list(*items: Mapping[str, Any]) -> Schema:
    """Return the schema of a value, or a list of values."""
    item = {"anyOf": list(items)} if len(items) > 1 else dict(items[0])
    return {"anyOf": [*items, {"type": "array", "items": item, "minItems": 1}]}


def _several(word: str) -> str:
    return rf"^\s*({word})\s*(,\s*({word})\s*)*$"


def _text(word: str, examples: list[str]) -> Schema:
    return {"type": "string", "pattern": _several(word), "examples": examples}


def axis(row: Axis) -> Schema:
    """Return the schema of values of an axis of a sweep: a value, a list of values, or a text; null is the default."""
    if row.required:
        names: Schema = {"type": "string", "minLength": 1}
        bundled_names(FOLDERS[row.name])(names)
        return value_or_list(names)
    schema = value_or_list(*_values(row), *([{"type": "null"}] if row.nullable else []))
    if not row.nullable:
        schema["anyOf"].append({"type": "null"})
    default = DEFAULT if row.space_default is None else row.space_default
    return schema | {"default": [*default] if isinstance(default, tuple) else default}


def _values(row: Axis) -> list[Schema]:
    match row.kind:
        case "format":
            return _words(DEFAULT, *_core.DTYPES)
        case "phase":
            return _words(*get_args(Where))
        case "switch":
            text = _text("off|on|true|false", ["off,on"])
            return [{"enum": ["off", "on"]}, {"type": "boolean"}, text]
        case "law":
            return [_text(f"{DEFAULT}|{_LAW}[^,]+", [DEFAULT, *LAW["examples"]])]
        case "placement":
            return [_text(_PLACEMENT, PLACEMENT["examples"])]
        case _:
            number = {"type": "integer", "minimum": row.least, "maximum": row.most}
            return [number, _text(f"{DEFAULT}|{_NUMBERS}" if row.nullable else _NUMBERS, list(row.examples))]


def _words(*words: str) -> list[Schema]:
    return [{"enum": [*words]}, _text("|".join(words), [",".join(words[:2])])]
