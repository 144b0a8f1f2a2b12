"""Commands from annotated functions, on argparse: arguments, options, help, and every mistake of a line at once."""

from __future__ import annotations

import argparse
import inspect
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar, get_type_hints, overload

from energylens.cli.layout import columns, filled, sentence
from energylens.cli.option import (
    CommandError,
    Option,
    Parameter,
    default_of,
    key_of,
    named_as_options,
    option_of,
    plain,
    value_of,
)
from energylens.common.errors import EnergylensError, Problem, did_you_mean
from energylens.common.files import is_file, printable

__all__ = ["OUT", "App", "Command", "CommandError", "Option", "Parameter"]

_WIDEST: Final = 100
OUT: Final = ("--out", "-o")
"""Names of the option that names a file to write."""

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise what argparse finds itself: a value where none belongs, or none where one does."""
        name, _, fault = message.removeprefix("argument ").partition(": ")
        flag = name.split("/")[0]
        takes, hint = "needs a value", f"write {flag}=VALUE for one that begins with a dash; see --help"
        if "ignored explicit" in fault:
            takes, hint = "takes no value", "see --help"
        raise CommandError(Problem(f"`{flag}` {takes}", hint=hint, code="command-line"))


_NUMBER = re.compile(r"-[0-9.]")
"""A negative number, which is a value and no option."""

_SWITCHES = re.compile(r"(?:on|off)(?:,(?:on|off))*")
"""Values that options such as `--chunked` take; without one they mean `on`."""


@dataclass(frozen=True)
class _Taken:
    """A parameter of a function, and the options that it takes: one, or those of a dataclass."""

    name: str
    options: list[Option]
    dataclass: Callable[..., Any] | None = None
    positional: bool = False


class Command:
    """A function as a command of its annotated parameters.

    A dataclass as a parameter gives its fields as options, which commands share that way.
    """

    def __init__(self, path: str, run: Callable[..., Any]) -> None:
        self.path = path
        self.run = run
        self.help = inspect.getdoc(run) or ""

    @property
    def options(self) -> list[Option]:
        """Its arguments and options, those of dataclasses among them."""
        return [option for taken in self._parameters() for option in taken.options]

    def _parameters(self) -> list[_Taken]:
        """Return the parameters of the function with their options."""
        # Hints are read here and not when a command is registered, so that help of one reads no other's.
        hints = get_type_hints(self.run, include_extras=True)
        taken: list[_Taken] = []
        for name, parameter in inspect.signature(self.run).parameters.items():
            kind, annotation = plain(hints[name])
            if is_dataclass(kind) and isinstance(kind, type):
                inner = get_type_hints(kind, include_extras=True)
                options = [option_of(f.name, inner[f.name], default_of(f), False, name) for f in fields(kind)]
                taken.append(_Taken(name, options, kind))
                continue
            default = MISSING if parameter.default is parameter.empty else parameter.default
            positional = parameter.kind is parameter.POSITIONAL_ONLY
            option = option_of(name, Annotated[kind, annotation], default, positional, None)
            taken.append(_Taken(name, [option], positional=positional))
        return taken

    def __call__(self, words: Sequence[str]) -> Any:
        """Run it; raise `CommandError` with every mistake of the line, or what the function raises."""
        texts, problems = self._texts(words)
        parameters = self._parameters()
        values: dict[str, Any] = {}
        for taken in parameters:
            for option in taken.options:
                try:
                    values[key_of(option)] = value_of(option, texts.get(key_of(option)))
                except EnergylensError as error:
                    problems += error.problems
        if problems:
            raise CommandError(problems)
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for taken in parameters:
            arguments = {option.key: values[key_of(option)] for option in taken.options}
            if taken.dataclass is not None:
                named[taken.name] = taken.dataclass(**arguments)
            elif taken.positional:
                positional.append(arguments[taken.name])
            else:
                named[taken.name] = arguments[taken.name]
        try:
            return self.run(*positional, **named)
        except EnergylensError as error:
            named_as_options(error, [option for option in self.options if texts.get(key_of(option)) is not None])
            raise

    def _texts(self, words: Sequence[str]) -> tuple[dict[str, list[str] | None], list[Problem]]:
        """Return the texts given for each option, and all that is wrong with the words as such."""
        flagged = [option for option in self.options if option.flags]
        arguments = [option for option in self.options if not option.flags]
        # All that follows `--` is an argument; others may stand anywhere among the options.
        front, back = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
        bare = {flag: option.bare for option in flagged if option.bare is not None for flag in option.flags}
        texts, rest = _parsed(flagged, _with_values(front, bare))
        unknown = [word for word in rest if word.startswith("-") and not _NUMBER.match(word)]
        positional = [*(word for word in rest if word not in unknown), *back]
        for option, word in zip(arguments, positional, strict=False):
            texts[key_of(option)] = [word]
        known = {flag.lstrip("-"): flag for option in flagged for flag in option.flags} | {"help": "--help"}
        problems = [self._unknown(word.split("=")[0], known) for word in unknown]
        # Behind an unknown option stands perhaps its value, which is then no mistake of its own.
        if not unknown and (more := positional[len(arguments) :]):
            # A word behind a switch that is neither on nor off was meant for it.
            meant_for = {word: flag for flag, word in pairwise(words) if flag in bare and word in positional}
            problems += [self._no_switch(flag, word) for word, flag in meant_for.items()] or [
                self._wrong(f"unexpected argument `{printable(word)}`") for word in more
            ]
        return texts, problems + self._counted(texts)

    def _counted(self, texts: Mapping[str, list[str] | None]) -> list[Problem]:
        """Return which options are given twice, and which are missing."""
        problems: list[Problem] = []
        for option in self.options:
            values = texts.get(key_of(option))
            if values and len(values) > 1 and not option.many and not option.switch:
                problems.append(self._wrong(f"`{option.shown}` is given twice", "give it once"))
            if values is None and option.default is MISSING:
                problems.append(self._wrong(f"`{option.shown}` is missing"))
        return problems

    @staticmethod
    def _no_switch(flag: str, word: str) -> Problem:
        return Problem(
            f"`{flag}` is on or off, found `{printable(word)}`", hint=f"write {flag} on", code="command-line"
        )

    def _unknown(self, flag: str, known: Mapping[str, str]) -> Problem:
        near = get_close_matches(flag.lstrip("-"), known, n=1, cutoff=0.5)
        return self._wrong(f"unknown option `{printable(flag)}`", f"did you mean `{known[near[0]]}`?" if near else None)

    def _wrong(self, fault: str, hint: str | None = None) -> Problem:
        return Problem(fault, hint=hint or self._see(), code="command-line")

    def _see(self) -> str:
        return f"see {self.path} --help"

    def help_text(self, width: int) -> str:
        """Return its usage, what it does, its arguments and options."""
        arguments = [option for option in self.options if not option.flags]
        options = [option for option in self.options if option.flags]
        needed = [option.usage() for option in options if option.default is MISSING]
        names = [o.shown if o.default is MISSING else f"[{o.shown}]" for o in arguments]
        usage = " ".join([self.path, *names, *needed, *(["[OPTIONS]"] if options else [])])
        lines = [f"Usage: {usage}", ""]
        for paragraph in self.help.split("\n\n"):
            lines += [*filled(" ".join(paragraph.split()), width), ""]
        for title, some in (("Arguments", arguments), ("Options", options)):
            rows = [(option.usage(), option.explained()) for option in some]
            rows += [("--help, -h", "Show this.")] if title == "Options" else []
            if rows:
                lines += [f"{title}:", *columns(rows, width), ""]
        return "\n".join(lines).rstrip()


@dataclass
class App:
    """Commands by name, and groups of them."""

    name: str
    help: str
    version: Callable[[], str] | None = None
    path: str = ""
    file_command: str | None = None
    """The command meant where the first word is a file and no command."""
    commands: dict[str, App | Command] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.commands

    def group(self, group: App) -> None:
        """Register a group of commands."""
        group.path = f"{self.name} {group.name}"
        self.commands[group.name] = group

    @overload
    def command(self, run: FunctionT) -> FunctionT: ...

    @overload
    def command(self, *, name: str) -> Callable[[FunctionT], FunctionT]: ...

    def command(self, run: Any = None, *, name: str | None = None) -> Any:
        """Register a function under its name or a given one."""

        def register(function: FunctionT) -> FunctionT:
            command_name = name or function.__name__.replace("_", "-")
            self.commands[command_name] = Command(f"{self.path or self.name} {command_name}", function)
            return function

        return register if run is None else register(run)

    def __call__(self, words: Sequence[str]) -> Any:
        """Run the command that the words name, or print help; raise `CommandError` for what is no command."""
        width = min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns)
        if not words or words[0] in ("--help", "-h"):
            print(self.help_text(width))
            return None
        if words[0] == "help" and "help" not in self.commands:
            return self([*words[1:], "--help"])
        if words[0] == "--version" and self.version is not None:
            print(self.version())
            return None
        if words[0] not in self.commands and self.file_command and self._names_file(words):
            words = [self.file_command, *words]
        if (command := self.commands.get(words[0])) is None:
            kind = "option" if words[0].startswith("-") else "command"
            near = did_you_mean(words[0], self.commands) if kind == "command" else None
            hint = near or f"see {self.path or self.name} --help"
            raise CommandError(Problem(f"unknown {kind} `{printable(words[0])}`", hint=hint, code="command-line"))
        if isinstance(command, Command) and {"--help", "-h"} & set(words[1:]):
            print(command.help_text(width))
            return None
        return command(words[1:])

    @staticmethod
    def _names_file(words: Sequence[str]) -> bool:
        """Return whether a file stands where a command would, options perhaps before it."""
        first = next((word for word in words if not word.startswith("-")), "")
        return bool(Path(first).suffix) or is_file(first)

    def help_text(self, width: int) -> str:
        """Return its commands with the first sentence of each."""
        rows = [(name, sentence(command.help)) for name, command in sorted(self.commands.items())]
        lines = [f"Usage: {self.path or self.name} COMMAND", "", *filled(self.help, width), ""]
        lines += ["Commands:", *columns(rows, width), ""]
        lines += ["Options:", *columns([("--help, -h", "Show this, or help of a command.")], width)]
        return "\n".join(lines + (columns([("--version", "Show the version.")], width) if self.version else []))


def _parsed(options: Sequence[Option], words: Sequence[str]) -> tuple[dict[str, list[str] | None], list[str]]:
    """Return the texts of each option that argparse finds, and the words that are of none.

    Everything is collected as text: argparse would end at the first value that it cannot convert.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    for option in options:
        action: dict[str, Any] = {"action": "append_const", "const": ""} if option.switch else {"action": "append"}
        parser.add_argument(*option.flags, dest=key_of(option), **action)
    parsed, rest = parser.parse_known_args(words, argparse.Namespace())
    # What argparse makes of `--tp=--` is an empty list.
    texts: dict[str, list[str] | None] = {
        key: [word if isinstance(word, str) else "--" for word in values] if values else None
        for key, values in vars(parsed).items()
    }
    return texts, rest


def _with_values(words: Sequence[str], bare: Mapping[str, str]) -> list[str]:
    """Return the words of a line with a value for each option that may stand without one."""
    completed: list[str] = []
    for word in words:
        if completed and completed[-1] in bare and _SWITCHES.fullmatch(word):
            completed[-1] += f"={word}"
        else:
            completed.append(word)
    return [f"{word}={bare[word]}" if word in bare else word for word in completed]
