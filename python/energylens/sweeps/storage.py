"""Where a sweep's files lie: a folder or an object store, with the same few verbs."""

from __future__ import annotations

import contextlib
import errno
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from energylens.common.errors import EnergylensError, Problem, needs_extra
from energylens.common.files import input_file, printable
from energylens.common.parquet_file import remove_temporaries, replace_file


class Storage(Protocol):
    """Whole files by name; names have at most one `/`. Every verb raises `EnergylensError`."""

    location: str

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or none if there is no such file."""

    def write(self, name: str, data: bytes) -> None:
        """Put a whole file in place of what was there, or nothing."""

    def create(self, name: str, data: bytes) -> bool:
        """Put a whole file in place unless there is one; return whether it was put."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the sizes in bytes of a folder's files by name, folder included."""

    def tail(self, name: str, size: int, count: int) -> bytes:
        """Return the last bytes of a file of that size, or none of them if there is no such file."""

    def delete(self, name: str) -> None:
        """Remove a file, if there is one."""

    def tidy(self) -> None:
        """Remove what processes that died while writing left behind."""


class LocalStorage:
    """A folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.location = str(folder)
        shown = printable(str(folder))
        if "\0" in str(folder):
            raise EnergylensError(Problem(f"`{shown}` has a NUL character in its name", code="storage"))
        if folder.exists() and not folder.is_dir():
            hint = "give a folder, or a name that is free"
            raise EnergylensError(Problem(f"`{shown}` is a file, not a folder", hint=hint, code="storage"))

    def _fault(self, verb: str, name: str, error: OSError) -> EnergylensError:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        reason = error.strerror or str(error)
        hint = "make room" if full else "check the folder's permissions"
        path = printable(str(self.folder / name))
        return EnergylensError(Problem(f"cannot {verb} `{path}`: {reason}", hint=hint, code="storage"))

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or none if there is no such file: a link to nothing is none, and is replaced."""
        path = self.folder / name
        try:
            if not path.exists():
                return None
            return input_file(path, "file", error=EnergylensError).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._fault("read", name, error) from None

    def write(self, name: str, data: bytes) -> None:
        """Put a whole file in place of what was there, or nothing."""
        try:
            replace_file(self.folder / name, data)
        except OSError as error:
            raise self._fault("write", name, error) from None

    def create(self, name: str, data: bytes) -> bool:
        """Put a whole file in place unless there is one; return whether it was put."""
        try:
            return replace_file(self.folder / name, data, keep=True)
        except OSError as error:
            raise self._fault("write", name, error) from None

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the sizes in bytes of a folder's files by name, folder included; what is no file is left out."""
        try:
            paths = list((self.folder / folder).iterdir())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._fault("list", folder, error) from None
        sizes: dict[str, int] = {}
        for path in paths:
            with contextlib.suppress(OSError):  # a link to nothing, or gone by now
                state = path.stat()
                if stat.S_ISREG(state.st_mode) and not path.name.startswith("."):
                    sizes[f"{folder}/{path.name}"] = state.st_size
        return sizes

    def tail(self, name: str, size: int, count: int) -> bytes:
        """Return the last bytes of a file of that size, or none of them if there is no such file."""
        try:
            with (self.folder / name).open("rb") as file:
                file.seek(max(0, size - count))
                return file.read(count)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise self._fault("read", name, error) from None

    def delete(self, name: str) -> None:
        """Remove a file, if there is one."""
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._fault("remove", name, error) from None

    def tidy(self) -> None:
        """Remove what processes that died while writing left behind."""
        for folder in (self.folder, self.folder / "shards", self.folder / "rows"):
            remove_temporaries(folder)


class ObjectStorage:
    """A prefix of an object store, through obstore; its puts are whole or nothing."""

    def __init__(self, store: Any, location: str) -> None:
        self.store = store
        self.location = location

    def _fault(self, verb: str, name: str, error: BaseException) -> EnergylensError:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        hint = "see docs/sweeps.md for how credentials are given"
        return EnergylensError(Problem(f"cannot {verb} `{self.location}/{name}`: {reason}", hint=hint, code="storage"))

    def read(self, name: str) -> bytes | None:
        """Return an object's bytes, or none if there is no such object."""
        import obstore

        try:
            return bytes(obstore.get(self.store, name).bytes())
        except FileNotFoundError:
            return None
        except (obstore.exceptions.BaseError, OSError) as error:
            raise self._fault("read", name, error) from None

    def write(self, name: str, data: bytes) -> None:
        """Put an object in place of what was there."""
        import obstore

        try:
            obstore.put(self.store, name, data)
        except (obstore.exceptions.BaseError, OSError) as error:
            raise self._fault("write", name, error) from None

    def create(self, name: str, data: bytes) -> bool:
        """Put an object in place unless there is one; return whether it was put."""
        import obstore

        try:
            obstore.put(self.store, name, data, mode="create")
        except obstore.exceptions.AlreadyExistsError:
            return False
        except (obstore.exceptions.BaseError, OSError) as error:
            raise self._fault("write", name, error) from None
        return True

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the sizes in bytes of a folder's objects by name, folder included."""
        import obstore

        try:
            return {item["path"]: item["size"] for part in obstore.list(self.store, folder) for item in part}
        except (obstore.exceptions.BaseError, OSError) as error:
            raise self._fault("list", folder, error) from None

    def tail(self, name: str, size: int, count: int) -> bytes:
        """Return the last bytes of an object of that size, or none of them if there is no such object."""
        import obstore

        try:
            return bytes(obstore.get_range(self.store, name, start=max(0, size - count), end=size))
        except FileNotFoundError:
            return b""
        except (obstore.exceptions.BaseError, OSError) as error:
            raise self._fault("read", name, error) from None

    def delete(self, name: str) -> None:
        """Remove an object, if there is one."""
        import obstore

        try:
            obstore.delete(self.store, name)
        except FileNotFoundError:
            pass
        except (obstore.exceptions.BaseError, OSError) as error:
            raise self._fault("remove", name, error) from None

    def tidy(self) -> None:
        """Do nothing: a put that dies leaves no object."""


def open_storage(out: str | Path) -> Storage:
    """Return the storage of a folder or a URL (s3, gs, az, file, memory); raise `EnergylensError`."""
    if not isinstance(out, (str, Path)) or not str(out):
        hint = "give a folder, or a URL that starts with s3://, gs://, az:// or file://"
        what = "an empty text" if isinstance(out, str) else f"a {type(out).__name__}"
        raise EnergylensError(Problem(f"a sweep's files go to a folder, not to {what}", hint=hint, code="storage"))
    text = str(out)
    if "://" in text and not text.startswith("file://"):
        return _object_storage(text.rstrip("/"))
    folder = Path(text.removeprefix("file://"))
    try:
        return LocalStorage(folder.absolute() if text.startswith("file://") else folder)
    except OSError as error:
        raise EnergylensError(Problem(f"cannot open `{out}`: {error.strerror or error}", code="storage")) from None


@lru_cache(maxsize=16)
def _object_storage(url: str) -> ObjectStorage:
    try:
        import obstore.store
    except ImportError:
        raise EnergylensError(needs_extra(f"`{url}` needs obstore", "cloud")) from None
    from obstore.exceptions import BaseError

    try:
        return ObjectStorage(obstore.store.from_url(url), url)
    except (BaseError, ValueError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        hint = "use a folder, or a URL that starts with s3://, gs://, az:// or file://"
        raise EnergylensError(Problem(f"cannot open `{url}`: {reason}", hint=hint, code="storage")) from None
