"""Specs imported from Hugging Face configs: the bundled models, their sizes, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import energylens.inputs.hf as hf
from energylens.cli import main
from energylens.common.errors import SpecError
from energylens.inputs.schema import first_line

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
def test_what_has_no_equation_is_refused_with_a_run_option_out(changes: dict[str, Any], reason: str) -> None:
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


def flat_vision(**changes: Any) -> dict[str, Any]:
    """A config of Qwen2.5-VL 7B as it is published: fields of the text part at the top, beside `vision_config`."""
    sizes = {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_hidden_layers": 28}
    text = {"num_key_value_heads": 4, "vocab_size": 152064, "hidden_act": "silu", "tie_word_embeddings": False}
    window = {"sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 28}
    names = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl"}
    vision = {"vision_config": {"depth": 32, "hidden_size": 1280, "model_type": "qwen2_5_vl"}}
    return sizes | text | window | names | vision | changes


def test_flat_config_of_a_vision_model_is_that_of_its_text_part() -> None:
    spec = hf.spec_from_hf(flat_vision(), "qwen2.5-vl-7b")
    assert parameters(spec) == pytest.approx(7.615e9, rel=1e-3)
    assert spec["ranks"] == {"d": 3584, "g": 4, "r": 7, "e": 128, "f": 18944, "v": 152064}
    assert spec["mask"] == {"S": "causal"}
    assert "the vision tower is not counted" in spec["source"]
    older = flat_vision(architectures=["Qwen2VLForConditionalGeneration"], model_type="qwen2_vl")
    assert parameters(hf.spec_from_hf(older)) == parameters(spec)
    inner = {name: value for name, value in flat_vision().items() if name not in ("architectures", "vision_config")}
    wrapped = flat_vision(text_config=inner | {"model_type": "qwen2_5_vl_text"})
    assert hf.spec_from_hf(wrapped, "qwen2.5-vl-7b")["blocks"] == spec["blocks"]


@pytest.mark.parametrize(
    ("outer", "towers", "count"),
    [
        # LLaVA-1.5 names its text part by what differs from the defaults of Llama (Vicuna 7B: 6.74e9).
        ({"architectures": ["LlavaForConditionalGeneration"], "vision_config": {"depth": 24}}, ["vision"], 6.74e9),
        ({"architectures": ["SomeAudioForConditionalGeneration"], "audio_config": {"d": 1}}, ["audio"], 6.74e9),
    ],
)  # fmt: skip
def test_wrapped_config_that_leaves_out_defaults(outer: dict[str, Any], towers: list[str], count: float) -> None:
    inner = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"}
    config = outer | {"text_config": inner}
    assert parameters(hf.spec_from_hf(config)) == pytest.approx(count, rel=1e-3)
    assert hf.not_counted(config) == towers


def test_text_part_under_another_name() -> None:
    inner = tiny(architectures=["Qwen2ForCausalLM"], model_type="qwen2")
    for field in ("llm_config", "language_config"):
        config = {"architectures": ["InternVLChatModel"], "vision_config": {"hidden_size": 8}, field: inner}
        assert hf.spec_from_hf(config)["ranks"] == hf.spec_from_hf(inner)["ranks"]
    for name, family in (("LlavaLlamaForCausalLM", "llava_llama"), ("Phi3VForCausalLM", "phi3_v")):
        flat = tiny(architectures=[name], model_type=family, mm_vision_tower="clip")
        assert hf.spec_from_hf(flat)["ranks"] == hf.spec_from_hf(tiny())["ranks"]
        assert hf.not_counted(flat) == ["vision"]


def test_text_part_between_other_layers_is_refused() -> None:
    config = {"architectures": ["MllamaForConditionalGeneration"], "text_config": tiny(model_type="mllama_text_model")}
    with pytest.raises(hf.UnsupportedArchitecture, match="layers of attention to the image"):
        hf.spec_from_hf(config)


def reasons(**changes: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        hf.spec_from_hf(tiny() | changes)
    return [problem.message for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 10,000, not 1000000000"),
        ({"num_hidden_layers": 1e9}, "num_hidden_layers must be a whole number, not 1000000000.0"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a whole number, not True"),
        ({"hidden_size": 2**32}, "hidden_size must be at most 4,294,967,295, not 4294967296"),
        ({"hidden_size": 10**5000}, "hidden_size must be at most 4,294,967,295, not a whole number of 16,610 bits"),
        ({"hidden_size": -(10**200)}, "hidden_size must be at least 1, not a whole number of 665 bits"),
        ({"vocab_size": [1]}, "vocab_size must be a whole number, not [1]"),
        ({"vocab_size": "x" * 5000}, f"vocab_size must be a whole number, not '{'x' * 46} ... {'x' * 46}'"),
        ({"hidden_act": ["silu"]}, "hidden_act must be a name, not ['silu']"),
        ({"layer_types": 7}, "layer_types must be a list, not 7"),
        ({"layer_types": [[]] * 4}, "layer_types must hold names, not []"),
        ({"text_config": [1]}, "text_config must be a mapping, not [1]"),
        ({"text_config": "x"}, "text_config must be a mapping, not 'x'"),
        ({"quantization_config": "fp8"}, "quantization_config must be a mapping, not 'fp8'"),
        (
            {"quantization_config": {"quant_method": "fp8", "ignored_layers": "x"}},
            "ignored_layers of quantization_config must be a list, not 'x'",
        ),
        (
            {"quantization_config": {"quant_method": "fp8", "ignored_layers": ["x"] * 10_001}},
            "ignored_layers of quantization_config has 10,001 entries, at most 10,000",
        ),
        (
            {"quantization_config": {"quant_method": "fp8", "ignored_layers": ["re:("]}},
            "'re:(' in quantization_config is no regular expression: missing ), unterminated subpattern at position 0",
        ),
        (
            {"quantization_config": {"quant_method": "fp8", "ignored_layers": ["re:(a+)+$"]}},
            "'re:(a+)+$' in quantization_config is too long a pattern, or has too many repeats",
        ),
        (
            {"quantization_config": {"quant_method": "fp8", "ignored_layers": ["*" * 9]}},
            "'*********' in quantization_config is too long a pattern, or has too many repeats",
        ),
    ],
)  # fmt: skip
def test_a_field_of_a_wrong_kind_or_size_has_one_reason(changes: dict[str, Any], reason: str) -> None:
    assert reasons(**changes) == [reason]


def test_experts_have_bounds() -> None:
    with pytest.raises(hf.InvalidConfig, match="n_routed_experts must be at most 65,536, not 1000000"):
        hf.spec_from_hf(tiny_latent(n_routed_experts=10**6))
    with pytest.raises(hf.InvalidConfig, match="rank `u` of 6442450944000: at most 4,294,967,295"):
        hf.spec_from_hf(tiny_latent(n_shared_experts=1536, moe_intermediate_size=2**32 - 2**20 * 96))
    names = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "mlp_only_layers": ["0"]}
    with pytest.raises(hf.InvalidConfig, match="mlp_only_layers must hold whole numbers, not '0'"):
        hf.spec_from_hf(tiny(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=24, **names))


def test_errors_are_those_of_the_package() -> None:
    assert issubclass(hf.InvalidConfig, SpecError) and issubclass(hf.UnsupportedArchitecture, SpecError)
    others: list[Any] = [[], "x", None, 7]
    for wrong in others:
        with pytest.raises(SpecError, match="a config is a mapping of fields"):
            hf.spec_from_hf(wrong)
    for published in (0, -1.0, math.inf, math.nan, 1e18, "8B"):
        with pytest.raises(SpecError, match="parameters must be a number"):
            hf.spec_from_hf(tiny(), parameters=published)  # type: ignore[arg-type]
    for made in (hf.InvalidConfig(["a", "b"]), hf.UnsupportedArchitecture("c")):
        again = pickle.loads(pickle.dumps(made))
        assert type(again) is type(made) and again.problems == made.problems


def imported(folder: Path, data: bytes, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    file = folder / "config.json"
    file.write_bytes(data)
    code = main(["import-hf", str(file), *options])
    return code, capsys.readouterr().err.replace(str(folder), "DIR")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "`DIR/config.json` is not JSON: Expecting value"),
        (b"[]", "`DIR/config.json` holds a list, not the fields of a config"),
        (b"{", "`DIR/config.json` is not JSON: Expecting property name enclosed in double quotes"),
        (b'{"a": NaN}', "`DIR/config.json` gives `a` a value that is no number of JSON: NaN, or beyond 1.8e308"),
        (b'{"a": {"b": [1, -Infinity]}}', "`DIR/config.json` gives `a.b.1` a value that is no number of JSON"),
        (b'{"a": 1e999}', "`DIR/config.json` gives `a` a value that is no number of JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "`DIR/config.json` has the name `a` twice in one object"),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", "`DIR/config.json` is nested deeper than the 64 levels"),
        (b'{"a": ' + b"[" * 90_000 + b"]" * 90_000 + b"}", "`DIR/config.json` is nested deeper than the 64 levels"),
        (b'{"a": ' + b"9" * 5000 + b"}", "`DIR/config.json` holds a number of too many digits"),
        ('{"a": 1}'.encode("utf-16"), "the config `DIR/config.json` is not UTF-8 text: byte 1, in line 1"),
        (b'{"a": "\xff"}', "the config `DIR/config.json` is not UTF-8 text: byte 8, in line 1"),
        (b" " * (2**24 + 1), "the config `DIR/config.json` has 16,777,217 bytes: more than the 16,777,216"),
    ],
)
def test_what_is_no_config_has_one_reason(
    data: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors = imported(tmp_path, data, capsys, "--out", str(tmp_path / "out.yaml"))
    assert code == 2
    assert errors.startswith(f"error: {message}")
    assert errors.count("error: ") == 1
    assert not (tmp_path / "out.yaml").exists()


def test_a_byte_order_mark_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = imported(tmp_path, b"\xef\xbb\xbf" + json.dumps(tiny()).encode(), capsys)
    assert code == 0


def test_number_formats_of_another_file_are_checked_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, config = tmp_path / "hf_quant_config.json", json.dumps(tiny()).encode()
    other.write_text('{"quantization": {"quant_algo": "FP8"}}')
    assert imported(tmp_path, config, capsys)[0] == 0
    for text, message in (
        ("{}", "missing field `quantization`"),
        ("[]", "`DIR/hf_quant_config.json` holds a list"),
        ('{"quantization": {"quant_algo": "FP8"}, "quantization": {}}', "`DIR/hf_quant_config.json` has the name"),
        ('{"quantization": 7}', "quantization_config must be a mapping, not 7"),
        (
            '{"quantization": {"quant_algo": "FP8", "exclude_modules": 7}}',
            "exclude_modules of quantization_config must",
        ),
    ):
        other.write_text(text)
        code, errors = imported(tmp_path, config, capsys)
        assert code == 2
        assert f"error: {message}" in errors
        assert " --> DIR/hf_quant_config.json" in errors
    other.unlink()
    other.symlink_to(tmp_path / "gone")
    assert "it is a link to" in imported(tmp_path, config, capsys)[1]


def test_what_is_not_counted_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "vl.yaml"
    code, errors = imported(tmp_path, json.dumps(flat_vision()).encode(), capsys, "--out", str(out))
    assert code == 0
    assert "note: this is the text part; the weights of the vision tower are not counted" in errors
    assert "vl: 7.615B parameters" in errors
    assert "the vision tower is not counted" in read(out.read_text())["source"]


def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a b", "x" * 300, "\x1b[31m"):
        code, errors = imported(tmp_path, json.dumps(tiny()).encode(), capsys, "--name", name)
        assert code == 2
        assert errors.startswith("error: a model's name has")
        assert "\x1b" not in errors
