"""The pages under `docs/` do what they say.

Of each page, in its order and in one folder: a fence ```yaml title="name.yaml" (of any language) writes that file;
lines `energylens ...` of a ```sh fence are run; a ```python fence is run, with the names of those before it. A ```text
fence directly after one of the two shows what it prints, on either stream: every line of it but `...` must be there; if
one begins with `error:`, the command is to end with exit code 2. With UPDATE_DOCS=1 in the environment, lines that are
not printed are replaced by those nearest to them, to be read (with the prose about them) and committed.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from energylens.cli import main

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {page.relative_to(DOCS).as_posix(): page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md"))}
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
PERCENT = re.compile(r"(\d+(?:\.\d+)?) (?:%|J\b)")


@dataclass(frozen=True)
class Block:
    """A fence of a page; `shown` is the text directly after it."""

    language: str
    title: str
    body: str
    shown: str


def blocks(text: str) -> list[Block]:
    listed: list[Block] = []
    for fence in FENCE.finditer(text):
        shown = re.match(r"\s*^```text\n(.*?)^```$", text[fence.end() :], re.MULTILINE | re.DOTALL)
        listed.append(Block(fence[1], fence[2] or "", fence[3], shown[1] if shown else ""))
    return listed


def runs(block: Block) -> bool:
    return bool(block.title) or block.language == "python" or (block.language == "sh" and bool(commands(block.body)))


def commands(body: str) -> list[list[str]]:
    """Return the words of each `energylens` line, comments left out and continued lines joined."""
    lines = (re.sub(r"\s+# .*$", "", line) for line in body.replace("\\\n", " ").splitlines())
    return [shlex.split(line) for line in lines if line.startswith("energylens ")]


def printed(words: list[str], code: int) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        ended = main(words[1:])
    assert ended == code, f"{shlex.join(words)}\n{out.getvalue()}"
    return out.getvalue()


def nearest(block: Block, out: str) -> dict[str, str]:
    """Return the shown lines that were not printed, each with the printed line nearest to it."""
    have = [line.rstrip() for line in out.splitlines()]
    shown = [line.rstrip() for line in block.shown.splitlines()]
    missing = [line for line in shown if line not in have and line not in ("", "...")]
    return {line: "".join(difflib.get_close_matches(line, have, 1, 0)) for line in missing}


def run_sh(block: Block) -> dict[str, str]:
    code = 2 if re.search("^error: ", block.shown, re.MULTILINE) else 0
    words_by_line = commands(block.body)
    return nearest(block, "".join(printed(words, code) for words in words_by_line))


def run_python(block: Block, names: dict[str, Any]) -> dict[str, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(block.body, "page", "exec"), names)
    return nearest(block, out.getvalue())


@pytest.mark.parametrize(
    "page", [name for name, text in PAGES.items() if name != "errors.md" and any(map(runs, blocks(text)))]
)
def test_what_a_page_shows_happens(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENERGYLENS_DATA", raising=False)
    names: dict[str, Any] = {}
    stale: dict[str, str] = {}
    for block in blocks(PAGES[page]):
        if block.title:
            path = tmp_path / block.title
            assert path.resolve().is_relative_to(tmp_path), block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.body, encoding="utf-8")
        elif block.language == "sh":
            stale |= run_sh(block)
        elif block.language == "python":
            stale |= run_python(block, names)
    if stale and os.environ.get("UPDATE_DOCS"):
        text = PAGES[page]
        for shown, there in stale.items():
            text = text.replace(f"\n{shown}\n", f"\n{there}\n")
        (DOCS / page).write_text(text, encoding="utf-8")
    elif stale:
        pytest.fail("\n".join(f"shown: {shown}\nnearest: {there}" for shown, there in stale.items()), pytrace=False)


@pytest.mark.parametrize("page", PAGES)
def test_links_of_pages_lead_somewhere(page: str) -> None:
    text = FENCE.sub("", PAGES[page])
    for target, heading in LINK.findall(text):
        path = (DOCS / page).parent / target if target else DOCS / page
        assert path.exists(), target
        if heading:
            assert heading in set(headings(path)), f"{target}#{heading}"


def headings(path: Path) -> Iterator[str]:
    """Names of a page's headings as GitHub makes them."""
    for title in re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_the_map_names_every_page() -> None:
    linked = {target for target, _ in LINK.findall(PAGES["index.md"])}
    assert set(PAGES) - {"index.md"} <= linked


def test_figures_of_the_faq_stand_in_the_pages_it_links_to() -> None:
    checked = 0
    for part in re.split(r"\n\s*\n|\n(?=[*|] )", FENCE.sub("", PAGES["faq.md"])):
        figures = PERCENT.findall(part)
        targets = [DOCS / target for target, _ in LINK.findall(part) if target.endswith(".md")]
        said = "\n".join(target.read_text(encoding="utf-8") for target in targets)
        for figure in figures:
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", said), f"{figure} of: {part}"
        checked += len(figures)
    assert checked >= 20
