"""The columns of results' files, and the one check of a file that is read: its note, its columns, its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import polars as pl

from energylens import _core
from energylens.common.errors import EnergylensError, Problem, SpecError
from energylens.common.files import printable
from energylens.common.show import shown
from energylens.engine.frame import breakdown_columns
from energylens.engine.result_columns import ENERGY, RESULTS, unit
from energylens.inputs.axes import POINT_DEFAULTS
from energylens.inputs.axis_values import FORMS
from energylens.inputs.columns import Form, Number, Switch, Whole, Words, convert
from energylens.inputs.file_forms import FrontNote, PairsNote, ServiceNote
from energylens.inputs.form import Form as SpecForm
from energylens.inputs.form import check
from energylens.inputs.plan import canonical

_LARGEST: Final = 1e150
"""Beyond any joule or second; products of two stay finite."""
_AMOUNT: Final = Number(0.0, _LARGEST)
_ANY: Final = Number(-_LARGEST, _LARGEST, null=True)
_ABOVE_ZERO: Final = Number(1e-150, _LARGEST)
_GPUS: Final = Whole(1, 2**32 - 1)

_FRONT: Final[dict[str, Form]] = (
    {name: FORMS[name] for name in POINT_DEFAULTS}
    | dict.fromkeys((*RESULTS, *breakdown_columns()), _AMOUNT)
    | {ENERGY: _ABOVE_ZERO, "gpus": _GPUS, "extrapolated": Switch(default=None)}
)
_DISTRIBUTIONS: Final[dict[str, Form]] = {
    "column": Words(),
    "low": _ANY,
    "high": _ANY,
    "count": Whole(0, 2**64 - 1),
}
_ENGINE: Final = ("model", "gpu", "tp", "pp", "dp", "ep", "weight_dtype", "kv_dtype")
_DEPLOYED: Final[dict[str, Form]] = (
    {name: FORMS[name] for name in _ENGINE}
    | dict.fromkeys(("latency_s", *(f"share_{cause}" for cause in _core.CAUSES)), _AMOUNT)
    | dict.fromkeys(("ttft_p90_s", "tpot_p90_s", "output_tokens_per_s", "power_w", "utilisation"), _ANY)
    | {ENERGY: _ABOVE_ZERO, "gpus": _GPUS}
)
_PAIRED: Final[dict[str, Form]] = (
    {f"{side}_gpu": FORMS["gpu"] for side in ("prefill", "decode")}
    | {f"{side}_tp": FORMS["tp"] for side in ("prefill", "decode")}
    | {f"energy_{part}_per_request_j": _AMOUNT for part in ("prefill", "decode", "transfer")}
    | {ENERGY: _ABOVE_ZERO, "energy_per_request_j": _ABOVE_ZERO, "latency_s": _AMOUNT}
)
_BATCHING: Final[dict[str, Form]] = {
    "max_num_seqs": Whole(1, 2**32 - 1, null=True),
    "token_budget": Whole(1, 2**32 - 1),
    "chunked": Switch(default=True),
    "prefix_cache": Switch(default=True),
    "draft": Words(null=True),
    "draft_tokens": Whole(0, 64, default=0),
    "acceptance": Number(0.0, 1.0),
    "replicas": Whole(1, 10_000, default=1),
    "replayed": Switch(default=None),
    "feasible": Switch(default=None),
    "extrapolated": Switch(default=None),
    "gpus": _GPUS,
}
_SHARES: Final = ("slots", "utilisation", "peak_utilisation", "running", "engines")
_KINDS: Final[dict[str, tuple[type[SpecForm], dict[str, Form]]]] = {
    "front": (FrontNote, _FRONT),
    "top": (FrontNote, _FRONT),
    "best_per": (FrontNote, _FRONT),
    "distributions": (FrontNote, _DISTRIBUTIONS),
    "service": (ServiceNote, _DEPLOYED),
    "pairs": (PairsNote, _PAIRED),
}
_HINT: Final = "the file was changed by hand, or another version of energylens wrote it: make it again"


def checked_result(frame: pl.DataFrame, metadata: Mapping[str, Any], path: object) -> pl.DataFrame:
    """Return the rows of a result's file, each column of its type; raise `EnergylensError` with every problem.

    Parameters
    ----------
    frame
        The rows of the file, as they were read.
    metadata
        Its metadata; the `kind` of its note is one of front, top, best_per, distributions, service and pairs.
    path
        Name of the file, for messages.
    """
    note = metadata["note"]
    form, columns = _KINDS[note["kind"]]
    problems: list[Problem] = []
    if not metadata.get("plan_sha256"):
        problems.append(Problem("its metadata does not name its plan", code="result"))
    try:
        check(form, dict(note), None, "note")
    except SpecError as error:
        problems += error.problems
    rows, faults = typed_columns(frame, columns, lambda name: _optional(name, note["kind"]))
    problems += faults
    if not problems and form is FrontNote:
        problems += _not_of_the_plan(rows, note["plan"], metadata["plan_sha256"])
    if problems:
        name = printable(str(path))
        raise EnergylensError(
            [
                Problem(
                    f"`{name}`: {printable(p.message)}", hint=_HINT, code="result", where=p.where and shown(p.where)
                )
                for p in problems
            ]
        )
    return rows


def typed_columns(
    frame: pl.DataFrame, needed: Mapping[str, Form], optional: Callable[[str], Form | None]
) -> tuple[pl.DataFrame, list[Problem]]:
    """Return a frame whose columns have their forms, and what is wrong; columns without a form are left as they are."""
    problems = [
        Problem(f"there is no column `{name}`", code="missing-column") for name in needed if name not in frame.columns
    ]
    columns = []
    for name in frame.columns:
        form = needed.get(name) or optional(name)
        column, faults = (frame[name], []) if form is None else convert(frame[name], form)
        problems += faults
        columns.append(column)
    return (frame.clear() if problems else pl.DataFrame(columns)), problems


def _optional(name: str, kind: str) -> Form | None:
    """Return the form of a column that a file may lack."""
    if kind == "distributions":
        return None
    if kind in ("service", "pairs"):
        plain = name.removeprefix("prefill_").removeprefix("decode_") if kind == "pairs" else name
        if (form := _BATCHING.get(plain)) is not None:
            return form
        name = plain
    if name in FORMS:
        return FORMS[name]
    if name in ("feasible", "extrapolated"):
        return Switch(default=None)
    numeric = name in _SHARES or name.endswith("_share") or name.startswith("share_")
    return _ANY if numeric or unit(name) is not None or name.endswith(("_s", "_w", "_tokens")) else None


def _not_of_the_plan(frame: pl.DataFrame, plan: Mapping[str, Any], sha256: str) -> list[Problem]:
    """Return whether the plan is another than the file names, and what of the rows it does not have."""
    if hashlib.sha256(canonical(plan).encode()).hexdigest() != sha256:
        return [Problem("the plan in its metadata is not the one it was made with", code="result")]
    known = {
        "model": [item["name"] for item in plan["models"]],
        "gpu": [item["name"] for item in plan["gpus"]],
        "routing": [item["name"] for item in plan.get("routings", ())],
    }
    problems = []
    for name in (name for name in known if name in frame.columns):
        if strange := sorted(set(frame[name].drop_nulls()) - set(known[name])):
            problems.append(Problem(f"`{name}` names `{shown(strange[0])}`, which its plan does not", code="result"))
    return problems
