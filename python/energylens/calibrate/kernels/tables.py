"""Measured kernel tables of the installed aiconfigurator_core package."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import polars as pl

from energylens.calibrate.kernels.formulas import Array
from energylens.common.errors import Problem, SpecError
from energylens.common.tables import read_table

FAST, SLOW = 1.3, 0.005
"""Shares of the peak that no large kernel reaches, above and below."""

FEWEST = 100
"""Rows a fit needs."""

ADDED = {"window_size": 0}
"""Columns that older tables lack, and what their rows were measured with."""

ABSENT = "no-table"

TRAPS: dict[tuple[str, str, str], tuple[tuple[str, ...], str]] = {
    ("vllm", "gemm", "fp8_block"): (("0.24.0",), "host overhead sets a floor of 55-150 us"),
    ("vllm", "moe", "fp8_block"): (
        ("0.24.0", "0.22.0", "0.19.0"),
        "host overhead, balanced rows slower than skewed ones; Triton kernels where vLLM runs DeepGEMM",
    ),
}
"""Versions not to use, by framework, family and number format."""


@dataclass(frozen=True)
class Table:
    """Rows of one measured table and where they come from."""

    rows: pl.DataFrame
    path: Path
    framework: str
    version: str

    def column(self, name: str) -> Array:
        """Return one column as floats."""
        return self.rows[name].to_numpy().astype(np.float64)


def fault(message: str, where: Path | str | None = None, hint: str | None = None, code: str = "table") -> SpecError:
    """Return a fault of a measured table; of code `ABSENT` where there is none, or not enough of it, to fit."""
    return SpecError(Problem(message, hint=hint, code=code, where=str(where) if where else None))


def home(directory: Path | None = None) -> Path:
    """Return the folder of tables by system: below the given one, or in the installed package."""
    if directory is None:
        spec = importlib.util.find_spec("aiconfigurator_core")
        if spec is None or not spec.submodule_search_locations:
            raise fault(
                "the package `aiconfigurator_core`, which carries the measured tables, is not installed",
                hint="pip install 'energylens[calibrate]', or give the folder of its unpacked wheel",
            )
        directory = Path(next(iter(spec.submodule_search_locations)))
    for below in ("", "systems/data", "aiconfigurator_core/systems/data"):
        tables = directory / below
        if any(tables.glob("*/*/*/*/*_perf.parquet")):
            return tables
    raise fault("no measured tables", directory, "expected <system>/<family>/<framework>/<version>/*_perf.parquet")


def package_version(directory: Path) -> str:
    """Return the version of the package that the tables belong to, `unknown` if nothing tells."""
    for parent in (directory, *directory.parents):
        for info in sorted(parent.glob("aiconfigurator_core-*.dist-info")):
            return info.name.removesuffix(".dist-info").split("-", 1)[1]
    try:
        return version("aiconfigurator-core")
    except PackageNotFoundError:
        return "unknown"


def _order(name: str) -> tuple[tuple[int, int], ...]:
    """Return a key that puts 1.3.0rc20 after 1.3.0rc9 and before 1.3.0."""
    parts = re.findall(r"\d+|[a-z]+", name)
    ranks = [(1, int(part)) if part.isdigit() else (0 if part in ("rc", "dev") else 2, 0) for part in parts]
    return (*ranks, (1, -1))


def versions(directory: Path, system: str, family: str, framework: str, operation: str) -> list[str]:
    """Return the versions that have a table, newest first."""
    folder = directory / system / family / framework
    names = {path.parent.name for path in folder.glob(f"*/{operation}_perf.parquet")}
    return sorted(names, key=_order, reverse=True)


def read(path: Path, columns: tuple[str, ...], latency: str = "latency") -> pl.DataFrame:
    """Return the named columns and the latency (from the column so called), which must be positive milliseconds."""
    try:
        rows = read_table(path, "table", kind="parquet")
    except SpecError as error:
        reason = error.problems[0].message.rpartition("`: ")[2]
        raise fault(f"the table cannot be read: {reason}", path, "install the package anew") from error
    absent = [
        pl.lit(value).alias(name) for name, value in ADDED.items() if name in columns and name not in rows.columns
    ]
    rows = rows.with_columns(absent)
    if latency.endswith("_us") and latency in rows.columns:
        rows = rows.with_columns((1e-3 * pl.col(latency)).alias("latency"))
    if missing := [name for name in (*columns, "latency") if name not in rows.columns]:
        raise fault(f"the table lacks the column `{missing[0]}`", path, f"columns: {', '.join(rows.columns)}")
    rows = rows.select(*columns, "latency")
    for name in rows.columns:
        if rows[name].dtype == pl.String:
            continue
        if not rows[name].dtype.is_numeric() or rows[name].null_count():
            raise fault(f"the column `{name}` is not made of numbers", path)
    if not rows.height or not (rows["latency"].is_finite() & (rows["latency"] > 0)).all():
        raise fault("the latencies are not all positive numbers", path)
    return rows


def load(
    directory: Path,
    system: str,
    family: str,
    framework: str,
    operation: str,
    columns: tuple[str, ...],
    form: str = "",
    where: pl.Expr | None = None,
    latency: str = "latency",
) -> Table:
    """Return the rows `where` holds of the newest table without a known trap that has enough of them, latency in ms.

    It stands in the column called `latency`; those that end on `_us` are in microseconds.
    """
    names = versions(directory, system, family, framework, operation)
    barred, reason = TRAPS.get((framework, family, form), ((), ""))
    usable = [name for name in names if name not in barred]
    if not usable:
        because = f"; {', '.join(names)} is left out: {reason}" if names else ""
        raise fault(f"no {family} table of {framework} for `{system}`{because}", directory, code=ABSENT)
    table_read: Table | None = None
    for name in usable:
        path = directory / system / family / framework / name / f"{operation}_perf.parquet"
        rows = read(path, columns, latency)
        table = Table(rows if where is None else rows.filter(where), path, framework, name)
        table_read = table_read or table
        if where is None or table.rows.height >= FEWEST:
            return table
    assert table_read is not None
    return table_read


def single_kernel(rows: pl.DataFrame, where: Path, what: str) -> tuple[pl.DataFrame, str]:
    """Return the rows of the kernel that has most of them, and its name."""
    if rows.height < FEWEST:
        raise fault(f"{what}: {rows.height} rows, a fit needs {FEWEST}", where, code=ABSENT)
    counts = rows.group_by("kernel_source").len().sort(["len", "kernel_source"], descending=[True, False])
    kernel = str(counts["kernel_source"][0])
    rows = rows.filter(pl.col("kernel_source") == kernel)
    if rows.height < FEWEST:
        raise fault(f"{what}: {rows.height} rows of one kernel, a fit needs {FEWEST}", where, code=ABSENT)
    return rows, kernel


def check_units(seconds: Array, ideal: Array, where: Path | str) -> None:
    """Refuse times whose large rows mostly beat the roofline `ideal` (s) by 30 % or stay below 0.5 % of it."""
    large = ideal >= np.quantile(ideal, 0.9)
    share = float(np.median(ideal[large] / seconds[large]))
    if not SLOW <= share <= FAST:
        raise fault(
            f"the latencies are not milliseconds of this GPU: large rows imply {100 * share:.3g} % of its peak",
            where,
            "another GPU's table, another unit, or a measurement that skipped work",
        )
