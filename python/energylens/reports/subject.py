"""What a report and its charts are about: the points of a result, how they are named, what is known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from energylens.common.errors import EnergylensError, Problem
from energylens.common.files import printable
from energylens.engine.result_columns import ENERGY, RESULTS
from energylens.engine.space import Limit, Space
from energylens.engine.trust import Account
from energylens.inputs.axis_text import axis_words
from energylens.inputs.batching import BATCHING
from energylens.inputs.library import load_gpu, load_model
from energylens.inputs.plan import Plan
from energylens.inputs.run_options import RUNNING
from energylens.results.breakdown import causes, operations
from energylens.results.file_form import checked_result
from energylens.results.result import Result, not_a_front, undamaged
from energylens.results.sensitivity import changes
from energylens.serving.deployments import ANSWERED, PRICED
from energylens.serving.pools import POOLED
from energylens.serving.words import reasons_words

_MESH: Final = ("tp", "pp", "dp", "ep", "cp")
_MOST_SHAPES: Final = 6
_MOST_COLOURS: Final = 8


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Points of a result, the least joules per output token first; `row` is their place in the result's file.

    `latency` is the column that is traded against joules; `axes` are those that vary; `columns` the results worth a
    column of a table; `provenance` tells labels and values.
    """

    kind: str
    answer: str
    frame: pl.DataFrame
    latency: str
    axes: Sequence[str]
    columns: Sequence[str]
    limits: Sequence[Limit]
    trust: Mapping[str, Account]
    provenance: Sequence[tuple[str, str]]
    plan: Plan | None = None
    space: Space | None = None
    question: Mapping[str, Any] | None = None

    @property
    def heading(self) -> str:
        """What the points are, in words."""
        if self.space is None or set(self.space.objectives) == {ENERGY, self.latency}:
            return "What nothing beats in both joules and latency"
        return f"What nothing beats in {', '.join(self.space.objectives)}"

    @property
    def title(self) -> str:
        """Models and GPUs in a line."""
        names = [_listed(self.frame[name]) for name in ("model", "gpu") if name in self.frame.columns]
        return " on ".join(names)

    def chosen(self) -> list[tuple[str, int]]:
        """Return the points that charts explain, by name: least joules, least joules times latency, least latency."""
        energy, latency = (self.frame[name].to_numpy() for name in (ENERGY, self.latency))
        names: dict[int, str] = {}
        for name, score in (("least energy", energy), ("balanced", energy * latency), ("least latency", latency)):
            names.setdefault(int(np.argmin(score)), name)
        return [(name, at) for at, name in names.items()]

    def causes(self) -> pl.DataFrame:
        """Return joules per output token by phase and cause of the chosen points, with each point's `total`."""
        parts = []
        for name, at in self.chosen():
            joules = causes(self.frame.row(at, named=True))
            whole = float(joules[ENERGY].sum())
            parts.append(joules.with_columns(pl.lit(name).alias("point"), pl.lit(whole).alias("total")))
        return pl.concat(parts)

    @cached_property
    def operations(self) -> pl.DataFrame | None:
        """The operations of the point of least energy, or none where they are not known."""
        if self.plan is None or self.kind != "front":
            return None
        return operations(self.plan, self.frame.row(self.chosen()[0][1], named=True))

    @cached_property
    def changes(self) -> pl.DataFrame | None:
        """What single changes of the point of least energy save, or none where that is not known."""
        best = self.frame.row(self.chosen()[0][1], named=True)
        if self.space is not None:
            return changes(self.space, best)
        return None if self.question is None else _levers(self.question, best, self.limits)

    def labelled(self) -> pl.DataFrame:
        """Return the points with `row`, `colour` (what differs of model and GPU) and `shape` (parallelism)."""
        frame = self.frame
        many = [name for name in ("model", "gpu") if frame[name].n_unique() > 1] or ["gpu"]
        colours = pl.Series("colour", [" on ".join(row) for row in frame.select(many).iter_rows()])
        if colours.n_unique() > _MOST_COLOURS:
            common = colours.value_counts(sort=True)["colour"].head(_MOST_COLOURS - 1)
            colours = pl.Series("colour", [name if name in set(common) else "others" for name in colours])
        mesh = [name for name in _MESH if name in frame.columns]
        if self.kind == "pairs":
            shapes = [
                f"tp {prefill_tp} > {decode_tp}"
                for prefill_tp, decode_tp in frame.select("prefill_tp", "decode_tp").iter_rows()
            ]
        else:
            shapes = [", ".join(f"{n} {row[n]}" for n in mesh if n == "tp" or row[n] > 1) for row in frame.to_dicts()]
        if len(set(shapes)) > _MOST_SHAPES and "tp" in frame.columns:
            shapes = [f"tp {tp}" for tp in frame["tp"]]
        if len(set(shapes)) > _MOST_SHAPES:
            shapes = ["any"] * frame.height
        return frame.with_columns(colours, pl.Series("shape", shapes))


