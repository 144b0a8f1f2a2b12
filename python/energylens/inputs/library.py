"""The bundled models and GPUs, and how a name, a path or an object becomes one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from energylens.common.errors import Problem, SpecError, did_you_mean
from energylens.common.files import input_file, is_file, is_folder, is_there, printable
from energylens.inputs.form import check
from energylens.inputs.gpu import GpuSpec
from energylens.inputs.model import ModelSpec
from energylens.inputs.plan import LoadedGpu, LoadedModel, LoadedT, Plan, distinct
from energylens.inputs.yaml import Document

if TYPE_CHECKING:
    from energylens.inputs.builder import Model

Kind = Literal["models", "hardware", "sweeps", "workloads"]

DEFAULT_FRAMEWORK = "vllm"
"""The serving framework that a profile means when none is named."""


def bundled(kind: Kind) -> dict[str, Path]:
    """Return the bundled specs of a kind by name."""
    folder = Path(str(files("energylens") / "specs" / kind))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _find(kind: Kind, what: str, given: str | Path) -> Path:
    text = str(given)
    known = bundled(kind)
    if text.lower() in known:
        return known[text.lower()]
    path = Path(text)
    if text and (is_file(path) or path.suffix in {".yaml", ".yml"}):
        return path
    if text and is_there(path) and not is_folder(path):
        return input_file(path, what)
    hint = _folder_hint(path) if kind == "models" and text else None
    if kind == "models" and hint is None:
        hint = _hub_hint(text, known)
    if hint is None:
        hint = did_you_mean(text, known) or f"`energylens {what}s` lists them; a path ending in .yaml is read as a spec"
    raise SpecError(Problem(f"unknown {what} `{printable(text)}`", hint=hint, code=f"unknown-{what}"))


def _folder_hint(path: Path) -> str | None:
    """Return what to do with the folder of a checkpoint."""
    config = path / "config.json"
    return _import_hint(config) if is_file(config) else None


def _import_hint(config: Path | str) -> str:
    return f"`energylens import-hf {printable(str(config))} --out my-model.yaml` makes a spec of it"


_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/(?P<name>[A-Za-z0-9][\w.-]{0,95})", re.ASCII)
"""A model's id on the Hugging Face Hub, `organisation/name`."""

_QUANTISED = re.compile(r"fp8|fp4|int[48]|awq|gptq|gguf|bnb|[48]bit|w\d+a\d+", re.ASCII)


def _hub_hint(text: str, known: Iterable[str]) -> str | None:
    """Return the bundled model that an id on the Hugging Face Hub stands for, or how to make a spec of it."""
    match = _REPOSITORY.fullmatch(text)
    if match is None:
        return None
    name = match["name"].lower().removeprefix("meta-")
    same = max((one for one in known if name == one or name.startswith(f"{one}-")), key=len, default=None)
    if same is None:
        return f"`energylens import-hf config.json --out my-model.yaml` makes a spec of the config.json of {text}"
    formats = _QUANTISED.search(name.removeprefix(same))
    more = "; say its number format with weight_dtype (--weight-dtype)" if formats else ""
    return f"did you mean `{same}`? it is the bundled spec of that architecture{more}"


@lru_cache(maxsize=256)
def _read_model(path: Path, _stamp: int) -> LoadedModel:
    document = Document.read(path, "model")
    return LoadedModel(check(ModelSpec, document.data, document, path.name), document)


@lru_cache(maxsize=256)
def _read_gpu(path: Path, _stamp: int) -> LoadedGpu:
    document = Document.read(path, "profile")
    return LoadedGpu(check(GpuSpec, document.data, document, path.name), document)


def stamp(path: Path) -> int:
    """Return when a file was last written, in ns; 0 if there is none: part of the key of what is read once."""
    try:
        return path.stat().st_mtime_ns
    except (OSError, ValueError):
        return 0


def load_model(given: str | Path | Model | LoadedModel) -> LoadedModel:
    """Return a model from a bundled name, a path to a spec, or a builder; raise `SpecError` with all its problems."""
    from energylens.inputs.builder import Model

    if isinstance(given, LoadedModel):
        return given
    if isinstance(given, (str, Path)):
        path = _find("models", "model", given)
        if path.suffix == ".json":
            message = f"`{printable(str(path))}` is no spec; it looks like a config from Hugging Face"
            raise SpecError(Problem(message, hint=_import_hint(path), code="unknown-model"))
        return _read_model(path, stamp(path))
    if isinstance(given, Model):
        return given.loaded()
    hint = "give a bundled name, a path to a spec, or a `Model`"
    raise SpecError(Problem(f"a model is not a {type(given).__name__}", hint=hint, code="unknown-model"))


def load_gpu(given: str | Path | LoadedGpu) -> LoadedGpu:
    """Return a GPU from a bundled name or a path to a profile; raise `SpecError` with all its problems."""
    if isinstance(given, LoadedGpu):
        return given
    if not isinstance(given, (str, Path)):
        hint = "give a bundled name or a path to a profile"
        raise SpecError(Problem(f"a GPU is not a {type(given).__name__}", hint=hint, code="unknown-gpu"))
    base, at, framework = str(given).rpartition("@")
    if not at or is_file(given):
        base, at, framework = str(given), "", ""
    path = _find("hardware", "gpu", base)
    loaded = _read_gpu(path, stamp(path))
    return under(loaded, framework) if at else loaded


