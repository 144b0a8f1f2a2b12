"""Specs imported from Hugging Face configs: the bundled models, their sizes, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import energylens.spec.hf as hf
from energylens.spec.schema import first_line

CONFIGS = Path(__file__).parent.parent / "data" / "hf"
MODELS = Path(hf.__file__).parent.parent.parent / "specs" / "models"
# Published parameter counts: model cards and the totals of the safetensors indices. DeepSeek-V3's leaves out the
# multi-token-prediction layer, as its model card does.
PUBLISHED = {
    "llama-3.1-8b": ("meta-llama/Llama-3.1-8B", 8.03e9),
    "llama-3.1-70b": ("meta-llama/Llama-3.1-70B", 70.55e9),
    "llama-3.1-405b": ("meta-llama/Llama-3.1-405B", 405.85e9),
    "llama-3.3-70b": ("meta-llama/Llama-3.3-70B-Instruct", 70.55e9),
    "qwen3-8b": ("Qwen/Qwen3-8B", 8.19e9),
    "qwen3-14b": ("Qwen/Qwen3-14B", 14.77e9),
    "qwen3-32b": ("Qwen/Qwen3-32B", 32.76e9),
    "qwen3-30b-a3b": ("Qwen/Qwen3-30B-A3B", 30.53e9),
    "qwen3-235b-a22b": ("Qwen/Qwen3-235B-A22B", 235.09e9),
    "qwen3-coder-480b-a35b": ("Qwen/Qwen3-Coder-480B-A35B-Instruct", 480.15e9),
    "mixtral-8x7b": ("mistralai/Mixtral-8x7B-v0.1", 46.70e9),
    "gpt-oss-20b": ("openai/gpt-oss-20b", 20.91e9),
    "gpt-oss-120b": ("openai/gpt-oss-120b", 116.83e9),
    "deepseek-v3": ("deepseek-ai/DeepSeek-V3", 671.0e9),
}
TENSOR = re.compile(r"([A-Za-z]\w*)\[([a-z,]+)\]")


def config(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    return loaded


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def read(text: str) -> Any:
    yaml = YAML(typ="safe")
    yaml.version = (1, 2)
    return plain(yaml.load(text))


def equations(block: dict[str, Any]) -> list[str]:
    out: list[str] = []
    for kernel in block["kernels"].values():
        lines = kernel["equations"] if isinstance(kernel, dict) else kernel
        out += [lines] if isinstance(lines, str) else lines
    return out


def weights(spec: dict[str, Any]) -> dict[tuple[str, str], tuple[int, int]]:
    """Elements and repetitions of every weight, by block and name: tensors never made that carry no b, s or t."""
    made = {line.split("[")[0] for block in spec["blocks"] for line in equations(block)}
    out: dict[tuple[str, str], tuple[int, int]] = {}
    for block in spec["blocks"]:
        for name, letters in (found for line in equations(block) for found in TENSOR.findall(line)):
            ranks = letters.split(",")
            if name in made or {"b", "s", "t"} & set(ranks):
                continue
            extents = [spec["ranks"][rank] for rank in ranks]
            elements = math.prod(extent["extent"] if isinstance(extent, dict) else extent for extent in extents)
            previous = out.setdefault((block["name"], name), (elements, block.get("repeat", 1)))
            assert previous[0] == elements, name
    return out


def parameters(spec: dict[str, Any]) -> int:
    """Sum over the weights; a tied one counts where it appears first."""
    total, tied = 0, set()
    for (_, name), (elements, repeat) in weights(spec).items():
        if name in tied:
            continue
        total += elements * repeat
        tied |= {name} & set(spec.get("tied", []))
    return total


def tiny(**changes: Any) -> dict[str, Any]:
    """A small Llama config with some fields changed; None removes a field."""
    base = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 1000,
        "hidden_act": "silu",
    }
    merged = base | changes
    return {key: value for key, value in merged.items() if value is not None}


def tiny_latent(**changes: Any) -> dict[str, Any]:
    sizes = {"kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
    routing = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_shared_experts": 2}
    names = {"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "first_k_dense_replace": 1}
    return tiny(**(sizes | routing | names | changes))


def tiny_gemma(generation: int, **changes: Any) -> dict[str, Any]:
    """A small Gemma 2 or Gemma 3 config."""
    model_type = "gemma2" if generation == 2 else "gemma3_text"
    names = {"architectures": [f"Gemma{generation}ForCausalLM"], "model_type": model_type, "hidden_act": None}
    return tiny(**(names | {"head_dim": 16, "sliding_window": 256, "num_hidden_layers": 12} | changes))


@pytest.mark.parametrize("name", PUBLISHED)
def test_bundled_spec_is_what_the_importer_makes(name: str) -> None:
    repository, published = PUBLISHED[name]
    spec = hf.spec_from_hf(config(name), name, repository=repository, parameters=published)
    text = (MODELS / f"{name}.yaml").read_text()
    assert read(text) == plain(spec)
    assert text == f"{first_line('model')}\n{hf.write_yaml(spec)}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_bundled_spec_has_the_published_parameters(name: str) -> None:
    spec = read((MODELS / f"{name}.yaml").read_text())
    assert spec["parameters"] == PUBLISHED[name][1]
    assert parameters(spec) == pytest.approx(spec["parameters"], rel=0.005)


def test_every_bundled_model_is_tested() -> None:
    assert {path.stem for path in CONFIGS.glob("*.json")} == set(PUBLISHED)
    assert set(PUBLISHED) <= {path.stem for path in MODELS.glob("*.yaml")}


def test_importing_leaves_the_config_alone() -> None:
    before = config("deepseek-v3")
    given = copy.deepcopy(before)
    hf.spec_from_hf(given)
    assert given == before


def test_llama_names_the_repository_and_its_last_part() -> None:
    spec = hf.spec_from_hf(tiny(), "someone/Tiny-Llama")
    assert list(spec) == ["name", "source", "ranks", "blocks", "cache", "mask", "dtypes", "shard"]
    assert spec["name"] == "tiny-llama"
    assert spec["source"] == "Hugging Face someone/Tiny-Llama, config.json"
    assert spec["ranks"] == {"d": 64, "g": 2, "r": 4, "e": 8, "f": 128, "v": 1000}


def test_tied_tables_are_one_weight() -> None:
    spec = hf.spec_from_hf(tiny(tie_word_embeddings=True))
    assert spec["tied"] == ["We"]
    assert spec["blocks"][-1]["kernels"]["lm_head"] == "L[b,v] = H[b,d] * We[v,d]"
    assert "Wh" not in spec["dtypes"]
    assert parameters(hf.spec_from_hf(tiny())) - parameters(spec) == 64 * 1000


def test_one_window_for_all_layers_masks_the_model() -> None:
    spec = hf.spec_from_hf(tiny(architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=4096))
    assert spec["mask"] == {"S": {"window": 4096}}
    assert [block["name"] for block in spec["blocks"]] == ["embedding", "layer", "head"]


def test_alternating_windows_make_two_blocks() -> None:
    spec = hf.spec_from_hf(config("gpt-oss-120b"))
    _, sliding, full, _ = spec["blocks"]
    assert (sliding["name"], sliding["repeat"], sliding["mask"]) == ("sliding_layer", 18, {"S": {"window": 128}})
    assert (full["name"], full["repeat"]) == ("full_layer", 18)
    assert "mask" not in full and spec["mask"] == {"S": "causal"}
    assert {name: dtype for name, dtype in spec["dtypes"].items() if dtype == "mxfp4"}.keys() == {"Wg", "Wu", "Wd"}


@pytest.mark.parametrize(("generation", "sliding"), [(2, 6), (3, 10)])
def test_gemma_has_norms_after_each_branch(generation: int, sliding: int) -> None:
    softcap = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0} if generation == 2 else {}
    spec = hf.spec_from_hf(tiny_gemma(generation, **softcap))
    embedding, local, whole, head = spec["blocks"]
    assert (local["repeat"], whole["repeat"]) == (sliding, 12 - sliding)
    assert embedding["kernels"]["embedding"][1] == "X[b,s,d] = scale(X0[b,s,d])"
    assert local["kernels"]["mlp_norm"][0] == "Yn[b,s,d] = norm(Y[b,s,d], Wn1p[d])"
    assert local["kernels"]["activation"].startswith("A[b,s,f] = gelu(")
    assert ("S[b,g,r,s,t] = sigmoid(S0[b,g,r,s,t])" in local["kernels"]["flash_attention"]) == bool(softcap)
    assert isinstance(head["kernels"]["lm_head"], list) == bool(softcap)
    assert spec["tied"] == ["We"]


def test_latent_attention_without_low_rank_queries() -> None:
    spec = hf.spec_from_hf(tiny_latent())
    low = hf.spec_from_hf(tiny_latent(q_lora_rank=40))
    assert "q" not in spec["ranks"] and low["ranks"]["q"] == 40
    assert spec["blocks"][1]["kernels"]["q_kv_down"][0] == "Qe[b,s,h,e] = N[b,s,d] * Wuq[d,h,e]"
    assert [block["name"] for block in spec["blocks"]] == ["embedding", "dense_layer", "moe_layer", "head"]
    assert spec["ranks"]["u"] == 48
    queries = 64 * 8 * 24
    lower = 64 * 40 + 40 * 8 * 24 + 40
    assert parameters(spec) - parameters(low) == 4 * (queries - lower)


def test_experts_of_a_token_in_some_groups_only() -> None:
    limited = hf.spec_from_hf(tiny_latent(n_group=4, topk_group=2))
    assert limited["ranks"]["x"] == {"extent": 8, "active": 2, "groups": 4, "active_groups": 2}
    for free in ({"n_group": 1, "topk_group": 1}, {"n_group": 4, "topk_group": 2, "topk_method": "greedy"}, {}):
        assert hf.spec_from_hf(tiny_latent(**free))["ranks"]["x"] == {"extent": 8, "active": 2}
    for wrong in ({"n_group": 3, "topk_group": 2}, {"n_group": 8, "topk_group": 1}):
        with pytest.raises(hf.InvalidConfig, match="has no room for 2 of 8 experts"):
            hf.spec_from_hf(tiny_latent(**wrong))


def test_shared_expert_behind_a_gate() -> None:
    sizes = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    names = {"architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "mlp_only_layers": [0]}
    spec = hf.spec_from_hf(tiny(shared_expert_intermediate_size=32, **sizes, **names))
    assert [block["name"] for block in spec["blocks"][1:3]] == ["dense_layer", "moe_layer"]
    kernels = spec["blocks"][2]["kernels"]
    assert kernels["shared_gate"][1] == "SZ[b,s,d] = sigmoid(Z[b,s]) * SD[b,s,d]"
    assert kernels["shared_add"] == "F[b,s,d] = add(M[b,s,d], SZ[b,s,d])"


def test_network_without_gate_squares_its_relu() -> None:
    spec = hf.spec_from_hf(tiny(architectures=["NemotronForCausalLM"], model_type="nemotron", hidden_act="relu2"))
    assert spec["blocks"][1]["kernels"]["activation"][1] == "A[b,s,f] = Ar[b,s,f] * Ar[b,s,f]"


def test_wrapped_config_gives_its_text_part() -> None:
    inner = tiny(architectures=None, model_type="qwen3_vl_text", tie_word_embeddings=None)
    outer = {"architectures": ["Qwen3VLForConditionalGeneration"], "text_config": inner, "tie_word_embeddings": True}
    spec = hf.spec_from_hf(outer, "Qwen/Qwen3-VL")
    assert spec["source"] == "Hugging Face Qwen/Qwen3-VL, config.json (its text part)"
    assert spec["tied"] == ["We"]


@pytest.mark.parametrize(
    ("quantisation", "expected"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_algo": "FP8", "exclude_modules": ["lm_head"]}, "fp8"),
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 4}, "int4"),
        ({"config_groups": {"g": {"weights": {"type": "int", "num_bits": 4}, "input_activations": None}}}, "int4"),
    ],
)
def test_quantised_checkpoints(quantisation: dict[str, Any], expected: str) -> None:
    dtypes = hf.spec_from_hf(tiny(quantization_config=quantisation))["dtypes"]
    assert dtypes == {"weights": expected, "activations": "bf16", "cache": "bf16", "We": "bf16", "Wh": "bf16"}


def test_excluded_modules_keep_their_format() -> None:
    ignored = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|down)_proj.*"]
    groups = {"g": {"weights": {"type": "int", "num_bits": 4}, "input_activations": None}}
    quantisation = {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ignored}
    dtypes = hf.spec_from_hf(tiny_latent(quantization_config=quantisation))["dtypes"]
    assert dtypes["weights"] == "bf16"
    assert {name for name, dtype in dtypes.items() if dtype == "int4"} == {"Wg", "Wu", "Wd"}


def test_cache_scales_make_an_fp8_cache() -> None:
    quantisation = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}
    assert hf.spec_from_hf(tiny(quantization_config=quantisation))["dtypes"]["cache"] == "fp8"


@pytest.mark.parametrize(
    ("quantisation", "reason"),
    [
        ({"quant_algo": "MIXED_PRECISION"}, "MIXED_PRECISION has no single number format"),
        ({"quant_method": "bitsandbytes"}, "bitsandbytes has no number format"),
        ({"quant_method": "fp8", "ignored_layers": ["model.layers.1.self_attn*"]}, "quantised in 3 of 4 layers"),
    ],
)
def test_formats_without_a_name_are_refused(quantisation: dict[str, Any], reason: str) -> None:
    with pytest.raises(hf.UnsupportedArchitecture, match=reason):
        hf.spec_from_hf(tiny(quantization_config=quantisation))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["NemotronHForCausalLM"]}, "NemotronHForCausalLM uses Mamba-2 layers"),
        ({"architectures": ["DeepseekV32ForCausalLM"]}, r"indexer selects \(index_topk\)"),
        ({"architectures": ["WhoKnowsForCausalLM"]}, "WhoKnowsForCausalLM is not an architecture"),
        ({"architectures": ["DeciLMForCausalLM"]}, r"\(block_configs\), which this importer does not write"),
        ({"attention_chunk_size": 8192}, "inside chunks"),
        ({"layer_types": ["full_attention", "linear_attention"] * 2}, "layers of type linear_attention"),
        ({"hidden_act": "xielu"}, "the activation xielu has no function here"),
        ({"architectures": None, "model_type": None}, "names no model"),
    ],
)
def test_what_has_no_equation_is_refused_with_a_way_out(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(hf.UnsupportedArchitecture, match=reason) as caught:
        hf.spec_from_hf(tiny(**changes))
    assert "spec of your own" in str(caught.value)


def test_all_problems_are_reported_at_once() -> None:
    broken = tiny(
        hidden_size=None, num_key_value_heads=3, intermediate_size="128", vocab_size=-5, tie_word_embeddings="no"
    )
    with pytest.raises(hf.InvalidConfig) as caught:
        hf.spec_from_hf(broken)
    messages = [problem.message for problem in caught.value.problems]
    assert sorted(messages) == [
        "hidden_size is missing",
        "intermediate_size must be a whole number, not '128'",
        "num_attention_heads 8 is not divisible by num_key_value_heads 3",
        "tie_word_embeddings must be true or false, not 'no'",
        "vocab_size must be at least 1, not -5",
    ]
    assert all(message in str(caught.value) for message in messages)
    assert {problem.code for problem in caught.value.problems} == {"invalid-config"}


def test_lists_must_cover_the_layers() -> None:
    with pytest.raises(hf.InvalidConfig, match="layer_types has 1 entries for 4 layers"):
        hf.spec_from_hf(tiny(layer_types=["full_attention"]))


def test_text_reads_back_whatever_the_name() -> None:
    for name in ("123", "a: b", "true", "x # y", 'quo"te', "-dash"):
        spec = hf.spec_from_hf(tiny(), name, parameters=1234567.0)
        assert read(hf.write_yaml(spec)) == plain(spec)
