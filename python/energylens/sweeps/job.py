"""The form of a job file: a space, what to keep of it, and how it is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from energylens import _core, running
from energylens.errors import EnergylensError, Problem, SpecError, did_you_mean
from energylens.keep import Keep
from energylens.library import Kind, bundled, load_gpu, load_model
from energylens.plan import LARGEST, MAX_BATCHED_TOKENS
from energylens.space import DEFAULT_OBJECTIVES, Limit, Space, result_column
from energylens.spec.form import Count, Form, Share, Text, check, place_problem, plain_name
from energylens.spec.yaml import Document
from energylens.values import formats, names, numbers


def _list(value: object) -> object:
    return value if isinstance(value, list) else list(value) if isinstance(value, (tuple, range)) else [value]


def _names(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        raise ValueError(f"`{info.field_name}` needs names, found `{value}`")
    return names(value)


def _formats(value: object) -> object:
    found = formats(value) if isinstance(value, str) else [value]
    for name in found:
        if name is not None and name not in _core.DTYPES:
            hint = did_you_mean(str(name), ["own", *_core.DTYPES])
            raise SpecError(Problem(f"unknown data type `{name}`", hint=hint))
    return found


def _numbers(top: int) -> BeforeValidator:
    def read(value: object, info: ValidationInfo) -> object:
        axis = info.field_name or "axis"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        found = numbers(value, axis) if isinstance(value, str) else [value]
        bad = [v for v in found if not isinstance(v, int) or isinstance(v, bool) or not 1 <= v <= top]
        if bad:
            raise SpecError(Problem(f"axis `{axis}` needs whole numbers from 1 to {top:,}, found `{bad[0]}`"))
        return found

    return BeforeValidator(read)


def _flat(values: list[list[Any]]) -> Any:
    return list(dict.fromkeys(value for part in values for value in part))


def _limit(value: object) -> object:
    if isinstance(value, str):
        Limit.parse(value)
    return value


def _objective(value: object) -> object:
    return result_column(value, "objective") if isinstance(value, str) else value


def _kept(field: Literal["best_per", "distributions"]) -> BeforeValidator:
    def read(value: object) -> object:
        Keep(**{field: [value]})  # type: ignore[arg-type]
        return value

    return BeforeValidator(read)


Names = Annotated[
    list[Annotated[list[Text], BeforeValidator(_names)]],
    BeforeValidator(_list),
    AfterValidator(_flat),
    Field(min_length=1),
]
Formats = Annotated[
    list[Annotated[list[str | None], BeforeValidator(_formats)]], BeforeValidator(_list), AfterValidator(_flat)
]


def _ways(value: object, info: ValidationInfo) -> object:
    axis = info.field_name or "axis"
    found = running.values(value, axis) if isinstance(value, str) else [value]
    wrong = next(filter(None, (running.problem(item, axis) for item in found)), None)
    if wrong:
        raise SpecError(wrong)
    return found


Ways = Annotated[list[Annotated[list[Any], BeforeValidator(_ways)]], BeforeValidator(_list), AfterValidator(_flat)]
Degrees = Annotated[list[Annotated[list[int], _numbers(1024)]], BeforeValidator(_list), AfterValidator(_flat)]
Sizes = Annotated[list[Annotated[list[int], _numbers(LARGEST)]], BeforeValidator(_list), AfterValidator(_flat)]


def _beside(folder: Path, law: str | None) -> str | None:
    """Return a law whose file of counts is looked for in a folder."""
    name, _, file = (law or "").partition(":")
    return f"counts:{folder / file}" if name == "counts" else law


class SpaceForm(Form):
    """Fields of a space; those left out are as in `Space`."""

    models: Names
    gpus: Names
    tp: Degrees | None = None
    pp: Degrees | None = None
    dp: Degrees | None = None
    ep: Degrees | None = None
    cp: Ways | None = None
    overlap_stages: Ways | None = None
    overlap_sms: Ways | None = None
    overlap_where: Ways | None = None
    sequence_parallel: Ways | None = None
    fused_norm: Ways | None = None
    sm_clock_mhz: Ways | None = None
    power_cap_w: Ways | None = None
    routing: Ways | None = None
    placement: Ways | None = None
    batch: Sizes | None = None
    prompt_tokens: Sizes | None = None
    output_tokens: Sizes | None = None
    weight_dtype: Formats | None = None
    kv_dtype: Formats | None = None
    max_batched_tokens: Annotated[Count, Field(le=LARGEST)] = MAX_BATCHED_TOKENS
    limits: Annotated[list[Annotated[Text, BeforeValidator(_limit)]], BeforeValidator(_list)] = []
    objectives: Annotated[
        list[Annotated[Text, BeforeValidator(_objective)]], BeforeValidator(_list), Field(min_length=1, max_length=6)
    ] = list(DEFAULT_OBJECTIVES)


class KeepForm(Form):
    """What to keep besides counts, as `energylens.keep.Keep` has it, and whether to write every row."""

    epsilon: Share | None = None
    top: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    best_per: Annotated[list[Annotated[Text, _kept("best_per")]], BeforeValidator(_list)] = []
    distributions: Annotated[list[Annotated[Text, _kept("distributions")]], BeforeValidator(_list)] = []
    rows: Literal["none", "feasible", "all"] = "none"


class JobForm(Form):
    """A job file."""

    name: Text
    space: SpaceForm
    keep: KeepForm = KeepForm()
    shards: Annotated[Count, Field(le=10_000_000)] | None = None
    shard_points: Count | None = None

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return plain_name(name, "sweep")

    @field_validator("shard_points")
    @classmethod
    def _one_of_both(cls, points: int | None, info: ValidationInfo) -> int | None:
        if points is not None and info.data.get("shards") is not None:
            raise ValueError("give `shards` or `shard_points`, not both")
        return points


class Job:
    """A job file or the same as a mapping, checked, with its space and what to keep."""

    def __init__(self, given: str | Path | Mapping[str, Any]) -> None:
        """Raise `SpecError` with every problem, placed in the file."""
        if isinstance(given, Mapping):
            self.document, self.folder, what, data = None, Path(), "job", dict(given)
        else:
            path = bundled("sweeps").get(str(given), Path(given))
            self.document, self.folder, what = Document.read(path), path.parent, path.name
            data = self.document.data
        self.form = check(JobForm, data, self.document, what)
        self.what = what
        self.space = self._space()
        self.keep = self._keep()

    def _space(self) -> Space:
        fields = {name: getattr(self.form.space, name) for name in SpaceForm.model_fields}
        axes = {name: value for name, value in fields.items() if value is not None}
        problems: list[Problem] = []

        def load(field: str, kind: Kind, read: Callable[[str | Path], Any]) -> list[Any]:
            found = []
            for i, name in enumerate(axes[field]):
                beside = self.folder / name
                own = beside.is_file() or beside.suffix in {".yaml", ".yml"}
                try:
                    found.append(read(beside if own and name.lower() not in bundled(kind) else name))
                except SpecError as error:
                    problems.extend(self._placed(error, ("space", field, i)))
            return found

        axes |= {"models": load("models", "models", load_model), "gpus": load("gpus", "hardware", load_gpu)}
        if problems:
            raise SpecError(problems)
        if "routing" in axes:
            axes["routing"] = [_beside(self.folder, law) for law in axes["routing"]]
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