def profile_path(given: str | Path) -> Path:
    """Return the file of a bundled GPU's profile, or the path given; raise `SpecError`."""
    base, at, framework = str(given).rpartition("@")
    if at and not is_file(given):
        message = f"`{given}` is no file of a profile: a file is that of all its frameworks, `{framework}` among them"
        raise SpecError(Problem(message, hint=f"give {base}", code="unknown-gpu"))
    return _find("hardware", "gpu", given)


def beside(given: str | Path, folder: Path, kind: Kind) -> str | Path:
    """Return a name in a file as it is meant: a spec that lies in the folder of that file first, then as given."""
    base, at, framework = str(given).rpartition("@")
    if not at or is_file(folder / given):
        base, at, framework = str(given), "", ""
    near = folder / base
    return Path(f"{near}{at}{framework}") if base.lower() not in bundled(kind) and is_file(near) else given


def resolved(
    names: Iterable[str], own: Mapping[str, LoadedT], load: Callable[[str], LoadedT], what: str
) -> tuple[list[LoadedT], dict[str, str]]:
    """Return what names stand for, each once, and the name that it has in results, by name as given.

    Parameters
    ----------
    names
        Bundled names in any spelling, paths, `gpu@framework`, and names of `own`, which come first.
    own
        Specs by their names.
    load
        How a name that is not in `own` is read.
    what
        What they are, for messages: "model", "GPU".

    Raises
    ------
    SpecError
        With the problems of every name, or if two that differ have one name.
    """
    spelled = {name.lower(): item for name, item in own.items()}
    found: dict[str, LoadedT] = {}
    problems: list[Problem] = []
    for name in names:
        try:
            found[name] = own.get(name) or spelled.get(name.lower()) or load(name)
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return distinct(list(found.values()), what), {name: item.spec.name for name, item in found.items()}


def under(loaded: LoadedGpu, framework: str) -> LoadedGpu:
    """Return a profile as another serving framework uses the GPU, named `gpu@framework`; raise `SpecError`.

    Kernels are those of its own tables; the host is the default framework's, as no serving run of another was measured,
    and deviations are 1.25 times as wide, of all models at least 0.12.
    """
    spec = loaded.spec
    known = spec.frameworks or {}
    framework = framework if framework in known else framework.lower()
    if framework == DEFAULT_FRAMEWORK:
        return loaded
    if framework not in known:
        hint = did_you_mean(framework, known) or f"known: {', '.join([DEFAULT_FRAMEWORK, *known])}"
        message = f"`{spec.name}` has no coefficients for the framework `{framework}`"
        raise SpecError(Problem(message, hint=hint, code="unknown-framework"))
    own = known[framework]
    changes = {
        name: getattr(own, name) for name in ("kernels", "collectives", "host") if getattr(own, name) is not None
    }
    if own.host is None and spec.host is not None:
        # How much slower kernels are in a step was fitted to another framework's runs.
        changes["host"] = spec.host.model_copy(update={"stretch": None, "task_input_tokens": None, "fit": None})
    if spec.uncertainty is not None:
        least = {"common": 0.1, "narrow": 0.1}
        kept = {name: value for name, value in spec.uncertainty if isinstance(value, float)}
        wider = {name: 1.25 * max(value, least.get(name, 0.0)) for name, value in kept.items()}
        changes["uncertainty"] = spec.uncertainty.model_copy(update=wider)
    changes |= {"name": f"{spec.name}@{framework}", "frameworks": None, "trust": "published"}
    return LoadedGpu(spec.model_copy(update=changes), loaded.document)


def models() -> pl.DataFrame:
    """Return the bundled models: name, parameters counted and published, layers, experts, source."""
    rows: list[dict[str, Any]] = []
    for name in bundled("models"):
        loaded = load_model(name)
        spec = loaded.spec
        routed = next((rank for rank in spec.ranks.values() if rank.active is not None), None)
        rows.append(
            {
                "model": name,
                "parameters": Plan([loaded], []).core.parameters(0),
                "published_parameters": spec.parameters,
                "layers": sum(block.repeat for block in spec.blocks if block.repeat > 1),
                "experts": routed.extent if routed else None,
                "active_experts": routed.active if routed else None,
                "weights": spec.dtypes["weights"],
                "source": spec.source,
            }
        )
    return pl.DataFrame(rows)


def gpus() -> pl.DataFrame:
    """Return the bundled GPUs: name, how far they are trusted, memory, peaks, power, source."""
    rows: list[dict[str, Any]] = []
    for name in bundled("hardware"):
        loaded = load_gpu(name)
        spec = loaded.spec
        rows.append(
            {
                "gpu": name,
                "trust": loaded.trust,
                "memory_bytes": spec.memory.capacity_bytes,
                "bandwidth_bytes_per_s": spec.memory.bandwidth_bytes_per_s,
                "bf16_flops_per_s": spec.compute.peak_flops.bf16,
                "tdp_w": spec.power.tdp_w,
                "static_w": loaded.profile.static_w,
                "gpus_per_node": spec.link.gpus_per_node,
                "source": spec.source,
            }
        )
    return pl.DataFrame(rows)
