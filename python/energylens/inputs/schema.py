"""JSON Schemas of the files that people write, for editors and for the reference of fields."""

from __future__ import annotations

import ast
import inspect
import json
import re
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from energylens.common.errors import EnergylensError, Problem, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel
    from pydantic_core import core_schema

KINDS: Final = ("model", "gpu", "workload", "sweep", "point")
"""Kinds of files."""

FOLDERS: Final[Mapping[str, str]] = {"models": "model", "hardware": "gpu", "workloads": "workload", "sweeps": "sweep"}
"""Kind of the bundled files of each folder."""

_FORMS: Final = {
    "model": ("energylens.inputs.model", "ModelSpec"),
    "gpu": ("energylens.inputs.gpu", "GpuSpec"),
    "workload": ("energylens.inputs.workload", "WorkloadSpec"),
    "sweep": ("energylens.sweeps.job", "JobForm"),
    "point": ("energylens.inputs.point", "PointSpec"),
}


def schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a kind of file; raise `EnergylensError` for an unknown kind.

    It describes files as they may be written, shorthands included. What it calls wrong is wrong, odd spellings of lists
    in one text apart; what it calls valid may still be refused, for what its parts mean together.
    """
    if kind not in _FORMS:
        hint = did_you_mean(kind, KINDS)
        raise EnergylensError(Problem(f"there is no schema of `{kind}`", hint=hint, code="schema"))
    module, name = _FORMS[kind]
    form: type[BaseModel] = getattr(import_module(module), name)
    content = _tidy(form.model_json_schema(schema_generator=_Generator))
    head = {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"energylens/{kind}.schema.json",
        "title": f"energylens {kind}",
    }
    order = ("description", "type", "required", "properties", "additionalProperties", "anyOf", "$defs")
    return head | {part: content[part] for part in order if part in content}


def text(kind: str) -> str:
    """Return the schema as the text of its file; raise `EnergylensError` for an unknown kind."""
    return json.dumps(schema(kind), indent=2, ensure_ascii=False) + "\n"


def first_line(kind: str) -> str:
    """Return the comment by which editors find the schema of a bundled file."""
    return f"# yaml-language-server: $schema=../schemas/{kind}.schema.json"


_BOUNDS: Final = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum"}
"""Bounds that pydantic leaves in its own words where a number is read before it is checked."""


def _tidy(node: Any) -> Any:
    """Return a schema with every bound in JSON Schema's words, without what says nothing."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    tidy = {_BOUNDS.get(name, name): _tidy(part) for name, part in node.items()}
    if "default" in tidy and (tidy["default"] is None or "$ref" in tidy):
        del tidy["default"]
    if "enum" in tidy:
        tidy.pop("minLength", None)
    if tidy.get("type") == "object" and "minLength" in tidy:
        tidy["minProperties"] = tidy.pop("minLength")
    if tidy.get("minimum", 0) > 0:
        tidy.pop("exclusiveMinimum", None)
    return tidy


class _Generator(GenerateJsonSchema):
    """Titles of objects in words, none of fields; descriptions from the docstrings under fields."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        described = super().model_schema(schema)
        described["title"] = words(schema["cls"].__name__)
        described["description"] = " ".join((schema["cls"].__doc__ or "").split())
        for name, text in _docstrings(schema["cls"]).items():
            if name in described["properties"]:
                described["properties"][name]["description"] = text
        return described


def words(name: str) -> str:
    """Return the name of a form as words: `TimeSet` is a time set."""
    parts = re.findall("[A-Z][a-z]*", name.removesuffix("Form").removesuffix("Spec"))
    return " ".join([parts[0], *(part.lower() for part in parts[1:])])


def _docstrings(form: type[Any]) -> dict[str, str]:
    """Return the docstrings under fields, read from the source only for a schema: pydantic would at every start."""
    docstrings = {}
    (cls,) = ast.parse(inspect.getsource(form)).body
    assert isinstance(cls, ast.ClassDef)
    for before, after in pairwise(cls.body):
        match before, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docstrings[name] = " ".join(text.split())
    return docstrings
