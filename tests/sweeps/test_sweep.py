"""Sweeps: the same bytes however they are run, going on after whatever happened, and what is said when they cannot."""

from __future__ import annotations

import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import energylens
from energylens import EnergylensError
from energylens.cli import main
from energylens.common.parquet_file import read_parquet
from energylens.sweeps.frozen import prepared
from energylens.sweeps.status import all_shards

SPACE: dict[str, Any] = {
    "models": "llama-3.1-8b",
    "gpus": ["h100-sxm", "rtx-4090"],
    "tp": [1, 2],
    "batch": "1:16",
    "prompt_tokens": "512:8192:512",
    "output_tokens": "16:128:16",
    "limits": ["tpot_s<=0.05"],
}
KEEP: dict[str, Any] = {"epsilon": 0.01, "top": 20, "best_per": ["gpu", "tp"], "distributions": ["tpot_s", "energy_j"]}
JOB: dict[str, Any] = {"name": "small", "space": SPACE, "keep": KEEP, "shards": 12}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def merged_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    assert energylens.sweep(JOB, folder).merged
    return files(folder)


def command(out: Path, *options: str, job: dict[str, Any] | None = None) -> list[str]:
    path = out.parent / "job.yaml"
    path.write_text(json.dumps(job or JOB))
    return [sys.executable, "-m", "energylens", "sweep", str(path), "--out", str(out), *options]


def test_shards_lie_end_to_end_whatever_their_number() -> None:
    for cut in ({"shards": 1}, {"shards": 7}, {"shard_points": 100}, {"shards": 10**6}, {}):
        frozen = prepared({"name": "cut", "space": SPACE} | cut)
        bounds = [(shard.lo, shard.hi) for shard in all_shards(frozen)]
        assert [lo for lo, _ in bounds] == [0, *(hi for _, hi in bounds[:-1])]
        assert bounds[-1][1] == frozen.points == 8192
        assert all(lo < hi for lo, hi in bounds)
    assert prepared(JOB).content["shards"]["step"] == 128, "bounds between planes of all lengths"
    assert prepared(JOB | {"keep": {"rows": "all"}, "shards": 1}).count == 1


def test_a_sweep_keeps_what_exploring_keeps(tmp_path: Path, merged_files: dict[str, bytes]) -> None:
    axes: dict[str, Any] = SPACE | {
        "batch": range(1, 17),
        "prompt_tokens": range(512, 8193, 512),
        "output_tokens": range(16, 129, 16),
    }
    explored = energylens.explore(**KEEP, **axes)
    assert explored.write(tmp_path / "front.parquet").read_bytes() == merged_files["front.parquet"]
    energylens.sweep(JOB, tmp_path / "out")
    merged = energylens.merge(tmp_path / "out")
    assert merged.frame.equals(explored.frame)
    assert explored.top is not None and merged.top is not None and merged.top.equals(explored.top)
    assert explored.best_per is not None and merged.best_per is not None and merged.best_per.equals(explored.best_per)
    assert merged.quantile("tpot_s", 0.5) == explored.quantile("tpot_s", 0.5)
    assert (merged.by_reason, merged.outside_limits) == (explored.by_reason, explored.outside_limits)
    assert merged.answer() == explored.answer()
    assert read_parquet(tmp_path / "out" / "front.parquet")[1]["plan_sha256"] == explored.plan_sha256


def test_the_same_bytes_in_any_share_order_and_on_any_threads(tmp_path: Path, merged_files: dict[str, bytes]) -> None:
    for share in ("3/3", "1/3", "2/3"):
        done = energylens.sweep(JOB, tmp_path, shard=share, threads=1)
        assert not done.merged and done.computed == 4
    assert done.complete
    assert energylens.merge(tmp_path, threads=2).frame.height
    assert files(tmp_path) == merged_files


def test_the_results_do_not_depend_on_the_number_of_shards(tmp_path: Path, merged_files: dict[str, bytes]) -> None:
    for shards in (1, 61):
        energylens.sweep(JOB | {"shards": shards}, tmp_path / str(shards))
        have = files(tmp_path / str(shards))
        for name in ("front", "top", "best_per", "distributions"):
            assert have[f"{name}.parquet"] == merged_files[f"{name}.parquet"]


