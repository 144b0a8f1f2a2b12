"""A sweep frozen: one canonical content that says everything a worker needs; its SHA-256 is the sweep's name."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from energylens import _core
from energylens.common.errors import EnergylensError, Problem, SpecError
from energylens.common.files import printable
from energylens.common.json_file import strict_json
from energylens.engine.reductions import Keep
from energylens.engine.space import FrozenSpace, Limit, Space
from energylens.engine.trust import Account
from energylens.inputs import run_options
from energylens.inputs.form import check
from energylens.inputs.plan import canonical
from energylens.searches.exhaustive import work
from energylens.sweeps.form import MOST_SHARDS, ManifestForm
from energylens.sweeps.job import Job

FORMAT = 1

WORK_A_SHARD = 10**8
"""Points evaluated from scratch, or work like it, in a shard by default: some ten seconds on one core."""

USUAL_SHARDS = 1 << 16
"""Most shards by default."""

MOST_ROWS = 1 << 20
"""Most rows in a file of rows."""

_SAMPLE = 64
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of points, `lo` to `hi`, and its place among the shards."""

    number: int
    lo: int
    hi: int


@dataclass(frozen=True)
class Sweep:
    """A sweep by its canonical content, its name, how far its GPUs are trusted and where its models come from."""

    name: str
    content: dict[str, Any]
    trust: dict[str, Account]
    sources: dict[str, str | None]

    @cached_property
    def sha256(self) -> str:
        """Name of the content."""
        return hashlib.sha256(canonical(self.content).encode()).hexdigest()

    @cached_property
    def space(self) -> Space:
        """The space, of this content alone."""
        content = self.content
        laws = [law["name"] for law in content["plan"].get("routings", ())]
        axes: dict[str, Any] = {
            name: [run_options.from_core(value, name, laws) for value in values]
            for name, values in content["space"].items()
            if name not in {"model", "gpu"}
        }
        names: dict[str, Any] = {kind: [item["name"] for item in content["plan"][kind]] for kind in ("models", "gpus")}
        return FrozenSpace(
            **names,
            **axes,
            max_batched_tokens=int(content["plan"]["settings"]["max_batched_tokens"]),
            limits=content["limits"],
            objectives=content["objectives"],
            content=content["plan"],
            accounts=self.trust,
            model_sources=self.sources,
        )

    @cached_property
    def keep(self) -> Keep:
        """What is kept of the points."""
        return Keep(**{name: value for name, value in self.content["keep"].items() if name != "rows"})

    @property
    def rows(self) -> str:
        """Which rows are written: `none`, `feasible` or `all`."""
        return str(self.content["keep"]["rows"])

    @property
    def points(self) -> int:
        """Number of points."""
        return int(self.content["shards"]["points"])

    @property
    def count(self) -> int:
        """Number of shards."""
        return int(self.content["shards"]["count"])

    def shard(self, number: int) -> Shard:
        """Return a shard; all of them lie end to end, and their bounds are multiples of `step`."""
        step = int(self.content["shards"]["step"])
        units = -(-self.points // step)
        lo, hi = (min(units * i // self.count * step, self.points) for i in (number, number + 1))
        return Shard(number, lo, hi)

    @cached_property
    def manifest(self) -> str:
        """The text of `manifest.json`."""
        manifest_fields = {
            "name": self.name,
            "sweep_sha256": self.sha256,
            "plan_sha256": hashlib.sha256(canonical(self.content["plan"]).encode()).hexdigest(),
            "energylens": self.content["energylens"],
            "trust": self.trust,
            "sources": self.sources,
            "sweep": self.content,
        }
        return json.dumps(manifest_fields, indent=1) + "\n"

    def differences(self, other: Sweep) -> list[str]:
        """Return what makes another sweep a different one, in words."""
        mine, its = self.content, other.content
        if mine.get("format") != its.get("format"):
            return [f"format {its.get('format')} instead of {mine.get('format')}"]
        differences = []
        if mine["energylens"] != its["energylens"]:
            differences.append(f"energylens {its['energylens']} instead of {mine['energylens']}")
        elif mine["physics"] != its["physics"] and mine["plan"] == its["plan"] and mine["space"] == its["space"]:
            differences.append(f"another build of energylens {its['energylens']}, which predicts other numbers")
        for kind, what in (("models", "model"), ("gpus", "GPU")):
            ours, theirs = ({item["name"]: item for item in content["plan"][kind]} for content in (mine, its))
            differences += [f"no {what} `{name}`" for name in ours if name not in theirs]
            differences += [f"a {what} `{name}`" for name in theirs if name not in ours]
            differences += [
                f"another {what} `{name}`" for name in ours if name in theirs and ours[name] != theirs[name]
            ]
        if mine["plan"]["settings"] != its["plan"]["settings"]:
            differences.append("another `max_batched_tokens`")
        differences += [
            f"another `{name}`"
            for name in mine["space"]
            if name not in {"model", "gpu"} and mine["space"][name] != its["space"].get(name)
        ]
        for part in ("limits", "objectives"):
            differences += [f"other {part}"] if mine[part] != its[part] else []
        differences += [f"another `{name}`" for name in mine["keep"] if mine["keep"][name] != its["keep"].get(name)]
        if not differences and mine["shards"] != its["shards"]:
            differences.append(f"{its['shards'].get('count')} shards instead of {self.count}")
        return differences or ["another order of its parts"]


def freeze(job: Job) -> Sweep:
    """Return the frozen sweep of a job."""
    space = job.space
    content = {
        "format": FORMAT,
        "energylens": _core.__version__,
        "physics": physics(space),
        "plan": json.loads(space.plan.json),
        "space": json.loads(space.json),
        "limits": [_canonical_limit(limit) for limit in space.parsed_limits],
        "objectives": list(space.objectives),
        "keep": job.keep.describe() | {"rows": job.form.keep.rows},
        "shards": _cut(job),
    }
    return Sweep(job.form.name, content, dict(space.trust), dict(space.sources))


def physics(space: Space) -> str:
    """Return the SHA-256 of the results at some points of a space: another one means that other numbers come out."""
    picked = np.array(sorted({space.size * i // _SAMPLE for i in range(_SAMPLE)}), dtype=np.uint64)
    columns = space.plan.core.evaluate_space(space.json, picked, _core.COLUMNS, 1)
    runs = columns["reason"] == 0
    digest = hashlib.sha256(runs.tobytes())
    for name in _core.COLUMNS:
        digest.update(columns[name][runs].tobytes())
    return digest.hexdigest()


def _canonical_limit(limit: Limit) -> str:
    bounded = math.isfinite(limit.highest)
    return f"{limit.column}<={limit.highest!r}" if bounded else f"{limit.column}>={limit.lowest!r}"


def _cut(job: Job) -> dict[str, int]:
    """Return the number of shards and what their bounds are multiples of.

    Bounds fall between planes of all lengths, or between rows of all output lengths, where shards are large enough:
    the core evaluates those as a whole.
    """
    space, form = job.space, job.form
    size = space.size
    if form.shards is not None:
        count = form.shards
    elif form.shard_points is not None:
        count = -(-size // form.shard_points)
    else:
        count = min(USUAL_SHARDS, math.ceil(work(space) / WORK_A_SHARD))
    if form.keep.rows != "none":
        count = max(count, -(-size // MOST_ROWS))
    count = max(1, min(count, size))
    if count > MOST_SHARDS:
        hint = "give larger `shard_points`, or fewer `shards`"
        raise SpecError(
            Problem(f"{count:,} shards are more than the {MOST_SHARDS:,} of a sweep", hint=hint, code="too-large")
        )
    row = len(space.axes["output_tokens"])
    plane = row * len(space.axes["prompt_tokens"])
    step = next((step for step in (plane, row) if size // step >= 4 * count), 1)
    return {"points": size, "count": count, "step": step}


@lru_cache(maxsize=4)
def thaw(manifest: str, place: str) -> Sweep:
    """Return the sweep of a manifest's text; raise `EnergylensError` if it is damaged or of another energylens."""
    try:
        fields = strict_json(manifest)
        check(ManifestForm, fields, None, "manifest")
        sweep = Sweep(fields["name"], fields["sweep"], dict(fields["trust"]), dict(fields["sources"]))
        if sweep.sha256 == fields["sweep_sha256"]:
            return sweep
        reason = "its contents are not those it names"
    except EnergylensError as error:
        reason = "; ".join(problem.message for problem in error.problems[:_SHOWN])
    except ValueError as error:
        reason = f"it is not JSON: {error}"
    hint = "delete it and run the sweep again: whole shards are kept"
    message = f"the manifest `{printable(place)}` is damaged: {printable(reason)}"
    raise EnergylensError(Problem(message, hint=hint, code="manifest"))


@lru_cache(maxsize=4)
def thaw_here(manifest: str, place: str) -> Sweep:
    """Return the sweep of a manifest; raise `EnergylensError` if this energylens does not predict its numbers."""
    sweep = thaw(manifest, place)
    made, here = sweep.content["energylens"], _core.__version__
    if made != here or sweep.content["format"] != FORMAT:
        message = f"`{place}` is of energylens {made}, this is {here}"
    elif (fault := _not_a_space(sweep)) is not None:
        message = f"the manifest `{printable(place)}` is damaged: {printable(fault)}"
        hint = "delete it and run the sweep again: whole shards are kept"
        raise EnergylensError(Problem(message, hint=hint, code="manifest"))
    elif sweep.content["physics"] != physics(sweep.space):
        message = f"`{place}` is of another build of energylens {here}, which predicts other numbers"
    else:
        return sweep
    hint = "go on with the energylens it was begun with, or start again in an empty folder"
    raise EnergylensError(Problem(message, hint=hint, code="other-sweep"))


def _not_a_space(sweep: Sweep) -> str | None:
    """Return what keeps the space of a manifest from being one."""
    try:
        size, _ = sweep.space.size, (sweep.space.bounds, sweep.keep.reduction(sweep.space))
    except EnergylensError as error:
        return error.problems[0].message
    return None if size == sweep.points else f"its space has {size:,} points, not {sweep.points:,}"


def prepared(job: str | Path | Mapping[str, Any]) -> Sweep:
    """Return the sweep of a job file, a mapping, or a manifest (a name ending in .json)."""
    if not isinstance(job, (str, Path, Mapping)):
        hint = "give a job file, the same as a mapping, or the manifest.json of a sweep"
        raise SpecError(Problem(f"a job is not a {type(job).__name__}", hint=hint, code="form"))
    if isinstance(job, (str, Path)) and str(job).endswith(".json"):
        from energylens.sweeps.storage import open_storage

        folder, _, name = str(job).rpartition("/")
        text = open_storage(folder or ".").read(name)
        if text is None:
            raise EnergylensError(Problem(f"cannot read `{job}`: there is no such file", code="unreadable"))
        return thaw_here(text.decode(errors="replace"), str(job))
    return freeze(Job(job))
