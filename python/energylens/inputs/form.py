"""The form every spec is checked for: strict types, no unknown fields, and all problems at once."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from energylens.common.errors import MOST_SHOWN, EnergylensError, Problem, SpecError, did_you_mean
from energylens.common.files import printable
from energylens.common.show import value_or_kind
from energylens.inputs.yaml import Document, Step


def _integral(value: object) -> object:
    """Let 8e3 stand for 8000, as YAML numbers often do."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value


def _floating(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("finite_number", "Input should be a finite number")
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    try:
        return float(value)
    except OverflowError:
        return value


def plain_name(name: str, what: str) -> str:
    """Return the name of a model or sweep, as it may stand in a path; raise `ValueError` if it may not."""
    if not all(c.isalnum() or c in "-._" for c in name):
        raise ValueError(f"a {what}'s name has letters, digits and `-._`, found `{printable(name, 100)}`")
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"a {what}'s name has at most {_LONGEST_NAME} characters, found {len(name):,}")
    return name


_LONGEST_NAME: Final = 200
"""Longest name of a model or sweep: names of files have 255 characters, endings among them."""

Count = Annotated[int, BeforeValidator(_integral), Field(ge=1, le=10**12)]
Positive = Annotated[float, BeforeValidator(_floating), Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, BeforeValidator(_floating), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_floating), Field(gt=0, le=1, allow_inf_nan=False)]
# Bounds far beyond any GPU or engine, within which no product of them leaves the range of a double.
Seconds = Annotated[NonNegative, Field(le=1000)]
"""Seconds of one kernel, pass, sequence or hop."""
SecondsPerRoot = Annotated[NonNegative, Field(le=1)]
"""Seconds for each square root of a byte."""
Watts = Annotated[NonNegative, Field(le=1e5)]
"""Watts of one GPU."""
JoulesPer = Annotated[NonNegative, Field(le=1e-3)]
"""Joules of one byte or FLOP."""
Joules = Annotated[NonNegative, Field(le=1e6)]
"""Joules of one sequence."""
Factor = Annotated[NonNegative, Field(le=1e6)]
"""Work, padding or slow-down in its own unit."""
Bytes = Annotated[NonNegative, Field(le=1e18)]
"""Bytes of memory or of a message."""
Deviation = Annotated[NonNegative, Field(le=100)]
"""A relative standard deviation."""
Efficiency = Annotated[Positive, Field(ge=1e-6)]
"""A share of a peak that something reaches."""
Text = Annotated[str, Field(min_length=1)]
PlainName = Annotated[Text, Field(json_schema_extra={"pattern": r"^[^\s/\\]+$"})]
"""The name of a model, workload or sweep; `plain_name` says what it may hold, the schema nearly that."""


class Form(BaseModel):
    """Base of all spec forms: frozen, strict, no unknown fields; the docstring under a field is what editors show."""

    # Built at first use: a form inside another is checked by that one's checks and needs none for itself.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


FormT = TypeVar("FormT", bound=BaseModel)


def check(form: type[FormT], data: object, document: Document | None, what: str) -> FormT:
    """Return `data` as a `form`; raise `SpecError` with every problem, placed in the document if there is one."""
    try:
        return form.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise SpecError(
            [_problem(form, detail, document, what, at < MOST_SHOWN) for at, detail in enumerate(details)]
        ) from None
    except (UnicodeError, OverflowError, RecursionError):
        message = f"`{what}` holds a text that is no Unicode, or a number beyond any size"
        raise SpecError(Problem(message, code="value_error")) from None


_ABOUT_THE_NAME = {"extra_forbidden", "unknown-name", "rank-name", "unknown-rank", "twice"}


def place_problem(
    document: Document | None, what: str, path: Sequence[Step], problem: Problem, span: tuple[int, int] | None
) -> Problem:
    """Return the problem with its place in the document, or with a readable path where there is no file."""
    if document is not None:
        place = document.place(path, span, key=problem.code in _ABOUT_THE_NAME)
        return Problem(problem.message, place, problem.hint, problem.code)
    where = f"{what}: {'.'.join(printable(str(step), 60) for step in path)}" if path else what
    return Problem(problem.message, None, problem.hint, problem.code, where)


