"""The documentation site: complete, without a network, on a wide and a narrow screen."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import energylens
from browser import OVERFLOW, chromium, opened
from test_equations import equations

pytest.importorskip("furo", reason="what builds the site is not installed")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("website") / "site"
    words = [sys.executable, str(ROOT / "website" / "build.py"), str(target)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_public_name_has_its_place(site: Path) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    for name in energylens.__all__:
        if not name.startswith("_"):
            assert f'id="energylens.{name}"' in pages, name


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for sign in ('src="http', 'href="http://fonts', 'rel="preconnect"', "@import"):
            assert sign not in text, path
    assert "url(http" not in "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))


def test_equations_are_mathml_with_their_numbers(site: Path) -> None:
    page = (ROOT / "docs" / "physics.md").read_text(encoding="utf-8")
    shown = (site / "docs" / "physics.html").read_text(encoding="utf-8")
    for number in equations(page):
        assert f'id="eq-{number.replace(".", "-")}"' in shown
        assert f">({number})</a>" in shown
    assert shown.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') == len(equations(page))
    assert "mathjax" not in shown.lower()
    assert "\\tau" not in shown


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_and_the_search_finds(address: str, width: int) -> None:
    with chromium() as browser:
        for page in (
            "docs/index",
            "docs/tutorial",
            "docs/physics",
            "docs/reference/files",
            "docs/errors",
            "api/verbs",
            "README",
        ):
            with opened(browser, f"{address}/{page}.html", width) as shown:
                assert shown.evaluate(OVERFLOW) <= 0, page
                assert len(shown.inner_text("article")) > 300
        with opened(browser, f"{address}/search.html?q=hypervolume", width) as shown:
            shown.wait_for_selector("#search-results li")
