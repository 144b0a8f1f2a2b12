"""A file of a result that was damaged is read right, or refused with one error: never another exception."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import energylens
from damage import BYTES, FIELDS, LENGTH, damaged, made, packed, parts
from energylens import EnergylensError, Result, compare, export
from energylens.common.parquet_file import read_parquet
from energylens.reports.subject import read_subject
from energylens.results.point import read_point

SEEDS = 150


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("results")
    space: dict[str, Any] = {"models": "llama-3.1-8b", "gpus": "h100-sxm", "tp": [1, 2], "batch": [1, 8, 64]}
    energylens.explore(**space, top=2).write(folder / "front.parquet")
    axes: dict[str, Any] = {"gpus": "h100-sxm", "tp": 1, "max_num_seqs": 64, "token_budget": 8192, "replicas": 1}
    energylens.serve_plan("llama-3.1-8b", "chat", rate_per_s=5, **axes).write(folder / "service.parquet")
    sides = {"gpus": "h100-sxm", "tp": 1, "batch": [1, 8]}
    energylens.split("llama-3.1-8b", prefill=sides, decode=sides).write(folder / "pairs.parquet")
    return {path.stem: path.read_bytes() for path in folder.iterdir()}


def use(path: Path) -> None:
    """Read a file in every way there is; each is right or an `EnergylensError`."""
    readers: list[Any] = [
        lambda: Result.read(path).answer(),
        lambda: read_subject(path).chosen(),
        lambda: read_point(path).words(),
        lambda: export(f"{path}#0").script,
    ]
    for read in readers:
        try:
            assert read()
        except EnergylensError as error:
            assert error.problems
            assert all(problem.message.isprintable() for problem in error.problems)


@pytest.mark.parametrize("kind", ["front", "service", "pairs"])
@pytest.mark.parametrize("kinds", [BYTES, FIELDS], ids=["bytes", "fields"])
def test_a_damaged_file_is_read_right_or_refused(
    kind: str, kinds: Any, files: dict[str, bytes], tmp_path: Path
) -> None:
    whole_frame = parts(files[kind])[0]
    for seed in range(SEEDS // 3):
        data = damaged(seed, files[kind], kinds)
        path = made(tmp_path, f"{kind}.parquet", data)
        use(path)
        if kinds is BYTES and kind == "front":
            try:
                assert Result.read(path).frame.equals(whole_frame)
            except EnergylensError:
                continue


def changed(data: bytes, **fields: Any) -> bytes:
    frame, metadata = parts(data)
    note = json.loads(metadata["energylens.note"]) | fields
    return packed(frame, metadata | {"energylens.note": json.dumps(note)})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"points": "12"}, "`points` should be a valid integer, found `12`"),
        ({"points": -1}, "`points` should be greater than or equal to 0, found `-1`"),
        ({"by_reason": {"ok": 1.5}}, "`ok` should be a valid integer"),
        ({"by_reason": {"bad luck": 1}}, "`bad luck`"),
        ({"method": None}, "`method` should be a valid string"),
        ({"plan": None}, "`plan` should be fields and values, found nothing"),
        (
            {"plan": {"format": 1, "settings": {"max_batched_tokens": 8192.0}, "models": [], "gpus": []}},
            "the models of",
        ),
        ({"trust": {}}, "nothing says how far `h100-sxm` is trusted"),
        ({"trust": {"h100-sxm": {"trust": "blind", "errors": []}}}, "`trust` should be 'measured'"),
        ({"space": {"axes": {}, "limits": [], "objectives": ["latency_s"], "points": 1}}, "axis `model` is missing"),
    ],
)
def test_a_wrong_note_says_which_field(
    fields: dict[str, Any], message: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    path = made(tmp_path, "front.parquet", changed(files["front"], **fields))
    with pytest.raises(EnergylensError) as caught:
        Result.read(path)
    assert message in caught.value.problems[0].message
    assert all(problem.code == "result" for problem in caught.value.problems)
    assert all(str(problem.hint).endswith("make it again") for problem in caught.value.problems)


def test_a_changed_plan_is_not_taken_for_the_one_it_was_made_with(files: dict[str, bytes], tmp_path: Path) -> None:
    plan = json.loads(parts(files["front"])[1]["energylens.note"])["plan"]
    plan["gpus"][0]["power"]["tdp_w"] = 350.0
    path = made(tmp_path, "front.parquet", changed(files["front"], plan=plan))
    for read in (Result.read, read_point, read_subject, lambda p: compare(p, p)):
        with pytest.raises(EnergylensError, match="not the one it was made with"):
            read(path)


def test_a_wrong_column_says_row_and_value(files: dict[str, bytes], tmp_path: Path) -> None:
    frame, metadata = parts(files["front"])
    rows = range(frame.height)
    wrong = frame.with_columns(
        pl.Series("latency_s", [-1.0 if i == 1 else 1.0 for i in rows]),
        pl.col("tp").cast(pl.String),
        pl.lit("gb300").alias("gpu"),
    ).drop("energy_j")
    path = made(tmp_path, "front.parquet", packed(wrong, metadata))
    with pytest.raises(EnergylensError) as caught:
        Result.read(path)
    messages = [problem.message.removeprefix(f"`{path}`: ") for problem in caught.value.problems]
    assert messages == [
        "there is no column `energy_j`",
        "column `tp` should hold whole numbers, found String: `1` in row 0",
        "column `latency_s` should hold numbers from 0 to 1e+150, found -1.0 in row 1",
    ]


def test_columns_that_lost_nothing_are_read_right(files: dict[str, bytes], tmp_path: Path) -> None:
    frame, metadata = parts(files["front"])
    wide = frame.with_columns(
        pl.col("tp").cast(pl.Int64), pl.col("batch").cast(pl.Float64), pl.col("model", "gpu").cast(pl.Categorical)
    )
    path = made(tmp_path, "front.parquet", packed(wide, metadata))
    original = made(tmp_path, "original.parquet", files["front"])
    assert Result.read(path).frame.drop("reason").equals(Result.read(original).frame.drop("reason"))


@pytest.mark.parametrize("text", ["{", "NaN", '{"kind": NaN}', '{"kind": 1e999}', "[" * 9000, "[]", "null", "1"])
def test_a_note_that_is_no_json_is_refused(text: str, files: dict[str, bytes], tmp_path: Path) -> None:
    frame, metadata = parts(files["front"])
    path = made(tmp_path, "front.parquet", packed(frame, metadata | {"energylens.note": text}))
    with pytest.raises(EnergylensError, match=r"cannot read .* as Parquet: its `note` is not"):
        read_parquet(path)


@pytest.mark.parametrize("part", [b"\x19", b"\x1c"], ids=["lists", "structures"])
def test_a_footer_of_many_levels_is_refused(part: bytes, tmp_path: Path) -> None:
    footer = b"\x19" + part * 200_000
    path = made(tmp_path, "deep.parquet", b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(EnergylensError, match="as Parquet: its footer is nested too deeply"):
        read_parquet(path)


def sealed(data: bytes) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return the frame of a file and all its metadata, as a program that writes it anew takes them over."""
    return pl.read_parquet(io.BytesIO(data)), dict(pl.read_parquet_metadata(io.BytesIO(data)))


