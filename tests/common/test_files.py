"""Files that people name: opened in one way, refused with one reason."""

import os
from pathlib import Path

import pytest

from energylens.common.errors import EnergylensError, SpecError
from energylens.common.files import input_file, printable, read_bytes, read_text


def reason(path: Path | str) -> str:
    with pytest.raises(SpecError) as caught:
        read_text(path, "trace")
    return str(caught.value.problems[0].message)


def test_regular_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "näme.txt"
    file.write_text("\ufeffa: 1\n", encoding="utf-8")
    assert input_file(file) == file
    assert read_text(file) == "a: 1\n"
    assert read_bytes(file) == "\ufeffa: 1\n".encode()


def test_what_is_no_file_is_refused_without_opening_it(tmp_path: Path) -> None:
    fifo, link, loop = tmp_path / "fifo", tmp_path / "link", tmp_path / "loop"
    os.mkfifo(fifo)
    link.symlink_to(tmp_path / "gone")
    loop.symlink_to(loop)
    assert "FIFO" in reason(fifo)
    assert "link to" in reason(link)
    assert "links lead back" in reason(loop)
    assert "folder" in reason(tmp_path)
    assert "device" in reason("/dev/zero")
    assert "too long" in reason(tmp_path / ("a" * 300))
    assert "NUL" in reason("a\0b")
    assert "no such file" in reason(tmp_path / "gone")
    assert "a file, not a folder" in reason(Path(__file__) / "x")


def test_permission(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0)
    assert "permission" in reason(closed / "x")


def test_size_and_text(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"a\nb\xff")
    assert "line 2" in reason(file)
    with pytest.raises(SpecError, match="4 bytes: more than the 3"):
        read_bytes(file, most=3)


def test_class_of_the_error(tmp_path: Path) -> None:
    class OwnError(EnergylensError):
        pass

    with pytest.raises(OwnError):
        input_file(tmp_path, error=OwnError)


def test_printable() -> None:
    assert printable("a\x1b[31mb") == "a\\x1b[31mb"
    assert printable("ü") == "ü"
    assert len(printable("x" * 1000)) <= 200
