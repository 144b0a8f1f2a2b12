"""Options shared by commands that take a space."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from energylens import _core
from energylens.cli import axes
from energylens.cli.command import OUT, Parameter
from energylens.common.errors import Problem, SpaceError
from energylens.engine.result_columns import DEFAULT_OBJECTIVES
from energylens.inputs.axes import AXES, FIELDS, RUNNING, Axis
from energylens.inputs.axis_text import DEFAULT
from energylens.inputs.batching import MAX_BATCHED_TOKENS

if TYPE_CHECKING:
    from energylens.engine.space import Space

Json = Annotated[bool, Parameter(name="--json", help="Print JSON instead of text.")]
Out = Annotated[Path | None, Parameter(name=OUT, help="Also write a Parquet file.")]
Threads = Annotated[int | None, Parameter(converter=axes.whole, help="Threads; all CPUs if not given.")]

PassTokens = Annotated[int, Parameter(converter=axes.whole, help="Prompt tokens of one prefill pass.")]

_SEVERAL = {"models": "Bundled models or paths to specs.", "gpus": "Bundled GPUs or profile paths."}
_ANNOTATED = {"count": int, "size": int, "switch": bool}

ClassT = TypeVar("ClassT", bound=type)


def list_options(cls: ClassT) -> ClassT:
    """Give a class an option for each axis of a space but models: texts such as 1,2,4 or 1:64."""
    options = {name: axis for name, axis in FIELDS.items() if name != "models"}
    _add(cls, {axis.name: (_list_annotation(name, axis), _text(axis)) for name, axis in options.items()})
    return cls


def single_options(cls: ClassT) -> ClassT:
    """Give a class an option for each axis of a point but its model: one value each."""
    options = {name: axis for name, axis in FIELDS.items() if name != "models"}
    _add(cls, {axis.name: (_annotation(axis), _single_default(axis)) for axis in options.values()})
    return cls


def _add(cls: type, options: dict[str, tuple[Any, Any]]) -> None:
    """Put fields before those of a class that is to be a dataclass."""
    cls.__annotations__ = {name: kind for name, (kind, _) in options.items()} | cls.__annotations__
    for name, (_, default) in options.items():
        setattr(cls, name, default)


def _list_annotation(name: str, axis: Axis) -> Any:
    about = f"{axis.help} ({', '.join(_core.DTYPES)})" if axis.kind == "format" else axis.help
    about = f"{about}; `{DEFAULT}`: {axis.unset}." if axis.unset else f"{about}."
    bare = "on" if axis.kind == "switch" else None
    return Annotated[str, Parameter(help=_SEVERAL.get(name, about), bare=bare)]


def _annotation(axis: Axis) -> Any:
    about = f"{axis.help}; {axis.unset}, if not given." if axis.unset else f"{axis.help}."
    kind: Any = _ANNOTATED.get(axis.kind, str)
    converter = {int: axes.whole, bool: axes.switch}.get(kind)
    parameter = Parameter(help=about, converter=converter, bare="on" if kind is bool else None)
    return Annotated[kind | None if axis.nullable else kind, parameter]


DEFAULT_GPU = "h100-sxm"


def _single_default(axis: Axis) -> Any:
    return DEFAULT_GPU if axis.name == "gpu" else axis.default


def _text(axis: Axis) -> str:
    """Return the values of a space as text."""
    if axis.required:
        return DEFAULT_GPU
    values = axis.space_default if isinstance(axis.space_default, tuple) else (axis.space_default,)
    words = {None: DEFAULT, False: "off", True: "on"}
    return ",".join(words[v] if v is None or isinstance(v, bool) else str(v) for v in values)


@dataclass
@single_options
class PointOptions:
    """Axes of a point."""

    max_batched_tokens: PassTokens = MAX_BATCHED_TOKENS

    def arguments(self) -> dict[str, Any]:
        """Return them as `predict` takes them: run options only where they are not the default."""
        values = {name: getattr(self, name) for name in AXES if name != "model"}
        return {name: value for name, value in values.items() if value != RUNNING.get(name, ...)} | {
            "max_batched_tokens": self.max_batched_tokens
        }


@dataclass
@list_options
class SpaceOptions:
    """Axes, limits and objectives of a space; values are lists such as 1,2,4 or ranges such as 1:64 and 16:512:16."""

    max_batched_tokens: PassTokens = MAX_BATCHED_TOKENS
    slo: Annotated[str | None, Parameter(help="Latency limits: ttft=1s,tpot=50ms.")] = None
    limit: Annotated[list[str], Parameter(help="Any other limit, repeatable: gpus<=8.")] = field(default_factory=list)
    objectives: Annotated[str, Parameter(help="Result columns to trade off.")] = ",".join(DEFAULT_OBJECTIVES)

    def space(self, models: str) -> Space:
        """Return the space of these options; raise `SpaceError`."""
        from energylens.engine.space import Space

        readers: dict[str, Any] = {
            name: partial(axes.parse, getattr(self, axis.name), axis.name)
            for name, axis in FIELDS.items()
            if name != "models"
        }
        readers["limits"] = lambda: [*(axes.slo(self.slo) if self.slo is not None else []), *self.limit]
        return Space(
            models=axes.names(models),
            max_batched_tokens=self.max_batched_tokens,
            objectives=axes.names(self.objectives),
            **axes.every(readers),
        )


@dataclass
class KeepOptions:
    """What to keep besides the exact front."""

    epsilon: Annotated[
        float | None, Parameter(help="Thin the front: every point has one within a factor of 1 + EPSILON.")
    ] = None
    top: Annotated[int, Parameter(converter=axes.whole, help="Also keep this many of the best.")] = 0
    best_per: Annotated[str, Parameter(help="Also keep the best for each value of these axes: gpu,tp.")] = ""
    distribution: Annotated[str, Parameter(help="Also count the distribution of these result columns.")] = ""

    def arguments(self) -> dict[str, Any]:
        """Return them as `explore` takes them."""
        return {
            "epsilon": self.epsilon,
            "top": self.top,
            "best_per": axes.names(self.best_per),
            "distributions": axes.names(self.distribution),
        }


_OTHER_KINDS = frozenset(
    (*(".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx", ".yaml", ".yml"), *(".html", ".htm", ".md", ".png", ".svg"))
)
"""Endings of files that say of themselves that they are no Parquet."""


def check_out(out: Path | None) -> None:
    """Refuse a target before any work is done for it."""
    from energylens.common.parquet_file import checked_target

    if out is None:
        return
    if out.suffix.lower() in _OTHER_KINDS:
        hint = "name it .parquet; --json prints JSON"
        raise SpaceError(Problem(f"`{out}` would be a Parquet file, not {out.suffix[1:]}", hint=hint, code="write"))
    checked_target(out)
