"""The commands and their options, as the reference of commands lists them; so that the fuzzer follows the tool."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

_REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"
_SECTION = re.compile(r"^## energylens (.+?)$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_OPTION = re.compile(r"^\| `(--[a-z-]+)`[^|]*\| ([^|]+) \| ([^|]*) \|", re.MULTILINE)

SKIPPED = {"measure", "demo", "calibrate kernels", "calibrate power", "calibrate serving", "validate"}
"""Commands that need a GPU or measured data, or write where they are not told to."""


@dataclass(frozen=True)
class CommandForm:
    """A command: its words, the words of its example, and its options with their kind and default."""

    words: tuple[str, ...]
    example: tuple[str, ...]
    options: dict[str, tuple[str, str]] = field(default_factory=dict)


@cache
def commands() -> tuple[CommandForm, ...]:
    """Return the commands that are tried."""
    forms = []
    for name, body in _SECTION.findall(_REFERENCE.read_text(encoding="utf-8")):
        example = re.search(r"^energylens (.*)$", body, re.MULTILINE)
        if name in SKIPPED or example is None:
            continue
        options = {flag: (kind.strip(), default.strip(" `")) for flag, kind, default in _OPTION.findall(body)}
        forms.append(CommandForm(tuple(name.split()), tuple(shlex.split(example[1])), options))
    return tuple(forms)
