"""The same serving configurations with energylens, AIConfigurator, GenZ and llm-analysis: how many a second.

`python benchmarks/peers.py --venvs DIR` installs each peer into a virtual environment of its own under DIR (2 GB in
all, used again by later runs) and measures it there, by running this file with that environment's Python. Only
evaluation is timed, not imports, tables or the compiling of a mapping. A peer that fails is a row that says why.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

Point = tuple[int, int, int, int, int]  # tensor and pipeline parallelism, batch, prompt tokens, output tokens
Calls = dict[str, Callable[[Point], object]]
Row = dict[str, Any]

DRAWN, SAMPLE, TARGET = 2_000_000, 2_000, 1_000
GENZ_FILES = Path("/tmp/genz")

# Layers, width, heads, KV heads, feed-forward width, vocabulary, experts, active experts; heads are 128 wide.
SIZES = {
    "llama-3.1-70b": (80, 8192, 64, 8, 28672, 128256, 1, 1),
    "qwen3-235b-a22b": (94, 4096, 64, 4, 1536, 151936, 128, 8),
}
CHECKPOINTS = {"llama-3.1-70b": "meta-llama/Meta-Llama-3.1-70B", "qwen3-235b-a22b": "Qwen/Qwen3-235B-A22B"}

HEADER = "tool: call | model | decode steps | collectives | experts | energy | memory"
CONTENTS = """
energylens: explore, evaluate, core | its own spec | 1, mean context | derived, all | mean number hit | by phase | yes, and if it fits
aiconfigurator: engine run_static | its checkpoint | every 32nd | measured, all | power law | no | no
aiconfigurator: engine, 1 decode step | its checkpoint | 1, first | measured, all | power law | no | no
aiconfigurator: SDK run_static | its checkpoint | every 32nd | measured, all | power law | not on H100 | yes, and if it fits
genz: *_moddeling | from sizes | 1, last | formula, all | active ones | no | weights, KV; if it fits
genz: get_summary_table | from sizes | 1, last | formula, all | active ones | no | weights, KV
llm-analysis: inference | from sizes, no gate | 1, last | tensor parallel | active ones | no | yes, and if it fits
"""  # noqa: E501
NOTE = f"""
Points: H100 GPUs, 16-bit formats, tp 2 to 8, pp 1 or 2, batch up to 256, prompts up to 8,192 and outputs up to 2,048
tokens, drawn at random from those that fit according to energylens; peers get the first {SAMPLE:,} of them, fewer where
time is short. Times are of the fastest pass. Ratios are the rate of energylens `core`, on all threads and on one, over
that of the row; peers use one thread. `core` takes arrays and gives 14 result columns, `evaluate` also reads and builds
frames; `explore` goes through a product of the same ranges, whose points share work, keeps the front, and counts those
that fit. AIConfigurator walks every 32nd decode step, the others one; its row with one decode step compares equal work.
Every configuration contains the prefill of its batch, and:
"""


def fastest_pass(work: Callable[[], object], seconds: float) -> float:
    """Return the shortest wall time of at least three calls that together last at least `seconds`."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def aiconfigurator(model: str) -> Calls:
    """AIConfigurator: its compiled engine, and the Python method below its command line."""
    sdk = "aiconfigurator_core.sdk."
    name, system, backend = CHECKPOINTS[model], "h100_sxm", "trtllm"
    engine, config, models = (import_module(sdk + part) for part in ("engine", "config", "models"))
    build = import_module(sdk + "config_builders").build_model_config
    database = import_module(sdk + "perf_database").get_database(system, backend, "current")
    served = import_module(sdk + "backends.factory").get_backend(backend)

    @functools.cache
    def compiled(tp: int, pp: int) -> Any:
        return engine.EngineHandle.compile(name, system, backend, tp_size=tp, pp_size=pp, moe_tp_size=tp)

    @functools.cache
    def built(tp: int, pp: int) -> Any:
        return models.get_model(name, build(tp, pp, 1, tp, 1), backend)

    def static(point: Point, stride: int = 32) -> object:
        tp, pp, batch, prompt, output = point
        return compiled(tp, pp).run_static(batch_size=batch, isl=prompt, osl=output, stride=stride)

    def summary(point: Point) -> object:
        tp, pp, batch, prompt, output = point
        request = config.RuntimeConfig(batch_size=batch, isl=prompt, osl=output)
        return served.run_static(built(tp, pp), database, request, "static")

    single_step: Callable[[Point], object] = lambda point: static(point, stride=point[4])  # noqa: E731
    return {"engine run_static": static, "engine, 1 decode step": single_step, "SDK run_static": summary}


