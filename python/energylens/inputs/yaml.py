"""YAML 1.2 with a place for every value, so that an error can point at it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from energylens.common.errors import Place, Problem, SpecError
from energylens.common.files import read_text
from energylens.inputs.parsed import parsed_data

if TYPE_CHECKING:
    from energylens.inputs.nodes import Node

Step = str | int

MOST_BYTES: Final = 2**20
"""Longest text that is read: people write these files, and the largest bundled one has 66 kB."""


class Document:
    """A YAML text as plain data, and where each part of it stands.

    Parameters
    ----------
    text
        The YAML.
    file
        Its name in messages.
    data
        The data in it, where that is known; places are then found when a message needs one.
    """

    def __init__(self, text: str, file: str, data: Any | None = None) -> None:
        self.file = file
        if len(text) > MOST_BYTES:
            message = f"`{file}` has {len(text):,} characters: more than the {MOST_BYTES:,} that are read"
            raise SpecError(Problem(message, code="unreadable"))
        self.text = text
        self.data: Any = self._root.data if data is None else data

    @classmethod
    def read(cls, path: Path | str, what: str = "file") -> Document:
        """Read a file; one that is missing, no regular file, too long or not UTF-8 is a `SpecError`."""
        text = read_text(path, what, most=MOST_BYTES)
        return cls(text, str(path), parsed_data(Path(path), text))

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the text."""
        from energylens.inputs import nodes  # the parser of YAML, which bundled specs do without

        return nodes.lines_of(self.text)

    @cached_property
    def _root(self) -> Node:
        from energylens.inputs import nodes

        root = nodes.read(self.text, self.file, self.lines)
        if root is None:
            raise SpecError(
                Problem(f"`{self.file}` is empty", hint="`energylens show llama-3.1-8b` shows a spec", code="empty")
            )
        if root.entries is None:
            kind = "list" if root.items is not None else "single value"
            raise SpecError(Problem(f"`{self.file}` holds a {kind}, not the fields of a spec", code="yaml"))
        return root

    def place(self, path: Sequence[Step], span: tuple[int, int] | None = None, *, key: bool = False) -> Place:
        """Return where the value at `path` stands; steps the file has no part for are skipped.

        With `key`, the name of the last step is meant rather than its value. A list position into a mapping counts its
        entries, since a kernel's place in the plan is its place in the block.
        """
        node, at = self._root, None
        is_key = False
        for number, step in enumerate(path):
            entry = node.entry(step)
            if entry is None:
                continue
            name, value = entry
            named = node.entries is not None
            is_key = named and (value.data is None or _parts(value) or (key and number == len(path) - 1))
            at, node = (name if is_key else value), value
        if at is None:
            return self._at(0, 0, 1)
        if is_key or not _parts(node):
            if span is not None and not is_key:
                return self._in_text(node, span)
            return self._at(at.line, at.column, at.length)
        return self._at(at.line, at.column, 1)

    def _in_text(self, node: Node, span: tuple[int, int]) -> Place:
        """Return the place of a part of a text, which may go on over several lines where it stands plainly."""
        first, last = span
        line, column = node.line, node.column + (node.style in ("'", '"'))
        if node.style is None and isinstance(node.data, str):
            while line + 1 < len(self.lines) and first > (width := len(self.lines[line][column:].rstrip())):
                first, last, line = first - width - 1, last - width - 1, line + 1
                column = len(self.lines[line]) - len(self.lines[line].lstrip())
        return self._at(line, column + first, last - first)

    def _at(self, line: int, column: int, length: int) -> Place:
        text = self.lines[line] if line < len(self.lines) else ""
        column = min(column, len(text))
        return Place(self.file, line + 1, column + 1, max(1, min(length, len(text) - column)), text)


def _parts(node: Node) -> bool:
    return node.entries is not None or node.items is not None
