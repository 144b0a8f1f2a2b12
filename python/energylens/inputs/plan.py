"""The canonical plan: what was written, frozen to one JSON text whose SHA-256 is its name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from energylens import _core
from energylens.common.errors import Problem, SpecError
from energylens.common.memory import budget_bytes
from energylens.common.show import shown
from energylens.inputs import routing, run_options
from energylens.inputs.axes import LARGEST
from energylens.inputs.batching import MAX_BATCHED_TOKENS as MAX_BATCHED_TOKENS
from energylens.inputs.crossing import Point
from energylens.inputs.form import place_problem
from energylens.inputs.gpu import GpuSpec
from energylens.inputs.model import ModelSpec
from energylens.inputs.profile import Profile
from energylens.inputs.yaml import Document, Step

"""Prompt tokens of one prefill pass, the default of vLLM's `max_num_batched_tokens` on data-centre GPUs."""


@dataclass(frozen=True)
class LoadedModel:
    """A model spec and the file it came from."""

    spec: ModelSpec
    document: Document | None = None

    @property
    def folder(self) -> Path | None:
        """Where files that the spec names are looked for; none is the working directory."""
        return Path(self.document.file).parent if self.document else None


@dataclass(frozen=True)
class LoadedGpu:
    """A GPU profile and the file it came from."""

    spec: GpuSpec
    document: Document | None = None

    @cached_property
    def profile(self) -> Profile:
        """The profile with rules filled in."""
        return Profile.of(self.spec)

    @property
    def trust(self) -> str:
        """How far the numbers are trusted; `modelled` if a rule filled in any."""
        return "modelled" if self.profile.modelled else self.spec.trust


LoadedT = TypeVar("LoadedT", LoadedModel, LoadedGpu)


