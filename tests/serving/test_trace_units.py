"""What a trace does not say is read off its rows and said, or asked for: units of time, sizes of blocks, dates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from energylens.cli import main
from energylens.common.errors import SpecError
from energylens.serving.replay import replay
from energylens.serving.trace import Trace, load_trace
from energylens.serving.trace_blocks import block_size
from energylens.serving.workload import load_workload

DEPLOYMENT = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}


def csv(folder: Path, header: str, *rows: str) -> Path:
    path = folder / "trace.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def jsonl(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def fault(path: Path, **options: Any) -> str:
    with pytest.raises(SpecError) as error:
        load_trace(path, **options)
    return error.value.render()


def session(i: int, size: int, scale: float, **more: Any) -> dict[str, Any]:
    """Return a request of 1,000 to 1,400 tokens, of which 320 are those of every other one."""
    prompt = 1000 + 13 * (i * 7 % 31)
    shared = 320 // size
    blocks = [*range(shared), *(1000 * (i + 1) + k for k in range(-(-prompt // size) - shared))]
    stamp = scale * round(0.5 * i + 0.013 * (i % 5), 3)
    return {"timestamp": int(stamp) if scale > 1 else stamp, "input_length": prompt, "output_length": 40 + i % 9,
            "hash_ids": blocks, **more}  # fmt: skip


def test_seconds_and_blocks_of_16_tokens(tmp_path: Path) -> None:
    # Two requests a second, 320 tokens of some 1,190 shared: alibaba-edu/qwen-bailian-usagetraces-anon.
    path = jsonl(tmp_path, *(session(i, 16, 1.0, chat_id=i, turn=1) for i in range(300)))
    trace = load_trace(path)
    assert trace.block_tokens == 16
    assert trace.notes == ["`timestamp` read as seconds: 2/s", "blocks of 16 tokens, as the numbers of blocks say"]
    load = load_workload(path)
    assert load.rate_per_s == pytest.approx(2.0, rel=0.01)
    replayed = replay(DEPLOYMENT, load)
    assert replayed["span_s"] == pytest.approx(150, rel=0.02)
    mean = load.prompt_tokens
    assert replayed["found_share"] == pytest.approx(299 / 300 * 320 / mean, rel=0.01)
    assert replayed.notes == tuple(trace.notes)


def test_seconds_without_the_columns_of_bailian(tmp_path: Path) -> None:
    trace = load_trace(jsonl(tmp_path, *(session(i, 16, 1.0) for i in range(300))))
    assert (trace.block_tokens, trace.requests["arrival_s"][-1]) == (16, pytest.approx(149.5, abs=0.1))


def test_milliseconds_and_blocks_of_512_tokens(tmp_path: Path) -> None:
    trace = load_trace(jsonl(tmp_path, *(session(i, 512, 1000.0) for i in range(300))))
    assert trace.block_tokens == 512
    assert trace.requests["arrival_s"][-1] == pytest.approx(149.5, abs=0.1)
    assert trace.notes[0] == "`timestamp` read as milliseconds: 2/s"


@pytest.mark.parametrize("size", [16, 32, 64, 128, 256, 512, 1024])
@pytest.mark.parametrize("part_filled", [True, False])
def test_sizes_of_blocks_are_read_off_their_numbers(size: int, part_filled: bool) -> None:
    tokens = np.random.default_rng(size).integers(2000, 20_000, 200)
    counts = -(-tokens // size) if part_filled else tokens // size
    blocks = pl.Series("blocks", [list(range(count)) for count in counts])
    assert block_size(blocks, pl.Series(tokens), 512) == (
        size, f"blocks of {size:,} tokens, as the numbers of blocks say"
    )  # fmt: skip


def test_sizes_of_blocks_that_rows_do_not_decide_are_said(tmp_path: Path) -> None:
    header = "arrival_s,input_tokens,output_tokens,blocks"
    assert load_trace(csv(tmp_path, header, "0,1100,3,7;9", "1,1100,3,7;9")).notes == [
        "blocks of 512 tokens assumed (the lists would also fit 1,024)"
    ]
    beginnings = load_trace(csv(tmp_path, header, "0,1600,3,7", "1,9000,3,7;8;9"))
    assert beginnings.notes == ["blocks of 512 tokens assumed: the lists name but the beginnings of prompts"]
    assert load_trace(csv(tmp_path, header, "0,1100,3,7;9"), block_tokens=1024).notes == []


def test_sizes_of_blocks_that_nothing_explains_must_be_stated(tmp_path: Path) -> None:
    path = csv(tmp_path, "arrival_s,input_tokens,output_tokens,blocks", "0,40,3,1;2;3;4;5;6;7;8", "1,5000,3,1;2")
    text = fault(path)
    assert "a prompt of 40 tokens has 8 blocks, in blocks of 512 tokens it would have 1" in text
    assert "--block-tokens 16" in text
    assert load_trace(path, block_tokens=5).block_tokens == 5


@pytest.mark.parametrize(
    ("column", "times", "seconds"),
    [
        ("arrival_s", ["0", "4", "8"], 8.0),
        ("arrival_ms", ["0", "4000", "8000"], 8.0),
        ("timestamp_us", ["0", "4000000", "8000000"], 8.0),
        ("arrival_ns", ["5", "4000000005", "8000000005"], 8.0),
        ("timestamp", ["0.25", "1.5", "2.75"], 2.5),
        ("timestamp", ["3", "3", "4", "5"], 2.0),
        ("timestamp", ["1787267980", "1787267984", "1787267988"], 8.0),
        ("timestamp", ["1787267980000", "1787267984000", "1787267988000"], 8.0),
        ("timestamp", ["1787267980000000000", "1787267984000000000", "1787267988000000000"], 8.0),
        ("arrival", ["0.5", "0.75", "1.5"], 1.0),
    ],
)
def test_units_that_rows_decide(tmp_path: Path, column: str, times: list[str], seconds: float) -> None:
    trace = load_trace(csv(tmp_path, f"{column},input_tokens,output_tokens", *(f"{time},9,9" for time in times)))
    assert trace.requests["arrival_s"][-1] == pytest.approx(seconds, abs=1e-6)


def test_units_that_rows_do_not_decide_must_be_stated(tmp_path: Path) -> None:
    header, rows = "timestamp,input_tokens,output_tokens", [f"{4000 * i},9,9" for i in range(5)]
    path = csv(tmp_path, header, *rows)
    text = fault(path)
    assert "`timestamp` does not say its unit: 5 requests would be 0.00025/s in seconds, 0.25/s in milliseconds" in text
    assert "--time-unit s (or ms, us, ns)" in text
    for unit, seconds in (("s", 16_000.0), ("ms", 16.0), ("us", 0.016), ("ns", 1.6e-5)):
        assert load_trace(path, time_unit=unit).requests["arrival_s"][-1] == pytest.approx(seconds)
    assert load_workload(path, time_unit="ms").rate_per_s == pytest.approx(0.25)
    # Mooncake's columns, but no milliseconds of theirs.
    blocks = [
        {"timestamp": i, "input_length": 1000, "output_length": 9, "hash_ids": [2 * i, 2 * i + 1]} for i in range(99)
    ]
    assert "does not say its unit: 99 requests would be 1/s in seconds, 1,000/s" in fault(jsonl(tmp_path, *blocks))


def test_a_unit_that_contradicts_the_name_is_refused(tmp_path: Path) -> None:
    path = csv(tmp_path, "arrival_s,input_tokens,output_tokens", "0,9,9", "1,9,9")
    assert "says seconds, the stated time unit is milliseconds" in fault(path, time_unit="ms")
    dates = csv(tmp_path, "TIMESTAMP,input_tokens,output_tokens", "2026-01-01 00:00:00,9,9")
    assert "holds dates" in fault(dates, time_unit="s")
    assert "no unit of time" in fault(path, time_unit="minutes")
    assert "hold 1 to 65,536 tokens, found 0" in fault(path, block_tokens=0)
    assert "no arrivals to have a unit" in fault(csv(tmp_path, "input_tokens,output_tokens", "9,9"), time_unit="s")
    with pytest.raises(SpecError, match="read with a trace alone"):
        load_workload("azure-conv", block_tokens=16)


def dated(folder: Path, *times: str) -> Trace:
    return load_trace(csv(folder, "TIMESTAMP,input_tokens,output_tokens", *(f'"{time}",9,9' for time in times)))


@pytest.mark.parametrize(
    ("times", "seconds", "clock_s"),
    [
        (["2023-11-16 18:15:46.6805900", "2023-11-16 18:15:50.9951690"], 4.314579, 65746.68059),
        (["2024-05-10 00:00:00.009930+00:00", "2024-05-10 00:00:01.009930+00:00"], 1.0, 0.00993),
        (["2026-03-29T01:59:30+01:00", "2026-03-29T03:00:30+02:00"], 60.0, 7170.0),
        (["2026-11-16T18:15:46Z", "2026-11-16T18:15:56Z"], 10.0, 65746.0),
        (["11/16/2026 18:15:46", "11/17/2026 18:15:46"], 86400.0, 65746.0),
        (["16/11/2026 18:15:46", "17/11/2026 18:15:46"], 86400.0, 65746.0),
        (["11/30/2026 23:59:59", "12/01/2026 00:00:00"], 1.0, 86399.0),
        (["30/11/2026 23:59:59", "01/12/2026 00:00:00"], 1.0, 86399.0),
        (["03/04/2026 10:00:00", "03/04/2026 10:00:07"], 7.0, 36000.0),
        (["03.04.2026 10:00", "04.04.2026 10:00"], 86400.0, 36000.0),
        (["11/16/2026 01:15:00 PM", "11/16/2026 01:15:30 PM"], 30.0, 47700.0),
        (["11/16/2026 12:00:00 AM", "11/16/2026 12:00:30 PM"], 43230.0, 0.0),
        (["2026/11/16 18:15:46", "2026/11/16 18:15:47"], 1.0, 65746.0),
    ],
)
def test_dates(tmp_path: Path, times: list[str], seconds: float, clock_s: float) -> None:
    trace = dated(tmp_path, *times)
    assert trace.requests["arrival_s"][-1] == pytest.approx(seconds, abs=1e-6)
    assert trace.clock_s == pytest.approx(clock_s, abs=1e-6)


def test_the_order_of_day_and_month_is_said(tmp_path: Path) -> None:
    assert dated(tmp_path, "11/16/2026 18:15:46").notes == ["dates read as month/day/year (16 is no month)"]
    assert dated(tmp_path, "16/11/2026 18:15:46").notes == ["dates read as day/month/year (16 is no month)"]
    # October 9 to 11, or September 10 to November 10: in both orders rows rise.
    assert dated(tmp_path, "01/12/2026 23:00:00", "02/01/2026 01:00:00").notes == [
        "dates read as month/day/year: in that order the rows rise"
    ]


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (
            ["03/04/2026 10:00:00", "04/05/2026 10:00:00"],
            "may be month/day/year (32 days in all) or day/month/year (31",
        ),
        (["16/11/2026 10:00:00", "11/17/2026 10:00:00"], "which is no date"),
        (["2026-11-16 10:00:00", "11/17/2026 10:00:00"], "should hold times, found `11/17/2026 10:00:00`"),
        (["2026-02-30 10:00:00"], "`2026-02-30 10:00:00`, which is no date"),
        (["2026-02-03 25:00:00"], "which is no date"),
        (["2026-02-03 10:00:00", "2026-02-03 10:00:01+01:00"], "some rows have an offset"),
        (["2026-11-16 10:00:00", "later"], "should hold times, found `later`"),
        (["2026-11-16 10:00:00", "2026-11-15 10:00:00"], "before the 2026-11-16 10:00:00 of the row above"),
    ],
)
def test_dates_that_cannot_be_read(tmp_path: Path, times: list[str], said: str) -> None:
    text = fault(csv(tmp_path, "TIMESTAMP,input_tokens,output_tokens", *(f'"{time}",9,9' for time in times)))
    assert said in text
    assert "trace.csv" in text


def test_offsets_are_those_of_the_moment(tmp_path: Path) -> None:
    # Clocks go back at 03:00 to 02:00: an hour lies between two times that are written alike.
    trace = dated(tmp_path, "2026-10-25 02:30:00+02:00", "2026-10-25 02:30:00+01:00")
    assert trace.requests["arrival_s"][1] == 3600.0


def test_dates_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    times = (
        pl.Series(["2026-11-16 18:15:46", "2026-11-16 18:15:50"]).str.to_datetime().dt.replace_time_zone("Asia/Tokyo")
    )
    pl.DataFrame({"timestamp": times, "input_tokens": [9, 9], "output_tokens": [9, 9]}).write_parquet(path)
    trace = load_trace(path)
    assert trace.requests["arrival_s"].to_list() == [0.0, 4.0]
    assert trace.clock_s == 65746.0


def test_wrong_tokens_have_row_and_value(tmp_path: Path) -> None:
    rows = [f"{i},9,9" for i in range(150)]
    text = fault(csv(tmp_path, "arrival_s,prompt_tokens,output_tokens", *rows, "150,1k,9", "151,9,x"))
    assert "column `prompt_tokens` should hold numbers of tokens, found `1k`" in text
    assert "row 151" in text
    assert "column `output_tokens` should hold numbers of tokens, found `x`" in text
    assert "row 152" in text


def test_numbers_that_begin_as_integers_and_numbers_in_quotes(tmp_path: Path) -> None:
    rows = [f"{i},9,9" for i in range(150)]
    trace = load_trace(csv(tmp_path, "arrival_s,input_tokens,output_tokens", *rows, '150.5,"12",9'))
    assert trace.requests["arrival_s"][-1] == 150.5
    text = [{"arrival_s": i, "input_tokens": "12", "output_tokens": 3} for i in range(2)]
    assert load_trace(jsonl(tmp_path, *text)).requests["prompt_tokens"].to_list() == [12.0, 12.0]


def test_a_trace_larger_than_the_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace.parquet"
    ones = pl.Series(np.ones(2_000_000, dtype=np.int32))
    pl.DataFrame({"input_tokens": ones, "output_tokens": ones}).write_parquet(path)
    monkeypatch.setenv("ENERGYLENS_MEMORY", "100MB")
    with pytest.raises(MemoryError, match="with 2,000,000 requests would need 400 MB"):
        load_trace(path)


def test_lists_of_blocks_larger_than_the_memory_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace[1].parquet"
    blocks = pl.repeat(1, 6_000_000, dtype=pl.Int64, eager=True).implode()
    pl.DataFrame({"input_tokens": [1], "output_tokens": [1], "blocks": blocks}).write_parquet(path)
    monkeypatch.setenv("ENERGYLENS_MEMORY", "70MB")
    with pytest.raises(MemoryError, match=r"the trace .* with 1 rows would need .* of memory"):
        load_trace(path)


def prefix_trace(folder: Path, size: int, number: int = 60, share: float = 1.0) -> Path:
    """Write a trace whose lists name each block of a prompt, or the first share of them."""
    tokens = np.random.default_rng(size).integers(1500, 6000, number)
    lists = [";".join(map(str, range(max(1, int(share * -(-int(count) // size)))))) for count in tokens]
    rows = [f"{at},{count},3,{blocks}" for at, (count, blocks) in enumerate(zip(tokens, lists, strict=True))]
    return csv(folder, "arrival_s,input_tokens,output_tokens,blocks", *rows)


@pytest.mark.parametrize(("size", "said"), [(64, 512), (64, 16), (512, 64), (16, 512), (16, 17), (64, 65_536)])
def test_a_size_of_blocks_that_the_lists_contradict_is_refused(tmp_path: Path, size: int, said: int) -> None:
    path = prefix_trace(tmp_path, size)
    with pytest.raises(SpecError) as caught:
        load_trace(path, block_tokens=said)
    (problem,) = caught.value.problems
    assert problem.message.startswith(f"blocks of {said:,} tokens do not fit the lists: a prompt of ")
    assert problem.hint == f"blocks of {size} tokens fit: leave --block-tokens out (in Python block_tokens)"
    row = int(str(problem.where).rpartition(" ")[2]) - 1
    prompt = pl.read_csv(path)["input_tokens"][row]
    count = -(-prompt // size)
    assert (
        f"a prompt of {prompt:,} tokens has {-(-prompt // said):,} such blocks, its list names {count:,};"
        in problem.message
    )
    assert load_trace(path, block_tokens=size).notes == []


def test_lists_that_no_size_explains_are_taken_as_said_with_a_note(tmp_path: Path) -> None:
    path = prefix_trace(tmp_path, 16, share=0.3)
    beginnings = load_trace(path, block_tokens=16)
    assert beginnings.block_tokens == 16
    assert beginnings.notes == ["blocks of 16 tokens, as said: 60 of 60 lists name but the beginnings of prompts"]
    rows = ("0,1100,3,7;9", "1,40,3,1;2;3;4;5;6;7;8")
    odd = load_trace(csv(tmp_path, "arrival_s,input_tokens,output_tokens,blocks", *rows), block_tokens=512)
    assert odd.notes == ["blocks of 512 tokens, as said, although 1 of 2 lists have other numbers of blocks"]


def test_a_few_odd_lists_do_not_contradict_a_size(tmp_path: Path) -> None:
    path = prefix_trace(tmp_path, 64, number=200)
    rows = path.read_text(encoding="utf-8").splitlines()
    rows[7] = "6,2000,3,1;2"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert load_trace(path, block_tokens=64).notes == []


def test_the_command_says_which_size_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = prefix_trace(tmp_path, 64)
    assert main(["serve-plan", "llama-3.1-8b", "--workload", str(path), "--block-tokens", "512"]) == 2
    message = capsys.readouterr().err
    assert "blocks of 512 tokens do not fit" in message
    assert "blocks of 64 tokens fit" in message
    assert f" --> {path}: row " in message
