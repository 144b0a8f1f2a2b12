"""Points as people name them: a row of a result's file, a page of YAML, or `llama-3.1-70b; gpu=h100-sxm; tp=4`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from energylens.common.errors import EnergylensError, Problem, SpecError
from energylens.common.files import printable
from energylens.common.parquet import is_parquet
from energylens.common.show import shown
from energylens.engine.evaluate import checked_threads, evaluated, typed
from energylens.engine.result_columns import ENERGY
from energylens.inputs import routing, run_options
from energylens.inputs.axis_text import is_default, real, whole
from energylens.inputs.bundled import bundled
from energylens.inputs.form import check
from energylens.inputs.library import load_gpu, load_model, spec_in_folder
from energylens.inputs.plan import MAX_BATCHED_TOKENS, Plan, canonical
from energylens.inputs.point import SERVER_FIELDS, PointSpec
from energylens.inputs.yaml import Document
from energylens.results.file_form import checked_result
from energylens.results.result import undamaged
from energylens.results.words import configuration, deployment_words

_ROW = re.compile(r"^(.*\.parquet)(?:#(.*))?$", re.DOTALL | re.IGNORECASE)
_WRITE = 'write "llama-3.1-70b; gpu=h100-sxm; tp=4; batch=64", or name a .parquet or .yaml file'
_WORDS = {"on": True, "off": False, "true": True, "false": False}


@dataclass(frozen=True)
class Point:
    """One configuration, or one deployment of a service plan.

    `row` has its columns and results; `server` how a server of it batches. `plan` is what it was predicted with, none
    of a deployment; `source` says where the weights of its model come from, if that is known; `conditions` what else
    its joules depend on: a workload, the tokens of a pass.
    """

    row: dict[str, Any]
    server: dict[str, Any]
    plan: Plan | None
    source: str | None
    conditions: dict[str, Any] = field(default_factory=dict)

    @property
    def deployment(self) -> bool:
        """Whether it is one of a service plan."""
        return self.plan is None

    def words(self) -> str:
        """Return it in words."""
        return f"{self.row['model']} on {(deployment_words if self.deployment else configuration)(self.row)}"


def read_point(point: str | Path | Mapping[str, Any]) -> Point:
    """Return a point by what names it; raise `EnergylensError` with every problem.

    A file of `explore`, `search`, `serve-plan` or a sweep, whatever its suffix, stands for its row of least energy;
    `front.parquet#3` for row 3. A path ending in .yaml is read as the fields of a point, any other text as
    `model; field=value; ...`. In Python the fields may be a mapping, its `model` and `gpu` also loaded.
    """
    if isinstance(point, Mapping):
        return _of_mapping({str(name): value for name, value in point.items()})
    if not isinstance(point, (str, Path)):
        raise SpecError(Problem(f"a point is not a {type(point).__name__}", hint=_WRITE, code="point"))
    text = str(point)
    if (file := _row_of_file(text)) is not None:
        return _of_file(*file)
    if not text.strip():
        raise SpecError(Problem("a point is empty", hint=_WRITE, code="point"))
    if ";" not in text and Path(text).suffix in {".yaml", ".yml"}:
        document = Document.read(text, "point")
        return _of_spec(check(PointSpec, document.data, document, Path(text).name), Path(text).parent)
    return _of_spec(check(PointSpec, _fields(text), None, f"point `{shown(text)}`"), None)


def _row_of_file(text: str) -> tuple[Path, str | None] | None:
    """Return the file and the row that a text names: by the suffix, or by what is in the file."""
    if is_parquet(text):
        return Path(text), None
    name, sign, row = text.rpartition("#")
    if sign and is_parquet(name):
        return Path(name), row
    match = _ROW.match(text.strip()) if ";" not in text else None
    return (Path(match[1]), match[2]) if match else None


def _fields(text: str) -> dict[str, Any]:
    """Read `model; field=value; ...`."""
    fields: dict[str, Any] = {}
    problems = []
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign and not fields:
            name, value = "model", part
        elif not sign or not value:
            problems.append(Problem(f"cannot read `{shown(part)}` of the point", hint=_WRITE, code="point"))
            continue
        if name in fields:
            problems.append(Problem(f"the point gives `{shown(name)}` twice", hint="give it once", code="point"))
        fields[name] = _value(value)
    if problems:
        raise SpecError(problems)
    return fields


def _value(text: str) -> Any:
    if is_default(text):
        return None
    if text in _WORDS:
        return _WORDS[text]
    for read in (whole, real):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _of_mapping(mapping: Mapping[str, Any]) -> Point:
    """Return the point of fields whose model and GPU may be paths or loaded."""
    fields, loaded = dict(mapping), dict[str, Any]()
    for name, load in (("model", load_model), ("gpu", load_gpu)):
        value = fields.get(name)
        if value is not None and not isinstance(value, (str, bool, int, float)):
            loaded[name] = load(value)
            fields[name] = loaded[name].spec.name
    return _of_spec(check(PointSpec, fields, None, "point"), None, loaded)


def _of_spec(spec: PointSpec, folder: Path | None, loaded: Mapping[str, Any] | None = None) -> Point:
    columns = spec.columns()
    names: dict[str, str | Path] = {"model": columns["model"], "gpu": columns["gpu"]}
    if folder is not None:
        names = {
            "model": spec_in_folder(columns["model"], folder, "models"),
            "gpu": spec_in_folder(columns["gpu"], folder, "hardware"),
        }
    named = names | dict(loaded or {})
    model, gpu = load_model(named["model"]), load_gpu(named["gpu"])
    row = columns | {"model": model.spec.name, "gpu": gpu.spec.name}
    plan = Plan([model], [gpu], spec.max_batched_tokens, routing.laws([row["routing"]]))
    server = spec.server()
    server["token_budget"] = server["token_budget"] or spec.max_batched_tokens
    return Point(_predicted(plan, row), server, plan, model.spec.source, _of_plan(plan, row))


def _predicted(plan: Plan, point: Mapping[str, Any]) -> dict[str, Any]:
    """Return a point of a plan with its results, joules by cause among them."""
    row = evaluated(plan, typed([point]), True, checked_threads(1)).row(0, named=True)
    if not row["feasible"]:
        from energylens.results.prediction import why_not

        raise EnergylensError(why_not(plan, row))
    return row


def _of_file(path: Path, text: str | None) -> Point:
    from energylens.common.parquet_file import read_parquet

    frame, metadata = read_parquet(path)
    kind = metadata.get("note", {}).get("kind")
    if kind not in ("front", "top", "best_per", "service"):
        hint = "give a file of explore, search, serve-plan or a sweep"
        raise EnergylensError(
            Problem(f"`{printable(str(path))}` holds no points that can be told apart", hint=hint, code="result")
        )
    frame = checked_result(frame, metadata, path)
    with undamaged(path):
        return _row(frame, metadata["note"], path, text)


def _row(frame: pl.DataFrame, note: Mapping[str, Any], path: Path, text: str | None) -> Point:
    if text is None and frame.height:
        text = str(frame[ENERGY].arg_min())
    number = int(text) if text is not None and re.fullmatch("[0-9]{1,18}", text) else -1
    if not 0 <= number < frame.height:
        hint = f"rows are 0 to {frame.height - 1:,}" if frame.height else "it has none"
        message = f"`{printable(str(path))}` has no row `{shown(text or 0)}`"
        raise EnergylensError(Problem(message, hint=hint, code="point"))
    row = frame.row(number, named=True)
    source = (note.get("sources") or {}).get(row["model"]) or _bundled_source(row["model"])
    server = {name: row.get(name, default) for name, default in _server_defaults().items()}
    if note["kind"] == "service":
        conditions = {"workload": note["workload"], "limits": ", ".join(note["limits"]) or "none"}
        return Point(row, server, None, source, conditions)
    plan = Plan.thaw(note["plan"])
    server["token_budget"] = int(plan.content["settings"]["max_batched_tokens"])
    row = {name: default for name, default in run_options.RUNNING.items() if name not in row} | row
    return Point(row, server, plan, source, _of_plan(plan, row))


def _of_plan(plan: Plan, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration's joules depend on besides its columns: the plan's settings and the specs meant."""
    conditions: dict[str, Any] = {"max_batched_tokens": int(plan.content["settings"]["max_batched_tokens"])}
    for kind, name in (("models", "model"), ("gpus", "gpu")):
        spec = plan.described(kind, row[name])
        conditions[f"{name} spec (SHA-256)"] = hashlib.sha256(canonical(spec).encode()).hexdigest()[:12]
    return conditions


def _bundled_source(model: str) -> str | None:
    return load_model(model).spec.source if model in bundled("models") else None


def _server_defaults() -> dict[str, Any]:
    defaults = {name: PointSpec.model_fields[name].default for name in SERVER_FIELDS}
    return defaults | {"token_budget": MAX_BATCHED_TOKENS}
