"""Texts with bytes in them that Python could not decode, as names on a command line have under an ASCII locale."""

from __future__ import annotations

import re
from typing import Final

_BYTES: Final = re.compile("[\udc80-\udcff]+")
"""Bytes that were no text in the encoding of the locale, one surrogate each (PEP 383)."""


def readable(text: str) -> str:
    """Return a text with its undecoded bytes read as UTF-8; those that are none stay as they are, to be escaped."""
    return text if text.isascii() else _BYTES.sub(_decoded, text)


def _decoded(match: re.Match[str]) -> str:
    return match[0].encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
