"""Rows of AIConfigurator's silicon sample (Apache-2.0): what they say, which are usable, and as energylens points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from closed_loop import Column, Load

import energylens
from energylens.inputs.gpu import GpuSpec
from energylens.inputs.library import load_gpu
from energylens.inputs.plan import LoadedGpu

GPUS = {"h100_sxm": "h100-sxm", "h200_sxm": "h200-sxm", "b200_sxm": "b200", "gb200": "gb200"}
"""GPUs with a profile of ours; `b300_sxm` and `gb300` enter here once they have one."""

MODELS = {
    "deepseek-ai/DeepSeek-R1": "deepseek-v3",
    "deepseek-ai/DeepSeek-V3": "deepseek-v3",
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-v3",
    "nvidia/DeepSeek-V3.1-NVFP4": "deepseek-v3",
    "MiniMaxAI/MiniMax-M2.5": "minimax-m2.5",
    "openai/gpt-oss-120b": "gpt-oss-120b",
    "meta-llama/Llama-3.1-70B": "llama-3.1-70b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "llama-3.1-8b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "nvidia/Qwen3-32B-NVFP4": "qwen3-32b",
    "Qwen/Qwen3-235B-A22B-FP8": "qwen3-235b-a22b",
}
MOE = ("deepseek-v3", "minimax-m2.5", "gpt-oss-120b", "qwen3-235b-a22b")
ROOM = 0.95
"""Share of the memory that frameworks use; 0.95 fits rows outside the validation better than 0.92, and as 0.97 does."""
CHUNK_TOKENS = 8192
"""Prompt tokens of a step."""
MEAN_LENGTH = 0.9
"""Mean of request lengths over their nominal, drawn from 0.8 to 1 of it by the InferenceX benchmark."""
HARNESSES = ("inferencex", "powers", "thousands")
"""Who measured: InferenceX, or AIC's authors with prompts of powers of two, or of thousands of tokens."""
MEASURED = ("silicon_ttft_ms", "silicon_tpot_ms")
POOL = ("tp", "pp", "dp", "moe_tp", "ep")
_WEIGHTS = {"fp8_block": "fp8_block", "fp8": "fp8", "nvfp4": "nvfp4"}


LATER = "vllm-later"
IDLE_UP_TO = 12
"""Last minor version of vLLM whose block-wise FP8 experts work on those without tokens: rows of the fit say so."""


def read(path: Path) -> pl.DataFrame:
    """Return every row with `concurrency`, the mesh of the decoding engine and of the prefilling one, and formats."""
    rows = pl.read_csv(path, infer_schema_length=10_000)
    summary = pl.col("silicon_data_source").str.extract(r"silicon_concurrency=([\d.]+)").cast(pl.Float64)
    apart = pl.col("mode") == "disagg"
    names = {"tp": "tp_size", "pp": "pp_size", "dp": "attention_dp_size", "moe_tp": "moe_tp_size", "ep": "moe_ep_size"}

    def mesh(pool: str) -> list[pl.Expr]:
        return [
            pl.when(apart).then(pl.col(f"{pool}_{column}")).otherwise(pl.col(column)).fill_null(1).clip(1)
            .alias(f"{pool}_{name}") for name, column in names.items()
        ]  # fmt: skip

    counted = pl.when(apart).then(
        pl.col("decode_batch_size") * pl.col("decode_attention_dp_size").clip(1) * pl.col("decode_num_workers")
    ).otherwise(pl.col("batch_size") * pl.col("attention_dp_size").fill_null(1).clip(1))  # fmt: skip
    return rows.with_columns(
        pl.coalesce(summary, counted).alias("concurrency"),
        counted.alias("_counted"),
        pl.col("model_path").replace_strict(MODELS, default=None).alias("model"),
        pl.col("system").replace_strict(GPUS, default=None).alias("gpu"),
        pl.when(~pl.col("silicon_data_source").str.contains("gap-analysis|gtl_task"))
        .then(pl.lit("inferencex"))
        .when(pl.col("isl") % 1000 == 0)
        .then(pl.lit("thousands"))
        .otherwise(pl.lit("powers"))
        .alias("harness"),
        *mesh("prefill"),
        *mesh("decode"),
    ).with_columns(_formats())


