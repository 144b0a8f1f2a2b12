"""Every code of an error has an entry in `docs/errors.md`, and every example of that page produces what it shows.

An entry begins with `### ` and its codes. Its blocks are run in order, in one folder per page: a block with a
title writes that file, a console block runs `energylens`, a python block is run and, where a text block follows, has to
raise what that shows. With UPDATE_CASES=1 in the environment, output that does not match is written into the page, to
be read and committed. A comment `<!-- without: ray -->` before a block hides a package from it, `<!-- needs: ray -->`
leaves the entry out where the package is not installed.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from energylens import _core
from energylens.common.errors import EnergylensError
from energylens.inputs.gpu import GpuSpec
from energylens.inputs.model import ModelSpec
from energylens.inputs.workload import WorkloadSpec
from energylens.sweeps.job import JobForm
from test_cases import pattern, run

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "errors.md"

GUARDED = {
    # Checks of the core that Python makes before, with a better message and another code.
    "column": "unknown result columns are `unknown-limit`, `unknown-objective` or `keep` before",
    "count": "the form of a profile: an SM and a GPU of a node at least",
    "dtype": "`evaluate` makes the codes of formats itself",
    "empty-axis": "`empty-space` before",
    "problem": "what a problem without a code would have: none is made (below)",
    "repeat": "the form of a model: a block repeats once or more, and no more often than any model has layers",
    "sharpness": "the form of a profile: a power of two",
    "distributions": "`Keep` names none twice",
    "population": "`search` takes as many at most",
    "tokens": "`energylens.engine.expert_loads.loads` takes numbers from 1",
    "top": "`keep` before",
    "uncertainty": "the form of a profile: deviations are small",
    # Wrong arguments of private calls.
    "bounds": "limits are read into numbers",
    "number": "numbers are checked before they are handed over",
    "engine": "`replay` gives every field of an engine",
    "gpu": "a position of a GPU that the plan has",
    "index": "points come from the space itself",
    "model": "a position of a model that the plan has",
    "rows": "columns of one frame are of one length",
    "steps": "grids of steps are made by `energylens.serving.step_table`",
    "way": "`evaluate` builds the run options itself",
    # Caught before they reach a user, and reported under another code.
    "groups": "reported as `keep`",
    "no-table": "noted by the fit of kernels as left out",
    "state": "reported as `checkpoint`",
    "rank-extent": "the bounds of forms say it first",
    "overflow": "the bounds of forms: no product of numbers within them leaves the range of a double",
    # Only where a call is made from within another, or in a child of a process that was at work.
    "busy": "a handler of a signal calls what the signal broke into",
    "fork": "only in a process that was forked",
    # Only if something else is broken.
    "calibrate": "a fit of the serving layer gets no further without the sections that this asks for",
    "format": "only a manifest changed by hand, with its hashes made to match",
    "internal": "a thread of the core failed",
}
"""Codes without an entry, each with the reason why no user meets it."""

COMPUTED: dict[str, tuple[str, ...]] = {
    # Where a code is not written out: its expression, and what it can be.
    "ABSENT": ("no-table",),
    "f'unknown-{what}'": ("unknown-model", "unknown-gpu", "unknown-limit", "unknown-objective"),
    "name": ("gpus", "sizes", "sms"),
    "reason": tuple(_core.REASONS[1:]),
    "str(reason)": tuple(_core.REASONS[1:]),
    "str(told['reason'][0])": tuple(_core.REASONS[1:]),
    "verb": ("read", "write"),
    "why": (*_core.REASONS[1:], "budget", "overload"),
}

PASSED_ON = {"code", "kind", "p.code", "problem.code", "raw['code']"}
"""Expressions that hand on a code found elsewhere."""

TYPES = {
    "bool": "bool_type", "dict": "dict_type", "float": "float_type", "function-after": "value_error",
    "function-before": "value_error", "int": "int_type", "list": "list_type", "literal": "literal_error",
    "model": "model_type", "model-fields": "missing", "str": "string_type", "tuple": "tuple_type",
}  # fmt: skip
"""What pydantic calls a value of the wrong kind, by the kind wanted."""

BOUNDS = {
    "allow_inf_nan": ("finite_number",), "ge": ("greater_than_equal",), "gt": ("greater_than",),
    "le": ("less_than_equal",), "max_length": ("too_long",), "min_length": ("too_short", "string_too_short"),
}  # fmt: skip
"""What pydantic calls a value beyond a bound of a `Field`."""

RUST = re.compile(r'\b(?:Problem::new|fault|problem)\(\s*"([a-z0-9-]+)",')
BLOCK = re.compile(r'^(?:<!-- (without|needs): (\w+) -->\n+)?```(\w+)(?: title="(\S+)")?\n(.*?)^```$', re.M | re.S)


def python_codes() -> Iterator[str]:
    for path in sorted((ROOT / "python" / "energylens").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield from (code for value in values(node) for code in codes_of(value, path))


def values(node: ast.AST) -> Iterator[ast.expr]:
    """Return the expressions of codes in a call, a default or an assignment; bounds of fields as codes of pydantic."""
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            yield from (keyword.value for keyword in node.keywords if keyword.arg == "code")
            yield from node.args[3:4] if name == "Problem" else node.args[:1] if name == "PydanticCustomError" else ()
            bounds = [code for keyword in node.keywords for code in BOUNDS.get(keyword.arg or "", ())]
            yield from map(ast.Constant, bounds if name == "Field" else ())
        case ast.FunctionDef():
            arguments = [*node.args.posonlyargs, *node.args.args]
            defaults = [*zip(arguments[::-1], node.args.defaults[::-1], strict=False)]
            defaults += [(a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d]
            yield from (default for argument, default in defaults if argument.arg == "code")
        case (
            ast.Assign(targets=[ast.Name(id="code")], value=ast.Constant(value=str()) as value)
            | ast.AnnAssign(target=ast.Name(id="code"), value=ast.Constant() as value)
        ):
            yield value


def codes_of(value: ast.expr, path: Path) -> tuple[str, ...]:
    match value:
        case ast.Constant(value=str(code)):
            return (code,)
        case ast.IfExp():
            return (*codes_of(value.body, path), *codes_of(value.orelse, path))
        case _ if (text := ast.unparse(value)) in PASSED_ON:
            return ()
    assert text in COMPUTED, f"{path.name} computes a code as `{text}`: add what it can be to COMPUTED"
    return COMPUTED[text]


def rust_codes() -> Iterator[str]:
    for path in sorted((ROOT / "crates").glob("*/src/**/*.rs")):
        yield from RUST.findall(path.read_text(encoding="utf-8"))


def form_codes(schema: Any) -> Iterator[str]:
    """Return what pydantic calls the wrong kinds of values in a form."""
    if isinstance(schema, dict):
        if (kind := schema.get("type")) in TYPES:
            yield TYPES[kind]
        if schema.get("extra_fields_behavior") == "forbid" or schema.get("extra_behavior") == "forbid":
            yield "extra_forbidden"
        for part in schema.values():
            yield from form_codes(part)
    elif isinstance(schema, (list, tuple)):
        for part in schema:
            yield from form_codes(part)


def source_codes() -> set[str]:
    forms = (ModelSpec, GpuSpec, WorkloadSpec, JobForm)
    codes = {code for form in forms for code in form_codes(form.__pydantic_core_schema__)}
    return codes | {*python_codes(), *rust_codes()}


@dataclass(frozen=True)
class Example:
    """A block, or a command of one: what to run, and what is shown of it (nothing where it only prepares the next)."""

    language: str
    body: str
    shown: str | None = None
    file: str | None = None
    hidden: str | None = None
    needed: str | None = None

    def run(self) -> str:
        if self.file:
            Path(self.file).write_text(self.body, encoding="utf-8")
            return ""
        return run(self.body) if self.language == "console" else raised(self.body)

    @property
    def failed(self) -> bool:
        return self.shown is not None and (self.language == "python" or "[exit 2]" in self.shown or not self.shown)


@dataclass(frozen=True)
class Entry:
    codes: tuple[str, ...]
    text: str

    def examples(self) -> Iterator[Example]:
        blocks = [match.groups() for match in BLOCK.finditer(self.text)]
        for (directive, package, language, file, body), after in zip(blocks, [*blocks[1:], None], strict=False):
            common = {"without": {"hidden": package}, "needs": {"needed": package}}.get(directive or "", {})
            if file:
                yield Example(language, body, file=file)
            elif language == "console":
                for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                    command, _, shown = part.partition("\n")
                    yield Example(language, command, shown, **common)
            elif language == "python":
                yield Example(language, body, after[4] if after and after[2] == "text" and not after[3] else None)


def raised(body: str) -> str:
    """Run a block and return the last lines of its traceback, nothing if it raises nothing."""
    try:
        exec(compile(body, PAGE.name, "exec"), {})
    except EnergylensError as error:
        return f"{type(error).__module__}.{type(error).__qualname__}: {error}"
    return ""


def entries(page: str) -> list[Entry]:
    """Return the parts of the page in order; what stands before the first entry of a section has no codes."""
    parts = re.split(r"^(?=##)", page, flags=re.MULTILINE)
    titles = [part.partition("\n")[0] if part.startswith("###") else "" for part in parts]
    return [Entry(tuple(re.findall("`([^`]+)`", title)), part) for title, part in zip(titles, parts, strict=True)]


def test_every_problem_has_a_code() -> None:
    for path in sorted((ROOT / "python" / "energylens").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Problem" and len(node.args) < 4:
                assert any(keyword.arg == "code" for keyword in node.keywords), f"{path}:{node.lineno}"


def test_every_code_has_an_entry_or_a_reason_for_none() -> None:
    in_sources = source_codes()
    shown = [code for entry in entries(PAGE.read_text(encoding="utf-8")) for code in entry.codes]
    assert len(set(shown)) == len(shown), f"two entries: {sorted(c for c in set(shown) if shown.count(c) > 1)}"
    assert not (both := set(shown) & set(GUARDED)), f"with an entry, and with a reason for none: {sorted(both)}"
    assert not (new := in_sources - set(shown) - set(GUARDED)), f"without an entry in docs/errors.md: {sorted(new)}"
    assert not (gone := (set(shown) | set(GUARDED)) - in_sources), f"in no source any more: {sorted(gone)}"


def test_every_example_produces_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ENERGYLENS_DATA", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    made: list[EnergylensError] = []
    make = EnergylensError.__init__

    def noted(self: EnergylensError, problems: Any) -> None:
        make(self, problems)
        made.append(self)

    monkeypatch.setattr(EnergylensError, "__init__", noted)
    page = text = PAGE.read_text(encoding="utf-8")
    wrong, differing = [], []
    for entry in entries(page):
        reported: set[str] = set()
        absent = False
        for example in entry.examples():
            if example.needed and importlib.util.find_spec(example.needed) is None:
                absent = True
                continue
            made.clear()
            with monkeypatch.context() as only_here:
                if example.hidden:
                    only_here.setitem(sys.modules, example.hidden, None)
                output = example.run()
            if example.failed and not made:
                wrong.append(f"no error:\n{example.body}\n{output}")
            elif example.failed:  # the last one made is the one raised: others are parts of it
                reported |= {problem.code for problem in made[-1].problems}
            elif output.startswith("energylens.common.errors."):
                wrong.append(f"an error:\n{example.body}\n{output}")
            if example.shown is not None and not pattern(example.shown.rstrip("\n")).fullmatch(output + "\n"):
                before = f"$ {example.body}\n" if example.language == "console" else f"{example.body}```\n\n```text\n"
                text = text.replace(before + example.shown, f"{before}{output}\n", 1)
                differing.append(before + output)
        if not absent and not set(entry.codes) <= reported:
            wrong.append(f"the examples of {', '.join(entry.codes)} produce {', '.join(sorted(reported)) or 'nothing'}")
    if differing and os.environ.get("UPDATE_CASES"):
        PAGE.write_text(text, encoding="utf-8")
        differing = []
    if wrong or differing:
        pytest.fail("\n\n".join([*wrong, *(f"output differs:\n{part}" for part in differing)]), pytrace=False)
