"""Builds the documentation site from the repository: `python website/build.py [FOLDER]`, out/site if none is given.

Pages are the Markdown of `docs/` and `experiments/` as they stand; the API reference comes from the docstrings of the
public names. A link that leads nowhere fails the build. The site needs no network.
"""

from __future__ import annotations

import inspect
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import energylens

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
_NAMED_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)[^)]*\)")
_PICTURES = (".png", ".svg", ".csv")

_SECTIONS = {
    "": ["/docs/tutorial", "/docs/faq", "/docs/glossary", "The short tour </README>"],
    "How to": tuple(
        f"/docs/how-to/{name}"
        for name in (
            "find-configurations",
            "run-options",
            "mixtures-of-experts",
            "plan-a-service",
            "own-trace",
            "use-results",
            "own-model",
            "own-gpu",
            "add-an-axis",
            "measure",
            "own-cluster",
            "big-sweeps",
        )
    ),
    "How it works": (
        *(f"/docs/{name}" for name in ("physics", "service", "calibration", "sweeps", "benchmarks", "mutants")),
        "/ARCHITECTURE",
        "/CONTRIBUTING",
    ),
}
_TOP = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
_REFERENCE = (
    "/docs/reference/files",
    "/docs/reference/commands",
    "/docs/reference/exit-codes",
    "/docs/errors",
    "/docs/versions",
    "/docs/decisions/command-line",
    "/CHANGELOG",
)


def build(target: Path) -> int:
    """Build the site into a folder, its sources into another next to it, and return the exit code of Sphinx."""
    from sphinx.cmd.build import main

    source = target.with_name(f"{target.name}-source")
    if target.exists() and any(target.iterdir()) and not (target / "objects.inv").exists():
        sys.exit(f"error: {target} holds something else than a site: name an empty folder")
    for folder in (source, target):
        shutil.rmtree(folder, ignore_errors=True)
    pages = [*ROOT.joinpath("docs").rglob("*.md"), *ROOT.joinpath("experiments").rglob("README.md")]
    pages += [ROOT / name for name in _TOP]
    files = {path for page in pages for path in _linked(page)}
    files |= {path for path in ROOT.joinpath("experiments").rglob("*") if path.suffix in _PICTURES}
    for path in sorted(files):
        place = source / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    for page in pages:
        place = source / page.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(_without_folders(page), encoding="utf-8")
    index = source / "docs" / "index.md"
    index.write_text(index.read_text(encoding="utf-8") + _contents(), encoding="utf-8")
    for name, text in _api().items():
        (source / "api").mkdir(exist_ok=True)
        (source / "api" / f"{name}.md").write_text(text, encoding="utf-8")
    shutil.copyfile(HERE / "conf.py", source / "conf.py")
    shutil.copytree(HERE / "static", source / "static")
    options = ["-E", "-W", "--keep-going", "-q", "-b", "html", "-d", str(source / ".doctrees")]
    code = main([*options, str(source), str(target)])
    (target / "index.html").write_text(_FIRST, encoding="utf-8")
    return code


_FIRST = """<!doctype html><html lang="en"><meta charset="utf-8"><title>energylens</title>
<meta http-equiv="refresh" content="0; url=docs/index.html"><a href="docs/index.html">energylens</a></html>
"""


def _linked(page: Path) -> list[Path]:
    """Return the files that a page links to and that are no pages themselves."""
    targets = [(page.parent / target).resolve() for target in _LINK.findall(page.read_text(encoding="utf-8"))]
    return [path for path in targets if path.is_file() and ROOT in path.parents and path.suffix != ".md"]


def _without_folders(page: Path) -> str:
    """Return a page whose links to folders, which a site cannot show, are plain words."""

    def plain(link: re.Match[str]) -> str:
        return link[1] if (page.parent / link[2]).resolve().is_dir() else link[0]

    return _NAMED_LINK.sub(plain, page.read_text(encoding="utf-8"))


def _contents() -> str:
    """Return the table of contents of the first page, hidden."""
    parts = [_tree(title, names) for title, names in _SECTIONS.items()]
    api = [f"/api/{name}" for name in _api()]
    parts.append(_tree("Reference", [*api, *_REFERENCE]))
    folders = sorted(path.parent.name for path in ROOT.glob("experiments/*/README.md"))
    named = [f"{name[:3]} {name[4:].replace('-', ' ')} </experiments/{name}/README>" for name in folders]
    parts.append(_tree("Experiments", ["All of them </experiments/README>", *named]))
    return "\n" + "\n".join(parts)


def _tree(title: str, pages: Sequence[str]) -> str:
    caption = f":caption: {title}\n" if title else ""
    return "```{toctree}\n:hidden:\n" + caption + "\n" + "\n".join(pages) + "\n```\n"


def _api() -> dict[str, str]:
    """Return the pages of the API reference by name: verbs, nouns and errors of `energylens.__all__`."""
    groups: dict[str, list[str]] = {"verbs": [], "nouns": [], "errors": []}
    for name in energylens.__all__:
        value = getattr(energylens, name)
        if inspect.isclass(value):
            error = issubclass(value, Exception)
            groups["errors" if error else "nouns"].append(f"{'autoexception' if error else 'autoclass'}:: {name}")
        elif callable(value):
            groups["verbs"].append(f"autofunction:: {name}")
    titles = {"verbs": "Python: verbs", "nouns": "Python: nouns", "errors": "Python: errors"}
    return {
        group: f"# {titles[group]}\n\n```{{eval-rst}}\n.. py:currentmodule:: energylens\n\n"
        + "\n\n".join(f".. {line}" for line in lines)
        + "\n```\n"
        for group, lines in groups.items()
    }


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "out" / "site").resolve()))
