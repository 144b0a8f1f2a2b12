"""A profile file: what a person wrote above a marker, what `energylens calibrate` writes below it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from energylens.common.errors import Problem, SpecError
from energylens.inputs.form import check
from energylens.inputs.gpu import GpuSpec
from energylens.inputs.plan import LoadedGpu
from energylens.inputs.yaml import Document

MARKER = "# Below: written by `energylens calibrate`. Changes by hand are lost when it runs again."
FITTED = ("host", "energy", "uncertainty", "range", "kernels", "collectives", "frameworks")
"""Sections that fits write, in their order."""
_WIDTH = 200
_SCHEMA = re.compile(r"\A# yaml-language-server: \$schema=\.\./.*\n")


def significant(value: float, digits: int = 3) -> float:
    """Return a number rounded to so many significant digits, so that a file does not hang on the last bits of a fit."""
    return float(f"{value:.{digits - 1}e}")


class ProfileFile:
    """A profile and its text; fitted sections can be replaced."""

    def __init__(self, path: Path) -> None:
        document = Document.read(path, "profile")
        check(GpuSpec, document.data, document, path.name)
        self.path = path
        text = document.text
        self._head = text.split(MARKER)[0].rstrip("\n")
        self.sections: dict[str, Any] = {name: document.data[name] for name in FITTED if name in document.data}
        if MARKER not in text and self.sections:
            first = next(iter(self.sections))
            problem = Problem(
                f"`{path}` has a `{first}` section of its own",
                document.place([first], key=True),
                f"drop the sections {', '.join(self.sections)}, or end what is yours with the line {MARKER!r}",
                "profile",
            )
            raise SpecError(problem)

    def replace(self, **sections: Any) -> None:
        """Put fitted sections in place of those of the same name; None removes one."""
        for name, content in sections.items():
            if name not in FITTED:
                raise KeyError(name)
            if content is None:
                self.sections.pop(name, None)
            else:
                self.sections[name] = content

    def head(self, **entries: Any) -> None:
        """Put entries in place of those that a person wrote above the marker, or after them."""
        for name, content in entries.items():
            written = f"{name}: {content}" if isinstance(content, str) else emit(name, content, 0)
            # Its indented lines, with blank ones and comments in between.
            entry = re.compile(rf"^{name}:.*(?:(?:\n[ \t]*|\n#.*)*\n[ \t]+\S.*)*", re.MULTILINE)
            if entry.search(self._head):
                self._head = entry.sub(lambda _: written, self._head, count=1)  # noqa: B023
            else:
                self._head = f"{self._head}\n{written}"

    def rename(self, name: str) -> None:
        """Give the profile another name, so that it can stand beside the one it started from."""
        self._head = re.sub(r"^name:.*$", f"name: {name}", self._head, count=1, flags=re.MULTILINE)

    @property
    def text(self) -> str:
        """The whole file; the same sections always give the same bytes."""
        written = [emit(name, self.sections[name], 0) for name in FITTED if name in self.sections]
        return "\n".join([self._head, "", MARKER, *written, ""])

    def loaded(self) -> LoadedGpu:
        """Return the profile as it stands; raise `SpecError` if its sections do not make one."""
        document = Document(self.text, str(self.path))
        return LoadedGpu(check(GpuSpec, document.data, document, self.path.name), document)

    def write(self, path: Path | None = None) -> Path:
        """Check the profile, then replace the file in one step; raise `SpecError` and write nothing if it is faulty.

        In another folder it is without the line that leads editors from here to the schema.
        """
        from energylens.common.parquet_file import write_file

        self.loaded()
        target = path or self.path
        same_folder = target.resolve().parent == self.path.resolve().parent
        write_file(target, (self.text if same_folder else _SCHEMA.sub("", self.text)).encode())
        return target


def scalar(value: object) -> str:
    """Return a YAML scalar."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < 1e6
        return f"{int(value)}" if whole else f"{value:.6g}".replace("e+", "e").replace("e0", "e").replace("e-0", "e-")
    return json.dumps(value, ensure_ascii=False)


def flow(value: object) -> str:
    """Return a YAML value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def emit(name: str, value: object, depth: int) -> str:
    """Return `name: value` as YAML lines: on one line where that is short enough, else one line for each part."""
    indent = "  " * depth
    line = f"{indent}{name}: {flow(value)}"
    if (len(line) <= _WIDTH and depth > 0) or not isinstance(value, (dict, list, tuple)) or not value:
        return line
    if isinstance(value, dict):
        return "\n".join([f"{indent}{name}:", *(emit(str(key), item, depth + 1) for key, item in value.items())])
    return "\n".join([f"{indent}{name}:", *(f"{indent}  - {flow(item)}" for item in value)])
