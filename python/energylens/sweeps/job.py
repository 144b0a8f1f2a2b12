"""The form of a job file: a space, what to keep of it, and how it is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo, create_model, field_validator

from energylens import _core
from energylens.common.errors import EnergylensError, Problem, SpecError
from energylens.common.show import shown
from energylens.engine.reductions import Keep
from energylens.engine.result_columns import RESULTS
from energylens.engine.space import DEFAULT_OBJECTIVES, Limit, Space, result_column
from energylens.inputs import axis_values, texts
from energylens.inputs.axes import FIELDS, LARGEST, Axis
from energylens.inputs.axis_text import DEFAULT
from energylens.inputs.bundled import Kind, bundled
from energylens.inputs.form import Count, Form, PlainName, Share, Text, check, place_problem, plain_name
from energylens.inputs.library import load_gpu, load_model, spec_in_folder
from energylens.inputs.plan import MAX_BATCHED_TOKENS
from energylens.inputs.yaml import Document
from energylens.sweeps.form import MOST_SHARDS


def _list(value: object) -> object:
    return value if isinstance(value, list) else list(value) if isinstance(value, (tuple, range)) else [value]


def _read(value: object, info: ValidationInfo) -> object:
    """Return the values that one value of an axis in a file stands for."""
    name = info.field_name or ""
    axis = FIELDS[name]
    if axis.required and not isinstance(value, str):
        raise ValueError(f"`{name}` needs names, found `{shown(value)}`")
    if axis.kind in ("count", "size") and isinstance(value, float) and value.is_integer():
        value = int(value)
    values = axis_values.parse(value, axis.name) if isinstance(value, str) else [value]
    if wrong := axis_values.first_problem(values, axis.name):
        raise SpecError(wrong)
    return values


def _flat(values: list[list[Any]]) -> Any:
    """Return the values of all parts without repeats; all are texts, numbers, switches or none by now."""
    return list(dict.fromkeys(value for part in values for value in part))


def _limit(value: object) -> object:
    if isinstance(value, str):
        Limit.parse(value)
    return value


def _objective(value: object) -> object:
    return result_column(value, "objective") if isinstance(value, str) else value


def _checked_keep(field: Literal["best_per", "distributions"]) -> BeforeValidator:
    def read(value: object) -> object:
        Keep(**{field: [value]})  # type: ignore[arg-type]
        return value

    return BeforeValidator(read)


Values = Annotated[list[Annotated[list[Any], BeforeValidator(_read)]], BeforeValidator(_list), AfterValidator(_flat)]
Names = Annotated[Values, Field(min_length=1)]


def _in_folder(folder: Path, law: str | None) -> str | None:
    """Return a law whose file of counts is looked for in a folder."""
    name, _, file = (law or "").partition(":")
    return f"counts:{folder / file}" if name == "counts" else law


LimitText = Annotated[Text, BeforeValidator(_limit), Field(examples=["tpot<=50ms", "ttft<=1s", "gpus<=8"])]
Objective = Annotated[Text, BeforeValidator(_objective), Field(json_schema_extra={"enum": list(RESULTS)})]
AxisName = Annotated[Text, _checked_keep("best_per"), Field(json_schema_extra={"enum": _core.AXES})]
Column = Annotated[Text, _checked_keep("distributions"), Field(json_schema_extra={"enum": _core.COLUMNS})]


def _axes(schema: dict[str, Any]) -> None:
    """Put into the schema what axes take, and what they are if left out."""
    for name, axis in FIELDS.items():
        schema["properties"][name] = texts.axis(axis) | {"description": _description(axis)}


def _description(axis: Axis) -> str:
    about = f"{axis.description} (looked for from this file's folder too)" if axis.required else axis.description
    return f"{about}; `{DEFAULT}`: {axis.unset}." if axis.unset else f"{about}."


if TYPE_CHECKING:
    AxisFields = Form
else:
    AxisFields = create_model(
        "AxisFields",
        __base__=Form,
        **{name: (Names, ...) if axis.required else (Values | None, None) for name, axis in FIELDS.items()},
    )


class SpaceForm(AxisFields):
    """Axes, limits and objectives of a sweep: a value, a list of values, or text such as "1:512"."""

    model_config = ConfigDict(json_schema_extra=_axes)

    max_batched_tokens: Annotated[Count, Field(le=LARGEST)] = MAX_BATCHED_TOKENS
    """Prompt tokens of one prefill pass."""
    limits: Annotated[list[LimitText], BeforeValidator(_list, json_schema_input_type=LimitText | list[LimitText])] = []
    """Limits on result columns; a point outside them is dropped."""
    objectives: Annotated[
        list[Objective],
        BeforeValidator(_list, json_schema_input_type=Objective | Annotated[list[Objective], Field(max_length=6)]),
        Field(min_length=1, max_length=6),
    ] = list(DEFAULT_OBJECTIVES)
    """Result columns that the front trades off, each minimised unless larger is better."""


class KeepForm(Form):
    """What to keep of a sweep besides counts of points by reason."""

    epsilon: Share | None = None
    """Share by which a point may be worse than one that stands for it on the front; the exact front, if left out."""
    top: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """How many of the points of the best first objective to keep."""
    best_per: Annotated[list[AxisName], BeforeValidator(_list, json_schema_input_type=AxisName | list[AxisName])] = []
    """Axes, for each combination of whose values the best point is kept."""
    distributions: Annotated[list[Column], BeforeValidator(_list, json_schema_input_type=Column | list[Column])] = []
    """Result columns of which counts in narrow bins are kept, for quantiles."""
    rows: Literal["none", "feasible", "all"] = "none"
    """Whether every point's row is written too: those that run, or all."""


