"""The one table of axes: what a configuration may vary, what each value may be, and how it is described.

An axis is a field of `Axes`. Everything else that knows axes reads them here: `Space` and its defaults, the columns of
`evaluate` and their checks, the fields of point and sweep files with their schemas, options of the command line, units
in Parquet files, and labels of reports. To add one, see CONTRIBUTING.md.
"""

# ruff: noqa: RUF009 (`_axis` returns a field)

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal

Kind = Literal["name", "format", "count", "size", "switch", "phase", "law", "placement"]
"""What values are: names of specs, number formats, whole numbers, sizes of requests (whole numbers that the core takes
as doubles), true or false, phases of serving, laws of routing, placements of experts."""

Where = Literal["prefill", "decode", "both"]
"""Phases in which collectives are overlapped."""

LARGEST: Final = 2**32 - 1
"""Largest batch and length: the core counts them in 32 bits."""

_MOST_RANKS: Final = 1024
"""Most ranks of a mesh axis: larger than any engine's."""

DEFAULT_BATCHES: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
"""Batches of a space where none are given: finer where energy per token still falls."""


@dataclass(frozen=True)
class Axis:
    """One axis.

    Parameters
    ----------
    kind
        What its values are.
    help
        What it is, in a phrase.
    default
        Value of a point that does not give it; None leaves it to the spec or the hardware.
    values
        Values of a space that does not give it; the default alone, if none.
    unset
        What None means, for an axis whose default it is.
    unit
        Unit of its numbers.
    least, most
        Bounds of its numbers, both included.
    run_option
        Whether it says how a configuration runs, apart from mesh, formats and requests. Such columns are optional in
        frames, and cross into the core together.
    label
        How a value other than the default reads in reports, `{}` being the value; or a function of value and row.
    short
        Its name in narrow tables; that of the column, if none.
    examples
        Values as text, for schemas.
    name
        Its column.
    """

    kind: Kind
    help: str
    default: Any = None
    values: tuple[Any, ...] | None = None
    unset: str | None = None
    unit: str | None = None
    least: int = 1
    most: int = _MOST_RANKS
    run_option: bool = False
    label: str | Callable[[Any, Mapping[str, Any]], str] = "{}"
    short: str | None = None
    examples: tuple[str, ...] = ("1,2,4", "1:8")
    name: str = ""

    @property
    def required(self) -> bool:
        """Whether a point has to give it."""
        return self.kind == "name"

    @property
    def nullable(self) -> bool:
        """Whether None is a value: left to the spec or the hardware."""
        return self.default is None and not self.required

    @property
    def space_default(self) -> Any:
        """Its value, or values, in a space that does not give it."""
        return self.default if self.values is None else self.values

    @property
    def description(self) -> str:
        """What it is, and its unit where the words do not say it."""
        return self.help if self.unit is None or self.unit.lower() in self.help.lower() else f"{self.help}, {self.unit}"


def _axis(kind: Kind, about: str, default: Any = None, **more: Any) -> Any:
    """Return a field of `Axes` with its row of the table."""
    row = Axis(kind, about, default, **more)
    return field(default=row.space_default, metadata={"axis": row})


def _overlap_label(stages: int, row: Mapping[str, Any]) -> str:
    if stages == 1:
        return "no overlap"
    where = row.get("overlap_where", "prefill")
    return f"overlap {stages} x {row.get('overlap_sms')} SMs in {'both phases' if where == 'both' else where}"


