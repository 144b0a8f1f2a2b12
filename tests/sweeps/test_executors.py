"""Other places for a sweep: Ray tasks and object stores give the bytes of a local run."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_sweep import JOB, files

import energylens
from energylens import EnergylensError
from energylens.sweeps import merge, run, status, storage
from energylens.sweeps.frozen import prepared
from energylens.sweeps.shard import ShardWork
from energylens.sweeps.storage import ObjectStorage, Storage, open_storage

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: energylens[ray]")
needs_obstore = pytest.mark.skipif(find_spec("obstore") is None, reason="obstore is not installed: energylens[cloud]")


@needs_ray
def test_ray_gives_the_bytes_of_a_local_run(tmp_path: Path) -> None:
    job = JOB | {"keep": {"top": 5, "rows": "feasible"}}
    energylens.sweep(job, tmp_path / "local")
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    command = [sys.executable, "-m", "energylens", "sweep", "job.yaml", "--out", "ray"]
    command += ["--executor", "ray", "--workers", "2"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert files(tmp_path / "ray") == files(tmp_path / "local")


FAULTY = """
import sys
from energylens import EnergylensError
from energylens.sweeps.executors.ray import RayExecutor
from energylens.sweeps.frozen import prepared
from energylens.sweeps.shard import ShardWork
try:
    list(RayExecutor(1, 1, None).run(ShardWork(sys.argv[1], sys.argv[2], 1), range(12)))
except EnergylensError as error:
    print(error.render())
"""


@needs_ray
def test_a_fault_in_a_ray_worker_is_the_same_error_as_a_local_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    work = ShardWork(prepared(JOB).manifest, str(tmp_path / "file"), 1)
    with pytest.raises(EnergylensError, match="is a file, not a folder") as raised:
        work(0)
    assert pickle.loads(pickle.dumps(raised.value)).render() == raised.value.render()
    command = [sys.executable, "-c", FAULTY, work.manifest, work.location]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.stdout == f"{raised.value.render()}\n", ran.stderr


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_a_missing_ray_names_its_extra(tmp_path: Path) -> None:
    with pytest.raises(EnergylensError, match=r"needs Ray\n.*energylens\[ray\]"):
        energylens.sweep(JOB, tmp_path / "out", executor="ray")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(find_spec("obstore") is not None, reason="obstore is installed")
def test_a_missing_obstore_names_its_extra() -> None:
    with pytest.raises(EnergylensError, match=r"needs obstore\n.*energylens\[cloud\]"):
        energylens.sweep(JOB, "s3://bucket/sweep")


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    energylens.sweep(JOB, f"file://{tmp_path}/url")
    energylens.sweep(JOB, tmp_path / "plain")
    assert files(tmp_path / "url") == files(tmp_path / "plain")


@needs_obstore
@pytest.mark.parametrize("kind", ["memory", "file"])
def test_an_object_store_holds_the_files_of_a_folder(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from obstore.store import LocalStore

    url = f"memory:///{tmp_path.name}"
    job = JOB | {"keep": {"top": 5, "rows": "feasible"}}
    energylens.sweep(job, tmp_path / "folder")
    want = files(tmp_path / "folder")
    if kind == "file":
        held = ObjectStorage(LocalStore(tmp_path / "objects", mkdir=True), url)
        for module in (storage, run, status, merge, sys.modules[ShardWork.__module__]):
            monkeypatch.setattr(module, "open_storage", lambda _out: held)
    place: Storage = held if kind == "file" else open_storage(url)
    energylens.sweep(job, url, shard="1/2")
    with pytest.raises(EnergylensError, match="6 of 12 shards are missing"):
        energylens.merge(url)
    name = min(place.sizes("shards"))
    place.write(name, b"cut")
    assert energylens.sweep(job, url).computed == 7
    assert f"{name} is damaged" in capsys.readouterr().err
    assert energylens.status(url).merged
    assert {name: place.read(name) for name in want} == want
    assert place.sizes("shards").keys() | place.sizes("rows").keys() == {name for name in want if "/" in name}
    with pytest.raises(EnergylensError, match="holds another sweep"):
        energylens.sweep(JOB, url)
    place.delete(name)
    place.delete(name)
    assert place.read(name) is None
    assert place.create(name, b"1") and not place.create(name, b"2")
    assert place.read(name) == b"1"


@needs_obstore
def test_an_unknown_scheme_is_an_error() -> None:
    with pytest.raises(EnergylensError, match="cannot open `nowhere://x`"):
        energylens.status("nowhere://x")
