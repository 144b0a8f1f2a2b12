"""Cases by kind of input: each maker turns a source of random numbers into one `Case`, plain JSON."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import polars as pl

from energylens.inputs.library import bundled
from fuzz import grammar, mutate

Case = dict[str, Any]
Maker = Callable[[random.Random], Case]

TRACE = "arrival_s,prompt_tokens,output_tokens\n0,100,5\n0.5,2000,7\n1.25,512,3\n2,64,9\n"
BLOCKS = "".join(
    json.dumps({"timestamp": 1000 * i, "input_length": 1000 + 37 * i, "output_length": 3, "hash_ids": [0, 1, i + 2]})
    + "\n"
    for i in range(6)
)
COUNTS = "expert,tokens\n" + "".join(f"{i},{10 + i}\n" for i in range(128))
PROFILE = """\
name: fuzz-gpu
source: data sheet
memory: {capacity_bytes: 48e9, bandwidth_bytes_per_s: 960e9, technology: GDDR6}
compute: {sms: 96, peak_flops: {bf16: 200e12, fp8: 400e12, vector: 60e12}}
power: {tdp_w: 300}
link: {kind: pcie4, bandwidth_bytes_per_s: 32e9, gpus_per_node: 4}
"""
WORKLOAD = """\
name: fuzz-load
source: numbers of a test
kinds: [[420, 18, 0.7], [520, 35, 0.3]]
rate_per_s: 2
rates: [[0.6, 0.5], [1.4, 0.5]]
prefix: {block_tokens: 16, found: [[1e5, 0.1], [1e6, 0.3]]}
"""
JOB = """\
name: fuzz-job
space:
  models: llama-3.1-8b
  gpus: [h100-sxm]
  tp: [1, 2]
  batch: "1:16"
  limits: ["tpot<=50ms"]
keep:
  top: 3
  best_per: [tp]
shards: 4
"""
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_hidden_layers": 28,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}
POINT = "model: llama-3.1-8b\ngpu: h100-sxm\ntp: 2\nbatch: 16\n"
PREDICT = ["predict", "llama-3.1-8b", "--batch", "4", "--json"]

_DTYPES = ("Int64", "Float64", "String", "UInt32", "Int8", "Boolean", "Date", "Float32", "Null")
_COLUMNS = (
    *("model", "gpu", "tp", "pp", "dp", "ep", "cp", "batch", "prompt_tokens", "output_tokens", "weight_dtype"),
    *("kv_dtype", "overlap_stages", "overlap_sms", "overlap_where", "sequence_parallel", "fused_norm"),
    *("sm_clock_mhz", "power_cap_w", "routing", "placement", "unknown"),
)
_VALUES = (
    *(1, 2, 3, 4, 8, 16, 64, 1000, 0, -1, 1024, 4096, 2**31, 2**32, 2**63 - 1, 0.5, 1e9, 1e300, float("nan")),
    *(float("inf"), None, True, "llama-3.1-8b", "LLAMA-3.1-8B", "qwen3-30b-a3b", "h100-sxm", "b200@sglang", "fp8"),
    *("nvfp4", "prefill", "both", "uniform", "zipf:0.8", "balanced", "replicated:8", "contiguous", "1", "", "own"),
)


def file(content: str | bytes) -> str | dict[str, str]:
    """Return a file's content as plain JSON."""
    return content if isinstance(content, str) else {"base64": base64.b64encode(content).decode()}


def command(argv: list[str], **files: str | bytes) -> Case:
    """Return the case of a command with the files it reads; `__` in a name stands for a dot."""
    return {"argv": argv, "files": {name.replace("__", "."): file(content) for name, content in files.items()}}


@cache
def _bundled(kind: Any) -> list[str]:
    small = sorted(bundled(kind).values(), key=lambda path: path.stat().st_size)
    return [path.read_text(encoding="utf-8") for path in small[:6]]


def model_file(source: random.Random) -> Case:
    changed = mutate.text(source, source.choice(_bundled("models")))
    argv = source.choice(
        (["predict", "m.yaml", "--json"], ["show", "m.yaml", "--explain"], ["show", "m.yaml", "--json"])
    )
    return command([*argv, "--json"], m__yaml=changed)


def gpu_file(source: random.Random) -> Case:
    original = PROFILE if source.random() < 0.6 else source.choice(_bundled("hardware"))
    argv = [*PREDICT, "--gpu", "g.yaml", *source.choice(([], ["--tp", "2"], ["--power-cap-w", "200"]))]
    return command(argv, g__yaml=mutate.text(source, original))


