"""Numbers on the command line: what is none is refused with its option, its value, and how to write it."""

from __future__ import annotations

import json

import pytest

from energylens.cli import main
from energylens.inputs.axis_text import MOST_VALUES, meant, numbers, real, whole

PREDICT = ["predict", "llama-3.1-8b"]
EXPLORE = ["explore", "llama-3.1-8b"]
SERVE = ["serve-plan", "llama-3.1-8b", "--workload", "1024:256"]
REPLAY = ["replay", "llama-3.1-8b", "--workload", "1024:256", "--rate", "1", "--requests", "5"]
WRONG = [
    *("-1", "0", "4294967296", "18446744073709551616", "9" * 400, "1e400", "", "  ", ",", "1,", "--", "-", "--tp"),
    *("1:0", "1:10:0", "1:2:3:4", "-5:-1", "nan", "inf", "1.5", "1_0", "+1", "0x10", "1k", "\u0664", "\uff11", "\x00"),
    *("\udcff", "\x1b[31m", "many", "1:10000000000", "1:5000000,6000000:11000000"),
]


@pytest.mark.parametrize("value", WRONG, ids=ascii)
@pytest.mark.parametrize(
    ("words", "option"),
    [
        (PREDICT, "--tp"),
        (PREDICT, "--batch"),
        (PREDICT, "--sm-clock-mhz"),
        (EXPLORE, "--tp"),
        (EXPLORE, "--batch"),
        (EXPLORE, "--threads"),
        (SERVE, "--tp"),
        (SERVE, "--max-num-seqs"),
        (SERVE, "--token-budget"),
        (SERVE, "--replicas"),
        (SERVE, "--threads"),
        (REPLAY, "--max-num-seqs"),
        (["search", "llama-3.1-8b", "--method", "native"], "--population"),
        (["collectives", "h100-sxm"], "--sizes"),
        (["routing", "qwen3-30b-a3b"], "--tokens"),
        (["advise", "sweet-spots", "llama-3.1-8b"], "--prompt-tokens"),
    ],
    ids=lambda part: part if isinstance(part, str) else part[0],
)
def test_what_is_no_count_is_refused(
    words: list[str], option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if value == "4294967296" and option in ("--sizes", "--tokens"):
        value = "-2,4"  # these go further
    assert main([*words, f"{option}={value}"]) == 2
    message = capsys.readouterr().err
    assert message.count("error: ") == 1
    name = option.removeprefix("--")
    assert name in message or name.replace("-", "_") in message
    assert "\x1b" not in message
    assert "\x00" not in message


@pytest.mark.parametrize(
    "value", ["nan", "inf", "-inf", "1e400", "1_0", "\u0664", "", "$2", "1k", "--", "half"], ids=ascii
)
@pytest.mark.parametrize(
    ("words", "option"),
    [
        *(
            (SERVE, f"--{name}")
            for name in ("rate", "kwh", "pue", "gpu-hour", "carbon", "server-w-per-gpu", "acceptance")
        ),
        (EXPLORE, "--epsilon"),
        (["advise", "batch", "llama-3.1-8b"], "--slowdown"),
        (["measure", "--out", "runs.parquet"], "--minutes"),
    ],
    ids=lambda part: part if isinstance(part, str) else part[0],
)
def test_what_is_no_finite_number_is_refused_with_its_option(
    words: list[str], option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, f"{option}={value}"]) == 2
    message = capsys.readouterr().err
    assert message.count("error: ") == 1
    assert option in message.partition("\n")[0]
    assert "hint: " in message


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("1k", "write 1000"),
        ("2Ki", "write 2048"),
        ("1e3", "write 1000"),
        ("1_000", "write 1000"),
        ("+4", "write 4"),
        ("2.0", "write 2"),
        ("0x10", "write 16"),
        ("\u0664", "write 4"),
        ("18446744073709551616", "write a number of at most 18 digits"),
        ("many", "write it as 8"),
    ],
    ids=ascii,
)
def test_the_hint_says_how_to_write_a_number(value: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PREDICT, "--batch", value, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["errors"][0]["hint"] == hint
    axis = {"write it as 8": "write values and ranges, as in 1,2,4 or 1:8 or 16:512:16"}.get(hint, hint)
    assert main([*EXPLORE, "--batch", f"4,{value}", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["errors"][0]["hint"] == axis


def test_money_is_read_without_its_sign(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SERVE, "--gpu-hour", "h100-sxm=$2"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(
        "error: cannot read `$2` of --gpu-hour h100-sxm as a number\nhint: write the number alone"
    )
    assert message.endswith(": 2\n")


def test_all_wrong_axes_are_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*EXPLORE, "--tp", "x,1:0", "--batch", "1k", "--sm-clock-mhz", "fast", "--slo", "tpot"]) == 2
    message = capsys.readouterr().err
    assert message.count("error: ") == 5
    for name in ("`x` as values of `tp`", "`1:0`", "`1k`", "`fast`", "`tpot`"):
        assert name in message


def test_a_value_that_begins_with_a_dash_needs_an_equals_sign(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "x", "--model", "--x"]) == 2
    assert capsys.readouterr().err == (
        "error: `--model` needs a value\nhint: write --model=VALUE for one that begins with a dash; see --help\n"
    )


@pytest.mark.parametrize(
    "words", [["calibrate", "x" * 5000], ["calibrate", "a\x00b"], ["calibrate", "\udcff"]], ids=["long", "nul", "bytes"]
)
def test_words_that_no_path_can_have_name_no_file(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: unknown command `")
    assert len(message) < 500


def test_values_and_ranges() -> None:
    assert numbers("1,2,4", "tp") == [1, 2, 4]
    assert numbers("1:4", "tp") == [1, 2, 3, 4]
    assert numbers("16:50:16, 7", "tp") == [16, 32, 48, 7]
    assert len(numbers(f"1:{MOST_VALUES}", "batch")) == MOST_VALUES
    assert (whole(" 12 "), real("2"), real(".5e1"), real("-3.25")) == (12, 2.0, 5.0, -3.25)
    assert (meant("50%", False), meant("50%", True), meant("x", False)) == ("write 0.5", None, None)