def _problem(form: type[BaseModel], detail: Any, document: Document | None, what: str, hints: bool) -> Problem:
    path = tuple(
        step for step in detail["loc"] if not (isinstance(step, str) and step.startswith(("function-", "[key]")))
    )
    kind, value = detail["type"], detail["input"]
    name = printable(_name_of(path), 100) if path else what
    hint: str | None = None
    match kind:
        case "extra_forbidden":
            message = f"unknown field `{name}`"
            hint = did_you_mean(name, _fields_at(form, path[:-1])) if hints else None
        case "missing":
            message = f"missing field `{name}`"
            owner = ".".join(str(step) for step in path[:-1])
            hint = "every number needs a `source`: the data sheet or fit it comes from" if name == "source" else None
            hint = hint or (f"add it to `{printable(owner)}`" if owner else None)
            path = path[:-1]
        case "string_too_short" | "too_short":
            message = f"`{name}` is empty"
        case "model_type" | "dict_type" | "model_attributes_type":
            message = f"`{name}` should be fields and values, found {_kind_of(value)}"
        case "value_error":
            error = detail["ctx"]["error"]
            first = error.problems[0] if isinstance(error, EnergylensError) else Problem(str(error), code=kind)
            message, hint = first.message, first.hint
            kind = first.code if first.code != "problem" else kind
        case "too_long":
            message = f"`{name}` should have at most {detail['ctx']['max_length']:,} items, found {len(value):,}"
        case _ if not str(detail["msg"]).startswith("Input should "):
            message = f"`{name}`: {detail['msg']}"
        case _:
            expected = str(detail["msg"]).replace("Input should be ", "").replace("Input should have", "has to have")
            message = f"`{name}` should be {expected}, found `{value_or_kind(value)}`"
            if "number" in expected or "integer" in expected:
                hint = _number_hint(value)
    return place_problem(document, what, path, Problem(message, hint=hint, code=kind), None)


def _name_of(path: Sequence[Step]) -> str:
    """Return the name of a value: its field's, and which item of a list it is."""
    first = next((at for at in range(len(path) - 1, -1, -1) if isinstance(path[at], str)), 0)
    return ".".join(str(step) for step in path[first:])


def _kind_of(value: object) -> str:
    if value is None:
        return "nothing"
    return f"`{value_or_kind(value)}`" if isinstance(value, (str, int, float)) else "a list"


_WITH_UNIT: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGbBtT])(i?)[bB]?\s*")
_POWERS: Final = {"k": 1, "m": 2, "g": 3, "b": 3, "t": 4}


def _number_hint(value: object) -> str | None:
    """Return how to write the number that a text stands for."""
    if not isinstance(value, str):
        return None
    if match := _WITH_UNIT.fullmatch(value[:60]):
        power = _POWERS[match[2].lower()]
        number = float(match[1]) * (1024.0 if match[3] else 1000.0) ** power
        if number < 1e15:
            binary = "" if match[3] or power > 1 else f" (or {float(match[1]) * 1024:.15g})"
            return f"write the number in full: {number:.15g}{binary}"
    return "write a plain number, without quotes or units"


def _fields_at(form: type[BaseModel], path: Sequence[Step]) -> list[str]:
    """Field names allowed at a path, found by walking the annotations."""
    current: Any = form
    for step in path:
        current = _next(current, step)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []


def _next(current: Any, step: Step) -> Any:
    from typing import get_args

    if isinstance(current, type) and issubclass(current, BaseModel):
        field = current.model_fields.get(str(step))
        return _unwrap(field.annotation) if field else None
    return _unwrap(get_args(current)[-1]) if get_args(current) else None


def _unwrap(annotation: Any) -> Any:
    """Take off `Annotated` and `| None`; containers stay."""
    from types import NoneType, UnionType
    from typing import Union, get_args, get_origin

    if get_origin(annotation) is Annotated:
        return _unwrap(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        options = [option for option in get_args(annotation) if option is not NoneType]
        return _unwrap(options[0]) if len(options) == 1 else annotation
    return annotation
