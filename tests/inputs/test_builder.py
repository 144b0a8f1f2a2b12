"""A model written in Python gives the same plan, byte for byte, as the same model in YAML."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from energylens import Model, SpecError, predict
from energylens.inputs.library import load_model
from energylens.inputs.plan import Plan

TEXT = """
name: twin
ranks: {d: 64, f: 256, x: {extent: 8, active: 2}, m: 32}
blocks:
  - name: layer
    repeat: 3
    kernels:
      up: A[b,s,f] = X[b,s,d] * Wu[d,f]
      down:
        - Y[b,s,d] = A[b,s,f] * Wd[f,d]
        - X[b,s,d] = add(X[b,s,d], Y[b,s,d])
      late: {phase: decode, equations: ["Z[b,s,d] = norm(X[b,s,d])"]}
    shard: {f: none}
cache: []
mask: {Y: causal}
dtypes: {weights: fp8, activations: bf16, cache: bf16, Wd: bf16}
shard: {f: tp, repeat: pp}
overlap: {down: {stages: 2, sms: 4}}
"""


def build() -> Model:
    model = Model(
        "twin",
        ranks={"d": 64, "f": 256, "x": {"extent": 8, "active": 2}, "m": 32},
        mask={"Y": "causal"},
        dtypes={"weights": "fp8", "activations": "bf16", "cache": "bf16", "Wd": "bf16"},
        shard={"f": "tp", "repeat": "pp"},
        overlap={"down": {"stages": 2, "sms": 4}},
    )
    return model.block(
        3,
        name="layer",
        kernels={
            "up": "A[b,s,f] = X[b,s,d] * Wu[d,f]",
            "down": ["Y[b,s,d] = A[b,s,f] * Wd[f,d]", "X[b,s,d] = add(X[b,s,d], Y[b,s,d])"],
            "late": {"phase": "decode", "equations": ["Z[b,s,d] = norm(X[b,s,d])"]},
        },
        shard={"f": "none"},
    )


def test_the_same_plan_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "twin.yaml"
    path.write_text(TEXT, encoding="utf-8")
    written, built = Plan([load_model(path)], []), Plan([build().loaded()], [])
    assert written.json == built.json
    assert written.sha256 == built.sha256
    assert built.core.parameters(0) == 3 * 2 * 64 * 256


def test_a_built_model_can_be_predicted() -> None:
    found = predict(build(), gpu="h100-sxm", batch=4)
    assert found.values["feasible"]
    assert set(found.kernels["kernel"]) == {"up", "down", "late", "sampling", "host"}
    assert found.kernels.filter(phase="prefill")["kernel"].to_list() == ["up", "down", "sampling", "host"]


def test_faults_of_a_built_model_say_where() -> None:
    model = Model("bad", ranks={"d": 64}).block(kernels={"up": "A[b,s,q] = X[b,s,d] * W[d,q]"})
    with pytest.raises(SpecError, match="unknown rank `q`") as caught:
        _ = model.parameters
    assert "bad: blocks.0.kernels.0.equations.0" in str(caught.value)
    with pytest.raises(SpecError, match="`extent` should be a valid integer"):
        _ = Model("bad", ranks={"d": "64"}).parameters  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "module",
    ["inputs.builder", "inputs.library", "inputs.hf", "engine.evaluate", "engine.expert_loads", "engine.space"],
)
def test_examples_of_docstrings_run(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"energylens.{module}"))
    assert outcome.attempted
    assert not outcome.failed


@pytest.mark.parametrize("value", [5, "x", b"x", [1], {1: 2}, {"d": None}, {"d": "1k"}, {("a",): 1}, {"a" * 9999: 1}])
@pytest.mark.parametrize("field", ["ranks", "cache", "mask", "dtypes", "shard", "overlap", "tied"])
def test_what_is_no_part_of_a_model_is_refused_as_in_a_file(field: str, value: object) -> None:
    with pytest.raises(SpecError) as caught:
        model = Model("m", **({"ranks": {"d": 4}} | {field: value}))  # type: ignore[arg-type]
        Plan([model.block(kernels={"k": "X[b,s,d] = norm(Z[b,s,d], W[d])"}).loaded()], [])
    assert len(str(caught.value)) < 3000
