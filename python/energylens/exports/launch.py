"""How a server is started: commands, the files they read, and what no flag can say."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from energylens.exports.settings import Settings

_WIDTH = 100


@dataclass(frozen=True)
class Launch:
    """The start of one engine.

    `commands`: words of each command, the last one running; `files`: texts by name that must lie where it starts;
    `notes`: what the flags cannot say. `checked` names the version whose arguments these are.
    """

    to: str
    checked: str
    commands: Sequence[Sequence[str]]
    settings: Settings
    files: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def script(self) -> str:
        """The start as a shell script: clocks first, then files, then the commands."""
        comments = [self.settings.headline, f"{self.checked}, {_gpus(self.settings)}"]
        comments += [f"note: {note}" for note in (*self.settings.notes, *self.notes)]
        lines = ["#!/bin/sh", *map(_comment, comments)]
        lines.append("set -eu")
        lines += [shlex.join(words) for words in power_commands(self.settings)]
        for name, text in self.files.items():
            lines += [f"cat > {shlex.quote(name)} <<'END'", text.rstrip("\n"), "END"]
        for words in self.commands[:-1]:
            lines += [f"{wrapped(words)} &", "trap 'kill $! 2>/dev/null || true' EXIT INT TERM"]
        last = wrapped(self.commands[-1])
        return "\n".join([*lines, last if len(self.commands) > 1 else f"exec {last}"]) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, for `--json`."""
        return {
            "to": self.to,
            "checked": self.checked,
            "engines": self.settings.replicas,
            "gpus_per_engine": self.settings.gpus,
            "power": [list(words) for words in power_commands(self.settings)],
            "files": dict(self.files),
            "commands": [list(words) for words in self.commands],
            "notes": [*self.settings.notes, *self.notes],
        }


def power_commands(settings: Settings) -> list[list[str]]:
    """Return the commands that lock the clock or cap the power; they need the rights of an administrator."""
    commands = []
    if (mhz := settings.sm_clock_mhz) is not None:
        commands.append(["sudo", "nvidia-smi", f"--lock-gpu-clocks={mhz},{mhz}"])
    if (watts := settings.power_cap_w) is not None:
        commands.append(["sudo", "nvidia-smi", f"--power-limit={watts}"])
    return commands


def _comment(text: str) -> str:
    """Return a text as one line of comment: a name from someone else's file stays within it."""
    return f"# {' '.join(''.join(c if c.isprintable() else ' ' for c in text).split())}"


def _gpus(settings: Settings) -> str:
    return f"{settings.gpus} x {settings.gpu}" + (" in each engine" if settings.replicas > 1 else "")


def wrapped(words: Sequence[str]) -> str:
    """Return a command over lines, a flag and its value on each."""
    parts: list[str] = []
    for word in map(shlex.quote, words):
        if (word.startswith("-") and word != "-m" and parts[-1:] != ["python3 -m"]) or not parts:
            parts.append(word)
        else:
            parts[-1] += f" {word}"
    return " \\\n  ".join(parts) if len(" ".join(parts)) > _WIDTH else " ".join(parts)
