"""The file of a measurement: a row for every repeat of every case, and what the rows say together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from energylens.common.errors import EnergylensError, Problem
from energylens.common.files import input_file, is_there, printable
from energylens.common.format import number, table
from energylens.common.parquet_file import read_parquet
from energylens.measurement.cases import SIZES
from energylens.results.parquet import write_parquet

KIND: Final = "measured"
GO_ON: Final = "run `energylens measure` to its end: the same command goes on"
"""What mends a file that tells too little."""
_TEXT: Final = ("case", "family", "variant", "dtype", "suspect", "throttle", "driver", "torch", "cuda", "measured_at")
_WHOLE: Final = ("repeat", "sm_clock_lock_mhz", "calls", *SIZES)
_NUMBERS: Final = (
    "seconds", "joules", "joules_integrated", "power_w", "power_integrated_w", "metered_s", "limit_w", "sm_clock_mhz",
    "memory_clock_mhz", "temperature_c",
)  # fmt: skip
COLUMNS: Final[dict[str, pl.DataType]] = {
    **dict.fromkeys(_TEXT, pl.String()),
    **dict.fromkeys(_WHOLE, pl.Int64()),
    **dict.fromkeys(_NUMBERS, pl.Float64()),
}
"""Columns of the file: seconds and joules of one call, watts of one GPU."""

_NOTED: Final = ("gpu", "suite", "input", "skipped")
KEYS: Final = ("case", "sm_clock_lock_mhz")
_POSITIVE: Final = ("seconds", "calls", "limit_w")


@dataclass(frozen=True)
class Runs:
    """Measured rows, the GPU they are of, and the cases that could not run."""

    rows: pl.DataFrame
    gpu: dict[str, Any]
    suite: str
    input: str
    skipped: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Runs:
        """Read a file of `energylens measure`; raise `EnergylensError` with every problem of it."""
        if not is_there(path):
            shown = printable(str(path))
            raise EnergylensError(Problem(f"there is no `{shown}`", hint="is the path right?", code="no-data"))
        rows, metadata = read_parquet(input_file(path, "file of measured kernels", error=EnergylensError), strict=True)
        note = metadata.get("note", {})
        if note.get("kind") != KIND:
            hint = "`energylens measure -o FILE` writes one"
            message = f"`{path}` is not a file of measured kernels"
            raise EnergylensError(Problem(message, hint=hint, code="measured-file", where=str(path)))
        problems = [
            Problem(f"`{path}` has no column `{name}` of {kind}", code="measured-file", where=str(path))
            for name, kind in COLUMNS.items()
            if rows.schema.get(name) != kind
        ]
        for name in _POSITIVE if not problems else ():
            fine = (rows[name] > 0) & rows[name].is_finite()
            problems += _bad(name, "a positive number", ~fine.fill_null(False), path)
        for name in ("joules", "power_w") if not problems else ():
            # A suspect row may lack what its meter did not tell.
            fine = rows["suspect"].is_not_null() | (rows[name].is_finite() & (rows[name] > 0)).fill_null(False)
            problems += _bad(name, "a positive number", ~fine, path)
        problems += [
            Problem(f"`{path}` does not say its `{name}`", hint="measure again", code="measured-file", where=str(path))
            for name in _NOTED
            if name not in note
        ]
        if problems:
            raise EnergylensError(problems)
        description = {name: note[name] for name in _NOTED}
        return cls(rows.select(*COLUMNS), **description)

    def write(self, path: Path) -> Path:
        """Write the file in one step."""
        note_ = {"gpu": self.gpu, "suite": self.suite, "input": self.input, "skipped": self.skipped}
        return write_parquet(self.rows, path, "", {"kind": KIND, **note_})

    @cached_property
    def sound(self) -> pl.DataFrame:
        """Rows that are not suspect."""
        return self.rows.filter(pl.col("suspect").is_null())

    @cached_property
    def means(self) -> pl.DataFrame:
        """A row a case and clock: means of its sound repeats, their number, and 95 % intervals (relative, half width).

        `s̄ ± t·σ/√n`; with a single repeat the interval is null.
        """
        values = [name for name in _NUMBERS if name != "limit_w"]
        spread = {name: pl.col(name).std().alias(f"{name}_ci") for name in ("seconds", "joules")}
        grouped = self.sound.group_by(*KEYS, maintain_order=True).agg(
            *(pl.col(name).first() for name in ("family", "variant", "dtype", *SIZES)),
            pl.col("limit_w").min(),
            pl.col("throttle").filter(pl.col("throttle") != "").unique().sort().str.join(",").alias("throttle"),
            *(pl.col(name).mean() for name in values),
            *spread.values(),
            pl.len().alias("repeats"),
        )
        from scipy.stats import t as student  # type: ignore[import-untyped, unused-ignore]

        freedom = np.maximum(grouped["repeats"].to_numpy() - 1, 1)
        t = pl.Series(student.ppf(0.975, freedom))
        return grouped.with_columns(
            (pl.lit(t) * pl.col(f"{n}_ci") / pl.col("repeats").sqrt() / pl.col(n)).alias(f"{n}_ci") for n in spread
        )

    def summary(self) -> dict[str, Any]:
        """Return how repeatable the rows are, how far counter and samples are apart, and what is suspect."""
        both = self.sound.drop_nulls("power_integrated_w").filter(pl.col("family") != "idle")
        apart = 100 * (both["power_integrated_w"] / both["power_w"] - 1)
        spread = self.sound.group_by(*KEYS).agg(
            *((100 * (pl.col(n).max() - pl.col(n).min()) / pl.col(n).mean()).alias(n) for n in ("seconds", "joules")),
            pl.len().alias("repeats"),
        ).filter(pl.col("repeats") > 1)  # fmt: skip
        suspects = self.rows.drop_nulls("suspect").group_by("suspect").len().sort("len", "suspect", descending=True)
        return {
            "gpu": self.gpu["name"],
            "suite": self.suite,
            "rows": self.rows.height,
            "cases": self.rows.select(KEYS).n_unique(),
            "skipped": self.skipped,
            "suspect": dict(suspects.iter_rows()),
            "repeat_spread_percent": {
                name: {"median": _number(spread[name].median()), "p90": _number(spread[name].quantile(0.9))}
                for name in ("seconds", "joules")
            },
            "integrated_over_counter_percent": {
                "mean": _number(apart.mean()),
                "p90_size": _number(apart.abs().quantile(0.9)),
                "rows": len(apart),
            },
        }

    def text(self) -> str:
        """Return the summary as a person reads it."""
        summary = self.summary()
        spread, apart = summary["repeat_spread_percent"], summary["integrated_over_counter_percent"]
        unlocked = self.means.filter(pl.col("sm_clock_lock_mhz").is_null())
        lines = [
            [family, str(group.height), _range(group["seconds"], 1e6), _range(group["power_w"], 1.0), _percent(group)]
            for (family,), group in unlocked.group_by(["family"], maintain_order=True)
        ]
        parts = [
            f"{summary['gpu']}: {summary['rows']} rows of {summary['cases']} cases, suite {self.suite}",
            table(["kernel", "cases", "us a call", "W", "95 % interval of J, mean"], lines),
        ]
        if spread["joules"]["median"] is not None:
            parts.append(
                f"repeats differ by {_spread_text(spread['seconds'])} in time "
                f"and {_spread_text(spread['joules'])} in joules "
                "(largest less smallest: median, 90th percentile)"
            )
        if apart["rows"]:
            parts.append(
                f"power samples, integrated, are {apart['mean']:+.1f} % off the energy counter on average, 90 % of "
                f"{apart['rows']} rows within {apart['p90_size']:.1f} %"
            )
        parts += [f"suspect and in no fit: {rows} with {why}" for why, rows in summary["suspect"].items()]
        if self.skipped:
            first = next(iter(self.skipped.items()))
            parts.append(f"could not run: {len(self.skipped)}, such as {first[0]}: {first[1]}")
        return "\n\n".join(parts[:2]) + "\n\n" + "\n".join(parts[2:])


def _bad(name: str, kind: str, wrong: pl.Series, path: Path) -> list[Problem]:
    """Return what is wrong with a column, if any row of it is."""
    if not wrong.any():
        return []
    message = f"column `{name}` is not {kind} in {int(wrong.sum())} of {len(wrong)} rows"
    return [Problem(message, hint="measure again", code="measured-file", where=str(path))]


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else round(float(value), 2) + 0.0


def _spread_text(spread: dict[str, float | None]) -> str:
    return f"{spread['median']:.1f} %, {spread['p90']:.1f} %"


def _range(values: pl.Series, factor: float) -> str:
    low, high = (number(factor * float(end)) for end in (values.min(), values.max()))  # type: ignore[arg-type]
    return low if low == high else f"{low} to {high}"


def _percent(group: pl.DataFrame) -> str:
    mean = group["joules_ci"].mean()
    return "" if mean is None else f"{100 * float(mean):.1f} %"  # type: ignore[arg-type]
