"""What commands print: one place that escapes control characters, and that says when it cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, Final, TextIO

from energylens.common.readable import readable

FAILED: Final = 74
"""Exit code where standard output could not be written: `EX_IOERR` of sysexits.h."""

_SHOWN_AS_IS: Final = frozenset("\n\t")
_REORDERING: Final = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that reorder the text around them: what stands there is not what is read."""


class OutputError(OSError):
    """Standard output could not be written."""


class ReaderGoneError(OutputError):
    """Whoever read standard output has closed it, as `head` does."""


def escaped(text: str, encoding: str | None = None) -> str:
    r"""Return a text as a terminal may get it: control characters and what the encoding lacks as `\x1b` or `\u202e`."""
    text = readable(text)
    if not (text.isascii() and text.replace("\n", "").replace("\t", "").isprintable()):
        text = "".join(_escaped(c) if _hidden(c) else c for c in text)
    return text if encoding is None else text.encode(encoding, "backslashreplace").decode(encoding)


def _hidden(character: str) -> bool:
    if character in _SHOWN_AS_IS:
        return False
    return character in _REORDERING or unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


class Guard:
    """A stream of text that escapes what is written to it.

    `needed`: what cannot be written raises `OutputError`; otherwise it is dropped, as there is nowhere to say so.
    """

    def __init__(self, stream: TextIO | None, needed: bool) -> None:
        self.stream = stream
        self._needed = needed

    @property
    def encoding(self) -> str | None:
        """The encoding of what is written; none where text is only collected."""
        return getattr(self.stream, "encoding", None)

    def write(self, text: str) -> int:
        """Write a text, escaped."""
        return self.put(escaped(text, self.encoding))

    def document(self, text: str) -> int:
        """Write a text that programs read, such as a script: as it is, but escaped on a terminal."""
        if self.isatty():
            return self.write(text)
        encoding = self.encoding
        return self.put(text if encoding is None else text.encode(encoding, "backslashreplace").decode(encoding))

    def put(self, text: str) -> int:
        """Write a text as it is."""
        with self._failing():
            if self.stream is None:
                raise OSError(errno.EBADF, "it is closed")
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand over what is buffered."""
        with self._failing():
            if self.stream is not None:
                self.stream.flush()

    def isatty(self) -> bool:
        """Whether a person reads it."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return self.stream is not None and self.stream.isatty()
        return False

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError as error:
            if self._needed:
                raise ReaderGoneError(error.errno, error.strerror) from None
        except (OSError, ValueError) as error:
            if self._needed:
                number = error.errno if isinstance(error, OSError) else errno.EBADF
                raise OutputError(number, getattr(error, "strerror", None) or str(error)) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def guarded() -> Iterator[tuple[Guard, Guard]]:
    """Have both standard streams guarded, and put back what was there."""
    before = sys.stdout, sys.stderr
    guards = Guard(before[0], True), Guard(before[1], False)
    sys.stdout, sys.stderr = guards
    try:
        yield guards
    finally:
        sys.stdout, sys.stderr = before


def document(text: str) -> None:
    """Print a text that programs read: as it is, but escaped on a terminal."""
    if isinstance(sys.stdout, Guard):
        sys.stdout.document(text)
    else:
        sys.stdout.write(text)


def open_descriptors() -> None:
    """Give descriptors 0 to 2 to the null device where they are closed, so that no file of ours gets their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


def discard() -> None:
    """Point both standard descriptors to the null device: what the interpreter still flushes as it ends goes there."""
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, number)
                os.close(null)