def test_a_result_that_another_program_wrote_anew_is_read_with_a_note(
    files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sealed(files["front"])[0].height > 1
    for kind in ("front", "service", "pairs"):
        frame, metadata = sealed(files[kind])
        same = made(tmp_path, "same.parquet", packed(frame, metadata))
        assert read_parquet(same)[0].equals(frame)
        assert capsys.readouterr().err == ""
        path = tmp_path / "other.parquet"
        note = f"note: `{path}` was changed after energylens wrote it: what it says of itself may no longer hold\n"
        for other in [frame, *([frame.filter(pl.int_range(pl.len()) == 1)] if frame.height > 1 else [])]:
            other.write_parquet(path, metadata=metadata, compression="gzip")
            assert read_parquet(path)[0].equals(other)
            assert capsys.readouterr().err == note
            readers: list[Any] = [read_subject]
            readers += [read_point] if kind != "pairs" else []
            readers += [Result.read, lambda p: compare(p, p)] if kind == "front" else []
            for read in readers:
                assert read(path)
                assert set(capsys.readouterr().err.splitlines(keepends=True)) == {note}
            with pytest.raises(EnergylensError, match="is damaged, or was changed since it was written"):
                read_parquet(path, strict=True)


def test_a_result_that_was_written_anew_passes_the_same_form(files: dict[str, bytes], tmp_path: Path) -> None:
    frame, metadata = sealed(files["front"])
    path = made(tmp_path, "front.parquet", packed(frame.head(1).with_columns(-pl.col("latency_s")), metadata))
    with pytest.raises(EnergylensError, match=r"`latency_s` should be a number from 0 to 1e\+150, found -"):
        Result.read(path)


def test_what_a_file_says_of_itself_is_not_changed(files: dict[str, bytes], tmp_path: Path) -> None:
    frame, metadata = sealed(files["front"])
    path = made(tmp_path, "other.parquet", packed(frame, metadata | {"energylens.version": "0.0.1"}))
    with pytest.raises(EnergylensError, match="is damaged, or was changed since it was written"):
        Result.read(path)
    old = {name: value for name, value in metadata.items() if name != LENGTH}  # of versions that told no length
    path = made(tmp_path, "old.parquet", packed(frame.head(1), old))
    with pytest.raises(EnergylensError, match="is damaged, or was changed since it was written"):
        Result.read(path)


def test_a_result_of_any_name_is_read_by_what_is_in_it(files: dict[str, bytes], tmp_path: Path) -> None:
    odd = ["front", "front[1].parquet", "front#1", "a;b", "front.pq", "front.yaml", "*.parquet"]
    for name in odd:
        path = made(tmp_path, name, files["front"])
        assert Result.read(path).frame.height
        assert (
            read_point(path).row
            == read_point(f"{path}#{Result.read(path).frame['energy_per_output_token_j'].arg_min()}").row
        )
        assert export(path).script
        assert read_subject(path).frame.height


def test_the_command_line_reads_a_result_without_a_suffix(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from energylens.cli import main

    monkeypatch.chdir(tmp_path)
    made(tmp_path, "f", files["front"])
    assert main(["export", "f"]) == 0
    assert "vllm serve" in capsys.readouterr().out
    assert main(["compare", "f#0", "f#1"]) == 0
