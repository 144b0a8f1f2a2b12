"""Equations of docs/physics.md and the code that cites them: none without a citation, no citation of nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "physics.md"
LONGEST_LINE = 160

_TAG = re.compile(r"\\tag\{([^}]*)\}")
_NUMBER = r"\d+\.\d+"
# `Eq. 5.2`, `Eq. 5.5, 5.8 and 6.8`; a range would hide equations, so that it is not a citation.
_CITATION = re.compile(rf"\bEqs?\.\s+({_NUMBER}(?:(?:,\s+|\s+and\s+){_NUMBER})*)")


def equations(page: str) -> list[str]:
    """Return the numbers of a page's equations, in order."""
    return _TAG.findall(page)


def citations(text: str) -> set[str]:
    """Return the numbers that a text cites, also where a citation continues on the next line of a comment."""
    flat = re.sub(r"\n[ \t]*(?://[/!]?|#)?[ \t]*", " ", text)
    return {number for match in _CITATION.finditer(flat) for number in re.findall(_NUMBER, match[1])}


def uncited(page: str, texts: Iterable[str]) -> list[str]:
    """Return the equations of a page that no text cites."""
    cited = set().union(*map(citations, texts))
    return [number for number in equations(page) if number not in cited]


def unknown(page: str, texts: dict[str, str]) -> list[str]:
    """Return the citations, with their places, of equations that a page does not have."""
    known = set(equations(page))
    return [f"{place}: Eq. {number}" for place, text in texts.items() for number in sorted(citations(text) - known)]


def _read(folders: Iterable[str], suffixes: tuple[str, ...]) -> dict[str, str]:
    paths = [path for folder in folders for path in sorted(ROOT.joinpath(folder).rglob("*")) if path.suffix in suffixes]
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for path in paths
        if path != Path(__file__) and "target" not in path.parts
    }


def test_numbers_count_up_within_each_section() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        heading = re.match(r"(\d+)\.", section)
        numbers = equations(section)
        assert numbers == [f"{heading[1]}.{n + 1}" for n in range(len(numbers))] if heading else not numbers


def test_every_displayed_equation_has_a_number() -> None:
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```math\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(equations(page)) > 60
    assert [block for block in blocks if len(_TAG.findall(block)) != 1] == []


def test_lines_are_short() -> None:
    long = [n for n, line in enumerate(PAGE.read_text(encoding="utf-8").splitlines(), 1) if len(line) >= LONGEST_LINE]
    assert long == []


def test_the_core_and_the_oracle_cite_every_equation() -> None:
    code = [*_read(["crates/energylens-core/src"], (".rs",)).values(), *_read(["tests/oracle"], (".py",)).values()]
    assert uncited(PAGE.read_text(encoding="utf-8"), code) == []


def test_the_core_cites_what_it_implements() -> None:
    """The oracle alone does not do: what a user runs is the core."""
    core = _read(["crates/energylens-core/src"], (".rs",)).values()
    assert uncited(PAGE.read_text(encoding="utf-8"), core) == []


def test_citations_lead_somewhere() -> None:
    texts = _read(["crates", "python", "tests", "website"], (".rs", ".py"))
    texts |= _read(["docs", "experiments"], (".md",))
    texts |= {name: ROOT.joinpath(name).read_text(encoding="utf-8") for name in ("README.md", "ARCHITECTURE.md")}
    assert unknown(PAGE.read_text(encoding="utf-8"), texts) == []


def test_symbols_stand_in_the_table_once() -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = page.split("## Symbols")[1].split("\n## ")[0]
    symbols = [
        symbol for row in re.findall(r"^\| (\$.*?) \|", table, flags=re.M) for symbol in re.findall(r"\$(.+?)\$", row)
    ]
    assert len(symbols) > 80
    assert sorted({symbol for symbol in symbols if symbols.count(symbol) > 1}) == []


def test_a_page_of_two_equations() -> None:
    page = "```math\na = b \\tag{1.1}\n```\n\n```math\nc = d \\tag{1.2}\n```\n"
    assert equations(page) == ["1.1", "1.2"]
    assert uncited(page, ["/// Adds (Eq. 1.1)."]) == ["1.2"]
    assert uncited(page, ["/// Adds (Eq. 1.1,\n/// 1.2)."]) == []
    assert uncited(page, ["# Eq. 1.1 and 1.2"]) == []
    assert unknown(page, {"lib.rs": "/// Eq. 1.2", "page.md": "see Eq. 1.3, 2.1"}) == [
        "page.md: Eq. 1.3",
        "page.md: Eq. 2.1",
    ]
    assert unknown(page, {"lib.rs": "section 1.3 has none"}) == []
