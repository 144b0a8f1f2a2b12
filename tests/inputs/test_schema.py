"""Schemas of files: they are sound, current, take what the code takes, refuse what is plainly wrong, explain fields."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from energylens.calibrate.profile_file import ProfileFile, flow
from energylens.common.errors import EnergylensError, SpecError
from energylens.inputs.bundled import bundled
from energylens.inputs.form import check
from energylens.inputs.gpu import GpuSpec
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.model import AXES, ModelSpec
from energylens.inputs.plan import LoadedGpu, LoadedModel, Plan
from energylens.inputs.point import PointSpec
from energylens.inputs.schema import FOLDERS, KINDS, first_line, schema, text
from energylens.inputs.workload import WorkloadSpec
from energylens.inputs.yaml import Document
from energylens.results.point import read_point
from energylens.serving.workload import load_workload
from energylens.sweeps.job import Job, JobForm

jsonschema = pytest.importorskip("jsonschema", reason="a part of the extra `report`")

ROOT = Path(__file__).parents[2]
SPECS = ROOT / "python" / "energylens" / "specs"
BUNDLED = [path for folder in FOLDERS for path in sorted((SPECS / folder).glob("*.yaml"))]
FORMS: dict[str, type[BaseModel]] = {
    "model": ModelSpec,
    "gpu": GpuSpec,
    "workload": WorkloadSpec,
    "sweep": JobForm,
    "point": PointSpec,
}
FENCE = re.compile(r"^```yaml[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [*ROOT.glob("tests/cases/*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "README.md"]


@pytest.fixture(scope="module")
def validators() -> dict[str, Any]:
    return {kind: jsonschema.Draft202012Validator(schema(kind)) for kind in KINDS}


def faults(validator: Any, data: Any) -> list[str]:
    return [f"{fault.json_path}: {fault.message}" for fault in validator.iter_errors(data)]


def taken(kind: str, data: Any) -> bool:
    try:
        spec = check(FORMS[kind], data, None, kind)
        if isinstance(spec, ModelSpec):
            Plan([LoadedModel(spec)], [])
        if isinstance(spec, GpuSpec):
            Plan([], [LoadedGpu(spec)])
    except SpecError:
        return False
    return True


def minimal(kind: str) -> Any:
    page = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    (body,) = re.findall(rf'^```yaml title="{kind}.yaml"\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    return Document(body, f"{kind}.yaml").data


def objects(told: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield told["title"], told
    yield from told.get("$defs", {}).items()


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_sound_and_explains_every_field(kind: str) -> None:
    told = schema(kind)
    jsonschema.Draft202012Validator.check_schema(told)
    assert told["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert told["$id"] == f"energylens/{kind}.schema.json"
    for name, part in objects(told):
        assert part["description"] and part["title"] and part["additionalProperties"] is False, name
        for field, own in part["properties"].items():
            assert own.get("description", "").endswith("."), f"{name}.{field}"
    for form in FORMS[kind].model_fields:
        assert form in told["properties"]
    assert not re.search(r'"(ge|gt|le|lt)":', text(kind)), "a bound in other words than JSON Schema's"


@pytest.mark.parametrize("kind", KINDS)
def test_committed_schemas_are_current(kind: str) -> None:
    path = SPECS / "schemas" / f"{kind}.schema.json"
    if os.environ.get("UPDATE_SCHEMAS"):
        path.write_text(text(kind), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text(kind), "UPDATE_SCHEMAS=1 pytest tests/inputs/test_schema.py"


@pytest.mark.parametrize("path", BUNDLED, ids=[path.stem for path in BUNDLED])
def test_bundled_files_are_valid_and_lead_editors_to_their_schema(path: Path, validators: dict[str, Any]) -> None:
    kind = FOLDERS[path.parent.name]
    assert faults(validators[kind], Document.read(path).data) == []
    line = path.read_text(encoding="utf-8").splitlines()[0]
    assert line == first_line(kind)
    assert (path.parent / line.partition("$schema=")[2]).is_file()


def test_files_of_cases_and_pages_that_are_taken_are_valid(validators: dict[str, Any]) -> None:
    found = dict.fromkeys(KINDS, 0)
    for page in PAGES:
        for body in FENCE.findall(page.read_text(encoding="utf-8")):
            try:
                data = Document(body, page.name).data
            except SpecError:
                continue
            for kind in KINDS:
                if taken(kind, data):
                    assert faults(validators[kind], data) == [], f"{page.name}: {body}"
                    found[kind] += 1
    assert found["model"] >= 4 and found["gpu"] >= 4 and found["workload"] >= 3 and found["sweep"] >= 5, found


SHORTHANDS: dict[str, list[dict[str, Any]]] = {
    "model": [
        {"ranks.f": 4096.0},
        {"ranks.f": {"extent": 4096}},
        {"mask.S": {"window": 128}},
        {"mask.S": {"window": None}},
        {"blocks.1.kernels.up": ["A[b,s,f] = Y[b,s,d] * Wu[d,f]"]},
        {"blocks.1.kernels.up": {"phase": "decode", "equations": ["A[b,s,f] = Y[b,s,d] * Wu[d,f]"]}},
        {"shard.f": "none"},
    ],
    "gpu": [
        {"kernels": None},
        {"link.kind": "of-a-kind"},
        {"clock": {"max_mhz": 2000, "voltage_mv": [[500, 700], [2000, 1000]], "source": "x"}},
    ],
    "workload": [{"rates": [[1, 1]]}, {"prefix": {"found": [[1, 0.5]]}}],
    "sweep": [
        {"space.models": ["model.yaml, llama-3.1-8b", "qwen3-8b"]},
        {"space.tp": "1:8, 16"},
        {"space.tp": [1, "2,4", 8.0]},
        {"space.tp": None},
        {"space.batch": 1e3},
        {"space.sm_clock_mhz": ["default", "1200:1900:100", 1980, None]},
        {"space.sm_clock_mhz": "default,1200"},
        {"space.sequence_parallel": [False, "on"]},
        {"space.sequence_parallel": "off,true"},
        {"space.overlap_where": "prefill,both"},
        {"space.overlap_sms": [0, "8,16"]},
        {"space.routing": [None, "default", "zipf:0.5,uniform"]},
        {"space.placement": "contiguous,replicated:32"},
        {"space.weight_dtype": "default, fp8"},
        {"space.kv_dtype": [None, "fp8"]},
        {"space.limits": "tpot<=50ms"},
        {"space.objectives": "latency_s"},
        {"keep.best_per": "gpu"},
        {"keep.distributions": ["tpot_s"]},
    ],
    "point": [{"weight_dtype": None}, {"routing": "power_law:1.2"}, {"placement": "replicated:3"}, {"draft": None}],
}

WRONG: dict[str, list[dict[str, Any]]] = {
    "model": [
        {"nmae": "x"},
        {"name": "a model"},
        {"blocks": {}},
        {"ranks.s": 4096},
        {"ranks.ff": 4096},
        {"ranks.f": "4096"},
        {"ranks.f": 0},
        {"shard.f": "xp"},
        {"mask.S": "casual"},
        {"dtypes": {"weights": "fp9", "activations": "bf16", "cache": "bf16"}},
        {"dtypes": {"weights": "fp8"}},
        {"blocks.1.kernels.up": {"phase": "warmup", "equations": ["A[b,s,f] = Y[b,s,d] * Wu[d,f]"]}},
    ],
    "gpu": [
        {"trust": "blind"},
        {"memory.capacity_bytes": "48 GB"},
        {"memory.technology": "DDR5"},
        {"compute.sms": 1.5},
        {"power.tdp_w": -1},
        {"clock": {"max_mhz": 2000, "voltage_mv": [[500, 700, 1]], "source": "x"}},
    ],
    "workload": [{"kinds": [[1, 2]]}, {"kinds": []}, {"rate_per_s": 0}, {"crowd": {"share": 2, "others": 1}}],
    "sweep": [
        {"space.tp": "one"},
        {"space.tp": 2048},
        {"space.batch": []},
        {"space.sm_clock_mhz": "mine"},
        {"space.weight_dtype": "fp9"},
        {"space.overlap_where": "nowhere"},
        {"space.routing": "zip:0.5"},
        {"space.objectives": ["joules"]},
        {"keep.rows": "some"},
        {"keep.best_per": ["gpus"]},
        {"keep.epsilon": 2},
    ],
    "point": [
        {"tp": 0},
        {"weight_dtype": "own"},
        {"routing": "zip"},
        {"overlap_where": "nowhere"},
        {"gpus": "h100-sxm"},
    ],
}


def changed(kind: str, changes: dict[str, Any]) -> Any:
    data = copy.deepcopy(minimal(kind))
    for path, value in changes.items():
        *above, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        part = data
        for step in above:
            part = part[step]
        part[last] = value
    return data


@pytest.mark.parametrize(
    ("kind", "changes"), [(kind, one) for kind, several in SHORTHANDS.items() for one in several], ids=str
)
def test_what_the_code_takes_is_valid(kind: str, changes: dict[str, Any], validators: dict[str, Any]) -> None:
    data = changed(kind, changes)
    assert taken(kind, data)
    assert faults(validators[kind], data) == []


@pytest.mark.parametrize(
    ("kind", "changes"), [(kind, one) for kind, several in WRONG.items() for one in several], ids=str
)
def test_what_is_plainly_wrong_is_not_valid(kind: str, changes: dict[str, Any], validators: dict[str, Any]) -> None:
    assert faults(validators[kind], minimal(kind)) == []
    assert faults(validators[kind], changed(kind, changes)) != []


def test_mesh_axes_are_those_of_the_core(tmp_path: Path) -> None:
    data = changed("model", {"shard.f": "xp"})
    with pytest.raises(SpecError) as raised:
        Plan([load_model(written(tmp_path / "model.yaml", data))], [])
    assert raised.value.problems[0].hint == f"axes are {', '.join(AXES[:-1])}, or {AXES[-1]}"


def written(path: Path, data: Any) -> Path:
    path.write_text(flow(data), encoding="utf-8")
    return path


def test_an_unknown_kind_is_reported() -> None:
    with pytest.raises(EnergylensError, match="there is no schema of `modle`") as raised:
        schema("modle")
    assert raised.value.problems[0].hint == "did you mean `model`?"


def test_examples_of_the_reference_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in KINDS:
        written(tmp_path / f"{kind}.yaml", minimal(kind))
    assert load_model("model.yaml").spec.name == "tiny"
    assert load_gpu("gpu.yaml").trust == "modelled"
    assert load_workload("workload.yaml").rate_per_s == 6
    assert Job("sweep.yaml").space.size == 2 * 3 * 64
    assert read_point("point.yaml").row["feasible"]
    assert read_point("model.yaml; gpu=gpu.yaml; tp=2; batch=32").row["feasible"]


def test_the_reference_is_current() -> None:
    script = ROOT / "docs" / "write_reference.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_profile_in_another_folder_does_not_lead_to_a_schema_that_is_not_there(tmp_path: Path) -> None:
    profile = ProfileFile(bundled("hardware")["h100-sxm"])
    assert profile.text.startswith(first_line("gpu"))
    profile.write(tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8").startswith("name: h100-sxm\n")