class JobForm(Form):
    """A sweep: a space, what to keep of it, and how it is cut into shards."""

    name: PlainName
    """Name of the sweep: letters, digits and `-._`."""
    space: SpaceForm
    """Axes, limits and objectives."""
    keep: KeepForm = KeepForm()
    """What to keep besides counts of points by reason."""
    shards: Annotated[Count, Field(le=MOST_SHARDS)] | None = None
    """Number of shards, of some ten seconds of one core each if left out; not with `shard_points`."""
    shard_points: Count | None = None
    """Points of one shard; not with `shards`."""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return plain_name(name, "sweep")

    @field_validator("shard_points")
    @classmethod
    def _exclusive_sizes(cls, points: int | None, info: ValidationInfo) -> int | None:
        if points is not None and info.data.get("shards") is not None:
            raise ValueError("give `shards` or `shard_points`, not both")
        return points


class Job:
    """A job file or the same as a mapping, checked, with its space and what to keep."""

    def __init__(self, source: str | Path | Mapping[str, Any]) -> None:
        """Raise `SpecError` with every problem, placed in the file."""
        if isinstance(source, Mapping):
            self.document, self.folder, what, data = None, Path(), "job", dict(source)
        else:
            path = bundled("sweeps").get(str(source), Path(source))
            self.document, self.folder, what = Document.read(path), path.parent, path.name
            data = self.document.data
        self.form = check(JobForm, data, self.document, what)
        self.what = what
        self.space = self._space()
        self.keep = self._keep()

    def _space(self) -> Space:
        values = {name: getattr(self.form.space, name) for name in SpaceForm.model_fields}
        axes = {name: value for name, value in values.items() if value is not None}
        problems: list[Problem] = []

        def load(field: str, kind: Kind, read: Callable[[str | Path], Any]) -> list[Any]:
            loaded = []
            for i, name in enumerate(axes[field]):
                meant = spec_in_folder(name, self.folder, kind)
                if meant is name and Path(name).suffix in {".yaml", ".yml"} and str(name).lower() not in bundled(kind):
                    meant = self.folder / name
                try:
                    loaded.append(read(meant))
                except SpecError as error:
                    problems.extend(self._placed(error, ("space", field, i)))
            return loaded

        axes |= {"models": load("models", "models", load_model), "gpus": load("gpus", "hardware", load_gpu)}
        if problems:
            raise SpecError(problems)
        if "routing" in axes:
            axes["routing"] = [_in_folder(self.folder, law) for law in axes["routing"]]
        space = Space(**axes)
        try:
            _ = space.json, space.size, space.signed_objectives
        except EnergylensError as error:
            raise SpecError(self._placed(error, ("space",))) from None
        return space

    def _keep(self) -> Keep:
        form = self.form.keep
        try:
            keep = Keep(form.epsilon, form.top, form.best_per, form.distributions)
            keep.reduction(self.space)
        except EnergylensError as error:
            raise SpecError(self._placed(error, ("keep",))) from None
        return keep

    def _placed(self, error: EnergylensError, path: Iterable[str | int]) -> list[Problem]:
        return [
            problem if problem.place else place_problem(self.document, self.what, list(path), problem, None)
            for problem in error.problems
        ]
