"""What lies in a sweep's folder, and jobs as they come: damaged, hostile, of the wrong type; one error each."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import energylens
from damage import ODD
from energylens import EnergylensError
from energylens.cli import main
from energylens.common import memory
from energylens.inputs.plan import canonical
from energylens.sweeps.frozen import freeze, prepared, thaw, thaw_here
from energylens.sweeps.job import Job
from energylens.sweeps.status import all_shards

JOB: dict[str, Any] = {
    "name": "small",
    "space": {"models": "llama-3.1-8b", "gpus": "h100-sxm", "tp": [1, 2], "batch": [1, 8, 64, 128]},
    "keep": {"rows": "all", "top": 2},
    "shards": 4,
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "out"
    energylens.sweep(JOB, folder)
    return folder


@pytest.fixture
def folder(done: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(done, tmp_path / "out")
    return tmp_path / "out"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rehashed(manifest: dict[str, Any]) -> str:
    """Return a manifest whose hash fits what it says, as a hostile one's would."""
    content = manifest.get("sweep")
    try:
        text = canonical(content)
    except ValueError:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return json.dumps(manifest | {"sweep_sha256": hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()})


def changed(manifest: str, path: list[str | int], value: Any) -> str:
    fields = json.loads(manifest)
    node = fields["sweep"]
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return rehashed(fields)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["shards", "count"], 10**12, "`count` should be less than or equal to 10000000, found `1000000000000`"),
        (["shards", "points"], 10**12, "its space has 8 points, not 1,000,000,000,000"),
        (["shards", "points"], -8, "`points` should be greater than or equal to 1"),
        (["shards", "count"], 0, "`count` should be greater than or equal to 1"),
        (["shards", "count"], 9, "there are 9 shards of 8 parts"),
        (["shards", "step"], 0, "`step` should be greater than or equal to 1"),
        (["shards"], None, "`shards` should be fields and values, found nothing"),
        (["space", "tp"], ["1"], "should be a valid integer"),
        (["space", "tp"], [], "`tp` is empty"),
        (["space", "batch"], [0.5], "should be a multiple of 1, found `0.5`"),
        (["space", "batch"], [0], "should be greater than or equal to 1"),
        (["space", "routing"], [3], "the plan lacks a law of routing"),
        (["space", "gpu"], [1], "the gpus of the space are not those of the plan"),
        (["space", "sequence_parallel"], ["on"], "should be a valid boolean"),
        (["keep", "top"], 1e9, "`top` should be a valid integer"),
        (["keep", "best_per"], [["tp"]], "should be a valid string"),
        (["keep", "best_per"], ["colour"], "unknown axis `colour`"),
        (["limits"], ["tpot"], "cannot read the limit `tpot`"),
        (["objectives"], ["joy"], "unknown objective `joy`"),
        (["plan", "settings", "max_batched_tokens"], "8192", "`max_batched_tokens` should be a valid number"),
        (["plan", "models", 0, "ranks"], None, "the manifest"),
        (["plan", "gpus", 0, "power"], {}, "the manifest"),
    ],
)
def test_a_hostile_manifest_is_refused_before_it_is_used(
    path: list[str | int], value: Any, message: str, folder: Path
) -> None:
    manifest = changed((folder / "manifest.json").read_text(), path, value)
    (folder / "manifest.json").write_text(manifest)
    (folder / "_SUCCESS").unlink()
    for verb in (energylens.merge, lambda out: energylens.sweep(str(out / "manifest.json"), out)):
        with pytest.raises(EnergylensError) as caught:
            verb(folder)
        assert message in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "x", "[" * 9000, "NaN", '{"name": NaN}', '{"name": 1e999}', "\x00", '"' + "9" * 5000]
)
def test_a_manifest_that_is_no_json_is_refused(text: str, folder: Path) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(EnergylensError, match=r"manifest.* is damaged: "):
        energylens.status(folder)


