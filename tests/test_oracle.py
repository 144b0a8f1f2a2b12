"""Hand-calculated checks of the oracle: numbers here come from counting, not from the oracle's formulas."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from oracle import predict
from oracle.collectives import Collective, Deriver, collective_energy, collective_time, send_recv
from oracle.equations import parse_model, reads_from_memory
from oracle.exchange import reach
from oracle.kernels import experts_hit, kernel_cost, merged_products, power_mean
from oracle.local import Env, Pass, mean_visible
from oracle.mesh import Mesh, infeasible_reason
from oracle.step import Setup, expand, kernel_and_collectives, layer_cache_bytes, layer_weight_bytes, run_stages

SPECS = Path(__file__).parents[1] / "python" / "energylens" / "specs" / "models"
PERFECT = {
    "t0_s": 0.0,
    "compute_efficiency": 1.0,
    "memory_efficiency": 1.0,
    "root_s_per_sqrt_byte": 0.0,
    "sharpness": 1,
}
TILED = {"tiles": [[16, 16, 1.0], [64, 32, 1.0]], "padding_rows": 0.0}
COEFFICIENTS = {"alpha_s": 1e-6, "root_s_per_sqrt_byte": 0.0, "bandwidth_bytes_per_s": 1e9}
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
GPU: dict[str, Any] = {
    "name": "g",
    "memory": {"capacity_bytes": 1e12, "bandwidth_bytes_per_s": 1e12, "reserve_bytes": 1000},
    "compute": {"sms": 10, "peak_flops": {"bf16": 1e13, "vector": 1e11}},
    "power": {"tdp_w": 1e9, "static_w": 100},
    "link": {"gpus_per_node": 8, "net_bandwidth_bytes_per_s": 1e8, "net_alpha_s": 1e-5, "sms_to_saturate": 5},
    "host": {"host_s": 0.5},
    "kernels": {
        "gemm": {"bf16": PERFECT | TILED},
        "grouped_gemm": {"bf16": PERFECT | TILED},
        "attention_prefill": {"bf16": PERFECT},
        "attention_decode": {"bf16": PERFECT},
        "elementwise": PERFECT,
    },
    "energy": {
        "flop_j": {"bf16": 1e-12, "fp8": 5e-13, "fp4": 2e-13, "vector": 1e-11},
        "on_chip_j_per_byte": 1e-12,
        "hbm_weight_j_per_byte": 1e-10,
        "hbm_kv_j_per_byte": 2e-10,
        "hbm_activation_j_per_byte": 3e-10,
        "link_j_per_byte": 1e-9,
    },
    "collectives": {
        kind: [{"name": "x", "max_bytes": None, "by_gpus": {str(n): COEFFICIENTS for n in (2, 4, 8)}}]
        for kind in COLLECTIVES
    },
}

RAW_MOE: dict[str, Any] = {
    "name": "moe",
    "ranks": {
        "d": {"extent": 64},
        "x": {"extent": 8, "active": 2, "routing": {"law": "uniform"}},
        "m": {"extent": 32},
        "v": {"extent": 128},
    },
    "blocks": [
        {"name": "in", "repeat": 1, "kernels": [{"name": "e", "equations": ["X[b,s,d] = embed(Tok[b,s], We[v,d])"]}]},
        {
            "name": "layer",
            "repeat": 4,
            "kernels": [
                {"name": "norm", "equations": ["N[b,s,d] = norm(X[b,s,d], Wn[d])"]},
                {"name": "router", "equations": ["R[b,s,x] = N[b,s,d] * Wr[d,x]"]},
                {"name": "gate", "equations": ["A[b,s,x] = topk(R[b,s,x])"]},
                {
                    "name": "experts",
                    "equations": [
                        "G[b,s,x,m] = N[b,s,d] * Wg[x,d,m]",
                        "U[b,s,x,m] = N[b,s,d] * Wu[x,d,m]",
                        "H[b,s,x,m] = silu(G[b,s,x,m]) * U[b,s,x,m]",
                        "D[b,s,x,d] = H[b,s,x,m] * Wd[x,m,d]",
                        "M[b,s,d] = A[b,s,x] * D[b,s,x,d]",
                    ],
                },
                {"name": "next", "equations": ["X[b,s,d] = add(X[b,s,d], M[b,s,d])"]},
            ],
        },
        {
            "name": "head",
            "repeat": 1,
            "kernels": [
                {"name": "last", "equations": ["Q[b,d] = last(X[b,s,d])"]},
                {"name": "lm", "equations": ["L[b,v] = Q[b,d] * Wh[d,v]"]},
                {"name": "sample", "equations": ["Next[b] = sample(L[b,v])"]},
            ],
        },
    ],
    "cache": [],
    "mask": {},
    "dtypes": {"weights": "bf16", "activations": "bf16", "cache": "bf16"},
    "shard": [["b", "dp"], ["v", "tp"], ["x", "ep"], ["m", "moe_tp"], ["repeat", "pp"]],
    "overlap": {},
    "tied": [],
}


def llama() -> dict[str, Any]:
    """Read the llama spec into the plan's form, without the package's reader."""
    raw = YAML(typ="safe").load((SPECS / "llama-3.1-70b.yaml").read_text(encoding="utf-8"))
    blocks = []
    for block in raw["blocks"]:
        kernels = []
        for name, equations in block["kernels"].items():
            kernels.append({"name": name, "equations": [equations] if isinstance(equations, str) else equations})
        blocks.append({"name": block["name"], "repeat": block.get("repeat", 1), "kernels": kernels})
    return {
        "name": "llama",
        "ranks": {rank: {"extent": extent} for rank, extent in raw["ranks"].items()},
        "blocks": blocks,
        "cache": raw["cache"],
        "mask": {"S": {"window": None}},
        "dtypes": raw["dtypes"],
        "shard": [list(entry) for entry in raw["shard"].items()],
    }


def env_of(raw: dict[str, Any], block: int, step: Pass, **sizes: int) -> Env:
    """Environment of one block of a model."""
    model = parse_model(raw)
    mesh = Mesh(**{"tp": 1, "pp": 1, "dp": 1, "ep": 1, **sizes})
    setup = Setup(model, GPU, mesh, 8192, 1, 1, 1)
    return setup.env(model.blocks[block], step)


def point(model: str, **fields: int | str | None) -> dict[str, Any]:
    """Make a point with small defaults."""
    base: dict[str, Any] = {"model": model, "gpu": "g", "tp": 1, "pp": 1, "dp": 1, "ep": 1, "batch": 4}
    base.update(prompt_tokens=32, output_tokens=8, weight_dtype=None, kv_dtype=None)
    return {**base, **fields}


def plan_of(raw: dict[str, Any]) -> dict[str, Any]:
    """Make a plan of one model on the test GPU."""
    return {"format": 1, "settings": {"max_batched_tokens": 8192}, "models": [raw], "gpus": [GPU]}


def test_gemm_flops_traffic_and_time() -> None:
    """lm_head of llama, 3 sequences: 2*3*8192*128256 FLOP; whole tiles of 64 x 32 run in waves on 10 SMs."""
    env = env_of(llama(), 2, Pass("decode", 3, 1, 100))
    cost = kernel_cost(env, env.block.kernels[1])
    assert cost.matrix_flops == {"bf16": 2 * 3 * 8192 * 128256}
    assert cost.weight_bytes == 2 * 8192 * 128256
    assert cost.activation_bytes == 2 * 3 * 8192 + 2 * 3 * 128256
    small = 2 * 16 * 16 * 8192 / 1e12 * min(math.ceil(8016 * k / 10) / k for k in (1, 2, 4, 8))
    assert cost.time == pytest.approx(small + (cost.weight_bytes + cost.activation_bytes) / 1e12, rel=1e-12)


def test_merged_projections_are_one_product() -> None:
    """q, k and v read N once and have 64 + 8 + 8 heads of 128 columns together."""
    env = env_of(llama(), 1, Pass("decode", 3, 1, 100))
    (merged,) = merged_products(env, env.block.kernels[0])
    assert merged.n_elements == 80 * 128
    assert merged.flops == 2 * 3 * 8192 * 80 * 128


def test_attention_counts() -> None:
    """Prefill of 10 tokens sees 55 pairs; scores and probabilities stay on chip; K and V are read once."""
    env = env_of(llama(), 1, Pass("prefill", 2, 10, 10))
    kernel = env.block.kernels[2]
    cost = kernel_cost(env, kernel)
    assert env.kernel_class(kernel) == "attention"
    assert cost.matrix_flops["bf16"] == pytest.approx(2 * 2 * (2 * 64 * 55 * 128))
    assert cost.vector_flops == pytest.approx(5 * 2 * 64 * 55)
    assert cost.on_chip_bytes == pytest.approx(2 * 2 * (2 * 2 * 64 * 55))
    assert cost.kv_bytes == 2 * (2 * 10 * 8 * 128 * 2)
    assert cost.activation_bytes == 2 * (2 * 10 * 64 * 128 * 2)


def test_window() -> None:
    """With a window of 4, 10 new tokens see 1+2+3+7*4 pairs; a decode step reads 4 tokens of the cache."""
    raw = {**llama(), "mask": {"S": {"window": 4}}}
    for step, pairs, tokens in ((Pass("prefill", 2, 10, 10), 34, 10), (Pass("decode", 2, 1, 10), 4, 4)):
        env = env_of(raw, 1, step)
        cost = kernel_cost(env, env.block.kernels[2])
        assert cost.matrix_flops["bf16"] == pytest.approx(2 * 2 * (2 * 64 * pairs * 128))
        assert cost.kv_bytes == pytest.approx(2 * (2 * tokens * 8 * 128 * 2))


def test_time_of_grouped_products() -> None:
    """One token meets exactly two experts with one row each: 2 x ceil(32/16) tiles for G and U, 2 x 4 for D, uncut."""
    experts = {"extent": 8, "active": 2, "routing": {"law": "balanced"}}
    raw = {**RAW_MOE, "ranks": {**RAW_MOE["ranks"], "x": experts}}
    env = env_of(raw, 1, Pass("decode", 1, 1, 9))
    kernel = env.block.kernels[3]
    cost = kernel_cost(env, kernel)
    tile = 2 * 16 * 16 / 1e12  # seconds an SM takes a unit of depth
    both = tile * 64 * math.ceil(2 * 4 / 10)  # 64 merged columns
    down = tile * 32 * math.ceil(2 * 4 / 10)
    traffic = (2 * 3 * 64 * 32 + 64 + 2 + 64) * 2 / 1e12
    assert cost.time == pytest.approx(both + down + cost.vector_flops / 1e11 + traffic, rel=1e-12)
    pool = env_of(raw, 1, Pass("decode", 96, 1, 9), dp=2, ep=2)  # 192 tokens, 48 rows an expert, all 4 local hit
    kernel_time = kernel_cost(pool, kernel)
    both = tile * 64 * math.ceil(4 * 3 * 4 / 10)
    down = tile * 32 * math.ceil(4 * 3 * 4 / 10)
    traffic = (4 * 3 * 64 * 32 + 96 * (64 + 2 + 64)) * 2 / 1e12
    assert kernel_time.time == pytest.approx(both + down + kernel_time.vector_flops / 1e11 + traffic, rel=1e-9)


def test_time_of_attention_in_prefill() -> None:
    """129 tokens padded to 192 see 31.5 more each; 2 row blocks of 64 heads on 10 SMs are 13 waves."""
    env = env_of(llama(), 1, Pass("prefill", 1, 129, 129))
    more = {"pad_rows": 64, "length_factor": 0.5, "wave_depth": 20.0, "head_dim_power": 0.5, "compute_efficiency": 0.5}
    gpu = {**GPU, "kernels": {**GPU["kernels"], "attention_prefill": {"bf16": {**PERFECT, **more}}}}
    cost = kernel_cost(replace(env, gpu=gpu), env.block.kernels[2])
    matrix = 2 * 2 * 64 * 192 * (65 + 31.5) * 128 / 5e12
    block = 10 * 2 * 2 * 128 * 128 / 5e12  # seconds of one visible token of 128 rows on each of 10 SMs
    traffic = 2 * 129 * (64 + 8 + 8 + 64) * 128 / 1e12
    assert cost.time == pytest.approx(matrix + block * (0.5 * 129 + 20 * 13) + traffic, rel=1e-12)


def test_sharpness_and_root() -> None:
    """P_p by hand; the root term and t0 of an elementwise kernel."""
    assert power_mean(3.0, 4.0, 2) == pytest.approx(5.0)
    assert power_mean(1e-30, 1e-30, 16) == pytest.approx(1e-30 * 2 ** (1 / 16))
    assert power_mean(0.0, 0.0, 4) == 0.0
    entry = {**PERFECT, "t0_s": 1.0, "root_s_per_sqrt_byte": 1e-3, "sharpness": 2, "memory_efficiency": 0.5}
    gpu = {**GPU, "kernels": {**GPU["kernels"], "elementwise": entry}}
    env = replace(env_of(RAW_MOE, 1, Pass("decode", 4, 1, 9)), gpu=gpu)
    traffic = 2 * (4 * 64 + 64 + 4 * 64)
    expected = 1.0 + math.hypot(4 * 4 * 64 / 1e11, traffic / 0.5e12 + 1e-3 * math.sqrt(traffic))
    assert kernel_cost(env, env.block.kernels[0]).time == pytest.approx(expected, rel=1e-12)


def test_embedding_and_last_token_traffic() -> None:
    """An embedding reads as many table elements as it makes, the last token is all that `last` reads."""
    step = Pass("prefill", 2, 10, 10)
    first, head = env_of(RAW_MOE, 0, step), env_of(RAW_MOE, 2, step)
    embedding = kernel_cost(first, first.block.kernels[0])
    assert (embedding.weight_bytes, embedding.activation_bytes) == (2 * 20 * 64, 2 * (20 + 20 * 64))
    assert embedding.vector_flops == 0
    assert kernel_cost(head, head.block.kernels[0]).activation_bytes == 2 * (2 * 64 + 2 * 64)
    sample = kernel_cost(head, head.block.kernels[2])
    assert (sample.activation_bytes, sample.vector_flops) == (2 * (2 * 128 + 2), 2 * 128)


def test_arithmetic_follows_the_weight_and_the_profile() -> None:
    """fp8_block weights run in fp8 where there is a peak for it, else in bf16; the embedding is named bf16."""
    gpu = {**GPU, "compute": {**GPU["compute"], "peak_flops": {"bf16": 1e13, "fp8": 2e13, "vector": 1e11}}}
    gpu["kernels"] = {**GPU["kernels"], "gemm": {"bf16": PERFECT | TILED, "fp8": PERFECT | TILED}}
    raw = llama()
    raw["dtypes"] = {**raw["dtypes"], "weights": "fp8_block"}
    env = env_of(raw, 1, Pass("decode", 3, 1, 100))
    flops = 2 * 3 * 8192 * 28672
    with_fp8 = kernel_cost(replace(env, gpu=gpu), env.block.kernels[7])
    assert with_fp8.matrix_flops == {"fp8": flops}
    assert with_fp8.weight_bytes == 8192 * 28672 * (1 + 4 / 16384)
    assert kernel_cost(env, env.block.kernels[7]).matrix_flops == {"bf16": flops}


def test_dense_equations_of_a_routed_rank() -> None:
    """What feeds topk is dense, over several steps; what follows it is routed."""
    raw = {**RAW_MOE, "blocks": [dict(block) for block in RAW_MOE["blocks"]]}
    layer = raw["blocks"][1]
    gate = ["R1[b,s,x] = sigmoid(R[b,s,x])", "R2[b,s,x] = add(R1[b,s,x], Bias[x])", "A[b,s,x] = topk(R2[b,s,x])"]
    scale = {"name": "scale", "equations": ["A[b,s,x] = scale(A[b,s,x])"]}
    layer["kernels"] = [*layer["kernels"][:2], {"name": "gate", "equations": gate}, scale, *layer["kernels"][3:]]
    routed = [[e.routed for e in kernel.equations] for kernel in parse_model(raw).blocks[1].kernels]
    assert routed == [[None], [None], [None] * 3, ["x"], ["x"] * 5, [None]]


def test_what_is_written() -> None:
    """A name another block uses for its own tensor stays on chip; what a later kernel or none reads is written."""
    block = ["Z[b,s,d] = silu(X[b,s,d])", "X[b,s,d] = silu(Z[b,s,d])", "V[b,s,d] = silu(X[b,s,d])"]
    two = ["Z[b,s,m] = silu(Y[b,s,m])"]
    kernels = [{"name": "make", "equations": two}, {"name": "use", "equations": ["Y[b,s,m] = silu(Z[b,s,m])"]}]
    first = {"name": "first", "repeat": 2, "kernels": [{"name": "k", "equations": block}]}
    raw = {**RAW_MOE, "blocks": [first, {"name": "two", "repeat": 1, "kernels": kernels}]}
    step = Pass("decode", 1, 1, 9)
    cost = kernel_cost(env_of(raw, 0, step), env_of(raw, 0, step).block.kernels[0])
    assert (cost.activation_bytes, cost.on_chip_bytes) == (2 * 3 * 64, 2 * 2 * 64)  # X, X, V; Z
    cost = kernel_cost(env_of(raw, 1, step), env_of(raw, 1, step).block.kernels[0])
    assert (cost.activation_bytes, cost.on_chip_bytes) == (2 * 2 * 32, 0)


def test_message_between_stages_and_stages() -> None:
    """Hidden state and residual go to the next stage; single blocks stand at the ends; early stages take more."""
    env = env_of(llama(), 1, Pass("prefill", 2, 10, 10), pp=2)
    assert send_recv(env).message == 2 * (2 * 20 * 8192)
    assert send_recv(env_of(RAW_MOE, 1, Pass("decode", 2, 1, 10), pp=2)).message == 2 * 2 * 64
    extra = {"name": "more", "equations": ["X[b,s,d] = add(X[b,s,d], Aux[b,s,d])"]}
    block = {**RAW_MOE["blocks"][1], "kernels": [extra, *RAW_MOE["blocks"][1]["kernels"]]}
    raw = {**RAW_MOE, "blocks": [RAW_MOE["blocks"][0], block, RAW_MOE["blocks"][2]]}
    assert send_recv(env_of(raw, 1, Pass("decode", 2, 1, 10), pp=2)).message == 2 * 2 * 64
    assert [stage for stage, _ in expand(parse_model(RAW_MOE), 3)] == [0, 0, 0, 1, 2, 2]


def test_cache_and_tied_weights() -> None:
    """A windowed block keeps a window of the cache; a tied table is held once."""
    for window, tokens in ((None, 40), (16, 16), (64, 40)):
        model = parse_model({**llama(), "mask": {"S": {"window": window}}})
        setup = Setup(model, GPU, Mesh(2, 1, 2, 1), 64, 5, 32, 8)
        assert layer_cache_bytes(setup, model.blocks[1]) == 3 * tokens * (2 * 4 * 128 * 2)
    raw = {**llama(), "tied": ["We"]}
    raw["blocks"][2]["kernels"][1]["equations"] = ["L[b,v] = H[b,d] * We[v,d]"]
    step, tied = Pass("prefill", 1, 1, 1), set[str]()
    assert layer_weight_bytes(env_of(raw, 0, step), tied) == 2 * (128256 * 8192 + 8192)
    assert layer_weight_bytes(env_of(raw, 2, step), tied) == 0
    assert layer_weight_bytes(env_of(raw, 2, step), set()) == 2 * 128256 * 8192


def test_mask_means_against_enumeration() -> None:
    """Count the visible tokens of every new token."""
    for cached, new, window in itertools.product(range(9), range(1, 9), [None, *range(1, 18)]):
        seen = [min(cached + i, window or 10**9) for i in range(1, new + 1)]
        assert mean_visible(new, cached + new, window) == pytest.approx(sum(seen) / new, rel=1e-12)


def test_experts_hit_against_enumeration() -> None:
    """Average the experts hit over every choice of 2 of 8 experts by each of 1 to 3 tokens."""
    choices = list(itertools.combinations(range(8), 2))
    for tokens in (1, 2, 3):
        hits = [len(set(itertools.chain(*picked))) for picked in itertools.product(choices, repeat=tokens)]
        env = env_of(RAW_MOE, 1, Pass("prefill", 1, tokens, tokens))
        assert experts_hit(env, "x") == pytest.approx(sum(hits) / len(hits), rel=1e-12)


def test_routed_flops_and_weights() -> None:
    """Each token meets 2 of 8 experts; the router is dense; the combination is vector work."""
    env = env_of(RAW_MOE, 1, Pass("prefill", 2, 5, 5), dp=2, ep=2)
    experts, router = env.block.kernels[3], env.block.kernels[1]
    cost = kernel_cost(env, experts)
    assert cost.matrix_flops["bf16"] == 2 * (2 * 10 * 2 / 2) * 64 * 32 * 3
    assert cost.vector_flops == 20 * 32 * (5 + 1) + 2 * 20 * 64
    assert cost.weight_bytes == pytest.approx(4 * (1 - 0.75**20) * 3 * 64 * 32 * 2)
    assert env.kernel_class(experts) == "grouped_gemm"
    assert kernel_cost(env, router).matrix_flops["bf16"] == 2 * 10 * 64 * 8


def test_collectives_of_the_dense_model() -> None:
    """TP needs an all_reduce after the embedding, the attention and the MLP, and one all_gather of the logits."""
    raw = llama()
    for tp in (1, 4, 16):
        step = Pass("decode", 3, 1, 100)
        envs = [env_of(raw, block, step, tp=tp) for block in (0, 1, 1, 2)]
        plan = Deriver(envs).run()
        derived = {place: [(c.kind, c.gpus, c.message) for c in some] for place, some in plan.after.items()}
        reduce: list[tuple[str, int, float]] = [("all_reduce", tp, 3 * 8192 * 2)]
        places: list[tuple[int, int]] = [(0, 0), (1, 3), (1, 7), (2, 3), (2, 7)]
        expected: dict[tuple[int, int], list[tuple[str, int, float]]] = dict.fromkeys(places, reduce)
        expected[3, 1] = [("all_gather", tp, 3 * 128256 * 2)]
        assert derived == (expected if tp > 1 else {})
        assert plan.before == {}


def routed_collectives(**sizes: int) -> tuple[list[str], list[str], set[float]]:
    """Kinds before and after the experts of the second block, and the messages of those over the whole stage."""
    envs = [env_of(RAW_MOE, block, Pass("decode", 6, 1, 9), **sizes) for block in (0, 1, 2)]
    plan = Deriver(envs).run()
    before, after = plan.before.get((1, 3), []), plan.after.get((1, 3), [])
    messages = {collective.message for collective in [*before, *after] if collective.span == envs[0].mesh.stage_gpus}
    return [collective.kind for collective in before], [collective.kind for collective in after], messages


def test_collectives_of_the_routed_model() -> None:
    """The schemes of section 7, with their messages."""
    assert routed_collectives(ep=1) == ([], [], set())
    assert routed_collectives(tp=4, ep=2) == ([], ["all_reduce"], {6 * 64 * 2})
    assert routed_collectives(dp=4, ep=4) == (["dispatch"], ["combine"], {6 * 2 * 64 * 2})
    kinds = (["dispatch"], ["combine", "all_gather"], {3 * 2 * 64 * 2})
    assert routed_collectives(dp=2, tp=2, ep=4) == kinds
    assert routed_collectives(dp=2, tp=1, ep=1) == ([], ["reduce_scatter", "all_gather"], {2 * 6 * 64 * 2})


def shared_expert(add: str, **sizes: int) -> list[tuple[str, ...]]:
    """Kinds of collectives after experts, shared expert and sum, for a model with a shared expert."""
    layer = RAW_MOE["blocks"][1]
    shared = {"name": "up", "equations": ["SU[b,s,u] = N[b,s,d] * Wsu[d,u]"]}
    down = {"name": "down", "equations": ["SD[b,s,d] = SU[b,s,u] * Wsd[u,d]"]}
    sums = {"name": "sum", "equations": [add]}
    end = {"name": "next", "equations": ["X[b,s,d] = add(X[b,s,d], F[b,s,d])"]}
    block = {**layer, "kernels": [*layer["kernels"][:4], shared, down, sums, end]}
    raw = {**RAW_MOE, "ranks": {**RAW_MOE["ranks"], "u": {"extent": 16}}, "shard": [*RAW_MOE["shard"], ["u", "tp"]]}
    raw["blocks"] = [RAW_MOE["blocks"][0], block, RAW_MOE["blocks"][2]]
    envs = [env_of(raw, index, Pass("decode", 6, 1, 9), **sizes) for index in (0, 1, 1, 2)]
    after = Deriver(envs).run().after
    derived = [tuple(collective.kind for collective in after.get((2, position), [])) for position in range(8)]
    assert derived == [tuple(collective.kind for collective in after.get((1, position), [])) for position in range(8)]
    assert not any(derived[:3] + derived[4:5] + derived[7:])
    return [derived[3], derived[5], derived[6]]


def test_partial_results_are_carried_on() -> None:
    """Routed and shared expert are summed before one all_reduce where both are partial over the same GPUs."""
    add = "F[b,s,d] = add(M[b,s,d], SD[b,s,d])"
    assert shared_expert(add, tp=4, ep=2) == [(), (), ("all_reduce",)]
    assert shared_expert(add, tp=2, dp=2, ep=4) == [("combine", "all_gather"), ("all_reduce",), ()]
    assert shared_expert(add, dp=4, ep=4) == [("combine",), (), ()]
    mul = "F[b,s,d] = mul(M[b,s,d], SD[b,s,d])"
    assert shared_expert(mul, tp=4, ep=2) == [("all_reduce",), ("all_reduce",), ()]


def test_partial_sums_are_reduced_at_the_end_of_their_block() -> None:
    """A row-split product that nothing reads is still summed; one that is carried on is not."""
    raw = {**RAW_MOE, "shard": [["b", "dp"], ["m", "tp"], ["repeat", "pp"]], "ranks": {r: {"extent": 64} for r in "dm"}}
    made = {"name": "down", "equations": ["Y[b,s,d] = Tok[b,s,m] * W[m,d]"]}
    scaled = {"name": "scaled", "equations": ["Z[b,s,d] = Y[b,s,d] * Ws[d]"]}
    for kernels, places in (([made], {(0, 0), (1, 0)}), ([made, scaled], {(0, 1), (1, 1)})):
        raw["blocks"] = [{"name": "layer", "repeat": 2, "kernels": kernels}]
        env = env_of(raw, 0, Pass("decode", 6, 1, 9), tp=4)
        assert set(Deriver([env, env]).run().after) == places


def test_collective_time_and_energy_across_nodes() -> None:
    """16 GPUs on 2 nodes of 8: inside a node 2*7/8 of the message, between them 2*1/2 of an eighth."""
    env = env_of(RAW_MOE, 1, Pass("decode", 1, 1, 1))
    collective = Collective("all_reduce", 16, 16, 8e6)
    assert collective_time(env, collective, 8e6) == pytest.approx(1e-6 + 1.75 * 8e6 / 1e9 + 1e-5 + 1e6 / 1e8)
    assert collective_energy(env, collective) == pytest.approx(1e-9 * (8e6 + 1e6))
    every = Collective("all_to_all", 16, 16, 8e6)
    assert collective_time(env, every, 8e6) == pytest.approx(1e-6 + 7 / 8 * 8e6 / 1e9 + 1e-5 + 0.5 * 8e6 / 1e8)
    pair = Collective("all_to_all", 2, 16, 8e6)
    assert collective_time(env, pair, 8e6) == pytest.approx(1e-5 + 0.5 * 8e6 / 1e8)


def with_experts(law: str = "balanced", /, **rank: int) -> dict[str, Any]:
    """Return the routed model with another routed rank."""
    experts = {**RAW_MOE["ranks"]["x"], "routing": {"law": law}, **rank}
    return {**RAW_MOE, "ranks": {**RAW_MOE["ranks"], "x": experts}}


def met(groups: int, some: int, each: int, active: int, parts: int) -> float:
    """Mean number of parts met by `active` experts of `some` groups, over all choices of groups and experts."""
    counts = []
    for allowed in itertools.combinations(range(groups), some):
        experts = [group * each + i for group in allowed for i in range(each)]
        for picked in itertools.combinations(experts, active):
            counts.append(len({expert * parts // (groups * each) for expert in picked}))
    return sum(counts) / len(counts)


def test_reach_against_enumeration() -> None:
    """Count the GPUs that hold an expert of a token, over every choice of its experts."""
    for extent, active in itertools.product((4, 6, 8, 12), (1, 2, 3, 4)):
        model = parse_model(with_experts(extent=extent, active=active))
        for parts in (n for n in range(1, extent + 1) if extent % n == 0):
            assert reach(model, "x", parts) == pytest.approx(met(1, 1, extent, active, parts), rel=1e-12)


def test_reach_of_limited_groups_against_enumeration() -> None:
    """Exact for whole groups a part and for equal parts of groups; else as without groups."""
    for groups, each, active in itertools.product((2, 4, 6), (2, 4), (1, 2, 3)):
        for some in (g for g in range(1, groups + 1) if g * each >= active):
            sizes = {"extent": groups * each, "groups": groups, "active_groups": some}
            model = parse_model(with_experts(active=active, **sizes))
            free = parse_model(with_experts(extent=groups * each, active=active))
            for parts in range(1, groups * each + 1):
                counted, reached = met(groups, some, each, active, parts), reach(model, "x", parts)
                if groups % parts == 0 or (parts % groups == 0 and each % (parts // groups) == 0):
                    assert reached == pytest.approx(counted, rel=1e-12)
                elif parts % groups:
                    assert reached == pytest.approx(reach(free, "x", parts), rel=1e-12)


def test_reach_by_hand() -> None:
    """Two of 8 experts on 4 GPUs or 2 nodes; 8 of 256 in 4 of 8 groups, on GPUs with parts of a group or two each."""
    model = parse_model(RAW_MOE)
    assert [reach(model, "x", n) for n in (1, 2, 4, 8)] == pytest.approx([1, 11 / 7, 13 / 7, 2], rel=1e-12)
    limited = parse_model(with_experts(extent=256, active=8, groups=8, active_groups=4))
    missed = math.comb(128 - 8, 8) / math.comb(128, 8)  # 4 of 8 groups are 16 of 32 GPUs with 128 experts
    assert reach(limited, "x", 32) == pytest.approx(16 * (1 - missed), rel=1e-12)
    open_to = [math.comb(32 * groups, 8) / math.comb(128, 8) for groups in range(5)]
    missed = (
        15 * open_to[4] + 40 * open_to[3] + 15 * open_to[2]
    ) / 70  # none, one, both of the groups of a GPU are its
    assert reach(limited, "x", 4) == pytest.approx(4 * (1 - missed), rel=1e-12)
    missed = (open_to[4] + 16 * open_to[3] + 36 * open_to[2] + 16 * open_to[1]) / 70
    assert reach(limited, "x", 2) == pytest.approx(2 * (1 - missed), rel=1e-12)


def test_dispatch_across_nodes_by_phase() -> None:
    """A copy to each of 13/7 GPUs on 11/7 nodes in decode; in prefill, which has no entry, as an all_to_all."""
    entry = {"name": "deep", "phase": "decode", "copies": "gpu", "bytes_per_element": 1.03125}
    slow = {"alpha_s": 3e-6, "root_s_per_sqrt_byte": 1e-8, "bandwidth_bytes_per_s": 5e8}
    second = {**entry, "phase": None, "copies": "expert", "by_gpus": {"2": slow}}
    curves = {"dispatch": [{**entry, "by_gpus": {"2": slow, "4": COEFFICIENTS}}], "combine": [second, entry]}
    gpu = {**GPU, "link": {**GPU["link"], "gpus_per_node": 2}, "collectives": {**GPU["collectives"], **curves}}
    sent = 6 * 64
    for phase in ("prefill", "decode"):
        env = replace(env_of(with_experts(), 1, Pass(phase, 6, 1, 9), dp=4, ep=4), gpu=gpu)
        plan = Deriver([env]).run()
        (dispatch,), (combine,) = plan.before[0, 3], plan.after[0, 3]
        assert (dispatch.kind, combine.kind) == ("dispatch", "combine")
        if phase == "decode":
            message = sent * 13 / 7 * 1.03125
            seconds = 3e-6 + 1e-8 * math.sqrt(message) + message / 2 / 5e8 + 1e-5 + message * 11 / 13 / 2 / 1e8
            joules = 1e-9 / 2 * message * (1 + 11 / 13)
        else:
            message = sent * 2 * 2
            seconds, joules = 1e-6 + message / 2 / 1e9 + 1e-5 + message / 2 / 1e8, 1e-9 / 2 * 2 * message
        assert dispatch.message == pytest.approx(message, rel=1e-12)
        assert collective_time(env, dispatch, dispatch.message) == pytest.approx(seconds, rel=1e-12)
        assert collective_energy(env, dispatch) == pytest.approx(joules, rel=1e-12)
        message = sent * 2 * 1.03125  # a copy for each of two experts, in both phases: the first entry that fits
        seconds = 3e-6 + 1e-8 * math.sqrt(message) + message / 2 / 5e8 + 1e-5 + message / 2 / 1e8
        assert combine.message == pytest.approx(message, rel=1e-12)
        assert collective_time(env, combine, combine.message) == pytest.approx(seconds, rel=1e-12)
        assert collective_energy(env, combine) == pytest.approx(1e-9 / 2 * 2 * message, rel=1e-12)


def test_load_of_the_busiest_gpu_in_an_exchange() -> None:
    """One token with one expert goes to one GPU of four: four times the mean bytes in time, but not in joules."""
    curve = {"alpha_s": 1e-6, "root_s_per_sqrt_byte": 1e-7, "bandwidth_bytes_per_s": 1e9}
    listed = {**GPU["collectives"], "all_to_all": [{"name": "x", "by_gpus": {"2": curve}}]}
    gpu = {**GPU, "link": {**GPU["link"], "gpus_per_node": 2}, "collectives": listed}
    entry = {"name": "deep", "copies": "gpu", "bytes_per_element": 2.0, "by_gpus": {"2": curve}}
    message = 64 / 4 * 2  # a quarter of the token on each dp rank
    seconds = 1e-6 + 1e-7 * math.sqrt(4 * message) + 4 * message / 2 / 1e9 + 1e-5 + 4 * message / 2 / 1e8
    for entries in ([], [entry]):
        changed = {**gpu, "collectives": {**listed, "dispatch": entries}}
        env = env_of(with_experts("uniform", active=1), 1, Pass("decode", 0.25, 1, 9), dp=4, ep=4)
        (dispatch,) = Deriver([replace(env, gpu=changed)]).run().before[0, 3]
        assert dispatch.message == pytest.approx(message, rel=1e-12)
        seconds_of_core = collective_time(replace(env, gpu=changed), dispatch, dispatch.message)
        assert seconds_of_core == pytest.approx(seconds, rel=1e-12)
        assert collective_energy(replace(env, gpu=changed), dispatch) == pytest.approx(1e-9 * message, rel=1e-12)


def test_parameters_of_llama() -> None:
    """Weights on one GPU, counted by the equations, are the published parameters."""
    raw = llama()
    total = 0.0
    for block, repeat in ((0, 1), (1, 80), (2, 1)):
        total += repeat * layer_weight_bytes(env_of(raw, block, Pass("prefill", 1, 1, 1)), set()) / 2
    d, f, v = 8192, 28672, 128256
    assert total == 2 * v * d + d + 80 * (2 * d * d + 2 * d * 1024 + 3 * d * f + 2 * d)
    assert total == pytest.approx(70.55e9, rel=1e-3)
    share = layer_weight_bytes(env_of(raw, 1, Pass("prefill", 1, 1, 1), tp=16), set()) / 2
    assert share == (2 * d * d + 3 * d * f) / 16 + 2 * d * 1024 / 8 + 2 * d


def test_pipeline_of_a_small_model() -> None:
    """Four layers on two stages: prefill fills and drains, decode is bounded by the slowest stage."""
    model = parse_model(RAW_MOE)
    setup = Setup(model, GPU, Mesh(1, 2, 1, 1), 64, 5, 32, 8)
    assert setup.prefill_passes() == (3, Pass("prefill", 5 / 3, 32, 32))
    assert setup.decode_passes() == (2, Pass("decode", 2.5, 1, 36))
    plan = plan_of(RAW_MOE)
    plan["settings"] = {"max_batched_tokens": 64}
    result = predict(plan, point("moe", pp=2, batch=5))
    prefill = [stage.time for stage in run_stages(setup, Pass("prefill", 5 / 3, 32, 32))]
    decode = [stage.time for stage in run_stages(setup, Pass("decode", 2.5, 1, 36))]
    assert len(prefill) == 2
    assert prefill[0] != prefill[1]
    assert result["ttft_s"] == pytest.approx(sum(prefill) + 2 * max(prefill), rel=1e-12)
    assert result["tpot_s"] == pytest.approx(2 * max(decode), rel=1e-12)
    assert 2 * max(decode) > sum(decode) * (1 + 1e-9)
    assert result["tpot_s"] > 1.0  # two passes of at least the host time


@pytest.mark.parametrize(
    "sizes",
    [{}, {"pp": 3}, {"dp": 4, "ep": 4}, {"tp": 2, "dp": 2, "ep": 2, "pp": 2}, {"tp": 4, "dp": 4, "ep": 8, "batch": 9}],
)
def test_causes_sum_to_the_energy(sizes: dict[str, int]) -> None:
    """The breakdown of each phase adds up and has no negative part."""
    result = predict(plan_of(RAW_MOE), point("moe", **sizes))
    assert result["feasible"]
    for causes, energy in (
        (result["prefill_causes"], result["energy_prefill_j"]),
        (result["decode_causes"], result["energy_decode_j"] / 7),
    ):
        assert sum(causes.values()) == pytest.approx(energy, rel=1e-12)
        assert min(causes.values()) >= 0
        assert (causes["communication"] > 0) == (result["gpus"] > 1)


def test_power_cap() -> None:
    """With a low limit every stage draws just the limit: times stay, all dynamic joules shrink alike."""
    gpu = {**GPU, "power": {"tdp_w": 100.001, "static_w": 100}, "host": {"host_s": 0.0}}
    plan = {**plan_of(RAW_MOE), "gpus": [gpu]}
    free, capped = predict(plan_of(RAW_MOE), point("moe")), predict(plan, point("moe"))
    assert capped["power_w_per_gpu"] == pytest.approx(100.001, rel=1e-9)
    ours, theirs = capped["prefill_causes"], free["prefill_causes"]
    assert capped["ttft_s"] == pytest.approx(free["ttft_s"] - 0.5, rel=1e-9)  # the host's half second is left out
    assert ours["compute"] / ours["hbm_weights"] == pytest.approx(theirs["compute"] / theirs["hbm_weights"])
    assert ours["waiting"] == pytest.approx(0.0, abs=1e-9)


def test_overlap_hides_the_collective() -> None:
    """One kernel in two stages with its all_reduce: C + max(C, R) + R, on 8 SMs and 2/5 of the bandwidth."""
    raw = {**RAW_MOE, "overlap": {"e": {"stages": 2, "sms": 2}}}
    step = Pass("decode", 4, 1, 9)
    setup = Setup(parse_model(raw), GPU, Mesh(2, 1, 1, 1), 64, 4, 1, 1)
    env = setup.env(setup.model.blocks[0], step)
    c = kernel_cost(replace(env, step=Pass("decode", 2, 1, 9)), env.block.kernels[0]).time
    r = 1e-6 + 2 * 64 * 2 / (1e9 * 0.4)
    collective = Collective("all_reduce", 2, 2, 4 * 64 * 2)
    parts = kernel_and_collectives(env, env.block.kernels[0], [collective], 1.0)
    assert parts == pytest.approx((2 * c, max(c, r) - c + r))
    plain = run_stages(replace(setup, model=parse_model(RAW_MOE)), step)[0].time
    both = kernel_cost(env, env.block.kernels[0]).time + 1e-6 + 4 * 64 * 2 / 1e9
    assert run_stages(setup, step)[0].time - plain == pytest.approx(c + max(c, r) + r - both, rel=1e-6)


def test_feasibility_order() -> None:
    """Each reason in turn."""
    model, dense = parse_model(RAW_MOE), parse_model({**RAW_MOE, "ranks": {r: {"extent": 64} for r in "dxmv"}})
    cases = [
        (dense, Mesh(2, 1, 1, 2), 8, "ep"),
        (model, Mesh(4, 1, 1, 3), 8, "ep"),
        (model, Mesh(16, 1, 1, 16), 8, "experts"),
        (model, Mesh(3, 1, 1, 1), 8, "shard"),
        (model, Mesh(1, 5, 1, 1), 8, "layers"),
        (model, Mesh(1, 1, 4, 1), 3, "batch"),
        (model, Mesh(2, 4, 4, 4), 4, "ok"),
    ]
    for which, mesh, batch, reason in cases:
        assert infeasible_reason(which, mesh, batch) == reason
    small = {**GPU, "memory": {**GPU["memory"], "capacity_bytes": 5000.0}}
    result = predict({**plan_of(RAW_MOE), "gpus": [small]}, point("moe"))
    assert (result["feasible"], result["reason"]) == (False, "memory")
    weights = 2 * 128 * 64 + 4 * (64 + 64 * 8 + 8 * 3 * 64 * 32)
    experts_activations = 4 * 32 * (64 + 2 + 64)  # N, A of two experts, M
    next_activations = 4 * 32 * 64 * 3  # X, M, X
    largest = max(experts_activations, next_activations)
    assert result["memory_bytes_per_gpu"] == 2 * (weights + largest) + 1000


def test_reads_once_before_making() -> None:
    """A kernel that makes a tensor and reads it again reads memory only for what it had not made."""
    kernel = parse_model(llama()).blocks[1].kernels[8]
    assert [tensor.name for tensor, _, _ in reads_from_memory(kernel)] == ["X", "M", "Wn2"]


def test_llama_is_quick_and_consistent() -> None:
    """A complete point: totals follow from the phases and the KV cache from the heads."""
    result = predict(plan_of(llama()), point("llama", tp=4, pp=2, kv_dtype="fp8"))
    assert result["latency_s"] == pytest.approx(result["ttft_s"] + 7 * result["tpot_s"])
    assert result["energy_j"] == pytest.approx(result["energy_prefill_j"] + result["energy_decode_j"])
    wide = predict(plan_of(llama()), point("llama", tp=4, pp=2))
    kv_bytes = 4 * 40 * 40 * 2 * (8 / 4) * 128
    assert wide["memory_bytes_per_gpu"] - result["memory_bytes_per_gpu"] == pytest.approx(kv_bytes)
