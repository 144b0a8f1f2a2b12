"""Bundled models and GPUs: parameter counts, sources, and specs that fit the forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import energylens
from energylens import gpus, models, predict
from energylens.inputs.library import bundled, load_gpu, load_model
from energylens.inputs.plan import Plan


def test_parameter_counts_match_the_published_ones() -> None:
    listed = models()
    assert listed.height >= 14
    for row in listed.iter_rows(named=True):
        assert row["published_parameters"] is not None, row["model"]
        assert row["parameters"] == pytest.approx(row["published_parameters"], rel=0.005), row["model"]


def test_the_named_models_and_gpus_are_there() -> None:
    wanted = {"llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b", "llama-3.3-70b", "qwen3-8b", "qwen3-14b", "qwen3-32b"}
    wanted |= {"qwen3-30b-a3b", "qwen3-235b-a22b", "qwen3-coder-480b-a35b", "mixtral-8x7b", "gpt-oss-20b"}
    assert wanted | {"gpt-oss-120b", "deepseek-v3"} <= set(models()["model"])
    assert {"a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200", "l40s", "gb200", "mi300x", "rtx-4090"} <= set(
        gpus()["gpu"]
    )


def sets_without_source(node: Any, path: str, covered: bool) -> list[str]:
    if not isinstance(node, dict):
        return [] if covered or not isinstance(node, (int, float)) else [path]
    covered = covered or "source" in node
    return [bad for key, value in node.items() for bad in sets_without_source(value, f"{path}.{key}", covered)]


@pytest.mark.parametrize("name", list(bundled("hardware")))
def test_every_number_of_a_bundled_gpu_has_a_source(name: str) -> None:
    data = load_gpu(name).document
    assert data is not None
    sections = {key: value for key, value in data.data.items() if key not in {"name", "source", "trust"}}
    assert sets_without_source(sections, name, covered=False) == []


@pytest.mark.parametrize("name", list(bundled("hardware")))
def test_a_bundled_gpu_is_complete_and_plausible(name: str) -> None:
    loaded = load_gpu(name)
    profile, modelled = loaded.profile.sections, loaded.profile.modelled
    assert not modelled
    assert profile["power"]["static_w"] < profile["power"]["tdp_w"] / 2
    energy = profile["energy"]
    assert 30e-12 < energy["hbm_weight_j_per_byte"] < 400e-12
    assert 0.1e-12 < energy["flop_j"]["bf16"] < 4e-12
    assert Plan([], [loaded]).json


DATASHEET = """
name: new-gpu
source: vendor data sheet
memory: {capacity_bytes: 96e9, bandwidth_bytes_per_s: 1.6e12, technology: GDDR7}
compute: {sms: 188, peak_flops: {bf16: 500e12, fp8: 1000e12, fp4: 2000e12, vector: 120e12}}
power: {tdp_w: 600}
link: {kind: pcie5, bandwidth_bytes_per_s: 64e9, gpus_per_node: 8}
"""


def test_a_data_sheet_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "new-gpu.yaml"
    path.write_text(DATASHEET, encoding="utf-8")
    loaded = load_gpu(path)
    assert loaded.trust == "modelled"
    found = predict("llama-3.1-8b", gpu=path, weight_dtype="nvfp4", batch=16)
    assert found.trust == "modelled"
    assert found.values["feasible"]
    assert 0 < found.values["power_w_per_gpu"] <= 600


def test_a_large_matrix_product_on_a_data_sheet_gpu_draws_its_tdp(tmp_path: Path) -> None:
    path = tmp_path / "new-gpu.yaml"
    path.write_text(DATASHEET, encoding="utf-8")
    profile = load_gpu(path).profile.sections
    static, energy = profile["power"]["static_w"], profile["energy"]
    static += energy["active_w"]
    drawn = static + 0.78 * 500e12 * energy["flop_j"]["bf16"] + 0.1 * 1.6e12 * energy["hbm_weight_j_per_byte"]
    assert drawn == pytest.approx(600, rel=0.01)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    import os

    path = tmp_path / "m.yaml"
    spec = "name: m\nranks: {{d: {d}}}\nblocks: [{{name: a, kernels: {{k: 'Y[b,s,d] = norm(X[b,s,d], W[d])'}}}}]\n"
    path.write_text(spec.format(d=8), encoding="utf-8")
    assert load_model(path).spec.ranks["d"].extent == 8
    path.write_text(spec.format(d=16), encoding="utf-8")
    os.utime(path, ns=(1, 1))
    assert load_model(path).spec.ranks["d"].extent == 16


def test_no_verb_is_hidden_by_a_module_of_its_name() -> None:
    home = Path(energylens.__file__).parent
    for name in energylens.__all__:
        assert not (home / name).exists(), name
        assert not (home / f"{name}.py").exists(), name