def of_result(result: Result) -> Subject:
    """Return what a report of a front is about."""
    from energylens.reports.text.answer import account, limits

    space = result.space
    names = [name for name in space.objectives if name.endswith("_s") and not name.startswith("output_")]
    latency = names[0] if names else "latency_s"
    frame = _ordered(result.frame, list(dict.fromkeys([ENERGY, latency, *space.objectives])))
    varied = [axis for axis, values in space.axes.items() if len(values) > 1 and axis in frame.columns]
    provenance = [
        ("found by", account(replace(result, seconds=0.0))),
        ("limits", limits(result) or "none"),
        ("objectives", ", ".join(space.objectives)),
        *((axis, _values(v)) for axis, v in space.axes.items() if v != [RUNNING.get(axis, ...)]),
        ("plan (SHA-256)", result.plan_sha256),
    ]
    columns = [
        ENERGY,
        "latency_s",
        "ttft_s",
        "tpot_s",
        "output_tokens_per_s",
        "power_w_per_gpu",
        "memory_bytes_per_gpu",
    ]
    shown = [*columns, *(name for name in space.objectives if name not in columns)]
    return Subject(
        kind="front",
        answer=result.answer(),
        frame=frame,
        latency=latency,
        axes=varied,
        columns=shown,
        limits=space.parsed_limits,
        trust=space.trust,
        provenance=provenance,
        plan=space.plan,
        space=space,
    )


def of_service(frame: pl.DataFrame, note: Mapping[str, Any], sha256: str) -> Subject:
    """Return what a report of a service plan is about."""
    provenance = [
        ("workload", note["workload"]),
        *(("note", str(text)) for text in note.get("notes", [])),
        ("limits", ", ".join(note["limits"]) or "none"),
        ("deployments in steady state", f"{note['tried']:,}"),
        ("could not run", reasons_words(note["by_reason"]) or "none"),
        ("replayed request by request", f"{note['judged']:,}, {note['outside_limits']:,} of them outside the limits"),
        ("question (SHA-256)", sha256),
    ]
    latency = "latency_s"
    columns = [ENERGY, "ttft_p90_s", "tpot_p90_s", "latency_s", "output_tokens_per_s", "power_w", "utilisation"]
    columns += [name for name in _MONEY if name in frame.columns]
    frame = _ordered(frame, [ENERGY, latency])
    return Subject(
        kind="service",
        answer=str(note["answer"]),
        frame=frame,
        latency=latency,
        axes=_varied(frame, _DEPLOYED),
        columns=columns,
        limits=[_limit(text) for text in note["limits"]],
        trust=dict(note["trust"]),
        provenance=provenance,
        question=note["asked"],
    )


def of_pairs(frame: pl.DataFrame, note: Mapping[str, Any], sha256: str) -> Subject:
    """Return what a report of pairs of prefill and decode is about."""
    latency = "latency_s"
    parts = [f"energy_{part}_per_request_j" for part in ("prefill", "decode", "transfer")]
    named = frame.with_columns(
        pl.lit(note["model"]).alias("model"),
        pl.concat_str("prefill_gpu", pl.lit(" > "), "decode_gpu").alias("gpu"),
    )
    question = note.get("asked", {})
    provenance = [("workload", str(note["workload"]))] if "workload" in note else []
    provenance += [("note", str(text)) for text in note.get("notes", [])]
    provenance += [(name, f"{question[name]:,}") for name in ("prompt_tokens", "output_tokens") if name in question]
    provenance += [("limits", ", ".join(note["limits"]) or "none")]
    for side in ("prefill", "decode"):
        axes = question.get(side, {}).items()
        provenance += [(side, "; ".join(f"{name} {_values(values)}" for name, values in axes))] if axes else []
    provenance.append(("question (SHA-256)", sha256))
    columns = [ENERGY, *parts, *(n for n in ("ttft_s", "ttft_p90_s", "tpot_s", "tpot_p90_s") if n in frame.columns)]
    columns += ["latency_s"]
    varied = [f"{side}_{name}" for side in ("prefill", "decode") for name in _DEPLOYED]
    named = _ordered(named, [ENERGY, latency])
    return Subject(
        kind="pairs",
        answer=str(note["answer"]),
        frame=named,
        latency=latency,
        axes=_varied(named, varied),
        columns=columns,
        limits=[_limit(text) for text in note["limits"]],
        trust=dict(note["trust"]),
        provenance=provenance,
    )


