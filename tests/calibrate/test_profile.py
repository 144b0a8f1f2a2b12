"""Profile files: what calibration writes, and that it leaves the rest alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from energylens.calibrate.profile_file import MARKER, ProfileFile, emit, flow, scalar, significant
from energylens.common.errors import SpecError
from energylens.inputs.bundled import bundled
from energylens.inputs.library import load_gpu
from energylens.inputs.schema import first_line
from energylens.inputs.yaml import Document

FITTED = ("h100-sxm", "h200-sxm", "b200", "gb200", "a100-sxm-80gb", "l40s")
TREES = st.recursive(
    st.floats(1e-12, 1e15) | st.integers(0, 10**6) | st.text("abc ,:{}[]#'\"é", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcdef"), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("ghijk"), TREES, min_size=1))
def test_what_is_written_is_read_back(tree: dict[str, object]) -> None:
    text = "\n".join(emit(name, value, 0) for name, value in tree.items())
    read = Document(text, "x.yaml").data

    def same(a: object, b: object) -> bool:
        if isinstance(a, dict) and isinstance(b, dict):
            return set(a) == set(b) and all(same(a[key], b[key]) for key in a)
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            return len(a) == len(b) and all(map(same, a, b))
        if isinstance(a, float) and isinstance(b, (int, float)):
            return b == pytest.approx(a, rel=1e-5)
        return a == b

    assert same(tree, read), text


def test_numbers_are_short() -> None:
    assert [scalar(value) for value in (120.0, 3e-6, 1.5e12, 0.25, 7)] == ["120", "3e-6", "1.5e12", "0.25", "7"]
    assert flow({"a": [1, 2.5], "b": None}) == "{a: [1, 2.5], b: null}"
    assert significant(123456.0) == 123000.0


@pytest.mark.parametrize("name", FITTED)
def test_bundled_profiles_are_as_calibration_writes_them(name: str) -> None:
    path = bundled("hardware")[name]
    assert ProfileFile(path).text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FITTED)
def test_every_fitted_set_tells_its_source_and_error(name: str) -> None:
    spec = load_gpu(name).spec
    assert spec.kernels is not None
    for kind in ("gemm", "grouped_gemm", "attention_prefill", "attention_decode"):
        sets = getattr(spec.kernels, kind)
        for form, entry in sets:
            if entry is not None:
                assert "aiconfigurator-core 0.12.0" in entry.source, (kind, form)
                assert entry.fit is not None and entry.fit.valid and entry.fit.rows >= 20, (kind, form)


def test_what_a_person_wrote_stays(tmp_path: Path) -> None:
    path = tmp_path / "h100-sxm.yaml"
    text = bundled("hardware")["h100-sxm"].read_text(encoding="utf-8").replace("name:", "# mine\nname:", 1)
    path.write_text(text, encoding="utf-8")
    file = ProfileFile(path)
    file.replace(range=None)
    file.write()
    written = path.read_text(encoding="utf-8")
    assert written.startswith(f"{first_line('gpu')}\n# mine\n")
    assert "\nrange:" not in written
    assert written.split(MARKER)[0] == text.split(MARKER)[0]


def test_nothing_is_written_of_a_faulty_fit(tmp_path: Path) -> None:
    path = tmp_path / "h100-sxm.yaml"
    path.write_bytes(bundled("hardware")["h100-sxm"].read_bytes())
    before = path.read_bytes()
    file = ProfileFile(path)
    file.replace(energy={"flop_j": {"bf16": -1.0}})
    with pytest.raises(SpecError, match=r"missing field|should be greater"):
        file.write()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_sections_of_the_user_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        bundled("hardware")["h100-sxm"].read_text(encoding="utf-8").replace(MARKER + "\n", ""), encoding="utf-8"
    )
    with pytest.raises(SpecError, match="has a `host` section of its own"):
        ProfileFile(path)


def test_a_framework_has_separate_kernels_and_wider_intervals() -> None:
    plain, other = load_gpu("h100-sxm"), load_gpu("h100-sxm@trtllm")
    assert other.spec.name == "h100-sxm@trtllm"
    assert other.spec.kernels != plain.spec.kernels
    assert (other.spec.energy, other.spec.memory) == (plain.spec.energy, plain.spec.memory)
    assert plain.spec.uncertainty is not None and other.spec.uncertainty is not None
    assert other.spec.uncertainty.narrow >= 0.125
    assert other.spec.uncertainty.compute == pytest.approx(1.25 * plain.spec.uncertainty.compute)
    assert load_gpu("h100-sxm@vllm") == plain
    with pytest.raises(SpecError, match="no coefficients for the framework `tensorrt`"):
        load_gpu("h100-sxm@tensorrt")
    with pytest.raises(SpecError, match="known: vllm"):
        load_gpu("mi300x@sglang")
    json.dumps(other.profile.sections)