def workload_file(source: random.Random) -> Case:
    original = WORKLOAD if source.random() < 0.6 else source.choice(_bundled("workloads"))
    argv = ["replay", "llama-3.1-8b", "--workload", "w.yaml", "--requests", "30", "--rate", "2", "--json"]
    return command(argv, w__yaml=mutate.text(source, original))


def trace_file(source: random.Random) -> Case:
    ending = source.choice(("csv", "jsonl", "parquet"))
    content: str | bytes
    if ending == "parquet":
        buffer = io.BytesIO()
        pl.read_csv(io.StringIO(TRACE)).write_parquet(buffer)
        content = mutate.data(source, buffer.getvalue())
    else:
        content = mutate.text(source, TRACE if ending == "csv" else BLOCKS)
    argv = ["replay", "llama-3.1-8b", "--workload", f"t.{ending}", "--requests", "20", "--json"]
    return command(argv, **{f"t__{ending}": content})


def job_file(source: random.Random) -> Case:
    return command(["sweep", "j.yaml", "--out", "out", "--json"], j__yaml=mutate.text(source, JOB))


def hf_config(source: random.Random) -> Case:
    content = mutate.text(source, json.dumps(CONFIG, indent=1))
    return command(["import-hf", "config.json", "--name", "x"], config__json=content)


def counts_file(source: random.Random) -> Case:
    argv = ["routing", "qwen3-30b-a3b", "--ep", "4", "--routing", "counts:counts.csv", "--json"]
    return command(argv, counts__csv=mutate.text(source, COUNTS))


def point_file(source: random.Random) -> Case:
    argv = source.choice((["export", "p.yaml"], ["compare", "p.yaml", "llama-3.1-8b; gpu=b200; batch=16", "--json"]))
    return command(list(argv), p__yaml=mutate.text(source, POINT))


def result_file(source: random.Random) -> Case:
    """A front's file with bytes changed, or with a column or its metadata changed."""
    original = results()[source.choice(("front", "service"))]
    argv = source.choice((["report", "f.parquet"], ["export", "f.parquet"], ["compare", "f.parquet", "f.parquet#2"]))
    if source.random() < 0.5:
        return command(list(argv), f__parquet=mutate.data(source, original))
    frame, metadata = pl.read_parquet(io.BytesIO(original)), pl.read_parquet_metadata(io.BytesIO(original))
    kept = {name: value for name, value in metadata.items() if name.startswith("energylens.")}
    name = source.choice(frame.columns)
    match source.randrange(5):
        case 0:
            frame = frame.drop(name)
        case 1:
            frame = frame.with_columns(pl.col(name).cast(pl.String).alias(name))
        case 2:
            frame = frame.with_columns(pl.lit(None, dtype=frame.schema[name]).alias(name))
        case 3:
            frame = frame.with_columns(pl.lit(source.choice((float("nan"), 1e300, -1.0, 0.0))).alias(name))
        case _:
            key = source.choice(sorted(kept))
            kept[key] = mutate.text(source, kept[key])
    buffer = io.BytesIO()
    frame.write_parquet(buffer, metadata=kept)
    return command(list(argv), f__parquet=buffer.getvalue())


def sweep_folder(source: random.Random) -> Case:
    """A finished sweep with one of its files changed."""
    files = dict(results_of_sweep())
    name = source.choice(sorted(files))
    content = files[name]
    if name.endswith(".json"):
        files[name] = mutate.text(source, content.decode()).encode("utf-8", "surrogatepass")
    else:
        files[name] = mutate.data(source, content)
    argv = source.choice(
        (["status", "out", "--json"], ["merge", "out", "--json"], ["sweep", "out/manifest.json", "--out", "out"])
    )
    return {"argv": list(argv), "files": {f"out/{name}": file(content) for name, content in files.items()}}


def checkpoint(source: random.Random) -> Case:
    arrays = {"a": np.arange(4, dtype=np.uint64), "belongs": np.array('{"format": 1}')}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    argv = ["search", "llama-3.1-8b", "--method", "native", "--batch", "1:64", "--generations", "2"]
    argv += ["--checkpoint", "c.npz"]
    return command(argv, c__npz=mutate.data(source, buffer.getvalue()))


def command_line(source: random.Random) -> Case:
    """A command's example with options added and values changed."""
    form = source.choice(grammar.commands())
    argv = list(form.example)
    small = {"--batch": "1,2", "--requests": "20", "--generations": "2", "--tp": "1,2", "--workload": "256:32"}
    for flag, value in small.items():
        if flag in form.options and flag not in argv:
            argv += [flag, value]
    for _ in range(source.choice((1, 1, 2, 3))):
        flag = source.choice([*form.options, "--json", "--unknown"])
        kind, default = form.options.get(flag, ("text", ""))
        value = source.choice((mutate.hostile(source), mutate.hostile(source), default or "1"))
        if kind == "switch":
            argv.append(flag)
        elif source.random() < 0.5:
            argv.append(f"{flag}={value}")
        else:
            argv += [flag, value]
    if source.random() < 0.3:
        argv[source.randrange(1, len(argv))] = mutate.hostile(source)
    return command(argv, counts__csv=COUNTS, x__yaml=PROFILE)