@dataclass(frozen=True)
class Axes:
    """The axes, with their values in a space that does not give them."""

    models: Any = field(metadata={"axis": Axis("name", "A bundled model (energylens models) or a path to a spec")})
    gpus: Any = field(
        metadata={"axis": Axis("name", "A bundled GPU (energylens gpus), `gpu@framework`, or a profile's path")}
    )
    tp: Any = _axis("count", "Tensor parallelism", 1, values=(1, 2, 4, 8), unit="GPUs")
    pp: Any = _axis("count", "Pipeline stages", 1, unit="stages")
    dp: Any = _axis("count", "Attention data parallelism inside the engine", 1, unit="ranks")
    ep: Any = _axis("count", "Expert parallelism", 1, unit="ranks")
    cp: Any = _axis("count", "Context parallelism", 1, unit="ranks", run_option=True, label="cp {}")
    overlap_stages: Any = _axis(
        "count",
        "Stages of compute that collectives run alongside (1 is no overlap)",
        unset="as the model's spec says",
        unit="stages",
        run_option=True,
        label=_overlap_label,
        examples=("default,1,4",),
    )
    overlap_sms: Any = _axis(
        "count",
        "SMs that overlapped collectives take",
        0,
        unit="SMs",
        least=0,
        run_option=True,
        label="",  # said with the stages
        examples=("0,8,16",),
    )
    overlap_where: Any = _axis(
        "phase", "Where collectives are overlapped: prefill, decode, both", "prefill", run_option=True, label=""
    )
    sequence_parallel: Any = _axis(
        "switch",
        "Reduce-scatter and all-gather in place of all-reduce",
        False,
        run_option=True,
        label="sequence parallel",
    )
    fused_norm: Any = _axis(
        "switch", "Norms inside the all-reduce before them", False, run_option=True, label="fused norm"
    )
    sm_clock_mhz: Any = _axis(
        "count",
        "Locked SM clock in MHz",
        unset="the clock of the measurements",
        unit="MHz",
        most=10_000,
        run_option=True,
        label="{} MHz",
        examples=("default,1200:1900:100",),
    )
    power_cap_w: Any = _axis(
        "count",
        "Cap on the power of each GPU in W",
        unset="the board limit",
        unit="W",
        most=20_000,
        run_option=True,
        label="cap {} W",
        examples=("default,300:700:50",),
    )
    routing: Any = _axis(
        "law",
        "How tokens choose experts: uniform, dirichlet:0.8, zipf:0.5, power_law:1.2, balanced, counts:FILE",
        unset="as the model's spec says",
        run_option=True,
        label="routing {}",
    )
    placement: Any = _axis(
        "placement",
        "Which GPU holds which expert: contiguous, balanced, replicated:COPIES",
        "contiguous",
        run_option=True,
        label="experts {}",
    )
    batch: Any = _axis(
        "size",
        "Sequences running in the engine",
        1,
        values=DEFAULT_BATCHES,
        unit="sequences",
        most=LARGEST,
        examples=("1:512", "1,2,4"),
    )
    prompt_tokens: Any = _axis(
        "size",
        "Prompt tokens of a request",
        1024,
        unit="tokens",
        most=LARGEST,
        short="prompt",
        examples=("16:8192:16", "512,1024"),
    )
    output_tokens: Any = _axis(
        "size",
        "Output tokens of a request",
        256,
        unit="tokens",
        most=LARGEST,
        short="output",
        examples=("16:8192:16", "128,256"),
    )
    weight_dtype: Any = _axis("format", "Data type of the weights", unset="as the model's spec says", short="weights")
    kv_dtype: Any = _axis("format", "Data type of the KV cache", unset="as the model's spec says", short="KV")


_COLUMNS: Final = {"models": "model", "gpus": "gpu"}
"""Columns whose fields of a space have another name."""

FIELDS: Final[dict[str, Axis]] = {
    item.name: replace(item.metadata["axis"], name=_COLUMNS.get(item.name, item.name)) for item in fields(Axes)
}
"""Axes by their field of a space, in the order of its fields."""

_LEADING: Final = ("model", "gpu", "weight_dtype", "kv_dtype")
"""Columns that come first in results."""

AXES: Final[dict[str, Axis]] = {
    axis.name: axis
    for axis in sorted(
        FIELDS.values(), key=lambda axis: _LEADING.index(axis.name) if axis.name in _LEADING else len(_LEADING)
    )
}
"""Axes by column, in the core's order: the slowest of a space first."""

RUNNING: Final[dict[str, Any]] = {name: axis.default for name, axis in AXES.items() if axis.run_option}
"""Defaults of the run options by column, in the order in which they cross into the core."""

POINT_DEFAULTS: Final[dict[str, Any]] = {name: axis.default for name, axis in AXES.items() if not axis.run_option}
"""Defaults of the columns that every result has, in their order."""


def heading(column: str) -> str:
    """Return the name of a column in narrow tables."""
    axis = AXES.get(column)
    return column if axis is None or axis.short is None else axis.short


def of_kind(*kinds: Kind) -> tuple[str, ...]:
    """Return the columns of some kinds of axes."""
    return tuple(name for name, axis in AXES.items() if axis.kind in kinds)
