"""Arguments and options: what an annotation says of one, how it is shown, how its text is read."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Union, get_args, get_origin

from energylens.common.errors import EnergylensError, Problem
from energylens.common.files import printable
from energylens.inputs.axis_text import meant, real

_SUBJECT: Final = re.compile(r"(?:(?:axis|column) )?`(?P<key>[a-z_]+)`(?= (?:should|needs|is|has)\b)")
"""How messages begin that speak of an axis, a column or an argument."""

_OF_VALUES: Final = frozenset(("axis-value", "column-value", "column-type", "cost", "empty-space", "keep", "search"))
"""Codes of problems with values that options give; others may begin with such a word as well, as the name of a file."""

_KINDS: Final = {int: "INT", float: "NUMBER", Path: "PATH", str: "TEXT"}


@dataclass(frozen=True)
class Parameter:
    """What an annotation says of an option: its help, its names, how its text is read.

    `bare` is what the option means without a value; it then takes one of switches only: `on`, `off` or a list of them.
    """

    help: str = ""
    name: str | Sequence[str] = ()
    converter: Callable[[str], Any] | None = None
    bare: str | None = None


@dataclass(frozen=True)
class Option:
    """An argument or an option of a command; `default` is `MISSING` where it must be given."""

    key: str
    flags: Sequence[str]
    kind: Any
    default: Any
    help: str
    converter: Callable[[str], Any] | None
    group: str | None = None
    bare: str | None = None

    @property
    def shown(self) -> str:
        """Its name in help and messages."""
        return self.flags[0] if self.flags else self.key.upper()

    @property
    def switch(self) -> bool:
        """Whether it takes no value."""
        return self.kind is bool and self.bare is None

    @property
    def many(self) -> bool:
        """Whether it may be given several times."""
        return self.kind is list

    def usage(self) -> str:
        """Return it with what it takes."""
        value = "" if self.switch or not self.flags else f" {_KINDS.get(self.kind, 'TEXT')}"
        if self.bare is not None:
            value = " [on|off]" if self.kind is bool else " [on|off|off,on]"
        return ", ".join(self.flags) + value if self.flags else self.shown

    def explained(self) -> str:
        """Return its help with its default."""
        if self.default is MISSING:
            return f"{self.help} (required)" if self.flags else self.help
        if self.switch or self.default is None or self.default in ("", []):
            return self.help
        default = {True: "on", False: "off"}[self.default] if isinstance(self.default, bool) else self.default
        return f"{self.help} ({default} if not given)"


class CommandError(EnergylensError):
    """A command line that cannot be read."""


def plain(hint: Any) -> tuple[Any, Parameter]:
    """Return the type of an annotation without `Annotated` and `None`, and its parameter."""
    parameter = Parameter()
    if get_origin(hint) is Annotated:
        hint, *others = get_args(hint)
        parameter = next((other for other in others if isinstance(other, Parameter)), parameter)
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not types.NoneType)
        if get_origin(hint) is Annotated:
            return plain(hint)
    return get_origin(hint) or hint, parameter


def option_of(key: str, hint: Any, default: Any, positional: bool, group: str | None) -> Option:
    """Return the option of a parameter: its key, annotation and default."""
    kind, parameter = plain(hint)
    names = [parameter.name] if isinstance(parameter.name, str) else list(parameter.name)
    flags = [] if positional else names or [f"--{key.replace('_', '-')}"]
    return Option(key, flags, kind, default, parameter.help, parameter.converter, group, parameter.bare)


def default_of(field: Any) -> Any:
    """Return the default of a field of a dataclass."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def key_of(option: Option) -> str:
    """Return what an option is called among those of a command."""
    return f"{option.group or ''}.{option.key}"


def value_of(option: Option, texts: list[str] | None) -> Any:
    """Return the value of an option; raise `EnergylensError` for a text that is none."""
    if texts is None:
        return None if option.default is MISSING else option.default
    if option.switch:
        return True
    if option.many:
        return list(texts)
    if option.kind is Path and not texts[-1].strip():
        raise CommandError(Problem(f"`{option.shown}` is empty", hint="name a file or folder", code="command-line"))
    try:
        if option.converter is not None:
            return option.converter(texts[-1])
        return real(texts[-1]) if option.kind is float else option.kind(texts[-1])
    except EnergylensError:
        raise
    except ValueError:
        if option.kind is bool:
            fault = f"`{option.shown}` is on or off, found `{printable(texts[-1])}`"
            raise CommandError(Problem(fault, hint=f"write {option.shown} on", code="command-line")) from None
        number = option.kind is float
        fault = f"`{option.shown}` needs a {'number' if number else 'whole number'}, found `{printable(texts[-1])}`"
        hint = meant(texts[-1], not number) or f"write it as {'0.5' if number else '8'}"
        raise CommandError(Problem(fault, hint=hint, code="command-line")) from None


def named_as_options(error: EnergylensError, options: Sequence[Option]) -> None:
    """Have the problems of an error speak of options where they speak of the axes, columns or arguments behind them.

    Parameters
    ----------
    error
        What a command raised.
    options
        Options that the line gives; problems with a place in a file are left as they are.
    """
    by_key = {option.key: option for option in options if option.flags}
    error.problems = tuple(_named_as_option(problem, by_key) for problem in error.problems)
    error.args = (error.render().removeprefix("error: "),)


def _named_as_option(problem: Problem, by_key: Mapping[str, Option]) -> Problem:
    match = _SUBJECT.match(problem.message)
    option = by_key.get(match["key"]) if match else None
    if match is None or option is None or problem.code not in _OF_VALUES:
        return problem
    if problem.place is not None or problem.where not in (None, "row 1"):
        return problem
    rest = (
        problem.message[match.end() :]
        .replace(" should hold ", " takes ", 1)
        .replace(" or null", " or own")
        .replace(", in frames null,", "")
    )
    rest = re.sub(r" in row [\d,]+$", "", re.sub(r"(found `?-?\d+)\.0\b", r"\1", rest))
    hint = problem.hint
    if hint is None or hint.endswith("rows are wrong"):
        words = option.help.rstrip(".")
        hint = f"{option.shown}: {words[:1].lower() if words[1:2].islower() else words[:1]}{words[1:]}"
    return replace(problem, message=f"`{option.shown}`{rest}", hint=hint, where=None)