def _formats() -> list[pl.Expr]:
    """Weight and KV formats: those of the row, or the checkpoint's own; KV in FP8 where weights are 8 or 4 bits.

    (MiniMax-M2.5 on Hopper keeps 16 bits. The sample says nothing of KV formats.)
    """
    group = pl.col("model").is_in(["gpt-oss-120b"]) | (
        pl.col("model").is_in(["deepseek-v3", "minimax-m2.5"]) & (pl.col("precision") == "fp8")
    )
    summary = pl.col("gemm_quant_mode").replace_strict(_WEIGHTS, default=None)
    plain = pl.when(pl.col("model_path") == "Qwen/Qwen3-235B-A22B-FP8").then(pl.lit("fp8_block")).otherwise(summary)
    fp8 = pl.col("precision").is_in(["fp8", "fp4"]) & ((pl.col("model") != "minimax-m2.5") | pl.col("gpu").eq("b200"))
    return [
        pl.when(group).then(None).otherwise(plain).alias("weight_dtype"),
        pl.when(fp8.fill_null(False)).then(pl.lit("fp8")).alias("kv_dtype"),
    ]


def _counted_twice(pool: str) -> pl.Expr:
    """A mesh of k^2 GPUs that the sample made of k: `tp = moe_tp * ep` with both k, or `tp = dp` with `ep = k^2`."""
    tp, dp, moe_tp, ep = (pl.col(f"{pool}_{name}") for name in ("tp", "dp", "moe_tp", "ep"))
    square = (moe_tp == ep) & (ep > 1) & (tp * dp == ep * ep) & (pl.col("mode") == "agg")
    return square | ((tp == dp) & (tp > 1) & (ep == tp * dp))


def _not_one_mesh(pool: str) -> pl.Expr:
    """Routed experts on a number of GPUs other than attention's."""
    tp, dp, moe_tp, ep = (pl.col(f"{pool}_{name}") for name in ("tp", "dp", "moe_tp", "ep"))
    return pl.col("model").is_in(MOE) & (tp * dp != moe_tp * ep)


def label(rows: pl.DataFrame) -> pl.DataFrame:
    """Add `why_not`: the first reason a row is not usable, null for the others."""
    nodes = pl.col("gpu").str.contains("gb") | (pl.col("decode_tp") * pl.col("decode_dp") <= 64)
    same = pl.struct("model", "system", "backend", "precision", "isl", "osl", "concurrency", *MEASURED)
    reasons = {
        "no model spec": pl.col("model").is_null(),
        "no GPU profile": pl.col("gpu").is_null(),
        "disaggregated, worker counts missing": (pl.col("mode") == "disagg") & pl.col("prefill_num_workers").is_null(),
        "batch missing": pl.col("concurrency").is_null() | (pl.col("concurrency") < 1),
        "GPUs counted twice": _counted_twice("decode") | _counted_twice("prefill"),
        "experts and attention on different GPU counts": _not_one_mesh("decode") | _not_one_mesh("prefill"),
        "batch is not the concurrency": (pl.col("concurrency") - pl.col("_counted")).abs() > 0.5,
        "experts across more GPUs than a node": ~nodes,
        "the same measurement listed before": ~same.is_first_distinct(),
    }
    why = pl.coalesce(pl.when(test.fill_null(False)).then(pl.lit(text)) for text, test in reasons.items())
    return rows.with_columns(why.alias("why_not"))


