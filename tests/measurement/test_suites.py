"""Suites: names that tell cases apart, what fits, and shapes that only the transformer has."""

from __future__ import annotations

import pytest

from energylens.measurement.cases import SUITES, SWEPT, Case, held_bytes, suite, swept
from energylens.measurement.kernels import dealt
from energylens.measurement.transformer import CONFIG


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_names_every_case_once_and_fits(name: str) -> None:
    cases = suite(name, gpus=8, memory_bytes=24 * 10**9)
    assert len({case.name for case in cases}) == len(cases)
    assert all(held_bytes(case) <= 0.8 * 24e9 for case in cases)
    families = {case.family for case in cases}
    assert {"idle", "launch", "gemm", "stream", "attention_prefill", "attention_decode", "grouped_gemm"} < families
    assert {"elementwise", "model", "collective"} < families
    assert len(suite(name, memory_bytes=141 * 10**9)) > len(suite(name, memory_bytes=6 * 10**9))


def test_what_a_gpu_lacks_is_left_out() -> None:
    assert {case.dtype for case in suite("quick", fp8=False)} == {"", "bf16"}
    assert {case.dtype for case in suite("quick")} == {"", "bf16", "fp8"}
    assert "collective" not in {case.family for case in suite("quick", gpus=1)}
    assert {case["gpus"] for case in suite("quick", gpus=6) if case.family == "collective"} == {2, 4}


@pytest.mark.parametrize("name", SUITES)
def test_the_transformer_has_shapes_that_no_fit_reads(name: str) -> None:
    wide = int(CONFIG["hidden_size"])  # type: ignore[call-overload]
    for case in suite(name):
        if case.family == "gemm":
            assert wide not in (case["columns"], case["depth"])
        if case.family in ("attention_prefill", "attention_decode"):
            assert case["heads"] != CONFIG["num_attention_heads"]


def test_few_cases_are_measured_at_locked_clocks() -> None:
    cases = swept(suite("full", memory_bytes=141 * 10**9))
    assert {case.family for case in cases} == set(SWEPT)
    assert len(cases) <= 4 * len(SWEPT)


@pytest.mark.parametrize("law", ["balanced", "power_law_1.2"])
@pytest.mark.parametrize("tokens", [1, 16, 256, 4096])
def test_every_choice_of_a_token_is_dealt_to_an_expert(law: str, tokens: int) -> None:
    result = dealt(Case.of("grouped_gemm", law, tokens=tokens, experts=64, active=8, hidden=8, inner=8))
    assert sum(result) == 8 * tokens
    assert len(result) == 64
    assert 0 <= min(result) <= max(result) <= tokens
    if law == "power_law_1.2" and tokens == 4096:
        assert max(result) > 3 * 8 * tokens / 64
