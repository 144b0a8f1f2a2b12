"""YAML within limits: what it means, where it stands, and that no text takes long, much memory, or a traceback."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest

from energylens.common.errors import MOST_SHOWN, Place, Problem, SpecError
from energylens.inputs.form import check
from energylens.inputs.gpu import GpuSpec
from energylens.inputs.model import ModelSpec
from energylens.inputs.nodes import MOST_DEPTH, MOST_VALUES
from energylens.inputs.yaml import MOST_BYTES, Document


def read(text: str) -> Any:
    return Document(text, "f.yaml").data


def problem(text: str) -> Problem:
    with pytest.raises(SpecError) as caught:
        read(text)
    return caught.value.problems[0]


def place(text: str) -> tuple[int, int]:
    where = problem(text).place
    assert where is not None
    return where.line, where.column


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12), ("-3", -3), ("+5", 5), ("0o17", 15), ("017", 17), ("0x10", 16), ("0b11", 3), ("1_000", 1000),
        ("1e5", 1e5), ("1.", 1.0), (".5", 0.5), ("-.inf", -math.inf), ("1.5e-3", 1.5e-3), ("true", True),
        ("False", False), ("~", None), ("null", None), ("", None), ('"12"', "12"), ("'~'", "~"), ("! 12", "12"),
        ("!!str 12", "12"), ("!!int 12", 12), ("!!float 12", 12.0), ('!!int "12"', 12), ("!!null ''", None),
        ("!!map {b: 1}", {"b": 1}), ("!!seq [1]", [1]), ("2026-01-31", "2026-01-31"), ("1:30:00", "1:30:00"),
        ("yes", "yes"), ("on", "on"), ("=", "="), ("+_", "+_"), ("1 000", "1 000"), ("|\n  x\n  y\n", "x\ny\n"),
        ("b c\n  d", "b c d"), ('"\\u00fc"', "ü"), ("[1, [2, {c: 3}]]", [1, [2, {"c": 3}]]),
    ],
)  # fmt: skip
def test_a_value_means_what_yaml_says(text: str, value: Any) -> None:
    data = read(f"a: {text}")["a"]
    assert data == value and type(data) is type(value)


def test_not_a_number_is_read_as_one() -> None:
    assert math.isnan(read("a: .nan")["a"])


def test_names_are_text_and_whole_numbers_the_same_however_written() -> None:
    text = "null: 1\ntrue: 2\n1.50: 3\n0x10: 4\n'~': 5\n2026-01-31: 6\n? b\n: 7\n&k c: 8\n*k : 9"
    with pytest.raises(SpecError, match="duplicate key `c`"):
        read(text)
    assert read(text.partition("\n*k")[0]) == {
        "null": 1, "true": 2, "1.50": 3, "16": 4, "~": 5, "2026-01-31": 6, "b": 7, "c": 8
    }  # fmt: skip
    assert problem("2: a\n02: b").message == "duplicate key `2`"


def test_merges_add_what_a_mapping_has_not() -> None:
    text = "base: &b {x: 1, y: 2}\nmore: &m {x: 5, z: 6}\nk:\n  y: 9\n  <<: [*b, *m]\n"
    document = Document(text, "f.yaml")
    assert document.data["k"] == {"y": 9, "x": 1, "z": 6}
    assert list(document.data["k"]) == ["y", "x", "z"]
    assert (document.place(["k", "z"]).line, document.place(["k", "z"]).column) == (2, 20)
    assert read("k: {'<<': 1}") == {"k": {"<<": 1}}
    assert problem("<<: 1").message == "`<<` takes a mapping, or a list of mappings"
    assert place("<<: [{a: 1}, 2]") == (1, 5)


@pytest.mark.parametrize(
    ("text", "message", "at"),
    [
        ("a: &x [*x]", "`*x` stands inside the value that `&x` names", (1, 8)),
        ("a: *x", "`*x` is used before any `&x` names a value", (1, 4)),
        ("? [1, 2]\n: 3", "a list is no name of a field", (1, 3)),
        ("? {a: 2}\n: 3", "a mapping is no name of a field", (1, 3)),
        ("a: &l [1]\n? *l\n: 3", "a name of a field is a word or a number", (1, 4)),
        ("a: !!python/object/apply:os.system [x]", "the tag `!!python/object/apply:os.system` is not read", (1, 4)),
        ("a: !!binary aGk=", "the tag `!!binary` is not read here", (1, 4)),
        ("a: !!set {b, c}", "the tag `!!set` is not read here", (1, 4)),
        ("a: !mine b", "the tag `!mine` is not read here", (1, 4)),
        ("a: !!int b", "the tag `!!int` is not read here", (1, 4)),
        ("a: 1\n---\nb: 2", "a second document begins", (2, 1)),
        ("a: 1e400", "the number `1e400` is beyond the 1.8e308", (1, 4)),
        (f"a: 0x{'f' * 4000}", "a number of 4,002 characters: at most 100 are read", (1, 4)),
        (f"a: {'9' * 400}", "a number of 400 characters", (1, 4)),
        (f"a: 0.{'9' * 400}", "a number of 402 characters", (1, 4)),
        (f"a: {'9' * 5000}", "a number of 5,000 characters", (1, 4)),
        ("a: \x1b[31m", "the character U+001B is not allowed", (1, 4)),
        ("a: b\nc: \0", "the character U+0000 is not allowed", (2, 4)),
        ("a: [1, 2", "expected ',' or ']'", (1, 9)),
        ("a: {b: 1", "expected ',' or '}'", (1, 9)),
        ("a: b: c", "mapping values are not allowed here", (1, 5)),
        ("\ta: b", "found character '\\t' that cannot start any token", (1, 1)),
    ],
)
def test_what_is_refused_has_a_reason_and_a_place(text: str, message: str, at: tuple[int, int]) -> None:
    assert problem(text).message.startswith(message)
    assert place(text) == at
    assert problem(text).code == "yaml"


def test_all_duplicates_are_detected_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        read("{a: 1, a: 2, b: {c: 1, c: 2}, b: 3}")
    places = [(one.message, one.place.column) for one in caught.value.problems if one.place]
    assert places == [("duplicate key `a`", 8), ("duplicate key `c`", 24), ("duplicate key `b`", 31)]


def test_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes("\ufeffa: 1\r\nb: [2,\r3]\n".encode())
    document = Document.read(file)
    assert document.data == {"a": 1, "b": [2, 3]}
    assert document.place(["b", 1]).line == 3
    # Line ends of other alphabets are characters like any other.
    assert Document("a: 'x\u2028y\x85z'\nb: 1", "f").place(["b"]).line == 2


def seconds(text: str) -> float:
    start = time.process_time()
    with pytest.raises(SpecError):
        read(text)
    return time.process_time() - start


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def test_what_aliases_multiply_is_counted_before_it_is_made() -> None:
    assert f"more than the {MOST_VALUES:,} values" in problem(bomb(12)).message
    assert seconds(bomb(12)) < 1.0
    chain = "a0: &a0 {x: 1}\n" + "\n".join(f"a{n}: &a{n} {{x: *a{n - 1}}}" for n in range(1, 40))
    assert f"nested deeper than the {MOST_DEPTH} levels" in problem(chain).message
    merges = "a0: &a0 {x: 1}\n" + "\n".join(
        f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], y{n}: 1}}" for n in range(1, 30)
    )
    assert "values that are read" in problem(merges).message or "levels" in problem(merges).message


@pytest.mark.parametrize("text", ["[" * 20_000, "{a: " * 20_000, "- " * 20_000, "&a " * 20_000, "? " * 20_000])
def test_deep_nesting_is_refused_at_once(text: str) -> None:
    assert seconds(f"a: {text}") < 2.0
    assert seconds(text) < 2.0


def test_nesting_up_to_the_limit_is_read() -> None:
    levels = MOST_DEPTH - 1
    assert read(f"a: {'[' * levels}{']' * levels}")
    assert "nested deeper" in problem(f"a: {'[' * (levels + 1)}{']' * (levels + 1)}").message


def test_reading_takes_time_in_proportion_to_the_text() -> None:
    def taken(count: int) -> float:
        text = "a:\n" + "".join(f"  k{n}: 1\n" for n in range(count))
        start = time.process_time()
        document = Document(text, "f.yaml")
        for n in range(0, count, 7):
            assert document.place(["a", f"k{n}"]).line == n + 2
            assert document.place(["a", n]).line == n + 2
        return time.process_time() - start

    least = min(taken(1000) for _ in range(3))
    assert taken(8000) < 8 * 3 * least


def test_what_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    text = "".join(f"key{n}: {n}\n" for n in range(400_000))
    assert "6,977,780 characters: more than the 1,048,576 that are read" in problem(text).message
    assert seconds(text) < 0.5
    file = tmp_path / "f.yaml"
    file.write_text(text)
    with pytest.raises(SpecError, match="has 6,977,780 bytes: more than the 1,048,576"):
        Document.read(file)
    assert f"more than the {MOST_VALUES:,} values" in problem("a: [" + "1," * (MOST_VALUES + 9) + "]").message
    assert len(text) > MOST_BYTES


def model(**changes: Any) -> list[Problem]:
    with pytest.raises(SpecError) as caught:
        check(ModelSpec, {"name": "m", "ranks": {"d": 4}, "blocks": []} | changes, None, "model")
    return list(caught.value.problems)


def test_a_long_line_is_cut_to_a_window_around_the_caret() -> None:
    fields = "{" + ", ".join(f"unknown_{n}: {n}" for n in range(9000)) + "}"
    document = Document(f"name: h\nmemory: {fields}\n", "f.yaml")
    with pytest.raises(SpecError) as caught:
        check(GpuSpec, document.data, document, "f.yaml")
    problems = caught.value.problems
    assert len(problems) > 9000
    text = str(caught.value)
    assert len(text) < 30_000
    assert text.endswith(f"... and {len(problems) - MOST_SHOWN:,} more problems")
    for one in problems[:100]:
        if one.place is not None and one.place.line == 2:
            _, arrow, line, caret, *_ = one.render().splitlines()
            assert arrow == f" --> f.yaml:2:{one.place.column}"
            assert len(line) < 230
            marked = line[caret.index("^") : caret.index("^") + one.place.length]
            assert marked == one.place.text[one.place.column - 1 : one.place.column - 1 + one.place.length]


@pytest.mark.parametrize(
    ("text", "column", "length", "line", "caret"),
    [
        ("a: b", 4, 1, "a: b", "   ^"),
        ("\ta: b", 5, 1, "    a: b", "       ^"),
        ("日本: x", 5, 1, "日本: x", "      ^"),
        ("a: 日本", 4, 2, "a: 日本", "   ^^^^"),
        ("e\u0301: x", 5, 1, "e\u0301: x", "   ^"),
        ("a: \x1b[0m", 4, 1, "a: \\x1b[0m", "   ^^^^"),
        ("a", 5, 3, "a", "    ^"),
        ("x" * 5000 + "!" + "y" * 5000, 5001, 1, f"... {'x' * 80}!{'y' * 119} ...", " " * 84 + "^"),
        ("!" * 5000, 1, 5000, f"{'!' * 120} ...", "^" * 120),
    ],
)
def test_the_caret_stands_under_what_is_meant(text: str, column: int, length: int, line: str, caret: str) -> None:
    shown = Problem("m", Place("f", 1, column, length, text), code="yaml").render().splitlines()
    assert shown[2:] == [f" 1| {line}", f"  | {caret}"]


def test_control_characters_of_a_value_are_not_sent_to_the_terminal() -> None:
    (one, *_) = model(name="a\x1b[31mb")
    assert one.message == "a model's name has letters, digits and `-._`, found `a\\x1b[31mb`"
    assert "\x1b" not in Problem("m\x1b", hint="h\x1b", where="w\x1b", code="yaml").render()


def test_a_part_of_a_text_over_several_lines_is_detected() -> None:
    document = Document("a: one two\n  three four\nb: 1", "f.yaml")
    where = document.place(["a"], (8, 13))
    assert (where.line, where.column, where.length) == (2, 3, 5)
    where = document.place(["a"], (4, 7))
    assert (where.line, where.column, where.length) == (1, 8, 3)


def test_values_are_shown_in_short() -> None:
    assert model(ranks={"d": 10**5000})[0].message.endswith("found `a whole number of 16,610 bits`")
    assert model(ranks={"d": "9" * 90_000})[0].message.startswith("`extent` should be a valid integer, found `999")
    assert all(len(one.message) < 400 for one in model(**{"z" * 100_000: 1}))
    assert model(parameters=10**400)[0].message.startswith("`parameters` should be")
    assert "finite" in model(parameters=math.inf)[0].message


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("1k", "write the number in full: 1000 (or 1024)"),
        ("128K", "write the number in full: 128000 (or 131072)"),
        ("4Ki", "write the number in full: 4096"),
        ("1.5M", "write the number in full: 1500000"),
        ("8B", "write the number in full: 8000000000"),
        ("4096", "write a plain number, without quotes or units"),
        ("many", "write a plain number, without quotes or units"),
    ],
)
def test_a_number_with_a_unit_has_a_hint(value: str, hint: str) -> None:
    assert model(ranks={"d": value})[0].hint == hint
