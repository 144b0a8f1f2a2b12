"""Starts of servers hold only arguments that the servers know, with the values the point asks for.

`tests/data/servers` has the arguments of each server as its own parser (of TensorRT-LLM: its source) has them; where a
server is installed, its parser is asked itself.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import energylens
from energylens.common.errors import EnergylensError
from energylens.exports import SERVERS, Launch, export
from energylens.results.point import read_point

DATA = Path(__file__).parent.parent / "data" / "servers"
KNOWN = {name: json.loads((DATA / f"{name}.json").read_text(encoding="utf-8")) for name in SERVERS}

POINTS = [
    "llama-3.1-8b; gpu=h100-sxm; batch=64",
    "llama-3.1-70b; gpu=h100-sxm; tp=4; pp=2; batch=64; weight_dtype=fp8; kv_dtype=fp8",
    "llama-3.1-70b; gpu=h100-sxm; tp=8; batch=64; weight_dtype=fp8_block; sequence_parallel=on; overlap_stages=4;"
    " overlap_sms=16",
    "llama-3.1-70b; gpu=h100-sxm; tp=8; batch=64; fused_norm=on",
    "llama-3.1-70b; gpu=h100-sxm; tp=4; cp=2; batch=64; prompt_tokens=16384",
    "llama-3.1-8b; gpu=h100-sxm; batch=64; chunked=off; prefix_cache=off; draft_tokens=3",
    "llama-3.1-70b; gpu=h100-sxm; tp=8; batch=16; draft_tokens=4; draft=llama-3.1-8b; power_cap_w=500; replicas=3",
    "qwen3-235b-a22b; gpu=b200; dp=8; ep=8; batch=256; kv_dtype=fp8; sm_clock_mhz=1500; placement=replicated:16",
    "qwen3-235b-a22b; gpu=b200; dp=8; ep=8; batch=256; overlap_stages=2; overlap_sms=16; routing=zipf:0.5",
    "qwen3-30b-a3b; gpu=h200-sxm; tp=4; ep=4; batch=128; max_num_seqs=64; token_budget=4096",
    "gpt-oss-120b; gpu=h100-sxm; tp=2; ep=2; batch=32; weight_dtype=mxfp4",
]


def flags(words: list[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for at, word in enumerate(words):
        if word.startswith("--"):
            assert word not in found, word
            after = words[at + 1] if at + 1 < len(words) else "--"
            found[word] = None if after.startswith("--") else after
    return found


def check(words: list[str], known: dict[str, Any]) -> None:
    for flag, value in flags(words).items():
        assert flag in known, flag
        assert (value is not None) == bool(known[flag]), f"{flag} {value}"
        if isinstance(known[flag], list):
            assert value in known[flag], f"{flag} {value}"


def start(point: str, to: str) -> Launch:
    return export(point, to)


@pytest.mark.parametrize("to", SERVERS)
@pytest.mark.parametrize("point", POINTS)
def test_servers_know_every_argument(point: str, to: str) -> None:
    found = start(point, to)
    for words in map(list, found.commands):
        check(words, KNOWN[to]["frontend" if words[1:3] == ["-m", "dynamo.frontend"] else "flags"])
        for flag, value in flags(words).items():
            if value is not None and value.startswith("{"):
                allowed = KNOWN["vllm"]["json"][flag]
                assert set(json.loads(value)) <= set(allowed), value
    if to == "trtllm":
        from ruamel.yaml import YAML

        options = YAML(typ="safe").load(*found.files.values())
        assert set(options) <= set(KNOWN[to]["options"])
        for name, part in options.items():
            if isinstance(part, dict) and name in KNOWN[to]["parts"]:
                assert set(part) <= set(KNOWN[to]["parts"][name]), name


@pytest.mark.parametrize("to", SERVERS)
@pytest.mark.parametrize("point", POINTS)
def test_scripts_are_scripts(point: str, to: str, tmp_path: Path) -> None:
    script = start(point, to).script
    done = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    # Run with the servers and nvidia-smi put aside, it gives each command as `commands` has it.
    for name in ("vllm", "sglang", "trtllm-serve", "python3", "sudo"):
        stub = tmp_path / name
        stub.write_text(f'#!/bin/sh\nprintf "%s\\n" "{name}" "$@" > "$0.$$"\nsleep 0.2\n', encoding="utf-8")
        stub.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["sh", "-c", script], check=True, cwd=tmp_path, env={**os.environ, "PATH": path}, timeout=20)
    wanted = [list(words) for words in start(point, to).commands]
    for _ in range(100):  # a frontend runs beside the last command
        ran = [file.read_text(encoding="utf-8").splitlines() for file in tmp_path.glob("*.[0-9]*")]
        if all(words in ran for words in wanted):
            return
        time.sleep(0.05)
    pytest.fail(f"{wanted} not in {ran}")


def test_sizes_are_counted_as_each_server_counts() -> None:
    point = "qwen3-235b-a22b; gpu=b200; dp=8; ep=8; batch=256; prompt_tokens=512; output_tokens=128"
    vllm, sglang, trtllm = (flags(list(export(point, to).commands[-1])) for to in ("vllm", "sglang", "trtllm"))
    assert vllm["--max-num-seqs"] == trtllm["--max_batch_size"] == "32"  # of one data-parallel rank
    assert sglang["--max-running-requests"] == "256"  # of all
    assert vllm["--max-num-batched-tokens"] == trtllm["--max_num_tokens"] == "8192"
    assert sglang["--chunked-prefill-size"] == str(8 * 8192)
    assert vllm["--max-model-len"] == sglang["--context-length"] == trtllm["--max_seq_len"] == "640"
    assert (vllm["--data-parallel-size"], sglang["--attn-dp-size"], sglang["--tp-size"]) == ("8", "8", "8")
    assert "--enable-expert-parallel" in vllm
    assert sglang["--ep-size"] == trtllm["--ep_size"] == trtllm["--tp_size"] == "8"


def test_clocks_and_caps_are_set_first() -> None:
    locked = export("llama-3.1-8b; gpu=h100-sxm; batch=64; sm_clock_mhz=1200; power_cap_w=500").script.splitlines()
    at = locked.index("sudo nvidia-smi --lock-gpu-clocks=1200,1200")
    assert locked[at + 1] == "sudo nvidia-smi --power-limit=500"
    assert locked[at + 2].startswith("exec vllm serve meta-llama/Llama-3.1-8B")


def test_deployments_of_a_service_plan(tmp_path: Path) -> None:
    axes: dict[str, Any] = {"gpus": "h100-sxm", "tp": 1, "max_num_seqs": 48, "token_budget": 4096, "replicas": 2}
    plan = energylens.serve_plan("llama-3.1-8b", "1024:128", rate_per_s=10.0, **axes)
    found = export(plan.write(tmp_path / "plan.parquet"))
    told = flags(list(found.commands[0]))
    assert told == {"--max-num-seqs": "48", "--max-num-batched-tokens": "4096"}
    assert found.as_dict()["engines"] == 2
    assert "start 2 of these engines" in found.script


def test_weights_of_an_unknown_source_are_requested_for(tmp_path: Path) -> None:
    text = energylens.inputs.bundled.bundled("models")["llama-3.1-8b"].read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("source:")]
    (tmp_path / "m.yaml").write_text("\n".join(lines), encoding="utf-8")
    point = f"{tmp_path}/m.yaml; gpu=h100-sxm"
    assert "in place of `llama-3.1-8b`" in export(point).script
    named = export(point, model="/models/my llama")
    assert shlex.quote("/models/my llama") in named.script
    assert "in place of" not in named.script


@pytest.mark.parametrize(
    ("point", "to", "message"),
    [
        ("qwen3-235b-a22b; gpu=h200-sxm; tp=8; ep=4", "vllm", "vLLM cannot run ep 4 on 8 GPUs"),
        ("qwen3-30b-a3b; gpu=h200-sxm; dp=2; tp=2; ep=4; batch=4", "trtllm", "dp 2 and tp 2 together"),
        ("llama-3.1-8b; gpu=h100-sxm; kv_dtype=int8", "sglang", "KV cache in int8"),
        (
            "qwen3-30b-a3b; gpu=h200-sxm; dp=2; ep=2; batch=4; draft_tokens=2",
            "sglang",
            "speculation with attention data",
        ),
        ("llama-3.1-8b; gpu=h100-sxm", "tgi", "no server `tgi`"),
    ],
)
def test_what_a_server_cannot_run_is_reported(point: str, to: str, message: str) -> None:
    with pytest.raises(EnergylensError, match=message) as raised:
        export(point, to)
    assert raised.value.problems[0].hint


@pytest.mark.parametrize("point", POINTS)
def test_vllm_s_custom_parser(point: str) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed: its arguments are those recorded")
    os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
    cli_args = importlib.import_module("vllm.entrypoints.common.cli_args")
    argparse = importlib.import_module("vllm.utils.argparse_utils")
    parser = cli_args.make_arg_parser(argparse.FlexibleArgumentParser(prog="vllm serve"))
    parser.allow_abbrev = False
    args = parser.parse_args(list(export(point).commands[0][2:]))
    cli_args.validate_parsed_serve_args(args)


@pytest.mark.parametrize("point", POINTS)
def test_sglang_s_custom_parser(point: str) -> None:
    pytest.importorskip("sglang", reason="SGLang is not installed: its arguments are those recorded")
    import argparse

    server_args = importlib.import_module("sglang.srt.server_args").ServerArgs
    parser = argparse.ArgumentParser(allow_abbrev=False)
    server_args.add_cli_args(parser)
    server_args.from_cli_args(parser.parse_args(list(export(point, "sglang").commands[0][2:])))


def test_deployments_count_steps_of_the_whole_engine(tmp_path: Path) -> None:
    axes: dict[str, Any] = {"gpus": "h100-sxm", "tp": 1, "dp": 4, "ep": 4, "max_num_seqs": 64, "token_budget": 8192}
    plan = energylens.serve_plan("qwen3-30b-a3b", "1024:128", rate_per_s=5.0, **axes)
    path = plan.write(tmp_path / "plan.parquet")
    vllm, sglang = (flags(list(export(path, to).commands[-1])) for to in ("vllm", "sglang"))
    assert (vllm["--max-num-seqs"], vllm["--max-num-batched-tokens"]) == ("16", "2048")
    assert (sglang["--max-running-requests"], sglang["--chunked-prefill-size"]) == ("64", "8192")


def test_replicas_of_a_configuration_have_its_gpus_each() -> None:
    told = export("gpt-oss-120b; gpu=b200; tp=2; ep=2; batch=3; replicas=3").as_dict()
    assert (told["engines"], told["gpus_per_engine"]) == (3, 2)


def test_engines_beyond_a_node_say_so() -> None:
    assert "spans 2 nodes" in export("llama-3.1-405b; gpu=h100-sxm; tp=8; pp=2").script
    assert "nodes" not in export("llama-3.1-70b; gpu=h100-sxm; tp=8").script


def test_names_from_a_file_stay_within_their_comment() -> None:
    point = read_point("llama-3.1-8b; gpu=h100-sxm")
    evil = replace(point, row=point.row | {"gpu": "h100-sxm\necho owned >&2\n#"}, plan=None)
    lines = export(evil, model="m").script.splitlines()
    assert not [line for line in lines if line.startswith("echo")]
