"""Models and GPUs of deployments: bundled names in any spelling, paths as text and as `Path`, loaded specs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from energylens.cli import main
from energylens.common.errors import FrameError, SpecError
from energylens.inputs.bundled import bundled
from energylens.inputs.library import load_gpu, load_model
from energylens.serving.advice.batch import advise_batch
from energylens.serving.advice.levers import advise_levers
from energylens.serving.advice.sweet_spots import sweet_spots
from energylens.serving.costs import Costs
from energylens.serving.evaluate import serve
from energylens.serving.plan import serve_plan
from energylens.serving.pools import serve_pools
from energylens.serving.replay import replay

CARD = """name: card-x
source: a data sheet
memory: {capacity_bytes: 96e9, bandwidth_bytes_per_s: 1792e9, technology: GDDR7}
compute: {sms: 188, peak_flops: {bf16: 503e12, fp8: 1007e12, fp4: 2015e12, vector: 126e12}}
power: {tdp_w: 600}
link: {kind: pcie5, bandwidth_bytes_per_s: 64e9, gpus_per_node: 8}
"""


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(CARD, encoding="utf-8")
    return path


def test_a_user_profile_is_replayed_however_it_is_named(card: Path) -> None:
    expected = replay({"model": "llama-3.1-8b", "gpu": "card-x"}, "512:64", 4.0, requests=200, gpus=[card]).values
    for gpu in (str(card), card, load_gpu(card)):
        again = replay({"model": "llama-3.1-8b", "gpu": gpu}, "512:64", 4.0, requests=200)
        assert again.values == expected
        assert again.deployment["gpu"] == "card-x"


@pytest.mark.parametrize(
    "model",
    ["llama-3.1-8b", "LLAMA-3.1-8B", "Llama-3.1-8B", bundled("models")["llama-3.1-8b"],
     str(bundled("models")["llama-3.1-8b"]), load_model("llama-3.1-8b")],
    ids=["name", "upper", "mixed", "path", "text", "loaded"],
)  # fmt: skip
@pytest.mark.parametrize("gpu", ["h100-sxm", "H100-SXM", bundled("hardware")["h100-sxm"], load_gpu("h100-sxm")],
                         ids=["name", "upper", "path", "loaded"])  # fmt: skip
def test_every_verb_takes_every_spelling(model: Any, gpu: Any) -> None:
    plain: dict[str, Any] = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}
    row = replay({"model": model, "gpu": gpu, "tp": 2}, "128:16", 5.0, requests=20)
    assert row.values == replay(plain | {"tp": 2}, "128:16", 5.0, requests=20).values
    if isinstance(model, str) and isinstance(gpu, str):
        served = serve(pl.DataFrame([{"model": model, "gpu": gpu}]), "128:16", 5.0)
        assert served.equals(serve(pl.DataFrame([plain]), "128:16", 5.0))


def test_plans_and_advice_of_a_user_profile(card: Path) -> None:
    for gpu in (str(card), card, load_gpu(card)):
        costs = Costs(gpu_hour={str(card): 1.0}, kwh=0.1)
        plan = serve_plan("LLAMA-3.1-8B", "128:16", rate_per_s=2.0, gpus=[gpu], tp=1, token_budget=8192, costs=costs)
        assert plan.best["gpu"] == "card-x"
        assert plan.best["model"] == "llama-3.1-8b"
    side: dict[str, Any] = {"gpus": [card], "tp": 1, "token_budget": 8192, "replicas": 1}
    assert (
        serve_pools("LLAMA-3.1-8B", "128:16", prefill=side, decode=side, rate_per_s=2.0).best["decode_gpu"] == "card-x"
    )
    assert advise_batch("LLAMA-3.1-8B", card).batch > 1
    assert advise_levers("LLAMA-3.1-8B", "128:16", gpu=card, rate_per_s=2.0, other_gpus=["L40S"]).now["gpu"] == "card-x"
    assert (
        sweet_spots("LLAMA-3.1-8B", card, prompt_tokens=[64, 128, 256], output_tokens=[64, 128, 256]).cells.height == 9
    )


def test_a_draft_model_by_its_path() -> None:
    draft = bundled("models")["llama-3.1-8b"]
    engine = {"model": "llama-3.1-70b", "gpu": "h100-sxm", "tp": 4, "draft_tokens": 3}
    frames = [serve(pl.DataFrame([engine | {"draft": name}]), "128:16", 1.0) for name in (str(draft), "llama-3.1-8b")]
    assert frames[0].equals(frames[1])
    axes: dict[str, Any] = {"gpus": "h100-sxm", "tp": 4, "draft_tokens": 3, "draft": draft, "replicas": 1}
    assert serve_plan("llama-3.1-70b", "128:16", rate_per_s=1.0, **axes).best["draft"] == "llama-3.1-8b"


def test_the_command_line_takes_paths_and_spellings(card: Path, capsys: Any) -> None:
    traffic = ["--workload", "128:16", "--rate", "2", "--requests", "60"]
    assert main(["replay", "LLAMA-3.1-8B", *traffic, "--gpu", str(card)]) == 0
    assert capsys.readouterr().out.startswith("llama-3.1-8b on 1 engine of 1 x card-x, tp 1; 128:16")


@pytest.mark.parametrize(
    ("deployment", "error", "said"),
    [
        ({"model": "llama-3.1-8b", "gpu": "h100"}, SpecError, "unknown gpu `h100`"),
        ({"model": "llama-3.1-8b", "gpu": 7}, SpecError, "a GPU is not a int"),
        ({"model": ["llama-3.1-8b"], "gpu": "h100-sxm"}, SpecError, "a model is not a list"),
        ({"model": "llama-3.1-8b", "gpu": "h100-sxm", "tp": [1, 2]}, FrameError, "`tp` of a deployment is one value"),
        ({"model": "llama-3.1-8b", "gpu": "h100-sxm", "tp": 10**30}, FrameError, "`tp` of a deployment is one value"),
        ({"gpu": "h100-sxm"}, FrameError, "missing column `model`"),
        ({"model": "llama-3.1-8b", "gpu": "h100-sxm", "replicas": 0}, FrameError, "from 1 to 10,000, found `0`"),
        ("llama-3.1-8b", FrameError, "a deployment is a mapping of columns to values"),
    ],
)
def test_what_names_no_deployment(deployment: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        replay(deployment, "128:16", 1.0)


def test_two_profiles_of_one_name_are_an_error(card: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(CARD.replace("tdp_w: 600", "tdp_w: 500"), encoding="utf-8")
    frame = pl.DataFrame({"model": "llama-3.1-8b", "gpu": [str(card), str(other)]})
    with pytest.raises(SpecError, match="two different GPUs are named `card-x`"):
        serve(frame, "128:16", 1.0)