@pytest.mark.parametrize("wanted", ["all", "feasible"])
def test_rows_are_a_data_set_of_every_point(tmp_path: Path, wanted: str) -> None:
    job = JOB | {"keep": {"rows": wanted}}
    energylens.sweep(job, tmp_path / "one")
    energylens.sweep(job, tmp_path / "two", shard="1/2", threads=1)
    energylens.sweep(job, tmp_path / "two", threads=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    rows = pl.scan_parquet(tmp_path / "one" / "rows").collect()
    again = energylens.evaluate(rows.select("model", "gpu", "tp", "batch", "prompt_tokens", "output_tokens"))
    assert again.select(rows.columns).equals(rows)
    result = energylens.merge(tmp_path / "one")
    assert rows.height == (result.points if wanted == "all" else result.feasible)
    assert rows["feasible"].all() == (wanted == "feasible")
    assert json.loads((tmp_path / "one" / "_SUCCESS").read_text())["rows"] == rows.height


def test_a_complete_sweep_does_nothing(
    tmp_path: Path, merged_files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    energylens.sweep(JOB, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert energylens.sweep(JOB, tmp_path).computed == 0
    assert main(["sweep", str(tmp_path / "manifest.json"), "--out", str(tmp_path)]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert files(tmp_path) == merged_files


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "swapped"])
def test_a_damaged_shard_is_named_and_computed_again(
    tmp_path: Path, merged_files: dict[str, bytes], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    energylens.sweep(JOB, tmp_path, shard="1/1")
    (tmp_path / "_SUCCESS").unlink()
    damaged, other = sorted((tmp_path / "shards").iterdir())[3:5]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 4] ^= 1
    whats = {"cut": bytes(data[:-10]), "flipped": bytes(data), "empty": b"", "swapped": other.read_bytes()}
    damaged.write_bytes(whats[damage])
    assert energylens.status(tmp_path).damaged == [f"shards/{damaged.name}"]
    with pytest.raises(EnergylensError, match=r"1 of 12 shards are missing: .* \(damaged\)"):
        energylens.merge(tmp_path)
    assert energylens.sweep(JOB, tmp_path).computed == 1
    assert capsys.readouterr().err == f"shards/{damaged.name} is damaged: computing it again\n"
    assert files(tmp_path) == merged_files


def test_what_is_damaged_after_the_merge_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = JOB | {"keep": KEEP | {"rows": "feasible"}}
    energylens.sweep(job, tmp_path)
    before = files(tmp_path)
    for folder in ("shards", "rows"):
        damaged = sorted((tmp_path / folder).iterdir())[3]
        damaged.write_bytes(damaged.read_bytes()[:-50])
        capsys.readouterr()
        assert energylens.sweep(job, tmp_path).computed == 1
        assert "is damaged: computing it again" in capsys.readouterr().err
        assert files(tmp_path) == before


def test_missing_rows_and_results_are_made_again(tmp_path: Path) -> None:
    job = JOB | {"keep": {"rows": "feasible"}}
    energylens.sweep(job, tmp_path)
    want = files(tmp_path)
    (tmp_path / "front.parquet").write_bytes(b"no")
    assert not energylens.status(tmp_path).merged
    assert energylens.sweep(job, tmp_path).computed == 0
    assert files(tmp_path) == want
    next((tmp_path / "rows").iterdir()).unlink()
    (tmp_path / "_SUCCESS").unlink()
    assert energylens.sweep(job, tmp_path).computed == 1
    assert files(tmp_path) == want


def test_another_sweep_is_refused_and_nothing_is_touched(tmp_path: Path, merged_files: dict[str, bytes]) -> None:
    energylens.sweep(JOB, tmp_path)
    stale = json.loads((tmp_path / "manifest.json").read_text())
    for change, message in (
        ({"shards": 13}, "13 shards instead of 12"),
        ({"space": SPACE | {"batch": "1:15"}}, "another `batch`"),
        ({"space": SPACE | {"gpus": ["h100-sxm", "b200"]}}, "no GPU `rtx-4090`, a GPU `b200`"),
        ({"keep": KEEP | {"top": 21}}, "another `top`"),
    ):
        with pytest.raises(EnergylensError, match="holds another sweep, `small`; this one has " + message):
            energylens.sweep(JOB | change, tmp_path)
    assert files(tmp_path) == merged_files
    assert energylens.sweep(JOB | {"name": "renamed"}, tmp_path).merged, "a name is not part of what a sweep is"
    profile = stale["sweep"]["plan"]["gpus"][0]["power"]
    profile["tdp_w"] += 1
    rewrite(tmp_path, stale)
    with pytest.raises(EnergylensError, match="another GPU `h100-sxm`"):
        energylens.sweep(JOB, tmp_path)
    stale["sweep"]["plan"]["gpus"][0]["power"]["tdp_w"] -= 1
    stale["sweep"]["physics"] = "0"
    rewrite(tmp_path, stale)
    with pytest.raises(EnergylensError, match=r"another build of energylens \S+, which predicts other numbers"):
        energylens.sweep(JOB, tmp_path)
    with pytest.raises(EnergylensError, match="another build"):
        energylens.merge(tmp_path)
    stale["sweep"]["energylens"] = "0.0.9"
    rewrite(tmp_path, stale)
    with pytest.raises(EnergylensError, match=r"energylens \S+ instead of 0\.0\.9"):
        energylens.sweep(JOB, tmp_path)
    with pytest.raises(EnergylensError, match=r"is of energylens 0\.0\.9, this is"):
        energylens.merge(tmp_path)


def rewrite(folder: Path, manifest: dict[str, Any]) -> None:
    import hashlib

    from energylens.inputs.plan import canonical

    manifest["sweep_sha256"] = hashlib.sha256(canonical(manifest["sweep"]).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_damaged_manifest_is_an_error_and_deleting_it_keeps_the_shards(
    tmp_path: Path, merged_files: dict[str, bytes]
) -> None:
    energylens.sweep(JOB, tmp_path, shard="1/2")
    for text in (
        "{",
        "[]",
        '{"sweep": 1}',
        (tmp_path / "manifest.json").read_text().replace("small", "smaller", 1)[1:],
    ):
        (tmp_path / "manifest.json").write_text(text)
        for verb in (energylens.status, energylens.merge, lambda out: energylens.sweep(JOB, out)):
            with pytest.raises(EnergylensError, match=r"manifest.* is damaged"):
                verb(tmp_path)
    (tmp_path / "manifest.json").unlink()
    assert energylens.sweep(JOB, tmp_path).computed == 6
    assert files(tmp_path) == merged_files


def test_a_full_disk_is_one_message_and_finished_shards_stay(tmp_path: Path, merged_files: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    energylens.sweep(JOB, out, shard="1/3")
    done = files(out)
    run = subprocess.run(
        command(out),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert run.returncode == 2 and not run.stdout
    assert run.stderr.startswith("error: cannot write") and run.stderr.count("error") == 1
    assert "File too large" in run.stderr
    assert "hint: 4 of 12 shards are done and kept; make room and run the same command again" in run.stderr
    assert files(out) == done
    assert energylens.sweep(JOB, out).computed == 8
    assert files(out) == merged_files


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(EnergylensError, match=r"cannot write .*Permission denied"):
        energylens.sweep(JOB, tmp_path)


def test_temporaries_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "shards").mkdir()
    dead, living = (tmp_path / "shards" / f".x.parquet.{name}.energylens-tmp" for name in ("dead", "living"))
    mine = tmp_path / ".mine.tmp"
    for path in (dead, living, mine):
        path.write_bytes(b"half")
    with living.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        energylens.sweep(JOB, tmp_path, shard="1/12")
        assert living.exists() and mine.exists() and not dead.exists()


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    space = SPACE | {"batch": "1:512", "prompt_tokens": "1:4000", "output_tokens": 16}
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(out, job=JOB | {"space": space, "shards": 10_000}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list((out / "shards").glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    printed, err = process.communicate(timeout=20)
    assert process.returncode == 130 and not printed
    assert "of 10,000 shards are done and kept; the same command goes on" in err
    assert "Traceback" not in err
    assert not list(out.rglob(".*"))


def test_killed_sweeps_give_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "kill.py"
    runpy.run_path(str(script))["main"](["--times", "6", "--shards", "24", "--kind", "local"])
    output = capsys.readouterr().out
    assert output.startswith("local: 6 kills") and "the same bytes" in output