def suspects(rows: pl.DataFrame) -> pl.DataFrame:
    """Say in `why_not` which whole groups were measured in a way the sample does not tell, of rows usable so far.

    The groups were found on rows outside the validation, and are named here by what the sample says before measuring.
    """
    version, model, backend = pl.col("backend_version").fill_null(""), pl.col("model"), pl.col("backend")
    drafted = (model == "deepseek-v3") & (backend == "trtllm") & version.is_in(["1.2.0rc6.post3", "1.1.0rc2.post2"])
    capped = (model == "gpt-oss-120b") & (backend == "vllm") & (pl.col("concurrency") >= 512)
    split = (model == "llama-3.1-8b") & (backend == "vllm")
    compiled = (model == "deepseek-v3") & (backend == "sglang") & (version == "") & (pl.col("precision") == "fp4")
    groups = {
        "speculative decoding (TPOT half that of other versions)": drafted,
        "admission capped far below the concurrency": capped,
        "concurrency shared by replicas": split,
        "kernels compiled while measured (TTFT of 7 s at any load)": compiled,
        "AIConfigurator's own end-to-end tasks, replicas unknown": pl.col("silicon_data_source").str.contains(
            "gtl_task"
        ),
    }
    why = pl.coalesce("why_not", *(pl.when(test.fill_null(False)).then(pl.lit(text)) for text, test in groups.items()))
    return rows.with_columns(why.alias("why_not"))


