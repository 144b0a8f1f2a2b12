"""The one way in which files that people name are opened: regular files of a checked size, or one clear error."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from energylens.common.errors import EnergylensError, Problem, SpecError
from energylens.common.readable import readable

MOST_SPEC_BYTES: Final = 16 * 2**20
"""Largest spec, configuration or job file: such files are written by people, and the largest bundled one has 0.2 MB."""

_REASONS: Final = {
    errno.ENOENT: "there is no such file",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.ENAMETOOLONG: "its name is too long for this file system",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ELOOP: "its links lead back to themselves",
}


def input_file(path: str | Path, what: str = "file", *, error: type[EnergylensError] = SpecError) -> Path:
    """Return the path of a regular file that can be opened; raise `error` with the reason if it is none.

    Parameters
    ----------
    path
        What a person named. A NUL byte, a name that is too long, a link to nothing, a folder, a FIFO, a device and
        a file without permission each raise `error`; none of them is opened, so nothing blocks.
    what
        What the file is to be, for the message: "trace", "result", "profile".
    error
        Class of the exception.
    """
    text = str(path)
    reason: str | None
    hint = None
    if "\0" in text:
        reason = "its name has a NUL character"
    else:
        try:
            mode = os.stat(text).st_mode  # noqa: PTH116  (Path.stat would accept the same, with more steps)
        except (OSError, ValueError) as fault:
            number = fault.errno if isinstance(fault, OSError) else None
            reason = _REASONS.get(number or 0, str(getattr(fault, "strerror", None) or fault))
            if number == errno.ENOENT and Path(text).is_symlink():
                reason = f"it is a link to `{os.readlink(text)}`, which is not there"  # noqa: PTH115
        else:
            reason = _kind(mode)
            hint = "name a file in it" if reason == "it is a folder" else None
            if reason is None and not os.access(text, os.R_OK):
                reason = "permission denied"
    if reason is not None:
        shown = printable(text)
        raise error(Problem(f"cannot read the {what} `{shown}`: {reason}", hint=hint, code="unreadable"))
    return Path(path)


def is_file(path: str | Path) -> bool:
    """Return whether a path is that of a regular file, False for whatever cannot be looked at."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: str | Path) -> bool:
    """Return whether a path is that of a folder, False for whatever cannot be looked at."""
    return stat.S_ISDIR(_mode(path))


def is_there(path: str | Path) -> bool:
    """Return whether a path names anything, links to nothing among it; False for whatever cannot be looked at."""
    try:
        os.lstat(path)
    except (OSError, ValueError):
        return False
    return True


def read_bytes(
    path: str | Path, what: str = "file", *, most: int = MOST_SPEC_BYTES, error: type[EnergylensError] = SpecError
) -> bytes:
    """Return the bytes of a file of at most `most` bytes; raise `error` as `input_file` does, or if it is larger."""
    path = input_file(path, what, error=error)
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as fault:
        reason = _REASONS.get(fault.errno or 0, str(fault.strerror or fault))
        raise error(Problem(f"cannot read the {what} `{printable(str(path))}`: {reason}", code="unreadable")) from None
    if len(data) > most:
        size = path.stat().st_size
        message = f"the {what} `{printable(str(path))}` has {size:,} bytes: more than the {most:,} that are read"
        raise error(Problem(message, code="unreadable"))
    return data


def read_text(
    path: str | Path, what: str = "file", *, most: int = MOST_SPEC_BYTES, error: type[EnergylensError] = SpecError
) -> str:
    """Return the text of a UTF-8 file, a byte order mark left out; raise `error` as `read_bytes`, or if it is none."""
    data = read_bytes(path, what, most=most, error=error)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        message = f"the {what} `{printable(str(path))}` is not UTF-8 text: byte {fault.start + 1:,}, in line {line:,}"
        raise error(Problem(message, code="unreadable")) from None


def printable(text: str, most: int = 200) -> str:
    """Return a text as it may be printed.

    Undecoded bytes are read, control characters escaped, its middle is cut out beyond `most` characters.
    """
    text = readable(text)
    if len(text) > most:
        half = (most - 5) // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)


def _mode(path: str | Path) -> int:
    try:
        return os.stat(path).st_mode  # noqa: PTH116
    except (OSError, ValueError):
        return 0


def _kind(mode: int) -> str | None:
    """Return what a path is, if it is no regular file."""
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISDIR(mode):
        return "it is a folder"
    if stat.S_ISFIFO(mode):
        return "it is a FIFO, not a file; save what it brings to a file first"
    if stat.S_ISSOCK(mode):
        return "it is a socket, not a file"
    return "it is a device, not a file"
