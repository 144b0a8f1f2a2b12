"""A headless Chromium without a network, for pages that need none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser of this machine; skip the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, url: str, width: int = 1200, dark: bool = False, ready: str = "body") -> Iterator[Any]:
    """Open a page offline; at its end, fail for complaints on the console and requests to other hosts."""
    phone = width < 600
    context = browser.new_context(
        viewport={"width": width, "height": 844 if phone else 900},
        color_scheme="dark" if dark else "light",
        is_mobile=phone,
        has_touch=phone,
        offline=url.startswith("file:"),
        reduced_motion="reduce",  # a page that glides on is clicked where things were
    )
    page, complaints = context.new_page(), []
    origin = "file:" if url.startswith("file:") else "/".join(url.split("/")[:3])
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in {"error", "warning"} else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith((origin, "data:", "blob:")) else complaints.append(request.url),
    )
    page.goto(url)
    page.wait_for_selector(ready, timeout=30_000, state="attached")
    yield page
    assert not complaints, complaints
    context.close()


def address(path: Path) -> str:
    """Return the address of a file."""
    return path.resolve().as_uri()


OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
"""How far a page reaches beyond the width of its window."""