def read_subject(path: str | Path) -> Subject:
    """Return what the report of a result's file is about; raise `EnergylensError` if it holds no result."""
    from energylens.common.parquet_file import read_parquet

    frame, metadata = read_parquet(path)
    path, note = Path(path), metadata.get("note", {})
    kind = note.get("kind")
    if kind in ("best_per", "top", "distributions"):
        raise EnergylensError(not_a_front(path, note))
    if kind not in ("front", "service", "pairs"):
        hint = "give a Parquet file that --out of explore, search, split, serve-plan or serve-pools wrote, or a sweep's"
        name = printable(str(path))
        raise EnergylensError(Problem(f"`{name}` does not say what it answers", hint=hint, code="result"))
    if not frame.height:
        hint = "relax the limits and ask again"
        raise EnergylensError(Problem(f"`{printable(str(path))}` has no point", hint=hint, code="empty"))
    result = Result.of_file(path, frame, metadata) if kind == "front" else None
    rows = frame if result is not None else checked_result(frame, metadata, path)
    with undamaged(path):
        if result is not None:
            return of_result(result)
        return (of_service if kind == "service" else of_pairs)(rows, note, metadata["plan_sha256"])


_MONEY: Final = ("cost_per_million_output_tokens", "carbon_g_per_million_output_tokens")
_DEPLOYED: Final = ("model", "gpu", *_MESH, "weight_dtype", "kv_dtype", *(n for n in RUNNING if n != "cp"), *BATCHING)


def _ordered(frame: pl.DataFrame, traded: Sequence[str]) -> pl.DataFrame:
    """Return the rows with their number, the least energy first; of equals in all that is traded the first."""
    numbered = frame.drop("row", strict=False).with_row_index("row")
    return numbered.sort(ENERGY, maintain_order=True).unique(list(traded), keep="first", maintain_order=True)


def _varied(frame: pl.DataFrame, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in frame.columns and frame[name].n_unique() > 1]


def _limit(text: str) -> Limit:
    return Limit.parse(text.replace(" ", ""), (*ANSWERED, *PRICED, *POOLED, *RESULTS))


def _levers(question: Mapping[str, Any], best: Mapping[str, Any], limits: Sequence[Limit]) -> pl.DataFrame | None:
    """Return what `advise_levers` says of a deployment, if what was asked can be asked again."""
    from energylens.serving.advice.levers import advise_levers
    from energylens.serving.workload import load_workload

    if question["model"] is None or question["workload"] is None or None in question["gpus"]:
        return None
    reading = {name: question[name] for name in ("time_unit", "block_tokens") if name in question}
    deployment = {name: best[name] for name in _DEPLOYED if name in best and name not in ("model", "gpu")}
    try:
        known = {load_gpu(gpu).spec.name: gpu for gpu in question["gpus"]}
        specs = Plan([load_model(question["model"])], [load_gpu(gpu) for gpu in known.values()])
        if specs.sha256 != question["plan_sha256"]:
            return None  # the files are no longer those that the plan was made with
        advice = advise_levers(
            question["model"],
            load_workload(question["workload"], **reading),
            gpu=known[best["gpu"]],
            rate_per_s=question["rate_per_s"],
            limits=[str(limit) for limit in limits if limit.column not in PRICED],
            other_gpus=[gpu for name, gpu in known.items() if name != best["gpu"]],
            **deployment,
        )
    except EnergylensError:
        return None
    return advice.frame.select("lever", "change", "saved_j", "saved_share", "keeps", "extrapolated")


def _listed(names: pl.Series) -> str:
    return ", ".join(str(name) for name in names.unique(maintain_order=True))


def _values(values: Sequence[Any]) -> str:
    """Return the values of an axis in words; long lists by their ends."""
    words = [axis_words(value) for value in values]
    return ", ".join(words) if len(words) <= 12 else f"{', '.join(words[:5])}, ..., {words[-1]} ({len(words)} values)"