def genz(model: str) -> Calls:
    """GenZ: its two documented functions, and their part that makes the tables of latencies."""
    module = import_module("GenZ")
    layers, width, heads, kv, inner, vocabulary, experts, active = SIZES[model]
    attention = {"num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": 128, "hidden_size": width}
    feed_forward = {"intermediate_size": inner, "num_ffi": 2, "num_experts": experts, "expert_top_k": active}
    sizes = {**attention, **feed_forward, "num_decoder_layers": layers, "vocab_size": vocabulary}
    spec = module.ModelConfig(model=model, **sizes)
    system = module.get_inference_system(system_name="H100_GPU", bits="bf16")

    def documented(point: Point) -> object:
        tp, pp, batch, prompt, output = point
        keywords = {
            "model": spec,
            "system_name": "H100_GPU",
            "bits": "bf16",
            "batch_size": batch,
            "input_tokens": prompt,
        }
        mesh = {"tensor_parallel": tp, "pipeline_parallel": pp}
        first = module.prefill_moddeling(**keywords, **mesh)
        return first, module.decode_moddeling(**keywords, **mesh, output_tokens=output, Bb=1)

    def tables(point: Point) -> object:
        tp, pp, batch, prompt, output = point
        keywords = {"name": spec, "input_sequence_length": prompt, "tensor_parallel": tp, "pipeline_parallel": pp}
        prefill = module.create_full_prefill_model(**keywords)
        decode = module.create_full_decode_model(**keywords, output_gen_tokens=output)
        rows = {"batch_size": max(batch // pp, 1), "intermediate_on_chip": True}
        return [module.get_summary_table(module.get_model_df(part, system, **rows)) for part in (prefill, decode)]

    return {"*_moddeling": documented, "get_summary_table": tables}


def llm_analysis(model: str) -> Calls:
    """llm-analysis: its documented method."""
    analysis, config = import_module("llm_analysis.analysis"), import_module("llm_analysis.config")
    layers, width, heads, kv, inner, vocabulary, experts, active = SIZES[model]
    attention = {"n_head": heads, "num_key_value_heads": kv, "hidden_dim": width, "num_layers": layers}
    feed_forward = {"ffn_embed_dim": inner, "expansion_ratio": inner / width}
    routed = {"moe_num_experts": experts, "moe_top_k": active}
    spec = config.ModelConfig(name=model, vocab_size=vocabulary, **attention, **feed_forward, **routed)
    gpu, dtype = config.get_gpu_config_by_name("h100-sxm-80gb"), config.get_dtype_config_by_name("w16a16e16")

    @functools.cache
    def built(tp: int, pp: int) -> Any:
        return analysis.LLMAnalysis(spec, gpu, dtype, config.ParallelismConfig(tp_size=tp, pp_size=pp))

    def summary(point: Point) -> object:
        tp, pp, batch, prompt, output = point
        return built(tp, pp).inference(batch_size_per_gpu=batch, seq_len=prompt, num_tokens_to_generate=output)

    return {"inference": summary}


PEERS: dict[str, tuple[str, Callable[[str], Calls]]] = {
    "aiconfigurator": ("aiconfigurator-core==0.12.0", aiconfigurator),
    "genz": ("genz-llm==0.0.16", genz),
    "llm-analysis": ("llm-analysis==0.2.2", llm_analysis),
}


def measure_call(call: Callable[[Point], object], points: list[Point], seconds: float) -> Row:
    """Time a call over the points it accepts, found in an untimed pass that starts with one point of each mapping."""
    for first in {point[:2]: point for point in points}.values():
        with contextlib.suppress(Exception):
            call(first)
    accepted, why, started = [], "no points", time.perf_counter()
    for tried, point in enumerate(points):
        if tried >= 20 and time.perf_counter() - started > seconds:
            break
        try:
            call(point)
            accepted.append(point)
        except Exception as error:
            why = last_line(f"{type(error).__name__}: {error}")
    if not accepted:
        return {"why_not": why}
    time_s = fastest_pass(lambda: [call(point) for point in accepted], seconds)
    return {"configurations": len(accepted), "seconds": time_s}


def measure_peer(peer: str) -> None:
    """Read a model and points from standard input, measure the peer installed here, print JSON as the last line."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    task = json.load(sys.stdin)
    points: list[Point] = [tuple(point) for point in task["points"]]
    theirs = GENZ_FILES.exists()
    try:
        calls = PEERS[peer][1](task["model"])
        results = {name: measure_call(call, points, task["seconds"]) for name, call in calls.items()}
    finally:
        if peer == "genz" and not theirs:  # it leaves a file behind for every configuration
            shutil.rmtree(GENZ_FILES, ignore_errors=True)
    print("\n" + json.dumps(results))


def last_line(text: str) -> str:
    """Return the last line that says something, shortened."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no message"])[-1][:80]


