"""Parquet files that say what they hold: plan hash, version and units in the metadata."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from energylens import _core
from energylens.common.errors import EnergylensError, Problem
from energylens.common.files import input_file, is_file, is_folder, printable
from energylens.common.json_file import strict_json
from energylens.common.parquet import data_bytes, data_sha256, require_parquet
from energylens.common.process import check_process
from energylens.common.show import shown
from energylens.common.written import note as note_written
from energylens.common.written import so_far

_PREFIX = "energylens."
_SEAL = f"{_PREFIX}data_sha256"
_BYTES = f"{_PREFIX}data_bytes"
_TEMPORARY = ".energylens-tmp"
_ATTEMPTS = 5
_OLD_S = 3600.0


def named_path(path: object, verb: str) -> Path:
    """Return the path that names a file; raise `EnergylensError` for what is no path, or an empty one."""
    if not isinstance(path, (str, Path)) or not str(path):
        what = f"a {type(path).__name__}" if not isinstance(path, (str, Path)) else "an empty text"
        raise EnergylensError(Problem(f"cannot {verb} a file: it is named by a path, not by {what}", code=verb))
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        fault = f"cannot {verb} `{printable(str(path))}`: this system has no such names"
        raise EnergylensError(Problem(fault, code=verb)) from None
    return Path(path)


def checked_target(path: str | Path) -> Path:
    """Return where to write, links followed; raise `EnergylensError` if something other than a file is there."""
    path, shown_path = named_path(path, "write"), printable(str(path))
    if "\0" in str(path):
        raise EnergylensError(Problem(f"cannot write `{shown_path}`: its name has a NUL character", code="write"))
    try:
        path = path.resolve() if path.is_symlink() else path
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "not a regular file"
            raise EnergylensError(Problem(f"cannot write `{shown_path}`: it is {what}", hint=so_far(), code="write"))
    except OSError as error:
        raise _unwritten(path, error) from None
    return path


def write_file(path: str | Path, data: bytes) -> Path:
    """Write a file under a temporary name, then rename; raise `EnergylensError` if that cannot be done."""
    return write_files([(path, data)])[0]


def write_files(files: Sequence[tuple[str | Path, bytes]]) -> list[Path]:
    """Write files that belong together, all of them or none; raise `EnergylensError` if that cannot be done.

    All are on disk under temporary names before the first takes its place, so that a full disk or a name that cannot
    be leaves every file as it was.
    """
    targets = [(checked_target(path), data) for path, data in files]
    placed: list[Path] = []
    with contextlib.ExitStack() as stack:
        staged = []
        for path, data in targets:
            try:
                staged.append((stack.enter_context(_temporary(path, data)), path))
            except OSError as error:
                raise _unwritten(path, error) from None
        for temporary, path in staged:
            try:
                temporary.replace(path)
            except OSError as error:
                raise _unwritten(path, error) from None
            placed.append(path)
            note_written(path)
    for folder in {path.parent for path in placed}:
        _sync_folder(folder)
    return placed


def _unwritten(path: Path, error: OSError) -> EnergylensError:
    reason = error.strerror or str(error)
    return EnergylensError(Problem(f"cannot write `{printable(str(path))}`: {reason}", hint=so_far(), code="write"))


def parquet_bytes(
    frame: pl.DataFrame,
    plan_sha256: str,
    note: dict[str, Any] | None = None,
    *,
    units: Mapping[str, str],
    sealed: bool = False,
) -> bytes:
    """Return a frame as a Parquet file that says what it holds; the same frame and note give the same bytes.

    `units` are those of its columns. With `sealed` its metadata has the SHA-256 of its data and its other metadata,
    which `read_parquet` checks, and how many bytes its data has: damage leaves them as many, a program that writes the
    rows anew does not.
    """
    metadata = {
        f"{_PREFIX}plan_sha256": plan_sha256,
        f"{_PREFIX}version": _core.__version__,
        f"{_PREFIX}units": json.dumps(dict(units), sort_keys=True),
        f"{_PREFIX}note": json.dumps(note or {}, sort_keys=True),
    }
    data = _written(frame.rechunk(), metadata)
    if sealed:
        # What is before the footer does not depend on the metadata, which is in the footer.
        metadata[_BYTES] = str(data_bytes(io.BytesIO(data)))
        metadata[_SEAL] = _seal(io.BytesIO(data), metadata)
        data = _written(frame.rechunk(), metadata)
    return data


def _written(frame: pl.DataFrame, metadata: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, metadata=metadata)
    return buffer.getvalue()


def _seal(file: BinaryIO, metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of a file's data and of what its metadata says of it."""
    names = sorted(name for name in metadata if name.startswith(_PREFIX) and name != _SEAL)
    return data_sha256(file, [text for name in names for text in (name, metadata[name])])


def replace_file(path: Path, data: bytes, keep: bool = False) -> bool:
    """Put a whole file in place, on disk before it has its name; with `keep`, one that is there stays: return False.

    A temporary is locked while it is written, so that `remove_temporaries` can tell those of dead processes. Raises
    `OSError`, and then nothing is left behind.
    """
    with _temporary(path, data) as temporary:
        placed = _link(temporary, path) if keep else temporary.replace(path) == path
    if placed:
        note_written(path)
    _sync_folder(path.parent)
    return placed


