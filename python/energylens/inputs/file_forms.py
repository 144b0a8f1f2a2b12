"""The forms of what energylens writes and reads back: plans, notes of results, manifests; checked once when read."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from energylens import _core
from energylens.common.errors import Problem, SpecError
from energylens.inputs.form import Form, Text

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""A SHA-256."""
Many = Annotated[int, Field(ge=0, le=2**63)]
"""A count of points, rows or bytes."""
Percent = Annotated[float, Field(allow_inf_nan=False)]
Level = Literal["measured", "calibrated", "published", "modelled"]
Reason = Literal["ok", "overload", "budget", *_core.REASONS]  # type: ignore[valid-type]
Counts = dict[Reason, Many]
Limits = Annotated[list[Text], Field(max_length=1000)]


class WrittenForm(Form):
    """Base of forms that later versions may add fields to."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class NamedForm(WrittenForm):
    """A model, a GPU or a law of a plan: the core checks all but its name."""

    name: Text


class SettingsForm(Form):
    """Settings of a plan."""

    max_batched_tokens: Annotated[float, Field(ge=1, le=2**32 - 1, allow_inf_nan=False)]


class PlanForm(Form):
    """The canonical content of a plan, as far as Python uses it."""

    format: Literal[1]
    settings: SettingsForm
    models: list[NamedForm]
    gpus: list[NamedForm]
    routings: list[NamedForm] = []

    @model_validator(mode="after")
    def _names_differ(self) -> PlanForm:
        for what, items in (("model", self.models), ("GPU", self.gpus), ("routing", self.routings)):
            names = [item.name for item in items]
            if len(set(names)) != len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"two {what}s of the plan are named `{twice}`")
        return self


class FitErrorsForm(WrittenForm):
    """Errors of a fit on what it did not see."""

    what: str
    data: str
    rows: Many
    mape_percent: Percent
    median_percent: Percent | None = None
    p90_percent: Percent | None = None
    bias_percent: Percent | None = None


class AccountForm(WrittenForm):
    """How far the numbers of a GPU are trusted."""

    trust: Level
    source: str | None = None
    errors: list[FitErrorsForm] = []
    lender: str | None = None


Trust = dict[str, AccountForm]
Sources = dict[str, str | None]
AxisValues = dict[str, Annotated[list[Any], Field(min_length=1)]]


class SpaceNote(WrittenForm):
    """Axes, limits and objectives of a front."""

    axes: AxisValues
    limits: Limits
    objectives: Annotated[list[Text], Field(min_length=1, max_length=6)]
    points: Many

    @model_validator(mode="after")
    def _every_axis(self) -> SpaceNote:
        if lacking := [name for name in _core.AXES if name not in self.axes]:
            raise ValueError(f"axis `{lacking[0]}` is missing")
        if strange := [name for name in self.axes if name not in _core.AXES]:
            raise ValueError(f"there is no axis `{strange[0]}`")
        return self


class FrontNote(WrittenForm):
    """Where a front comes from, and what comes with it."""

    kind: Literal["front", "top", "best_per", "distributions"]
    method: Text
    points: Many
    by_reason: Counts
    outside_limits: Many
    space: SpaceNote
    sources: Sources
    trust: Trust
    plan: PlanForm

    @model_validator(mode="after")
    def _of_its_plan(self) -> FrontNote:
        for axis, items in (("model", self.plan.models), ("gpu", self.plan.gpus)):
            if self.space.axes[axis] != [item.name for item in items]:
                raise ValueError(f"the {axis}s of the space are not those of the plan")
        if lacking := [item.name for item in self.plan.gpus if item.name not in self.trust]:
            raise ValueError(f"nothing says how far `{lacking[0]}` is trusted")
        laws = [item.name for item in self.plan.routings]
        if strange := [law for law in self.space.axes["routing"] if law is not None and law not in laws]:
            raise ValueError(f"the plan has no law of routing `{strange[0]}`")
        return self


class AskedForm(WrittenForm):
    """What a service plan was asked for, null where it was given otherwise than by a name."""

    model: str | None
    workload: str | None
    gpus: list[str | None]
    rate_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    plan_sha256: str


class ServiceNote(WrittenForm):
    """Where a service plan comes from."""

    kind: Literal["service"]
    answer: str
    asked: AskedForm
    workload: str
    tried: Many
    limits: Limits
    by_reason: dict[str, Many]
    judged: Many
    outside_limits: Many
    sources: Sources = {}
    trust: Trust


class AskedPairsForm(WrittenForm):
    """What pairs of prefill and decode were asked for."""

    prompt_tokens: Many | None = None
    output_tokens: Many | None = None
    prefill: dict[str, list[Any]] = {}
    decode: dict[str, list[Any]] = {}


class PairsNote(WrittenForm):
    """Where pairs of prefill and decode come from."""

    kind: Literal["pairs"]
    answer: str
    model: Text
    limits: Limits
    trust: Trust
    workload: str | None = None
    asked: AskedPairsForm = AskedPairsForm()


def checked_plan(content: Any) -> dict[str, Any]:
    """Return the content of a plan if it has the form of one; raise `SpecError` with every problem."""
    from energylens.inputs.form import check

    check(PlanForm, content, None, "plan")
    if (path := _not_json(content)) is not None:
        raise SpecError(Problem("the plan holds something else than finite numbers and texts", where=path, code="form"))
    plan: dict[str, Any] = content
    return plan


def _not_json(node: Any, path: str = "plan", depth: int = 0) -> str | None:
    """Return the path of the first value that JSON has no word for."""
    if depth > 64:
        return path
    if isinstance(node, dict):
        wrong = next((key for key in node if not isinstance(key, str)), None)
        if wrong is not None:
            return path
        items = node.items()
        return next((at for key, value in items if (at := _not_json(value, f"{path}.{key}", depth + 1))), None)
    if isinstance(node, (list, tuple)):
        return next((at for i, value in enumerate(node) if (at := _not_json(value, f"{path}.{i}", depth + 1))), None)
    if isinstance(node, str):
        return path if any("\ud800" <= c <= "\udfff" for c in node) else None
    if isinstance(node, float):
        return None if math.isfinite(node) else path
    return None if node is None or isinstance(node, (bool, int)) else path
