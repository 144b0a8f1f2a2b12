"""Commands from annotated functions, on argparse: arguments, options, help, and every mistake of a line at once."""

from __future__ import annotations

import argparse
import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar, get_type_hints, overload

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
_SWITCHES = re.compile(r"(?:on|off)(?:,(?:on|off))*")


class Command:
    """A function as a command of its annotated parameters."""

    def __init__(self, path: str, run: Callable[..., Any]) -> None:
        self.path = path
        self.run = run
        self.help = inspect.getdoc(run) or ""

    @property
    def options(self) -> list[Option]:
        """Its arguments and options, those of dataclasses among them."""
        return [option for _, _, options in self._parts() for option in options]

    def _parts(self) -> list[tuple[str, Any, list[Option]]]:
        """Return each parameter with its dataclass, if it is one, and its options."""
        hints = get_type_hints(self.run, include_extras=True)
        found: list[tuple[str, Any, list[Option]]] = []
        for name, parameter in inspect.signature(self.run).parameters.items():
            kind, told = plain(hints[name])
            default = MISSING if parameter.default is parameter.empty else parameter.default
            if is_dataclass(kind):
                inner = get_type_hints(kind, include_extras=True)
                options = [option_of(f.name, inner[f.name], default_of(f), False, name) for f in fields(kind)]
                found.append((name, kind, options))
            else:
                positional = parameter.kind is parameter.POSITIONAL_ONLY
                found.append((name, None, [option_of(name, Annotated[kind, told], default, positional, None)]))
        return found

    def __call__(self, words: Sequence[str]) -> Any:
        """Run it; raise `CommandError` with every mistake of the line, or what the function raises."""
        given, problems = self._given(words)
        arguments: dict[str, Any] = {}
        positional: list[Any] = []
        for name, kind, options in self._parts():
            values: dict[str, Any] = {}
            for option in options:
                try:
                    values[option.key] = value_of(option, given.get(key_of(option)))
                except EnergylensError as error:
                    problems += error.problems
            if kind is not None:
                arguments[name] = (kind, values)
            elif options[0].flags:
                arguments[name] = values.get(name)
            else:
                positional.append(values.get(name))
        if problems:
            raise CommandError(problems)
        made = {name: v[0](**v[1]) if isinstance(v, tuple) else v for name, v in arguments.items()}
        try:
            return self.run(*positional, **made)
        except EnergylensError as error:
            named_as_options(error, [option for option in self.options if given.get(key_of(option)) is not None])
            raise

    def _given(self, words: Sequence[str]) -> tuple[dict[str, list[str] | None], list[Problem]]:
        """Return the texts of each option, and what no option is."""
        flagged = [option for option in self.options if option.flags]
        arguments = [option for option in self.options if not option.flags]
        parser = _Parser(add_help=False, allow_abbrev=False)
        for option in flagged:
            told: dict[str, Any] = {"action": "append"}
            told = {"action": "append_const", "const": ""} if option.switch else told
            parser.add_argument(*option.flags, dest=key_of(option), **told)
        # Arguments may stand anywhere among the options; all that follows `--` is one.
        front, back = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
        bare = {flag: option.bare for option in flagged if option.bare is not None for flag in option.flags}
        found, left = parser.parse_known_args(_with_values(front, bare), argparse.Namespace())
        # What argparse makes of `--tp=--` is an empty list.
        texts: dict[str, list[str] | None] = {
            key: [word if isinstance(word, str) else "--" for word in values] if values else None
            for key, values in vars(found).items()
        }
        strange = [word for word in left if word.startswith("-") and not _NUMBER.match(word)]
        plain = [*(word for word in left if word not in strange), *back]
        known = {flag.lstrip("-"): flag for option in flagged for flag in option.flags} | {"help": "--help"}
        problems = [self._unknown(word.split("=")[0], known) for word in strange]
        for option, word in zip(arguments, plain, strict=False):
            texts[key_of(option)] = [word]
        if not strange and (more := plain[len(arguments) :]):
            # A word behind a switch that is neither on nor off was meant for it.
            meant_for = {word: flag for flag, word in pairwise(words) if flag in bare and word in plain}
            problems += [self._no_switch(flag, word) for word, flag in meant_for.items()] or [
                self._wrong(f"`{printable(word)}` is one argument too many") for word in more
            ]
        for option in self.options:
            own = texts.get(key_of(option))
            if own and len(own) > 1 and not option.many and not option.switch:
                problems.append(self._wrong(f"`{option.shown}` is given twice", "give it once"))
            if own is None and option.default is MISSING:
                problems.append(self._wrong(f"`{option.shown}` is missing"))
        return texts, problems

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
            lines += [*_filled(" ".join(paragraph.split()), width), ""]
        for title, some in (("Arguments", arguments), ("Options", options)):
            rows = [(option.usage(), option.explained()) for option in some]
            rows += [("--help, -h", "Show this.")] if title == "Options" else []
            if rows:
                lines += [f"{title}:", *_columns(rows, width), ""]
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
            own = name or function.__name__.replace("_", "-")
            self.commands[own] = Command(f"{self.path or self.name} {own}", function)
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
        if (found := self.commands.get(words[0])) is None:
            kind = "option" if words[0].startswith("-") else "command"
            near = did_you_mean(words[0], self.commands) if kind == "command" else None
            hint = near or f"see {self.path or self.name} --help"
            raise CommandError(Problem(f"unknown {kind} `{printable(words[0])}`", hint=hint, code="command-line"))
        if isinstance(found, Command) and {"--help", "-h"} & set(words[1:]):
            print(found.help_text(width))
            return None
        return found(words[1:])

    @staticmethod
    def _names_file(words: Sequence[str]) -> bool:
        """Return whether a file stands where a command would, options perhaps before it."""
        first = next((word for word in words if not word.startswith("-")), "")
        return bool(Path(first).suffix) or is_file(first)

    def help_text(self, width: int) -> str:
        """Return its commands with the first sentence of each."""
        rows = [(name, _sentence(own.help)) for name, own in sorted(self.commands.items())]
        lines = [f"Usage: {self.path or self.name} COMMAND", "", *_filled(self.help, width), ""]
        lines += ["Commands:", *_columns(rows, width), ""]
        lines += ["Options:", *_columns([("--help, -h", "Show this, or help of a command.")], width)]
        return "\n".join(lines + (_columns([("--version", "Show the version.")], width) if self.version else []))


def _with_values(words: Sequence[str], bare: Mapping[str, str]) -> list[str]:
    """Return the words of a line with a value for each option that may stand without one."""
    found: list[str] = []
    for word in words:
        if found and found[-1] in bare and _SWITCHES.fullmatch(word):
            found[-1] += f"={word}"
        else:
            found.append(word)
    return [f"{word}={bare[word]}" if word in bare else word for word in found]


def _sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _filled(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def _columns(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Return names with their explanations beside them."""
    left = min(max(len(name) for name, _ in rows), 34) + 4
    lines = []
    for name, told in rows:
        wrapped = textwrap.wrap(told, max(30, width - left), break_on_hyphens=False) or [""]
        first = f"  {name}".ljust(left)
        if len(first) > left:
            lines.append(first)
            first = " " * left
        lines += [first + wrapped[0], *(" " * left + line for line in wrapped[1:])]
    return lines