def canonical(content: Any) -> str:
    """Return the one JSON text of plain data."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


_CACHE_SHARE: Final = 16
_CACHE_BYTES: Final = 256 * 2**20


@lru_cache(maxsize=2)
def _typed(text: str) -> _core.Plan:
    """Return the typed plan of a text; the latest few are kept, as each remembers the mappings it has made."""
    return _core.Plan(text, min(_CACHE_BYTES, budget_bytes() // _CACHE_SHARE))


def _law(fields: dict[str, Any]) -> str:
    return json.dumps({part: fields[part] for part in ("law", "value") if part in fields})


class Plan:
    """Models and GPUs, typed and ready to evaluate points."""

    def __init__(
        self,
        models: Sequence[LoadedModel],
        gpus: Sequence[LoadedGpu],
        max_batched_tokens: int = MAX_BATCHED_TOKENS,
        routings: Sequence[str] = (),
    ) -> None:
        integer = isinstance(max_batched_tokens, int) and not isinstance(max_batched_tokens, bool)
        if not integer or not 1 <= max_batched_tokens <= LARGEST:
            number = shown(max_batched_tokens)
            message = f"`max_batched_tokens` should be a whole number from 1 to {LARGEST:,}, found {number}"
            raise SpecError(Problem(message, hint="it is the prompt tokens of one prefill pass", code="settings"))
        self.models = tuple(models)
        self.gpus = tuple(gpus)
        content = {
            "format": 1,
            "settings": {"max_batched_tokens": float(max_batched_tokens)},
            "models": [model.spec.canonical(model.folder) for model in models],
            "gpus": [gpu.profile.canonical() for gpu in gpus],
        }
        if routings:
            content["routings"] = [{"name": text} | routing.read(text).canonical() for text in routings]
        self._check_counts(content)
        self._freeze(content)

    def described(self, kind: str, name: str) -> dict[str, Any]:
        """Return one of its `models` or `gpus` as the core reads it."""
        content: dict[str, Any] = next(item for item in self.content[kind] if item["name"] == name)
        return content

    def _check_counts(self, content: dict[str, Any]) -> None:
        """Raise `SpecError` for counts of experts that no model here, or not the one that names them, can have."""
        hint = "count the tokens of every expert, of those without any too"
        problems: list[Problem] = []
        faults: dict[str, list[str | None]] = {}
        for model, loaded in zip(content["models"], self.models, strict=True):
            for name, rank in model["ranks"].items():
                if not rank["active"]:
                    continue
                sizes = rank["extent"], rank["active"]
                if wrong := _core.routing_fault(_law(rank["routing"]), *sizes):
                    fault, at = Problem(wrong, hint=hint, code="routing"), ("ranks", name, "routing")
                    problems.append(place_problem(loaded.document, f"model {model['name']}", at, fault, None))
                for law in content.get("routings", ()):
                    faults.setdefault(law["name"], []).append(_core.routing_fault(_law(law), *sizes))
        problems += [
            Problem(f"{name}: {each[0]}", hint=hint, code="routing") for name, each in faults.items() if all(each)
        ]
        if problems:
            raise SpecError(problems)

    @classmethod
    def thaw(cls, content: dict[str, Any]) -> Plan:
        """Return the plan of a canonical content; its models and GPUs are known by name only. Raises `SpecError`."""
        from energylens.inputs.file_forms import checked_plan

        plan = cls.__new__(cls)
        plan.models, plan.gpus = (), ()
        plan._freeze(checked_plan(content))
        return plan

    def _freeze(self, content: dict[str, Any]) -> None:
        self.model_names: list[str] = [model["name"] for model in content["models"]]
        self.gpu_names: list[str] = [gpu["name"] for gpu in content["gpus"]]
        self.routings: list[str] = [law["name"] for law in content.get("routings", ())]
        self.content = content
        self.json = canonical(content)
        self.sha256 = hashlib.sha256(self.json.encode()).hexdigest()
        try:
            self.core = _typed(self.json)
        except _core.PlanError as error:
            raise SpecError([self._placed(problem) for problem in error.problems]) from None

    def point(self, row: Mapping[str, Any]) -> Point:
        """Return a row of results, which has the columns of `evaluate`, as the core takes a point."""
        return Point(
            model=self.model_names.index(row["model"]),
            gpu=self.gpu_names.index(row["gpu"]),
            weight_dtype=row["weight_dtype"],
            kv_dtype=row["kv_dtype"],
            tp=int(row["tp"]),
            pp=int(row["pp"]),
            dp=int(row["dp"]),
            ep=int(row["ep"]),
            run_options=run_options.for_core(row, self.routings),
            batch=float(row["batch"]),
            prompt_tokens=float(row["prompt_tokens"]),
            output_tokens=float(row["output_tokens"]),
        )

    def _placed(self, fault: _core.Problem) -> Problem:
        """Return a fault of the core with its place in the file of its model or GPU."""
        path: list[Step] = fault.path
        document, what = None, "plan"
        items: Sequence[LoadedModel | LoadedGpu] = self.models if path[:1] == ["models"] else self.gpus
        if len(path) >= 2 and path[0] in {"models", "gpus"} and isinstance(path[1], int) and path[1] < len(items):
            loaded = items[path[1]]
            document, what, path = loaded.document, loaded.spec.name, path[2:]
        problem = Problem(fault.message, hint=fault.hint, code=fault.code)
        return place_problem(document, what, path, problem, fault.span)


def distinct(loaded: Sequence[LoadedT], what: str) -> list[LoadedT]:
    """Drop repeated specs; raise `SpecError` if two different ones have the same name."""
    by_name: dict[str, LoadedT] = {}
    for item in loaded:
        have = by_name.setdefault(item.spec.name, item)
        if have.spec != item.spec:
            hint = "rename one of them: results tell them apart by name"
            raise SpecError(Problem(f"two different {what}s are named `{item.spec.name}`", hint=hint, code="same-name"))
    return list(by_name.values())


def core_problems(error: _core.PlanError) -> list[Problem]:
    """Return the problems of a core call that is not about a file."""
    return [
        Problem(fault.message, hint=fault.hint, code=fault.code, where=".".join(map(str, fault.path)) or None)
        for fault in error.problems
    ]