def nodes(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Return the paths of everything in plain data."""
    if path:
        yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from nodes(value, (*path, key))


def with_value(data: Any, path: tuple[str | int, ...], value: Any) -> Any:
    changed = copy.deepcopy(data)
    node = changed
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return changed


def test_any_value_of_a_manifest_may_be_wrong(done: Path) -> None:
    manifest = json.loads((done / "manifest.json").read_text())
    draw = random.Random(1)
    paths = [path for path in nodes(manifest) if path[:2] != ("sweep", "plan") or len(path) < 5]
    for seed in range(300):
        wrong = with_value(manifest, draw.choice(paths), draw.choice(ODD))
        try:
            sweep = thaw_here(rehashed(wrong), f"manifest {seed}")
            assert len(all_shards(sweep)) == sweep.count
        except EnergylensError as error:
            assert all(problem.message.isprintable() for problem in error.problems)


def test_many_shards_are_held_against_the_memory(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = json.loads((done / "manifest.json").read_text())
    manifest["sweep"]["shards"] = {"points": 10**9, "count": 10**7, "step": 1}
    monkeypatch.setenv(memory.VARIABLE, "1GB")
    with pytest.raises(memory.MemoryBudgetError, match=r"a sweep of 10,000,000 shards would need 6 GB"):
        all_shards(thaw(rehashed(manifest), "manifest"))


def test_a_job_of_too_many_shards_is_refused() -> None:
    space = {
        "models": "llama-3.1-8b",
        "gpus": "h100-sxm",
        "batch": "1:1000",
        "prompt_tokens": "1:1000",
        "output_tokens": "1:1000",
    }
    with pytest.raises(EnergylensError, match=r"4,000,000,000 shards are more than the 10,000,000 of a sweep"):
        prepared({"name": "many", "space": space, "shard_points": 1})


FULL: dict[str, Any] = {
    "name": "full",
    "space": {
        "models": ["llama-3.1-8b"],
        "gpus": ["h100-sxm"],
        "max_batched_tokens": 8192,
        "limits": ["tpot<=50ms"],
        "tp": [1],
        "pp": [1],
        "dp": [1],
        "ep": [1],
        "cp": [1],
        "overlap_stages": [None],
        "overlap_sms": [0],
        "overlap_where": ["prefill"],
        "sequence_parallel": [False],
        "fused_norm": [False],
        "sm_clock_mhz": [None],
        "power_cap_w": [None],
        "routing": [None],
        "placement": ["contiguous"],
        "batch": [1],
        "prompt_tokens": [16],
        "output_tokens": [16],
        "weight_dtype": [None],
        "kv_dtype": [None],
        "objectives": ["latency_s"],
    },
    "keep": {"epsilon": 0.1, "top": 1, "best_per": ["tp"], "distributions": ["latency_s"], "rows": "none"},
    "shards": 1,
}


def test_any_value_of_a_job_may_be_wrong() -> None:
    refused = 0
    odd = [*ODD, float("nan"), float("inf"), 10**400, object(), {1: 2}, [["tp"]], b"x", ("tp", "tp"), {"tp"}, 1j]
    draw = random.Random(3)
    for path in nodes(FULL):
        for value in draw.sample(odd, 15):
            try:
                freeze(Job(with_value(FULL, path, value)))
            except EnergylensError:
                refused += 1
    assert refused > 500


@pytest.mark.parametrize(
    "job", [None, 3, [], b"job.yaml", object(), "", "no/such.yaml", "no/such.json", "a\0b.json", {1: 2}]
)
def test_what_is_no_job_is_refused(job: Any, tmp_path: Path) -> None:
    with pytest.raises(EnergylensError):
        energylens.sweep(job, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {"threads": "2"},
        {"threads": True},
        {"threads": 0.5},
        {"shard": 3},
        {"shard": "4/3"},
        {"shard": ["1/2"]},
        {"executor": 4},
        {"executor": ["local"]},
        {"workers": "2", "executor": "ray"},
        {"workers": 0, "executor": "ray"},
        {"address": 5, "executor": "ray"},
        {"out": None},
        {"out": ""},
        {"out": 3},
        {"out": "a\0b"},
    ],
)
def test_options_of_a_wrong_type_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(EnergylensError):
        energylens.sweep(JOB, **{"out": tmp_path, **options})
    assert not list(tmp_path.iterdir())


def test_a_link_to_nothing_is_replaced_and_the_sweep_ends(folder: Path) -> None:
    want = contents(folder)
    for name in ("rows", "shards"):
        path = min((folder / name).iterdir())
        path.unlink()
        path.symlink_to(folder / "gone")
    (folder / "rows" / "stray").symlink_to(folder / "gone")
    (folder / "_SUCCESS").unlink()
    assert energylens.sweep(JOB, folder).computed == 1
    assert energylens.sweep(JOB, folder).computed == 0
    (folder / "rows" / "stray").unlink()
    assert contents(folder) == want


def test_a_manifest_that_is_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").symlink_to(tmp_path / "gone")
    with pytest.raises(EnergylensError, match=r"manifest.json`: a link to nothing is there"):
        energylens.sweep(JOB, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("name", ["manifest.json", "_SUCCESS", "shards", "rows", "front.parquet"])
@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_what_is_no_file_is_never_opened(name: str, kind: str, folder: Path) -> None:
    path = folder / name
    if path.is_dir():
        path = min(path.iterdir())
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    if (name, kind) == ("rows", "fifo"):  # a file takes its place
        assert energylens.sweep(JOB, folder).computed == 1
        assert path.is_file()
        return
    with pytest.raises(EnergylensError, match=r"it is a FIFO|it is a folder|Is a directory"):
        energylens.sweep(JOB, folder)


def test_rows_zeroed_at_equal_size_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = max((folder / "rows").iterdir())
    intact = path.read_bytes()
    path.write_bytes(bytes(len(intact)))
    assert energylens.status(folder).complete, "sizes alone do not tell"
    state = energylens.status(folder, verify=True)
    assert (state.damaged, state.shards_done, state.complete) == ([f"rows/{path.name}"], 3, False)
    assert main(["status", str(folder), "--verify"]) == 2
    out, err = capsys.readouterr()
    assert f"damaged: rows/{path.name}" in out
    assert err.startswith("error: 1 file of the sweep is damaged\nhint: delete it")
    path.unlink()
    assert energylens.sweep(JOB, folder).computed == 1
    assert path.read_bytes() == intact
    assert main(["status", str(folder), "--verify"]) == 0


@pytest.mark.parametrize("lost", ["all", "end", "length"])
def test_rows_zeroed_at_equal_size_are_made_again(lost: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = max((folder / "rows").iterdir())
    intact = path.read_bytes()
    left = {"all": b"", "end": intact[:-4096], "length": intact[:-8]}[lost]
    path.write_bytes(left + bytes(len(intact) - len(left) - 4) + (intact[-4:] if lost == "length" else bytes(4)))
    assert path.stat().st_size == len(intact)
    capsys.readouterr()
    state = energylens.sweep(JOB, folder)
    assert (state.computed, state.complete, state.merged) == (1, True, True)
    assert capsys.readouterr().err == f"rows/{path.name} is damaged: computing it again\n"
    assert path.read_bytes() == intact
    assert energylens.sweep(JOB, folder).computed == 0


def test_merged_files_that_are_damaged_are_named(folder: Path) -> None:
    path = folder / "top.parquet"
    path.write_bytes(bytes(path.stat().st_size))
    assert energylens.status(folder).damaged == []
    state = energylens.status(folder, verify=True)
    assert (state.damaged, state.merged) == (["top.parquet"], False)


def test_anything_may_be_damaged_and_the_same_sweep_repairs_it(folder: Path) -> None:
    want = contents(folder)
    draw = random.Random(2)
    for _ in range(12):
        name = draw.choice([name for name in want if name != "manifest.json"])
        data = bytearray(want[name])
        if draw.random() < 0.5:
            data = data[: draw.randrange(len(data))]
        else:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (folder / name).write_bytes(data)
        state = energylens.status(folder, verify=True)
        assert state.damaged or name.startswith(("_SUCCESS", "shards"))
        if not state.damaged and name.startswith("shards"):  # a byte that says nothing of what was kept
            assert state.complete
            (folder / name).write_bytes(want[name])
        for damaged in state.damaged:
            (folder / damaged).unlink()
        energylens.sweep(JOB, folder)
        assert contents(folder) == want