def run(command: list[str], **more: Any) -> str:
    """Return what a command prints; raise `RuntimeError` with its last line of complaint if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if done.returncode:
        raise RuntimeError(last_line(done.stderr))
    return str(done.stdout)


def installed(peer: str, venvs: Path) -> str:
    """Return the Python of a peer's environment, which is made if it is not there."""
    folder = venvs / PEERS[peer][0]
    python, ready = str(folder / "bin" / "python"), folder / "ready"
    if not ready.exists():
        print(f"installing into {folder}", file=sys.stderr)
        run([sys.executable, "-m", "venv", str(folder)])
        run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PEERS[peer][0]])
        ready.touch()
    return python


def peer_rows(peer: str, model: str, points: list[Point], seconds: float, venvs: Path) -> list[Row]:
    """Measure a peer in a separate environment; a failure is a row."""
    head = {"model": model, "tool": peer, "version": PEERS[peer][0].split("==")[1], "threads": 1}
    task = json.dumps({"model": model, "points": points, "seconds": seconds})
    try:
        command = [installed(peer, venvs), __file__, "--measure", peer]
        results = json.loads(run(command, input=task, timeout=300 + 60 * seconds).splitlines()[-1])
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        return [{**head, "call": "none", "why_not": last_line(str(error))}]
    return [{**head, "call": name, **times} for name, times in results.items()]


def measure_energylens(model: str, seconds: float) -> tuple[list[Row], list[Point]]:
    """Measure `evaluate` on random points that fit, the core below it, and `explore`; return some of the points too."""
    import numpy as np
    import polars as pl

    import energylens
    from energylens import _core
    from energylens.engine.evaluate import default_threads
    from energylens.engine.result_columns import RESULTS
    from energylens.inputs import run_options
    from energylens.inputs.crossing import PointColumns
    from energylens.inputs.library import load_gpu, load_model
    from energylens.inputs.plan import Plan

    draw = np.random.default_rng(0)
    mesh = {"tp": draw.choice([2, 4, 8], DRAWN), "pp": draw.choice([1, 2], DRAWN)}
    most = {"batch": 256, "prompt_tokens": 8192, "output_tokens": 2048}
    sizes = {name: draw.integers(2, top + 1, DRAWN) for name, top in most.items()}
    frame = pl.DataFrame({"model": model, "gpu": "h100-sxm", **mesh, **sizes})
    frame = frame.filter(energylens.evaluate(frame)["feasible"])

    core: Any = Plan([load_model(model)], [load_gpu("h100-sxm")]).core
    zeros, ones = np.zeros(frame.height, np.uint32), np.ones(frame.height, np.uint32)
    columns: dict[str, Any] = dict.fromkeys(("run_option", "model", "gpu", "weight_dtype", "kv_dtype"), zeros)
    columns |= {name: frame[name].to_numpy().astype(np.uint32) for name in mesh} | dict.fromkeys(("dp", "ep"), ones)
    columns |= {name: frame[name].to_numpy().astype(float) for name in most}
    points = PointColumns(dtypes=[None], run_options=[run_options.for_core({})], **columns)
    axes: dict[str, Any] = {"tp": [2, 4, 8], "pp": [1, 2], "batch": list(range(1, 257))}
    axes |= {"prompt_tokens": list(range(64, 8193, 64)), "output_tokens": list(range(64, 2049, 64))}
    space = energylens.Space(models=model, gpus="h100-sxm", **axes)
    calls: dict[str, tuple[int, Callable[[int], object]]] = {
        "evaluate": (frame.height, lambda threads: energylens.evaluate(frame, threads=threads)),
        "core": (frame.height, lambda threads: core.evaluate(points, RESULTS, threads)),
        "explore": (energylens.explore(space).feasible, lambda threads: energylens.explore(space, threads=threads)),
    }
    rows: list[Row] = []
    for name, (count, call) in calls.items():
        for threads in dict.fromkeys([default_threads(), 1]):
            call(threads)
            time_s = fastest_pass(functools.partial(call, threads), seconds)
            row = {"model": model, "tool": "energylens", "version": _core.__version__, "threads": threads, "call": name}
            rows.append({**row, "configurations": count, "seconds": time_s})
    return rows, frame.head(SAMPLE).drop("model", "gpu").rows()


