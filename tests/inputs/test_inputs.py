"""What people name as an input: other spellings of models, and paths of everything that is no readable file."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from energylens.calibrate.engines.runs import check_numbers
from energylens.calibrate.engines.runs import read_table as read_measured
from energylens.calibrate.power.kernel_power import read as read_powers
from energylens.calibrate.power.transfer import overlap
from energylens.calibrate.profile_file import ProfileFile
from energylens.cli import main
from energylens.common.errors import EnergylensError, SpecError
from energylens.inputs import routing
from energylens.inputs.library import load_gpu, load_model, profile_path
from energylens.measurement.recording import Replay
from energylens.measurement.runs import Runs
from energylens.results.point import read_point
from energylens.serving.workload import load_workload


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("meta-llama/Llama-3.1-8B", "did you mean `llama-3.1-8b`? it is the bundled spec of that architecture"),
        (
            "meta-llama/Llama-3.1-8B-Instruct",
            "did you mean `llama-3.1-8b`? it is the bundled spec of that architecture",
        ),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "did you mean `llama-3.1-70b`? it is the"),
        ("Qwen/Qwen3-8B", "did you mean `qwen3-8b`? it is the bundled spec of that architecture"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "did you mean `qwen3-30b-a3b`? it is the"),
        ("openai/gpt-oss-120b", "did you mean `gpt-oss-120b`? it is the bundled spec of that architecture"),
        ("deepseek-ai/DeepSeek-V3-0324", "did you mean `deepseek-v3`? it is the"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "did you mean `mixtral-8x7b`? it is the"),
        (
            "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8",
            "did you mean `llama-3.1-8b`? it is the bundled spec of that architecture; "
            "say its number format with weight_dtype (--weight-dtype)",
        ),
        ("Qwen/Qwen3-32B-AWQ", "say its number format with weight_dtype (--weight-dtype)"),
        (
            "Qwen/Qwen2.5-7B",
            "`energylens import-hf config.json --out my-model.yaml` makes a spec of the config.json of ",
        ),
        ("deepseek-ai/DeepSeek-V3.2", "makes a spec of the config.json of deepseek-ai/DeepSeek-V3.2"),
        ("Llama-3.1-8B-Instruct", "did you mean `llama-3.1-8b`?"),
    ],
)
def test_an_id_of_the_hub_leads_to_the_bundled_spec_or_to_its_import(name: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_model(name)
    (one,) = caught.value.problems
    assert one.message == f"unknown model `{name}`"
    assert hint in str(one.hint)
    assert one.code == "unknown-model"


def test_the_folder_of_a_checkpoint_leads_to_its_import(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for path in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(SpecError) as caught:
            load_model(path)
        assert f"import-hf {tmp_path}/config.json" in str(caught.value.problems[0].hint)


def measured(path: Path) -> None:
    check_numbers(read_measured(path), {"seconds": (0.0, 1.0)}, str(path))


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "model": (".yaml", load_model),
    "profile": (".yaml", load_gpu),
    "path of a profile": (".yaml", lambda path: ProfileFile(profile_path(path))),
    "point": (".yaml", read_point),
    "workload": (".yaml", load_workload),
    "counts": (".csv", routing.counts),
    "counts in Parquet": (".parquet", routing.counts),
    "measured": (".csv", measured),
    "measured in Parquet": (".parquet", measured),
    "measured kernels": (".parquet", Runs.read),
    "recorded session": (".jsonl", Replay),
    "packed session": (".jsonl.gz", Replay),
    "overlap": (".parquet", overlap),
}


def refused(read: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(EnergylensError) as caught:
        read(path)
    (one,) = caught.value.problems
    assert "\x1b" not in str(caught.value) and "\0" not in str(caught.value)
    assert len(str(caught.value)) < 2000
    return f"{one.message} {one.where}"


@pytest.mark.parametrize("what", READERS)
def test_what_is_no_readable_file_has_one_reason(what: str, tmp_path: Path) -> None:
    ending, read = READERS[what]
    fifo, loop, link = (tmp_path / f"{name}{ending}" for name in ("fifo", "loop", "link"))
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    link.symlink_to(tmp_path / "gone")
    folder = tmp_path / f"folder{ending}"
    folder.mkdir()
    assert "FIFO" in refused(read, fifo)
    assert "links lead back" in refused(read, loop)
    assert "is a link to" in refused(read, link)
    assert "folder" in refused(read, folder)
    refused(read, tmp_path / f"{'n' * 300}{ending}")
    refused(read, tmp_path / f"a\0b{ending}")
    refused(read, tmp_path / f"\x1b[31m{ending}")
    refused(read, fifo / f"x{ending}")


@pytest.mark.parametrize("what", READERS)
def test_a_damaged_file_has_one_reason(what: str, tmp_path: Path) -> None:
    ending, read = READERS[what]
    file = tmp_path / f"f{ending}"
    for data in (b"", b"\0", b"\xff\xfe\x00\x01", b"PAR1" + b"\xff" * 40, gzip.compress(b"{}")[:-4], b"[" * 5000):
        file.write_bytes(data)
        with pytest.raises(EnergylensError):
            read(file)


@pytest.mark.parametrize("name", ["fifo", "/dev/null", "a\0b", "n" * 300, "link", "folder", ""])
def test_a_model_or_gpu_that_is_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("link").symlink_to("gone")
    Path("folder").mkdir()
    for load in (load_model, load_gpu, profile_path):
        with pytest.raises(SpecError) as caught:
            load(name)
        assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    "command", [["n" * 300], ["predict", "n" * 300], ["gpus", "a/" * 3000], ["show", "n" * 300 + ".yaml"]]
)
def test_long_names_on_the_command_line(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    assert len(capsys.readouterr().err) < 2000


def test_table_of_powers_is_checked_alike(tmp_path: Path) -> None:
    file = tmp_path / "kernel_power_gemm.parquet"
    os.mkfifo(file)
    assert "FIFO" in refused(lambda path: read_powers(path.parent, "gemm"), file)


def test_counts_are_measured_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "counts.parquet"
    rows = pl.select(pl.repeat(0, 5_000_000, dtype=pl.Int64).alias("expert"), pl.lit(1).alias("tokens"))
    rows.write_parquet(file)
    assert file.stat().st_size < 100_000
    monkeypatch.setenv("ENERGYLENS_MEMORY", "70MB")
    with pytest.raises(EnergylensError, match="with 5,000,000 rows would need"):
        routing.counts(file)


def test_a_line_of_a_recording_has_a_longest_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f.jsonl.gz"
    with gzip.open(file, "wb") as stream:
        for _ in range(30):
            stream.write(b"x" * 2**20)
    with pytest.raises(EnergylensError, match="a recorded session is lines of JSON"):
        Replay(file)
    monkeypatch.setenv("ENERGYLENS_MEMORY", "64MB")
    with pytest.raises(EnergylensError, match="would need"):
        Replay(file)
