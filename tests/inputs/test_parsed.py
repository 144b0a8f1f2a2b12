"""Bundled specs are read in parsed form, which is what their YAML says."""

import json
from pathlib import Path
from typing import Any

import pytest

from energylens.inputs.bundled import KINDS, bundled
from energylens.inputs.parsed import FOLDER, parsed_data, parsed_file, parsed_text
from energylens.inputs.yaml import Document

REWRITE = "run: python packaging/parse_specs.py"
SPECS = [path for kind in KINDS for path in bundled(kind).values()]


def typed(data: Any) -> Any:
    """Return data with its types, which 1 == 1.0 does not tell apart."""
    if isinstance(data, dict):
        return {name: typed(value) for name, value in data.items()}
    return [typed(value) for value in data] if isinstance(data, list) else (type(data), data)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_parsed_form_of_every_bundled_spec_is_that_of_its_yaml(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    data = Document(text, str(path)).data
    assert parsed_file(path).read_text(encoding="utf-8") == parsed_text(text, data), REWRITE
    read = parsed_data(path, text)
    assert typed(read) == typed(data)
    assert json.dumps(read) == json.dumps(data)  # in the same order


def test_there_is_no_other_parsed_form() -> None:
    assert set(FOLDER.rglob("*.json")) == {parsed_file(path) for path in SPECS}, REWRITE


def test_what_was_edited_or_is_not_bundled_is_parsed(tmp_path: Path) -> None:
    path = bundled("models")["llama-3.1-8b"]
    text = path.read_text(encoding="utf-8")
    assert parsed_data(path, text + "# edited\n") is None
    assert parsed_data(tmp_path / "models" / path.name, text) is None
    assert parsed_data(path.with_name("new.yaml"), text) is None


def test_places_of_a_parsed_form_are_those_of_its_yaml() -> None:
    path = bundled("models")["llama-3.1-8b"]
    step: list[str | int] = ["blocks", 0, "repeat"]
    assert Document.read(path).place(step) == Document(path.read_text(encoding="utf-8"), str(path)).place(step)
