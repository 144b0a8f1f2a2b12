"""The values of a YAML text and where each of them stands, read event by event within limits.

Scalars mean what YAML 1.2 says they do (null, true and false, numbers, text), dates are text, and tags only repeat a
kind that a value has anyway. An alias is the value it names, so that what aliases multiply is counted before it is
walked. Reading takes time in proportion to the text, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from energylens.common.errors import Place, Problem, SpecError
from energylens.common.files import printable

MOST_VALUES: Final = 50_000
"""Most values of a file, those that aliases repeat among them: the largest bundled file has 5,000."""
MOST_DEPTH: Final = 32
"""Deepest nesting: bundled files go to 8."""
MOST_DIGITS: Final = 100
"""Longest number, characters: doubles have 17 digits that mean anything."""

_BREAK: Final = re.compile(r"\r\n|\r|\n")
_NULL: Final = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE: Final = frozenset(("true", "True", "TRUE"))
_FALSE: Final = frozenset(("false", "False", "FALSE"))
_NUMBER: Final = re.compile(
    r"(?P<whole>[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9_]+))"
    r"|[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?|(?P<word>[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
)
_BASES: Final = {"0b": 2, "0o": 8, "0x": 16}
_PROPERTIES: Final = re.compile(r"(?:[&!]\S*[ \t]+)+")
_CORE: Final = "tag:yaml.org,2002:"
_SCALAR_KINDS: Final = {"null": type(None), "bool": bool, "int": int, "float": float}


class Node:
    """A value: plain data, the place of its first character, and the nodes of its parts if it has any."""

    __slots__ = (
        "column",
        "data",
        "entries",
        "height",
        "items",
        "keys",
        "length",
        "line",
        "open",
        "order",
        "size",
        "style",
    )

    def __init__(self, data: Any, line: int, column: int, length: int = 1, style: str | None = None) -> None:
        self.data = data
        self.line, self.column, self.length, self.style = line, column, length, style
        self.entries: dict[str, tuple[Node, Node]] | None = {} if isinstance(data, dict) else None
        self.items: list[Node] | None = [] if isinstance(data, list) else None
        self.order: list[tuple[Node, Node]] | None = None
        self.size, self.height = 1, 1
        self.open = False

    def entry(self, step: str | int) -> tuple[Node, Node] | None:
        """Return the key and the value of a step: an entry by its name or by its position, an item by its position."""
        if self.entries is not None:
            if isinstance(step, str):
                return self.entries.get(step)
            if self.order is None:
                self.order = list(self.entries.values())
            return self.order[step] if 0 <= step < len(self.order) else None
        if self.items is not None and isinstance(step, int) and 0 <= step < len(self.items):
            return self.items[step], self.items[step]
        return None


def lines_of(text: str) -> list[str]:
    """Return the lines of a text as YAML counts them."""
    return _BREAK.split(text)


def read(text: str, file: str, lines: list[str]) -> Node | None:
    """Return the value that a YAML text holds, None if it holds none; raise `SpecError`, placed."""
    return _Reader(file, lines).read(text)


class _Reader:
    def __init__(self, file: str, lines: list[str]) -> None:
        self.file, self.lines = file, lines
        self.anchors: dict[str, Node] = {}
        self.stack: list[tuple[Node, Node | None]] = []
        self.values = 0
        self.problems: list[Problem] = []
        self.root: Node | None = None

    def read(self, text: str) -> Node | None:
        from ruamel.yaml import events as kinds

        documents = 0
        for event in self._events(text):
            if isinstance(event, kinds.ScalarEvent):
                self._put(self._scalar(event), event.anchor)
            elif isinstance(event, (kinds.MappingStartEvent, kinds.SequenceStartEvent)):
                self._begin(event, {} if isinstance(event, kinds.MappingStartEvent) else [])
            elif isinstance(event, kinds.CollectionEndEvent):
                self._end()
            elif isinstance(event, kinds.AliasEvent):
                self._alias(event)
            elif isinstance(event, kinds.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._fail("a second document begins", event.start_mark, "a file holds one: split it at `---`")
        if self.problems:
            raise SpecError(self.problems)
        return None if self.root is None or self.root.data is None else self.root

    def _events(self, text: str) -> Iterator[Any]:
        """Return the events of a text, faults of its form as `SpecError`."""
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
        from ruamel.yaml.reader import ReaderError

        try:
            yield from YAML(typ="safe", pure=True).parse(text)
        except MarkedYAMLError as error:
            raise SpecError(self._problem(" ".join(str(error.problem).split()), error.problem_mark)) from None
        except ReaderError as error:
            before = lines_of(text[: error.position])
            message = f"the character U+{ord(text[error.position]):04X} is not allowed"
            raise SpecError(Problem(message, self.place(len(before) - 1, len(before[-1]), 1), None, "yaml")) from None
        except YAMLError as error:
            raise SpecError(Problem(f"{self.file}: {' '.join(str(error).split())}", code="yaml")) from None
        except (ValueError, RecursionError) as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError(Problem(f"cannot read `{self.file}`: {error}", code="yaml")) from None

    def place(self, line: int, column: int, length: int) -> Place:
        line = min(line, len(self.lines) - 1)
        return Place(self.file, line + 1, column + 1, length, self.lines[line])

    def _problem(
        self, message: str, mark: Any, hint: str | None = None, code: str = "yaml", length: int = 1
    ) -> Problem:
        return Problem(message, None if mark is None else self.place(mark.line, mark.column, length), hint, code)

    def _fail(self, message: str, mark: Any, hint: str | None = None) -> NoReturn:
        raise SpecError(self._problem(message, mark, hint))

    def _begin(self, event: Any, data: Any) -> None:
        if event.tag not in (None, "!", _CORE + ("map" if isinstance(data, dict) else "seq")):
            self._fail(f"the tag `{_shown_tag(event.tag)}` is not read here", event.start_mark, "leave it out")
        if len(self.stack) >= MOST_DEPTH:
            self._fail(f"nested deeper than the {MOST_DEPTH} levels that are read", event.start_mark)
        node = Node(data, event.start_mark.line, event.start_mark.column)
        node.open = True
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        self._count(1, event.start_mark)
        if self.stack and self.stack[-1][0].entries is not None and self.stack[-1][1] is None:
            kind = "list" if isinstance(data, list) else "mapping"
            self._fail(f"a {kind} is no name of a field", event.start_mark, "a name is a word or a number")
        self.stack.append((node, None))

    def _end(self) -> None:
        node, _ = self.stack.pop()
        node.open = False
        merged = node.entries.pop("<<", None) if node.entries else None
        if merged is not None and node.entries is not None:
            if merged[0].style is None:
                self._merge(node, *merged)
            else:
                node.entries["<<"] = merged
                node.order = None
        self._attach(node)

    def _merge(self, node: Node, key: Node, value: Node) -> None:
        """Add the entries of the mappings that `<<` names; those of the mapping itself, and of earlier ones, stay."""
        assert node.entries is not None
        del node.data["<<"]
        for item in [value] if value.items is None else value.items:
            if item.entries is None:
                place = self.place(value.line, value.column, value.length)
                raise SpecError(Problem("`<<` takes a mapping, or a list of mappings", place, None, "yaml"))
            for name, (its_key, its_value) in item.entries.items():
                if name not in node.entries:
                    node.entries[name] = (its_key, its_value)
                    node.data[name] = its_value.data

    def _alias(self, event: Any) -> None:
        name = printable(str(event.anchor), 60)
        node = self.anchors.get(event.anchor)
        if node is None:
            self._fail(f"`*{name}` is used before any `&{name}` names a value", event.start_mark)
        if node.open:
            self._fail(f"`*{name}` stands inside the value that `&{name}` names", event.start_mark)
        self._count(node.size, event.start_mark)
        if len(self.stack) + node.height - 1 > MOST_DEPTH:
            self._fail(f"nested deeper than the {MOST_DEPTH} levels that are read", event.start_mark)
        self._attach(node)

    def _put(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = node
        self._attach(node)

    def _count(self, number: int, mark: Any) -> None:
        self.values += number
        if self.values > MOST_VALUES:
            message = (
                f"more than the {MOST_VALUES:,} values that are read from a file, those of aliases counted each time"
            )
            self._fail(message, mark)

    def _attach(self, node: Node) -> None:
        """Put a whole node where it belongs: the root, an item, a key, or the value of the key before it."""
        if not self.stack:
            self.root = node
            return
        parent, key = self.stack[-1]
        if parent.items is not None:
            parent.items.append(node)
            parent.data.append(node.data)
        elif key is None:
            if node.entries is not None or node.items is not None:
                place = self.place(node.line, node.column, node.length)
                raise SpecError(Problem("a name of a field is a word or a number", place, None, "yaml"))
            self.stack[-1] = (parent, node)
            return
        else:
            self._entry(parent, key, node)
            self.stack[-1] = (parent, None)
        parent.size += node.size
        parent.height = max(parent.height, node.height + 1)

    def _entry(self, parent: Node, key: Node, value: Node) -> None:
        assert parent.entries is not None
        name = self._name(key)
        if name in parent.entries:
            hint = "each name stands once; rename or remove one of them"
            place = self.place(key.line, key.column, 1)
            self.problems.append(Problem(f"duplicate key `{printable(name, 100)}`", place, hint, "duplicate-key"))
            return
        parent.entries[name] = (key, value)
        parent.data[name] = value.data

    def _name(self, key: Node) -> str:
        """Return a key as text: as it is written, whole numbers as such."""
        if isinstance(key.data, (str, int)) and not isinstance(key.data, bool):
            return str(key.data)
        return self.lines[key.line][key.column : key.column + key.length].strip()

    def _scalar(self, event: Any) -> Node:
        self._count(1, event.start_mark)
        start, end, text = event.start_mark, event.end_mark, event.value
        line = self.lines[start.line] if start.line < len(self.lines) else ""
        column = start.column
        if (event.anchor is not None or event.tag is not None) and (match := _PROPERTIES.match(line, column)):
            column = match.end()
        length = (end.column if end.line == start.line else len(line)) - column
        plain = event.style in (None, "") and event.tag != "!"
        tag = None if event.tag in (None, "!") else str(event.tag)
        data: Any = self._typed(text, start) if plain and tag != f"{_CORE}str" else text
        if tag not in (None, f"{_CORE}str"):
            kind = tag.removeprefix(_CORE)
            data = self._typed(text, start) if not plain else data
            if kind == "float" and isinstance(data, int) and not isinstance(data, bool):
                data = float(data)
            if kind not in _SCALAR_KINDS or not isinstance(data, _SCALAR_KINDS[kind]):
                self._fail(f"the tag `{_shown_tag(event.tag)}` is not read here", start, "leave it out")
        style = None if event.style in (None, "") else event.style
        return Node(data, start.line, column, 1 if style in ("|", ">") else max(0, length), style)

    def _typed(self, text: str, mark: Any) -> Any:
        """Return what a plain scalar means in YAML 1.2; dates are text."""
        if text in _NULL:
            return None
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        if text[0] not in "-+.0123456789" or (match := _NUMBER.fullmatch(text)) is None:
            return text
        if len(text) > MOST_DIGITS:
            self._fail(f"a number of {len(text):,} characters: at most {MOST_DIGITS} are read", mark)
        if match["word"]:
            return float(text.lower().replace(".", ""))
        digits = text.replace("_", "")
        try:
            if match["whole"]:
                sign, digits = (-1 if digits[0] == "-" else 1), digits.lstrip("+-")
                base = _BASES.get(digits[:2], 10)
                return sign * int(digits[2:] if base != 10 else digits, base)
            value = float(digits)
        except ValueError:
            return text
        if value in (float("inf"), float("-inf")):
            self._fail(f"the number `{text}` is beyond the 1.8e308 that can be read", mark)
        return value


def _shown_tag(tag: Any) -> str:
    return printable(str(tag).replace(_CORE, "!!"), 60)