def compare(model: str, seconds: float, venvs: Path) -> list[Row]:
    """Measure every tool on one model and add rates and ratios."""
    rows, points = measure_energylens(model, seconds)
    for peer in PEERS:
        rows += peer_rows(peer, model, points, seconds, venvs)
    measured = [row for row in rows if "seconds" in row]
    for row in measured:
        row["per_second"] = row["configurations"] / row["seconds"]
    ours = [row["per_second"] for row in measured if row["call"] == "core"]
    for row in measured:
        row["ratio"], row["ratio_one_thread"] = ours[0] / row["per_second"], ours[-1] / row["per_second"]
    return rows


def report(rows: list[Row]) -> str:
    """Return the table, what a configuration contains, and a line about the target for each model."""
    from energylens.common.format import number, si, table

    lines, targets = [], []
    for row in rows:
        head = [row["model"], f"{row['tool']} {row['version']}", row["call"], row["threads"]]
        if "why_not" in row:
            lines.append([*head, *[None] * 5, row["why_not"]])
            continue
        both = [f"{number(row['ratio'])}x", f"{number(row['ratio_one_thread'])}x"]
        shown = [None, None] if row["tool"] == "energylens" else both
        rate = f"{number(row['per_second'])}/s"
        lines.append([*head, f"{row['configurations']:,}", si(row["seconds"], "s"), rate, *shown, ""])
        if row["call"] == "engine run_static":
            verdict = f"target {TARGET:,}x {'reached' if row['ratio'] >= TARGET else 'missed'}"
            our_rows = [r for r in rows if r["model"] == row["model"] and r["tool"] == "energylens"]
            others = [
                f"{call} {number(max(r['per_second'] for r in our_rows if r['call'] == call) / row['per_second'])}x"
                for call in ("evaluate", "explore")
            ]
            ratios = f"core {both[0]} ({verdict}), {both[1]} on one thread; {', '.join(others)}"
            targets.append(f"{row['model']}: energylens / AIConfigurator engine = {ratios}")
    header = ["model", "tool", "call", "threads", "configurations", "time", "rate", "ratio", "ratio, 1 thread", ""]
    contents = table(HEADER.split(" | "), [line.split(" | ") for line in CONTENTS.strip().splitlines()])
    return "\n".join([table(header, lines), NOTE, contents, "", *targets])


def main() -> None:
    """Measure everything and print tables or JSON."""
    parser = argparse.ArgumentParser(description="Configurations a second of energylens and its peers.")
    parser.add_argument("--venvs", type=Path, default=Path(tempfile.gettempdir()) / "energylens-peers", metavar="DIR")
    parser.add_argument("--seconds", type=float, default=2.0, help="measure each call for at least this long (2)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--measure", choices=list(PEERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_peer(options.measure)
        return
    cpus = f"{os.cpu_count()} CPUs ({platform.processor() or os.uname().machine})"
    machine = f"{cpus}, load {os.getloadavg()[0]:.1f} before, Python {platform.python_version()}"
    rows = [row for model in SIZES for row in compare(model, options.seconds, options.venvs)]
    print(json.dumps({"machine": machine, "rows": rows}, indent=1) if options.json else f"{machine}\n\n{report(rows)}")


if __name__ == "__main__":
    main()
