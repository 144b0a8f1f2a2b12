"""Messages that speak of options: wrong values, engines that cannot be split, options that nothing uses."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from energylens.cli import main
from energylens.cli.explore import _EVOLVED
from energylens.inputs.bundled import bundled
from energylens.inputs.library import load_gpu
from energylens.searches import search

LOAD = ["llama-3.1-8b", "--workload", "100:100"]


def failed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", [["replay", *LOAD], ["advise", "batch", *LOAD], ["advise", "levers", *LOAD]])
def test_an_engine_that_does_not_divide_a_rank_says_which(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    message = failed([*command, "--tp", "3"], capsys)
    assert message.startswith("error: tp 3 does not divide rank g of extent 8\n --> ")
    assert "hint: with the rest unchanged, use tp 1, 2, 4, 8" in message
    assert message == failed(["predict", "llama-3.1-8b", "--tp", "3"], capsys)


def test_lengths_of_an_engine_that_cannot_run_say_why(capsys: pytest.CaptureFixture[str]) -> None:
    message = failed(["advise", "sweet-spots", "llama-3.1-8b", "--tp", "3"], capsys)
    assert message.startswith("error: tp 3 does not divide rank g of extent 8\n")
    message = failed(["replay", *LOAD, "--sm-clock-mhz", "3000"], capsys)
    assert message == "error: an SM clock of 3000 MHz\nhint: h100-sxm can be locked to 510 to 1980 MHz\n"


ENGINE = [
    ("--max-num-seqs=-1", "`--max-num-seqs` {} numbers from 1 to 1,000,000, found `-1`"),
    ("--token-budget=0", "`--token-budget` {} numbers from 1 to 10,000,000, found `0`"),
    ("--draft-tokens=99", "`--draft-tokens` {} numbers from 0 to 64, found `99`"),
    ("--replicas=0", "`--replicas` {} numbers from 1 to 10,000, found `0`"),
]


@pytest.mark.parametrize(("option", "fault"), ENGINE)
def test_values_of_an_engine_are_refused_by_option(option: str, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = failed(["replay", *LOAD, option], capsys)
    assert message.startswith(f"error: {fault.format('takes')}\nhint: {option.split('=')[0]}: ")
    assert "row 1" not in message
    assert "column" not in message
    message = failed(["serve-plan", *LOAD, option], capsys)
    assert message.startswith(f"error: {fault.format('needs whole')}\nhint: {option.split('=')[0]}: ")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (
            ["predict", "llama-3.1-8b", "--batch=-1"],
            "`--batch` should be a whole number from 1 to 4,294,967,295, found -1",
        ),
        (
            ["predict", "llama-3.1-8b", "--sm-clock-mhz=-1"],
            "`--sm-clock-mhz` should be a whole number from 1 to 10,000 or own, found -1",
        ),
        (
            ["explore", "llama-3.1-8b", "--batch=-1"],
            "`--batch` needs whole numbers from 1 to 4,294,967,295, found `-1`",
        ),
        (["explore", "llama-3.1-8b", "--epsilon=-1"], "`--epsilon` should be above 0 and at most 1, found -1"),
        (["advise", "sweet-spots", "llama-3.1-8b", "--tp=-1"], "`--tp` takes whole numbers from 1 to 1,024, found -1"),
        (
            ["search", "llama-3.1-8b", "--seed=-1"],
            "`--seed` should be a whole number from 0 to 4,294,967,295, found -1",
        ),
        (["replay", *LOAD, "--acceptance", "2"], "`--acceptance` takes numbers from 0 to 1, found `2`"),
        (["serve-plan", *LOAD, "--gpu-hour", "-1"], "`--gpu-hour` is 0 or more, found -1"),
        (["serve-plan", *LOAD, "--gpu-hour", "h100-sxm=-2.5"], "`--gpu-hour` is 0 or more, found -2.5"),
        (["serve-plan", *LOAD, "--kwh=-1"], "`--kwh` is 0 or more, found -1"),
        (["serve-plan", *LOAD, "--pue", "0.5"], "`--pue` is 1 or more, found 0.5"),
        (["serve-plan", *LOAD, "--server-w-per-gpu=-1"], "`--server-w-per-gpu` is 0 or more, found -1"),
        (["serve-plan", *LOAD, "--carbon=-5"], "`--carbon` is 0 or more, found -5"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_values_are_named_by_their_option(
    words: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = failed(words, capsys)
    assert message.startswith(f"error: {fault}\nhint: ")


@pytest.mark.parametrize(
    ("option", "text", "hint"),
    [
        ("--gpu-hour", "2,50", "write 2.5"),
        ("--gpu-hour", "1,000", "write 1000"),
        ("--gpu-hour", "h100-sxm=2,50", "write h100-sxm=2.50, with a decimal point"),
        ("--gpu-hour", "h100-sxm=2,5,b200=4", "write h100-sxm=2.5,b200=4, with a decimal point"),
        ("--gpu-hour", "2,50,3", "give one price for all, or name each GPU: h100-sxm=2.5,b200=4"),
        ("--carbon", "0,4", "write 0.4, with a decimal point, or 24, one for each hour of the day"),
        ("--carbon", "1,2,3", "give one number, or 24, one for each hour of the day"),
        ("--pue", "1,2", "write 1.2"),
        ("--kwh", "0,25", "write 0.25"),
    ],
)
def test_decimal_commas_are_named(option: str, text: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = failed(["serve-plan", *LOAD, option, text], capsys)
    assert f"{option}" in message
    assert message.endswith(f"\nhint: {hint}\n")


def test_all_wrong_costs_are_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["--gpu-hour", "2,50", "--carbon", "0,4", "--pue", "0.5", "--kwh", "-1"]
    message = failed(["serve-plan", *LOAD, *wrong], capsys)
    for option in ("--gpu-hour", "`--carbon` has 2 values", "`--pue` is 1 or more, found 0.5", "`--kwh` is 0 or more"):
        assert option in message
    assert message.count("error: ") == 4


def test_faults_of_files_keep_their_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("input_tokens,output_tokens\n5,x\n", encoding="utf-8")
    message = failed(["replay", "llama-3.1-8b", "--workload", str(path)], capsys)
    assert message.startswith(
        f"error: column `output_tokens` should hold numbers of tokens, found `x`\n --> {path}: row 1"
    )


SEARCH = ["search", "llama-3.1-8b", "--tp", "1", "--batch", "8"]


@pytest.mark.parametrize("method", ["auto", "exhaustive"])
def test_options_that_every_point_leaves_unused_are_noted(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain = [*SEARCH, "--method", method]
    assert main(plain) == 0
    told = capsys.readouterr()
    assert "note: " not in told.err
    assert main([*plain, "--population", "20", "--generations", "5", "--seed", "7"]) == 0
    noted = capsys.readouterr()
    assert [line for line in noted.out.splitlines() if "/s), 1 run" not in line] == [
        line for line in told.out.splitlines() if "/s), 1 run" not in line
    ]
    assert "note: --population, --generations, --seed are not used: " in noted.err


def test_a_checkpoint_that_is_not_used_is_noted_and_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "state"
    assert main([*SEARCH, "--checkpoint", str(path), "--patience", "3"]) == 0
    message = capsys.readouterr().err
    assert "note: --patience, --checkpoint are not used: every point is evaluated (1 are few enough)" in message
    assert not path.exists()
    assert main([*SEARCH, "--method", "native", "--seed", "7", "--generations", "2"]) == 0
    assert "note: " not in capsys.readouterr().err


def test_the_defaults_of_a_search_are_those_of_the_library() -> None:
    parameters = inspect.signature(search).parameters
    assert {name: parameters[name].default for name in _EVOLVED} == _EVOLVED


def test_advice_is_headed_by_the_names_of_specs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile, model = tmp_path / "some file.yaml", tmp_path / "other file.yaml"
    texts = {profile: ("l40s", bundled("hardware")), model: ("llama-3.1-8b", bundled("models"))}
    for path, (name, files) in texts.items():
        text = files[name].read_text(encoding="utf-8")
        path.write_text(text.replace(f"name: {name}", f"name: my-{name}"), encoding="utf-8")
    assert load_gpu(profile).spec.name == "my-l40s"
    for words in (["sweet-spots"], ["batch", "--workload", "100:100"]):
        assert main(["advise", *words, str(model), "--gpu", str(profile)]) == 0
        text = capsys.readouterr().out
        assert "my-llama" in text
        assert "file.yaml" not in text
    assert main(["advise", "sweet-spots", str(model), "--gpu", str(profile)]) == 0
    assert "my-llama-3.1-8b on my-l40s, tp 1, batch 1" in capsys.readouterr().out
