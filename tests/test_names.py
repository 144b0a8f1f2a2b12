"""Models and GPUs under every name they may have: each verb answers as for the bundled name, and names it so.

`COMMANDS` and `VERBS` walk every command and public function that takes a model, a GPU or a point; a new one that is in
neither list nor in `WITHOUT` fails a test.
"""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import energylens
from energylens import EnergylensError
from energylens.cli import main
from energylens.cli.app import app
from energylens.cli.command import App, Command
from energylens.engine.collectives import collectives
from energylens.engine.expert_loads import loads
from energylens.inputs.bundled import bundled
from energylens.inputs.library import load_gpu, load_model
from energylens.results.point import read_point
from energylens.sweeps.merge import merge

MODEL, GPU = "qwen3-30b-a3b", "h100-sxm"
MODELS = {
    "path": "specs/my-model.yaml",
    "spelling": "Qwen3-30B-A3B",
    "renamed": "specs/renamed-model.yaml",
}
GPUS = {
    "path": "specs/my-gpu.yaml",
    "spelling": "H100-SXM",
    "framework": "h100-sxm@vllm",
    "framework of a path": "specs/my-gpu.yaml@vllm",
    "renamed": "specs/renamed-gpu.yaml",
}
SGLANG = {
    "spelling": "H100-SXM@SGLang",
    "renamed": "specs/renamed-gpu.yaml@sglang",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder whose `specs` are read once for all tests."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "specs").mkdir()
    for kind, name, what in (("models", MODEL, "model"), ("hardware", GPU, "gpu")):
        text = bundled(kind)[name].read_text(encoding="utf-8")  # type: ignore[arg-type]
        (folder / "specs" / f"my-{what}.yaml").write_text(text, encoding="utf-8")
        assert f"name: {name}\n" in text
        renamed = text.replace(f"name: {name}\n", f"name: renamed-{what}\n")
        (folder / "specs" / f"renamed-{what}.yaml").write_text(renamed, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def within(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def plain(answer: Any) -> Any:
    """Return an answer with the names of renamed specs as those of the bundled ones, without times and hashes."""
    if isinstance(answer, pl.DataFrame):
        answer = answer.to_dicts()
    if isinstance(answer, dict):
        hidden = {"seconds", "plan_sha256", "sweep_sha256", "source", "name"}
        return {plain(key): plain(value) for key, value in answer.items() if key not in hidden}
    if isinstance(answer, (list, tuple)):
        return [plain(value) for value in answer]
    if isinstance(answer, str):
        return answer.replace("renamed-model", MODEL).replace("renamed-gpu", GPU)
    return answer


COMMANDS = {
    "predict": "predict {model} --gpu {gpu} --tp 2 --batch 8",
    "explore": "explore {model},qwen3-30b-a3b --gpu {gpu},b200 --tp 2 --batch 8,64 --best-per gpu,model",
    "search": "search {model} --gpu {gpu} --method native --tp 2 --batch 1:64 --generations 3 --population 20",
    "split": 'split {model} --prefill "gpus={gpu}; tp=2" --decode "gpus={gpu},b200; tp=2; batch=64"',
    "collectives": "collectives {gpu} --gpus 2 --sizes 65536",
    "routing": "routing {model} --ep 2",
    "compare": 'compare "{model}; gpu={gpu}; tp=2" "{model}; gpu={gpu}; tp=4"',
    "export": 'export "{model}; gpu={gpu}; tp=2"',
    "show": "show {model}",
    "gpus": "gpus --show {gpu}",
    "sweep": "sweep job.yaml --out sweep",
}
SERVICE_COMMANDS = {
    "serve-plan": "serve-plan {model} --workload 1024:64 --rate 1 --gpu {gpu} --tp 2",
    "serve-pools": "serve-pools {model} --workload 1024:64 --rate 1 --prefill {side} --decode {side}",
    "replay": "replay {model} --workload 1024:64 --rate 1 --requests 40 --gpu {gpu} --tp 2",
    "advise batch": "advise batch {model} --gpu {gpu} --tp 2 --workload 1024:64",
    "advise sweet-spots": "advise sweet-spots {model} --gpu {gpu} --tp 2 --prompt-tokens 64,512 --output-tokens 64,512",
    "advise levers": "advise levers {model} --gpu {gpu} --tp 2 --workload 1024:64 --rate 1 --other-gpu b200",
}
WITHOUT = {
    "calibrate": "profiles to be rewritten, by their file: tests/calibrate",
    "validate": "GPUs that measured runs name",
    "measure": "the number of a GPU at hand",
    "report": "a result's file",
}

LATER: set[str] = set()
"""Those that do not take every name yet."""


def listed(names: Iterable[str]) -> list[Any]:
    """Return names of a list as parameters of a test."""
    skipped = pytest.mark.skip(reason="does not take every name yet")
    return [pytest.param(name, marks=skipped) if name in LATER else name for name in names]


def some(forms: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the forms of a name that a function is called with; of service functions only those that differ most."""
    if name in SERVICE_COMMANDS or name in SERVICE_VERBS:
        return {form: value for form, value in forms.items() if form in ("spelling", "renamed", "Path", "loaded")}
    return forms


def ran(name: str, model: str, gpu: str, capsys: pytest.CaptureFixture[str]) -> Any:
    line = (COMMANDS | SERVICE_COMMANDS)[name].format(model=model, gpu=gpu, side=f"'gpus={gpu}; tp=2'")
    if name == "sweep":
        job = {"name": "job", "space": {"models": [model], "gpus": [gpu], "tp": [2], "batch": [8]}}
        Path("job.yaml").write_text(json.dumps(job), encoding="utf-8")
        line = line.replace("--out sweep", f"--out sweep-{len(list(Path().glob('sweep-*')))}")
    code = main([*shlex.split(line), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


@pytest.mark.parametrize("name", listed([*COMMANDS, *SERVICE_COMMANDS]))
def test_a_command_takes_every_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = plain(ran(name, MODEL, GPU, capsys))
    for form, model in some(MODELS, name).items():
        if form != "renamed" or name != "explore":  # next to the bundled one it is another model
            assert plain(ran(name, model, GPU, capsys)) == wanted, form
    for form, gpu in some(GPUS, name).items():
        output = ran(name, MODEL, gpu, capsys)
        assert plain(output) == wanted, form
        assert "specs/" not in json.dumps(output).replace("sweep-", "")
    if name in COMMANDS and name not in ("show", "routing", "export", "sweep"):
        wanted = plain(ran(name, MODEL, "h100-sxm@sglang", capsys))
        for form, gpu in SGLANG.items():
            assert plain(ran(name, MODEL, gpu, capsys)) == wanted, form


def commands(group: App, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Command]]:
    for name, member in group.commands.items():
        if isinstance(member, App):
            yield from commands(member, (*words, name))
        else:
            yield " ".join((*words, name)), member


def test_every_command_that_takes_a_name_is_walked() -> None:
    main(["--version"])  # registers every command
    named = {"model", "models", "gpu", "gpus", "point", "before", "prefill", "draft"}
    names = {name for name, command in commands(app) if named & {option.key for option in command.options}}
    names = {name for name in names if name.split()[0] not in WITHOUT}
    assert names <= {*COMMANDS, *SERVICE_COMMANDS}


def framed(model: Any, gpu: Any) -> pl.DataFrame:
    rows = {"model": [str(model), MODEL, str(model)], "gpu": [str(gpu), "b200", "b200"], "tp": [2, 2, 4]}
    return energylens.evaluate(pl.DataFrame(rows))


def evaluated(model: Any, gpu: Any) -> pl.DataFrame:
    """Frames refer to specs that are passed with them by the specs' names."""
    names = {"model": [load_model(model).spec.name], "gpu": [load_gpu(gpu).spec.name]}
    return energylens.evaluate(pl.DataFrame(names), models=[model], gpus=[gpu])


def swept(model: Any, gpu: Any) -> pl.DataFrame:
    space = {"models": [str(model)], "gpus": [str(gpu)], "tp": [2], "batch": [8]}
    out = f"sweep-{len(list(Path().glob('sweep-*')))}"
    energylens.sweep({"name": "job", "space": space}, out)
    return merge(out).frame


SMALL: dict[str, Any] = {"tp": 2, "batch": [8, 64]}
VERBS: dict[str, Callable[[Any, Any], Any]] = {
    "predict": lambda model, gpu: energylens.predict(model, gpu, tp=2).as_dict(),
    "evaluate a frame": framed,
    "evaluate specs": evaluated,
    "explore": lambda model, gpu: (
        energylens.explore(models=model, gpus=[gpu, "b200"], best_per=["gpu"], **SMALL).best_per
    ),
    "search": lambda model, gpu: (
        energylens.search(models=[model], gpus=gpu, method="native", generations=2, **SMALL).frame
    ),
    "Space": lambda model, gpu: energylens.Space(model, gpu, **SMALL).describe(),
    "split": lambda model, gpu: (
        energylens.split(
            model, prefill={"gpus": gpu, "tp": 2}, decode={"gpus": [gpu, "b200"], "tp": 2, "batch": 64}
        ).frame
    ),
    "compare": lambda model, gpu: (
        energylens.compare({"model": model, "gpu": gpu, "tp": 2}, {"model": model, "gpu": gpu}).results
    ),
    "export": lambda model, gpu: energylens.export({"model": model, "gpu": gpu, "tp": 2}).script,
    "read_point": lambda model, gpu: read_point({"model": model, "gpu": gpu, "tp": 2}).words(),
    "sweep": swept,
    "collectives": lambda _, gpu: collectives(gpu),
    "loads": lambda model, _: loads(model),
}
LOAD: dict[str, Any] = {"workload": "1024:64", "rate_per_s": 1.0}
SERVICE_VERBS: dict[str, Callable[[Any, Any], Any]] = {
    "serve": lambda model, gpu: energylens.serve(
        pl.DataFrame({"model": [str(model), MODEL], "gpu": [str(gpu), GPU], "tp": [2, 2]}), "1024:64", 1.0
    ),
    "serve specs": lambda model, gpu: energylens.serve(
        pl.DataFrame({"model": [load_model(model).spec.name], "gpu": [load_gpu(gpu).spec.name], "tp": [2]}),
        *("1024:64", 1.0),
        models=[model],
        gpus=[gpu],
    ),
    "serve_plan": lambda model, gpu: energylens.serve_plan(model, gpus=[gpu, "b200"], tp=2, **LOAD).frame,
    "serve_pools": lambda model, gpu: (
        energylens.serve_pools(model, prefill={"gpus": gpu, "tp": 2}, decode={"gpus": [gpu], "tp": 2}, **LOAD).frame
    ),
    "replay": lambda model, gpu: (
        energylens.replay({"model": model, "gpu": gpu, "tp": 2}, "1024:64", 1.0, requests=40).values
    ),
    "advise_batch": lambda model, gpu: energylens.advise_batch(model, gpu, "1024:64", tp=2).curve,
    "sweet_spots": lambda model, gpu: (
        energylens.sweet_spots(model, gpu, prompt_tokens=[64, 512], output_tokens=[64, 512], tp=2).cells
    ),
    "advise_levers": lambda model, gpu: energylens.advise_levers(model, "1024:64", gpu=gpu, rate_per_s=1.0, tp=2).frame,
}
NO_NAMES = {
    *("gpus", "models", "workloads", "load_workload", "spec_from_hf", "read_parquet", "status", "merge", "measure"),
}
FRAMES = {"evaluate a frame", "sweep", "serve"}
"""Verbs of texts alone."""


@pytest.mark.parametrize("name", listed([*VERBS, *SERVICE_VERBS]))
def test_a_function_takes_every_name(name: str) -> None:
    verb = (VERBS | SERVICE_VERBS)[name]
    wanted = plain(verb(MODEL, GPU))
    models: dict[str, Any] = dict(MODELS) | {"Path": Path(MODELS["path"])}
    gpus: dict[str, Any] = dict(GPUS) | {"Path": Path(GPUS["path"]), "Path@": Path(GPUS["framework of a path"])}
    if name not in FRAMES:
        models |= {"loaded": load_model(MODELS["path"]), "loaded renamed": load_model(MODELS["renamed"])}
        gpus |= {"loaded": load_gpu(GPUS["path"]), "loaded renamed": load_gpu(GPUS["renamed"])}
    for form, model in some(models, name).items():
        assert plain(verb(model, GPU)) == wanted, form
    for form, gpu in some(gpus, name).items():
        assert plain(verb(MODEL, gpu)) == wanted, form
    wanted = plain(verb(MODEL, "h100-sxm@sglang"))
    for form, gpu in SGLANG.items():
        assert plain(verb(MODEL, gpu)) == wanted, form


def test_every_public_function_that_takes_a_name_is_walked() -> None:
    functions = {name for name in energylens.__all__ if inspect.isfunction(getattr(energylens, name))}
    walked = {name.split()[0] for name in (*VERBS, *SERVICE_VERBS)}
    assert functions - NO_NAMES <= walked


def test_names_in_results_are_the_specs() -> None:
    forms = pl.DataFrame({"model": [MODEL, *MODELS.values()], "gpu": [GPU, *list(GPUS.values())[:3]], "tp": 2})
    frame = energylens.evaluate(forms)
    assert frame["model"].to_list() == [MODEL, MODEL, MODEL, "renamed-model"]
    assert frame["gpu"].to_list() == [GPU] * 4
    assert frame["energy_j"].n_unique() == 1
    categories = forms.cast({"model": pl.Categorical, "gpu": pl.Categorical})
    assert energylens.evaluate(categories).equals(frame)


def test_a_loaded_spec_goes_before_the_bundled_one_in_any_spelling() -> None:
    text = Path("specs/my-gpu.yaml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "tdp_w:" in line)
    gpu = load_gpu(GPU)
    power = gpu.spec.power.model_copy(update={"tdp_w": gpu.spec.power.tdp_w * 0.6})
    from energylens.inputs.plan import LoadedGpu

    weaker = LoadedGpu(gpu.spec.model_copy(update={"power": power}))
    assert "tdp_w" in line
    frame = pl.DataFrame({"model": [MODEL] * 2, "gpu": [GPU, "H100-SXM"], "tp": [2, 2], "batch": [64, 64]})
    result = energylens.evaluate(frame, gpus=[weaker])
    assert result["gpu"].to_list() == [GPU, GPU]
    assert result["power_w_per_gpu"].n_unique() == 1
    assert result["power_w_per_gpu"][0] != energylens.evaluate(frame)["power_w_per_gpu"][0]


def test_all_unknown_names_of_a_frame_are_refused_at_once() -> None:
    frame = pl.DataFrame({"model": [MODEL, "qwen9", "llama9"], "gpu": [GPU, GPU, GPU]})
    with pytest.raises(EnergylensError) as raised:
        energylens.evaluate(frame)
    assert [problem.message for problem in raised.value.problems] == ["unknown model `qwen9`", "unknown model `llama9`"]


def test_two_specs_of_one_name_are_refused() -> None:
    text = Path("specs/my-model.yaml").read_text(encoding="utf-8")
    Path("other.yaml").write_text(text.replace("source:", "source: changed,", 1), encoding="utf-8")
    with pytest.raises(EnergylensError, match="two different models are named `qwen3-30b-a3b`"):
        energylens.evaluate(pl.DataFrame({"model": [MODEL, "other.yaml"], "gpu": [GPU, GPU]}))


def test_specs_in_the_folder_of_a_point_s_file_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    point = "model: renamed-model.yaml\ngpu: renamed-gpu.yaml@sglang\ntp: 2\n"
    Path("specs/point.yaml").write_text(point, encoding="utf-8")
    shown = read_point("specs/point.yaml")
    assert (shown.row["model"], shown.row["gpu"]) == ("renamed-model", "renamed-gpu@sglang")
    job = {
        "name": "job",
        "space": {"models": ["my-model.yaml"], "gpus": ["my-gpu.yaml@sglang"], "tp": [2], "batch": [8]},
    }
    Path("specs/job.yaml").write_text(json.dumps(job), encoding="utf-8")
    assert main(["sweep", "specs/job.yaml", "--out", "swept", "--json"]) == 0
    assert "h100-sxm@sglang" in json.loads(capsys.readouterr().out)["answer"]


def test_a_framework_names_no_file_of_a_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "kernels", "h100-sxm@sglang"]) == 2
    assert capsys.readouterr().err == (
        "error: `h100-sxm@sglang` is no file of a profile: a file is that of all its frameworks, `sglang` among them\n"
        "hint: give h100-sxm\n"
    )