def frame(source: random.Random) -> Case:
    """Columns of points for `evaluate`, most of them right."""
    height = source.choice((0, 1, 1, 2, 3))
    columns: dict[str, list[Any]] = {"model": ["String", ["llama-3.1-8b"] * height]}
    columns["gpu"] = ["String", ["h100-sxm"] * height]
    for name in source.sample(_COLUMNS, source.randrange(0, 6)):
        values: list[Any] = [source.choice(_VALUES) for _ in range(height)]
        if source.random() < 0.5:
            values = [source.choice((1, 2, 4, 8, 64, None)) for _ in range(height)]
        columns[name] = [source.choice(_DTYPES), values]
    return {"columns": columns}


def plan_text(source: random.Random) -> Case:
    return {"plan": mutate.text(source, plans())}


def native_replay(source: random.Random) -> Case:
    """Arguments of the native replay, most of them right."""
    count = source.choice((1, 3, 10))
    arguments: dict[str, Any] = {
        "arrival_s": [0.1 * i for i in range(count)],
        "prompts": [source.choice((1, 64, 5000)) for _ in range(count)],
        "outputs": [source.choice((1, 10, 100)) for _ in range(count)],
        "blocks": list(range(2 * count)),
        "starts": [2 * i for i in range(count + 1)],
    }
    engine: dict[str, Any] = {"most_running": 4, "token_budget": 512, "cache_tokens": 1e5, "chunked": True}
    engine |= {"reads": True, "block_tokens": 16, "prefix_hit_share": 0.0, "lanes": 1, "idle_w": 50.0, "warm_s": 0.0}
    name = source.choice((*arguments, *engine))
    hostile: Any = source.choice((0, -1, 1, 2**31, 2**32, 2**63, 1e300, -1e300, None, "x", [], True, 0.5, 2**20))
    if name in engine:
        engine[name] = hostile
    elif source.random() < 0.5 and arguments[name]:
        arguments[name][source.randrange(len(arguments[name]))] = hostile
    else:
        arguments[name] = source.choice(([], arguments[name][:-1], arguments[name] * 2))
    return {"arguments": arguments, "engine": engine}


@cache
def results() -> dict[str, bytes]:
    """Return the files of a small front and of a small service plan."""
    from energylens import explore, serve_plan
    from energylens.common.parquet_file import parquet_bytes

    front = explore(models="llama-3.1-8b", gpus=["h100-sxm"], tp=[1, 2], batch=[1, 16, 64])
    plan = serve_plan("llama-3.1-8b", "512:64", rate_per_s=2.0, gpus=["h100-sxm"], tp=[1])
    files = {
        "front": (front.frame, front.plan_sha256, front.note),
        "service": (plan.frame, plan.plan_sha256, plan.note),
    }
    return {name: parquet_bytes(*parts) for name, parts in files.items()}


@cache
def results_of_sweep() -> dict[str, bytes]:
    """Return the files of a small finished sweep, by their path in its folder."""
    import tempfile
    from pathlib import Path

    from energylens.sweeps.merge import merge
    from energylens.sweeps.run import sweep

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "j.yaml").write_text(JOB, encoding="utf-8")
        sweep(str(folder / "j.yaml"), str(folder / "out"), threads=1)
        merge(str(folder / "out"), threads=1)
        files = (path for path in (folder / "out").rglob("*") if path.is_file())
        return {str(path.relative_to(folder / "out")): path.read_bytes() for path in files}


@cache
def plans() -> str:
    """Return the canonical text of a small plan."""
    from energylens.inputs.library import load_gpu, load_model
    from energylens.inputs.plan import Plan

    return Plan([load_model("qwen3-30b-a3b")], [load_gpu("h100-sxm")]).json


MAKERS: dict[str, Maker] = {
    "command": command_line,
    "model": model_file,
    "gpu": gpu_file,
    "workload": workload_file,
    "trace": trace_file,
    "job": job_file,
    "hf": hf_config,
    "counts": counts_file,
    "point": point_file,
    "result": result_file,
    "sweep": sweep_folder,
    "checkpoint": checkpoint,
    "frame": frame,
    "plan": plan_text,
    "replay": native_replay,
}
"""Makers of cases by the name of their target."""
