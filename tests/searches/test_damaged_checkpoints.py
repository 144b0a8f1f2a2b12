"""A search's checkpoint that was damaged is refused with one error, or goes on as if it had not been."""

from __future__ import annotations

import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from damage import BYTES, damaged
from energylens import EnergylensError, Result, SpaceError, search
from energylens.common import memory

SPACE: dict[str, Any] = {
    "models": "llama-3.1-8b",
    "gpus": ["h100-sxm", "b200"],
    "tp": [1, 2, 4, 8],
    "pp": [1, 2],
    "batch": "1:64",
    "prompt_tokens": [512, 1024],
    "limits": ["tpot<=20ms"],
}
METHODS = ["native", "pymoo"]


def run(method: str, path: Path, generations: int = 4) -> Result:
    return search(
        **SPACE, method=method, population=12, generations=generations, seed=3, patience=50, checkpoint=path, threads=1
    )


@pytest.fixture(scope="module", params=METHODS)
def intact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes, Result]:
    path = tmp_path_factory.mktemp("search") / "search.npz"
    run(request.param, path)
    data = path.read_bytes()
    return request.param, data, run(request.param, path, 5)


def arrays(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def file_of(state: dict[str, Any], allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=allow_pickle, **state)
    return buffer.getvalue()


def test_damaged_bytes_are_refused_or_change_nothing(intact: tuple[str, bytes, Result], tmp_path: Path) -> None:
    method, data, result = intact
    path = tmp_path / "search.npz"
    refused = 0
    for seed in range(80):
        path.write_bytes(damaged(seed, data, BYTES))
        try:
            resumed = run(method, path, 5)
            assert resumed.frame.equals(result.frame)
            assert resumed.note == result.note
        except SpaceError as error:
            assert "is damaged or no checkpoint" in str(error)
            refused += 1
    assert refused > 40


ODD_ARRAYS = [
    np.zeros(0), np.zeros(3), np.array(5), np.array("x"), np.array(["x"] * 12), np.zeros((12, 2), dtype=np.uint64),
    np.full(12, 2**63, dtype=np.uint64), np.full(12, -1, dtype=np.int64), np.zeros(12, dtype=np.int64),
    np.zeros(12, dtype=np.uint64), np.full(12, np.nan), np.full(12, np.inf), np.array([True] * 12),
    np.zeros(12, dtype="datetime64[s]"), np.zeros(12, dtype=[("a", np.int64)]), np.zeros(12, dtype=complex),
    np.array("{}"), np.array("[]"), np.array('{"iteration": 1e999}'), np.array(10**17),
]  # fmt: skip


def test_arrays_of_a_wrong_kind_are_refused(intact: tuple[str, bytes, Result], tmp_path: Path) -> None:
    method, data, _ = intact
    state = arrays(data)
    path = tmp_path / "search.npz"
    draw = random.Random(5)
    for name in state:
        for odd in draw.sample(ODD_ARRAYS, 8):
            path.write_bytes(file_of(state | {name: odd}))
            try:
                run(method, path, 5)
            except SpaceError as error:
                assert "checkpoint" in str(error)
        path.write_bytes(file_of({key: value for key, value in state.items() if key != name}))
        if name != "stalled":
            with pytest.raises(SpaceError, match="is damaged or no checkpoint"):
                run(method, path, 5)


def test_values_that_do_not_fit_the_space_are_refused(intact: tuple[str, bytes, Result], tmp_path: Path) -> None:
    method, data, _ = intact
    state = arrays(data)
    path = tmp_path / "search.npz"
    draw = random.Random(4)
    refused = 0
    for _ in range(60):
        name = draw.choice(["seen", "front", "population", "counts", "rank", "crowding"])
        array = state[name].copy()
        array[draw.randrange(len(array))] = draw.choice([2**62, 2**40, 10**9])
        if draw.random() < 0.3:
            array = np.concatenate([array, array])
        path.write_bytes(file_of(state | {name: array}))
        try:
            run(method, path, 5)
        except SpaceError:
            refused += 1
    assert refused > 30


def test_objects_are_never_unpickled(intact: tuple[str, bytes, Result], tmp_path: Path) -> None:
    method, data, _ = intact
    path = tmp_path / "search.npz"
    path.write_bytes(file_of(arrays(data) | {"seen": np.array([{"a": 1}, None], dtype=object)}, allow_pickle=True))
    with pytest.raises(SpaceError, match="is damaged or no checkpoint"):
        run(method, path, 5)


def test_a_header_that_tells_of_a_huge_array_makes_no_room_for_it(
    intact: tuple[str, bytes, Result], tmp_path: Path
) -> None:
    method, data, _ = intact
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<u8", "fortran_order": False, "shape": (10**12,)})
    path = tmp_path / "search.npz"
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays(data).items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(array))
            file.writestr(f"{name}.npy", header.getvalue() if name == "seen" else member.getvalue())
    with pytest.raises(SpaceError, match="is damaged or no checkpoint"):
        run(method, path, 5)


def test_a_small_file_of_huge_arrays_is_held_against_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "search.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("seen.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(100):
            member.write(bytes(1_000_000))
    assert path.stat().st_size < 200_000
    monkeypatch.setenv(memory.VARIABLE, "150MB")
    with pytest.raises(memory.MemoryBudgetError, match=r"the checkpoint .* would need 200 MB"):
        run("native", path)


@pytest.mark.parametrize("data", [b"", b"x", b"PK\x03\x04", b"\x93NUMPY\x01\x00", json.dumps({}).encode()])
def test_what_is_no_checkpoint_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "search.npz"
    path.write_bytes(data)
    for method in METHODS:
        with pytest.raises(SpaceError, match="is damaged or no checkpoint"):
            run(method, path)
    assert path.read_bytes() == data


@pytest.mark.parametrize("path", [3, None.__class__, b"x", "a\0b", "x" * 300, "."])
def test_a_path_that_cannot_be_is_refused(path: Any) -> None:
    for method in METHODS:
        with pytest.raises(EnergylensError):
            run(method, path)
