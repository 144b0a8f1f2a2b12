"""YAML 1.2 with a place for every value, so that an error can point at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from energylens.errors import Place, Problem, SpecError

Step = str | int


class Document:
    """A YAML text as plain data, and where each part of it stands."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.lines = text.splitlines() or [""]
        self._root = _parse(text, file, self.lines)
        if self._root is None:
            raise SpecError(
                Problem(f"`{file}` is empty", hint="`energylens show llama-3.1-8b` shows a spec", code="empty")
            )
        if not isinstance(self._root, Mapping):
            found = "list" if isinstance(self._root, list) else "single value"
            raise SpecError(Problem(f"`{file}` holds a {found}, not the fields of a spec", code="yaml"))
        self.data: Any = _plain(self._root)

    @classmethod
    def read(cls, path: Path | str) -> Document:
        """Read a file; a missing or unreadable one is a `SpecError`."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise SpecError(Problem(f"cannot read `{path}`: {error.strerror or error}", code="unreadable")) from None
        except UnicodeDecodeError:
            raise SpecError(Problem(f"`{path}` is not UTF-8 text", code="unreadable")) from None
        return cls(text, str(path))

    def place(self, path: Sequence[Step], span: tuple[int, int] | None = None, *, key: bool = False) -> Place:
        """Return where the value at `path` stands; steps the file has no part for are skipped.

        With `key`, the name of the last step is meant rather than its value. A list position into a mapping counts its
        entries, since a kernel's place in the plan is its place in the block.
        """
        node, line, column, length = self._root, 0, 0, 1
        is_key = False
        for at, step in enumerate(path):
            found = _child(node, step, key and at == len(path) - 1)
            if found is None:
                continue
            node, (line, column), name, is_key = found
            length = len(str(name)) if is_key else 1
        text = self.lines[line] if line < len(self.lines) else ""
        if not isinstance(node, (Mapping, list)) and not is_key:
            quoted = text[column : column + 1] in {"'", '"'}
            if span is not None:
                column, length = column + quoted + span[0], max(1, span[1] - span[0])
            else:
                length = len(str(node)) + 2 * quoted
        length = max(1, min(length, len(text) - column))
        return Place(self.file, line + 1, column + 1, length, text)


def _parse(text: str, file: str, lines: list[str]) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    reader = YAML(typ="rt")
    reader.allow_duplicate_keys = False
    try:
        return reader.load(text)
    except RecursionError:
        raise SpecError(Problem(f"`{file}` is nested too deeply", code="yaml")) from None
    except ValueError as error:
        raise SpecError(Problem(f"cannot read `{file}`: {error}", code="yaml")) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        message = " ".join(str(error.problem).split())
        hint = None
        code = "yaml"
        if isinstance(error, DuplicateKeyError):
            code = "duplicate-key"
            message = message.split(" with value")[0].replace('"', "`").replace("found ", "")
            hint = "each name stands once; rename or remove one of them"
        place = None
        if mark is not None:
            line = min(mark.line, len(lines) - 1)
            place = Place(file, line + 1, mark.column + 1, 1, lines[line])
        raise SpecError(Problem(message, place, hint, code)) from None
    except YAMLError as error:
        raise SpecError(Problem(f"{file}: {' '.join(str(error).split())}", code="yaml")) from None


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _child(node: Any, step: Step, key_wanted: bool) -> tuple[Any, tuple[int, int], object, bool] | None:
    """Return the child, its place, its key, and whether the place is that of the key."""
    if isinstance(node, Mapping):
        keys = list(node)
        if isinstance(step, int):
            if step >= len(keys):
                return None
            key = keys[step]
        else:
            matching = [key for key in keys if str(key) == step]
            if not matching:
                return None
            key = matching[0]
        value = node[key]
        lc = node.lc.data.get(key) if hasattr(node, "lc") else None
        if lc is None:
            return None
        container = isinstance(value, (Mapping, list)) or value is None or key_wanted
        return value, ((lc[0], lc[1]) if container else (lc[2], lc[3])), key, container
    if isinstance(node, list) and isinstance(step, int) and step < len(node):
        lc = node.lc.data.get(step) if hasattr(node, "lc") else None
        if lc is None:
            return None
        return node[step], (lc[0], lc[1]), "", False
    return None