def quantities(rows: pl.DataFrame) -> pl.DataFrame:
    """Add what energylens says of the engine: seconds of a decode step and a prefill, fixed parts, and KV slots."""
    summary = rows
    mean = pl.when(pl.col("harness") == "inferencex").then(MEAN_LENGTH).otherwise(1.0)
    rows = rows.with_columns((pl.col("isl", "osl") * mean).round().clip(1).cast(pl.Int64))
    # Compared as (major, minor): all rows but those of vLLM up to 0.12, which works on experts without tokens.
    version = pl.col("backend_version").str.extract(r"^0\.(\d+)\.").cast(pl.Int64)
    later = pl.when(version > IDLE_UP_TO).then(pl.lit("@" + LATER)).otherwise(pl.lit(""))
    under = pl.concat_str("gpu", pl.when(pl.col("backend") != "vllm").then("@" + pl.col("backend")).otherwise(later))
    rows = rows.with_columns(under.alias("profile"))
    names = rows["profile"].unique().sort().to_list()
    whole, bare = _profiles(names, 1.0), _profiles(names, 1e-9)
    capacity = {loaded.spec.name: loaded.spec.memory.capacity_bytes for loaded in whole}
    workers = pl.col("decode_num_workers").fill_null(1)
    ranks = pl.col("decode_dp")
    entry = _evaluated(rows, whole, "decode", ranks, pl.col("isl"), pl.lit(1))["memory_bytes_per_gpu"]
    more = _evaluated(rows, whole, "decode", ranks, pl.col("isl"), pl.col("isl") + 1)["memory_bytes_per_gpu"]
    rows = rows.with_columns(entry.alias("_one"), ((more - entry) / rows["isl"]).alias("_kv_token"))
    room = ROOM * pl.col("profile").replace_strict(capacity) - pl.col("_one") + pl.col("_kv_token") * pl.col("isl")
    tokens = pl.col("isl") + pl.col("osl") / 2
    slots = (room / (pl.col("_kv_token") * tokens)).floor().clip(1) * ranks * workers
    rows = rows.with_columns(slots.alias("slots"))
    inside = (pl.min_horizontal("concurrency", "slots") / workers).ceil().clip(ranks).fill_null(1).cast(pl.Int64)
    result = {}
    for name, profiles in {"": whole, "_bare": bare}.items():
        result["decode" + name] = _evaluated(rows, profiles, "decode", inside, pl.col("isl"), pl.col("osl"))["tpot_s"]
        prefill = _evaluated(rows, profiles, "prefill", pl.col("prefill_dp"), pl.col("isl"), pl.lit(1))
        result["prefill" + name] = prefill["ttft_s"]
    together = (CHUNK_TOKENS // pl.col("isl")).clip(1)
    full = _evaluated(rows, bare, "prefill", pl.col("prefill_dp") * together, pl.col("isl"), pl.lit(1))["ttft_s"]
    return summary.with_columns(
        rows["slots"],
        rows["isl"].alias("prompt_tokens"),
        rows["osl"].alias("output_tokens"),
        (full / rows.select(together).to_series()).alias("chunk_s"),
        result["decode"].alias("decode_s"),
        (result["decode"] - result["decode_bare"]).alias("decode_fixed_s"),
        result["prefill"].alias("prefill_s"),
        (result["prefill"] - result["prefill_bare"]).alias("prefill_fixed_s"),
    )


def _profiles(names: list[str], fixed: float) -> list[LoadedGpu]:
    """Return profiles under each framework, fixed times scaled, and kernels alone: no host, no serving layer.

    What serving adds is fitted here, for each framework on its own rows.
    """
    result = []
    for name in names:
        gpu, _, framework = name.partition("@")
        data = _scaled(load_gpu(gpu if framework == LATER else name).spec, fixed)
        if framework == LATER:
            data["name"] = name
            for entry in data["kernels"]["grouped_gemm"].values():
                entry.pop("idle_experts", None)
        result.append(LoadedGpu(GpuSpec.model_validate(data)))
    return result


def _scaled(spec: GpuSpec, fixed: float) -> dict[str, Any]:
    data = spec.model_dump(exclude_none=True)
    data["host"] = {"host_s": 0.0, "source": "none"}
    kernels = data["kernels"]
    sets = [kernels["elementwise"]]
    for kind in ("gemm", "grouped_gemm", "attention_prefill", "attention_decode"):
        sets += kernels[kind].values()
    for entry in sets:
        entry["t0_s"] *= fixed
        if "tiles" in entry:
            entry["tiles"] = [list(tile) for tile in entry["tiles"]]
    return data


def _evaluated(
    rows: pl.DataFrame, gpus: list[LoadedGpu], pool: str, batch: pl.Expr, prompt: pl.Expr, output: pl.Expr
) -> pl.DataFrame:
    """Return energylens' results for the decoding or the prefilling engine of every row, in order."""
    ep = pl.when(pl.col("model").is_in(MOE)).then(f"{pool}_ep").otherwise(1)
    mesh = {"tp": pl.col(f"{pool}_tp"), "pp": pl.col(f"{pool}_pp"), "dp": pl.col(f"{pool}_dp"), "ep": ep}
    sizes = {"batch": batch, "prompt_tokens": prompt, "output_tokens": output}
    points = rows.select("model", pl.col("profile").alias("gpu"), "weight_dtype", "kv_dtype", **mesh, **sizes)
    return energylens.evaluate(points, gpus=gpus, threads=1)


def loads(rows: pl.DataFrame) -> Load:
    """Return the closed loop of every row."""

    def column(expression: pl.Expr) -> Column:
        return rows.select(expression.cast(pl.Float64)).to_series().to_numpy()

    return Load(
        concurrency=column(pl.col("concurrency")),
        slots=column(pl.col("slots")),
        output_tokens=column(pl.col("output_tokens")),
        decode_s=column(pl.col("decode_s")),
        decode_fixed_s=column(pl.col("decode_fixed_s")),
        prefill_s=column(pl.col("prefill_s")),
        prefill_fixed_s=column(pl.col("prefill_fixed_s")),
        chunk_s=column(pl.col("chunk_s")),
        prefill_lanes=column(pl.col("prefill_dp") * pl.col("prefill_num_workers").fill_null(1)),
        chunks=column((pl.col("prompt_tokens") / CHUNK_TOKENS).ceil()),
        apart=(rows["mode"] == "disagg").to_numpy(),
    )