@contextlib.contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """Yield a file beside a path with its future bytes, on disk and locked; afterwards it is no longer there.

    Its name is short whatever that of the path is: names of 255 bytes are legal, longer ones are not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, file = _begun(path.parent)
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o644)
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _begun(folder: Path) -> tuple[Path, BinaryIO]:
    """Return an empty temporary of a folder, locked; once it is, nobody takes it for a dead process's."""
    for _ in range(_ATTEMPTS):
        handle, name = tempfile.mkstemp(prefix=".", suffix=_TEMPORARY, dir=folder)
        file = os.fdopen(handle, "wb")
        if _locked(file) is not False and os.fstat(file.fileno()).st_nlink:
            return Path(name), file
        file.close()
        Path(name).unlink(missing_ok=True)
    raise BlockingIOError(errno.EAGAIN, "another process removes its temporary files")


def remove_temporaries(folder: Path) -> int:
    """Remove temporaries of processes that died while writing, and return how many there were."""
    removed = 0
    for path in folder.glob(f".*{_TEMPORARY}"):
        if not is_file(path) or path.is_symlink():
            continue
        with contextlib.suppress(OSError), path.open("r+b") as file:
            locked = _locked(file)
            if locked or (locked is None and time.time() - os.fstat(file.fileno()).st_mtime > _OLD_S):
                path.unlink()
                removed += 1
    return removed


def _locked(file: BinaryIO) -> bool | None:
    """Lock a file until it is closed or the process dies; False if another process has it, None without locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _link(temporary: Path, path: Path) -> bool:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if path.exists():
            return False
        temporary.replace(path)
    return True


def _sync_folder(folder: Path) -> None:
    """Have the new name on disk too, where folders can be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_parquet(path: str | Path, *, strict: bool = False) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return the frame of a file that energylens wrote, and its metadata.

    Parameters
    ----------
    path
        The file.
    strict
        Also refuse a file that another program has rewritten with the metadata of the first, say with fewer rows.
        Otherwise it is read, with a note on standard error.

    Returns
    -------
    frame : polars.DataFrame
        Its rows; quantities are in the units that the metadata name.
    metadata : dict
        `plan_sha256`, `version` (of energylens), `units` (by column) and `note` (what the result is and where it comes
        from).

    Raises
    ------
    EnergylensError
        If it cannot be read, is damaged, or needs more memory than there is: the size in the file's footer is checked
        before anything else is read.

    Examples
    --------
    >>> frame, metadata = read_parquet("front.parquet")  # doctest: +SKIP
    >>> metadata["units"]["tpot_s"]  # doctest: +SKIP
    's'
    """
    check_process()
    path = named_path(path, "read")
    if is_folder(path):
        hint = "name a file in it: front.parquet, if it is a sweep's"
        raise EnergylensError(Problem(f"`{printable(str(path))}` is a folder", hint=hint, code="read"))
    target = input_file(path, "file", error=EnergylensError)
    return _read(target, printable(str(path)), strict)


def read_parquet_bytes(data: bytes, name: str) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return what `read_parquet` does, from the bytes of a file that nobody else may have written."""
    return _read(io.BytesIO(data), name, True)


def _read(source: Path | io.BytesIO, name: str, strict: bool) -> tuple[pl.DataFrame, dict[str, Any]]:
    try:
        with source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source) as file:
            require_parquet(file, name)
            raw = pl.read_parquet_metadata(source)
            file.seek(0)
            changed = _SEAL in raw and raw[_SEAL] != _seal(file, raw)
            if changed and (strict or raw.get(_BYTES) in (None, str(data_bytes(file)))):
                raise ValueError("it is damaged, or was changed since it was written: its SHA-256 is another")
            content = pl.read_parquet(source, glob=False, hive_partitioning=False), _metadata(raw)
        if changed:
            doubt = "what it says of itself may no longer hold"
            print(f"note: `{name}` was changed after energylens wrote it: {doubt}", file=sys.stderr)
        return content
    except EnergylensError:
        raise
    except (OSError, ValueError, MemoryError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = shown(next(iter(str(error).splitlines()), type(error).__name__))
        raise EnergylensError(Problem(f"cannot read `{name}` as Parquet: {reason}", code="read")) from None


def _metadata(raw: dict[str, str]) -> dict[str, Any]:
    """Return what a file says of itself: two texts, units by column, and a note; raise `ValueError`."""
    metadata: dict[str, Any] = {}
    for key, value in raw.items():
        name = key.removeprefix(_PREFIX)
        if name == key or key in (_SEAL, _BYTES):
            continue
        if name in ("units", "note"):
            try:
                metadata[name] = strict_json(value)
            except ValueError as error:
                raise ValueError(f"its `{name}` is not JSON: {error}") from None
            if not isinstance(metadata[name], dict):
                raise ValueError(f"its `{name}` is not made of fields and values")
        else:
            metadata[name] = value
    if not all(isinstance(unit, str) for unit in metadata.get("units", {}).values()):
        raise ValueError("its `units` are not texts")
    return metadata
