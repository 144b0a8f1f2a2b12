"""Every bundled workload and every public form of trace goes through every command that takes one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from energylens.cli.commands import run
from energylens.inputs.bundled import bundled
from energylens.reports.subject import read_subject

COUNT = 60
PROMPTS = [600 + 7 * (i % 9) + (900 if i % 3 else 0) for i in range(COUNT)]
OUTPUTS = [3 + i % 6 for i in range(COUNT)]
SECONDS = [round(0.61 * i + 0.013 * (i % 7), 3) for i in range(COUNT)]


def blocks_of(size: int) -> list[list[int]]:
    """Return blocks of prompts of which every third begins alike, the last block of each its own and part-filled."""
    ids = []
    for i, prompt in enumerate(PROMPTS):
        count = -(-prompt // size)
        shared = min(count - 1, 512 // size if size < 512 else 1)
        ids.append(
            [10_000 * (i % 3) + k for k in range(shared)] + [1_000_000 * (i + 1) + k for k in range(shared, count)]
        )
    return ids


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def table(path: Path, header: str, rows: Any) -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return path


def azure(folder: Path) -> Path:
    times = [f"2023-11-16 18:{15 + int(s) // 60:02d}:{int(s) % 60:02d}.{round(s % 1 * 1000):03d}0000" for s in SECONDS]
    rows = zip(times, PROMPTS, OUTPUTS, strict=True)
    return table(folder / "azure.csv", "TIMESTAMP,ContextTokens,GeneratedTokens", rows)


def mooncake(folder: Path) -> Path:
    rows = zip(SECONDS, PROMPTS, OUTPUTS, blocks_of(512), strict=True)
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    return lines(
        folder / "mooncake.jsonl", [dict(zip(names, (round(1000 * s), p, o, b), strict=True)) for s, p, o, b in rows]
    )


def bailian(folder: Path) -> Path:
    rows = enumerate(zip(SECONDS, PROMPTS, OUTPUTS, blocks_of(16), strict=True))
    return lines(
        folder / "bailian.jsonl",
        [
            {"chat_id": i, "parent_chat_id": -1, "timestamp": s, "input_length": p, "output_length": o, "type": "text",
             "turn": 1, "hash_ids": b}
            for i, (s, p, o, b) in rows
        ],
    )  # fmt: skip


def burstgpt(folder: Path) -> Path:
    rows = zip(SECONDS, PROMPTS, OUTPUTS, strict=True)
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    return table(folder / "burst.csv", header, [(s, "ChatGPT", p, o, p + o, "Conversation log") for s, p, o in rows])


def plain(folder: Path) -> Path:
    return table(
        folder / "plain.csv", "arrival_s,input_tokens,output_tokens", zip(SECONDS, PROMPTS, OUTPUTS, strict=True)
    )


def completions(folder: Path) -> Path:
    rows = zip(SECONDS, PROMPTS, OUTPUTS, strict=True)
    return table(folder / "logs.csv", "arrival_s,prompt_tokens,completion_tokens", rows)


def text_blocks(folder: Path) -> Path:
    rows = zip(SECONDS, PROMPTS, OUTPUTS, [";".join(map(str, b)) for b in blocks_of(512)], strict=True)
    return table(folder / "text.csv", "arrival_s,input_tokens,output_tokens,blocks", rows)


def single_block(folder: Path) -> Path:
    rows = [(s, 40, o, 5 * i) for i, (s, o) in enumerate(zip(SECONDS, OUTPUTS, strict=True))]
    return table(folder / "short.csv", "arrival_s,input_tokens,output_tokens,blocks", rows)


def parquet(folder: Path) -> Path:
    columns = {"timestamp_ms": [round(1000 * s) for s in SECONDS], "input_length": PROMPTS, "output_length": OUTPUTS}
    path = folder / "list.parquet"
    pl.DataFrame(columns | {"hash_ids": blocks_of(512)}).write_parquet(path)
    return path


def untimed(folder: Path) -> Path:
    return table(folder / "untimed.csv", "input_tokens,output_tokens", zip(PROMPTS, OUTPUTS, strict=True))


TRACES: list[Callable[[Path], Path]] = [
    azure, mooncake, bailian, burstgpt, plain, completions, text_blocks, single_block, parquet, untimed,
]  # fmt: skip
TIMED = {trace.__name__ for trace in TRACES} - {"untimed"}
LISTED = {"mooncake", "bailian", "text_blocks", "parquet"}

ENGINE = ["--gpu", "h100-sxm", "--tp", "1", "--token-budget", "8192"]
POOL = "gpus=h100-sxm; tp=1; token_budget=8192; replicas=1"


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.__name__)
def test_traces_go_through_every_command(trace: Callable[[Path], Path], tmp_path: Path, capsys: Any) -> None:
    rate = [] if trace.__name__ in TIMED else ["--rate", "1.6"]
    everything(str(trace(tmp_path)), rate, tmp_path, capsys)
    output = called(["replay", "llama-3.1-8b", "--workload", str(trace(tmp_path)), *rate, *ENGINE, "--json"], capsys)
    assert output["requests"] == COUNT
    assert output["span_s"] == pytest.approx(COUNT / 1.6, rel=0.35)
    assert (output["found_share"] > 0.1) == (trace.__name__ in LISTED)
    # Replicas that each have a share, a part of the trace, and several times it.
    for replicas, requests in ((3, COUNT), (8, 25), (2, 130)):
        more = ["--replicas", str(replicas), "--requests", str(requests)]
        argv = ["replay", "llama-3.1-8b", "--workload", str(trace(tmp_path)), *rate, *ENGINE, *more, "--json"]
        again = called(argv, capsys)
        assert again["requests"] == requests
        assert 0.0 <= again["found_share"] <= (1.0 if requests > COUNT else output["found_share"] + 0.1)


@pytest.mark.parametrize("name", bundled("workloads"))
def test_bundled_workloads_go_through_every_command(name: str, tmp_path: Path, capsys: Any) -> None:
    everything(name, ["--rate", "0.2"], tmp_path, capsys)


def everything(workload: str, rate: list[str], folder: Path, capsys: Any) -> None:
    """Run every command that takes a workload, and those that take what it wrote."""
    plan, pairs = folder / "plan.parquet", folder / "pairs.parquet"
    traffic = ["--workload", workload, *rate]
    output = called(
        ["serve-plan", "llama-3.1-8b", *traffic, *ENGINE, "--replicas", "1", "--out", str(plan), "--json"], capsys
    )
    assert output["front"][0]["replayed"]
    assert np.isfinite(output["front"][0]["energy_per_output_token_j"])
    sides = ["--prefill", POOL, "--decode", POOL]
    called(["serve-pools", "llama-3.1-8b", *traffic, *sides, "--out", str(pairs), "--json"], capsys)
    requests = ["--requests", "40"] if workload in bundled("workloads") else []
    called(["replay", "llama-3.1-8b", *traffic, *ENGINE, *requests, "--json"], capsys)
    called(["advise", "batch", "llama-3.1-8b", "--workload", workload, *ENGINE, "--json"], capsys)
    called(["advise", "levers", "llama-3.1-8b", *traffic, *ENGINE, "--json"], capsys)
    for argv in (["export", str(plan)], ["replay", "llama-3.1-8b", *traffic, *ENGINE, *requests]):
        assert run(argv) == 0, capsys.readouterr().err
        assert capsys.readouterr().out
    for path, kind in ((plan, "service"), (pairs, "pairs")):
        subject = read_subject(path)
        assert subject.kind == kind
        assert subject.frame.height


def called(argv: list[str], capsys: Any) -> dict[str, Any]:
    """Return what a command prints as JSON; it has to end well."""
    code = run(argv)
    printed = capsys.readouterr()
    assert code == 0, printed.err
    answer: dict[str, Any] = json.loads(printed.out)
    return answer
