"""What is done with a case, and what must hold of it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import os
import time
import traceback
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from energylens.common.errors import EnergylensError
from fuzz.makers import Case


def run_case(case: Case) -> str | None:
    """Run a case in the present folder; return what is wrong, or none."""
    if "argv" in case:
        return _command(case)
    try:
        if "columns" in case:
            return _frame(case["columns"])
        if "plan" in case:
            return _plan(case["plan"])
        if "loop" in case:
            return _fault(case["loop"])
        return _replay(case)
    except EnergylensError:
        return None
    except Exception:
        return traceback.format_exc()


def write_files(files: dict[str, Any]) -> None:
    """Write the files of a case into the present folder, beside a folder, a FIFO and a link to nothing."""
    Path("folder").mkdir()
    os.mkfifo("fifo")
    Path("gone-link").symlink_to("nothing")
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_bytes(content.encode("utf-8", "surrogatepass"))
        elif "base64" in content:
            path.write_bytes(base64.b64decode(content["base64"]))
        elif "parts" in content:
            path.write_text("".join(_repeated(*part) for part in content["parts"]), encoding="utf-8")
        else:
            path.symlink_to(content["link"])


def _repeated(text: str, times: int) -> str:
    """Return a text so often, `{i}` in it being the count."""
    return "".join(text.replace("{i}", str(i)) for i in range(times)) if "{i}" in text else text * times


def _command(case: Case) -> str | None:
    from energylens.cli import main

    write_files(case.get("files", {}))
    out, errors = io.StringIO(), io.StringIO()
    os.environ["ENERGYLENS_TRACEBACK"] = "1"  # an internal error is raised with its place
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = main(list(case["argv"]))
    except SystemExit as stop:
        code = int(stop.code or 0)
    except Exception:
        return traceback.format_exc()
    if code not in (0, 2):
        return f"exit code {code}\n{errors.getvalue()[-2000:]}"
    if code == 2 and not errors.getvalue().strip():
        return "exit code 2 without a message"
    if len(errors.getvalue()) > 200_000:
        return f"{len(errors.getvalue()):,} characters of messages"
    if "--json" in case["argv"] and out.getvalue().strip():
        try:
            json.loads(out.getvalue(), parse_constant=_no_constant)
        except ValueError as error:
            return f"--json printed no JSON: {error}"
    return None


def _no_constant(name: str) -> None:
    raise ValueError(f"a value is {name}")


def _frame(columns: dict[str, tuple[str, list[Any]]]) -> str | None:
    import energylens

    series = []
    for name, (kind, values) in columns.items():
        dtype = getattr(pl, kind)
        if kind == "Date":
            values = [date(2026, 1, 1)] * len(values)
        try:
            series.append(pl.Series(name, values, dtype=dtype, strict=False))
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            series.append(pl.Series(name, [str(value) for value in values]))
    rows = energylens.evaluate(pl.DataFrame(series), threads=1).filter(pl.col("feasible"))
    numbers = rows.select(pl.col(pl.Float32, pl.Float64))
    for name in numbers.columns:
        if any(value is not None and not math.isfinite(value) for value in numbers[name]):
            return f"`{name}` of a feasible row is not finite"
    return None


def _plan(text: str) -> str | None:
    from energylens import _core
    from energylens.inputs import run_options
    from energylens.inputs.crossing import PointColumns

    try:
        plan = _core.Plan(text)
    except _core.PlanError:
        return None
    zeros, ones = np.zeros(1, dtype=np.uint32), np.ones(1, dtype=np.uint32)
    columns = ["energy_j", "latency_s", "memory_bytes_per_gpu"]
    try:
        points = PointColumns(
            dtypes=[None], run_options=[run_options.for_core({})], run_option=zeros, model=zeros, gpu=zeros,
            weight_dtype=zeros, kv_dtype=zeros, tp=ones, pp=ones, dp=ones, ep=ones,
            batch=np.array([4.0]), prompt_tokens=np.array([512.0]), output_tokens=np.array([64.0]),
        )  # fmt: skip
        table = plan.evaluate(points, columns, 1)
    except _core.PlanError:
        return None
    if not np.asarray(table["reason"])[0] and not all(math.isfinite(table[name][0]) for name in columns):
        return "a feasible row is not finite"
    return None


def _fault(kind: str) -> str | None:
    """Do what no case may, so that the limits can be tested."""
    match kind:
        case "seconds":
            time.sleep(3600)
        case "bytes":
            held = [bytearray(b"x") * 10**8 for _ in range(100)]
            return str(len(held))
        case "abort":
            os.abort()
        case _:
            return str(1 / 0)
    return None


def _replay(case: Case) -> str | None:
    from energylens import _core

    steps: dict[str, Any] = {"tokens": [1.0, 512.0], "base_s": [1e-3, 1e-2], "base_j": [1.0, 10.0]}
    steps |= {"sequences": [1.0, 4.0], "contexts": [1.0, 8192.0], "decode_s": [1e-4] * 4, "decode_j": [0.1] * 4}
    steps |= {"sample_s": 0.0, "sample_j": 0.0, "lengths": [1.0, 8192.0]}
    steps |= {"attend_s": [0.0, 1e-3], "attend_j": [0.0, 1.0]}
    arguments = case["arguments"]
    try:
        arrival_s = np.array(arguments["arrival_s"], dtype=np.float64)
        prompts, outputs = (np.array(arguments[name], dtype=np.uint32) for name in ("prompts", "outputs"))
    except (TypeError, ValueError, OverflowError):
        return None  # NumPy refuses it before the core sees it
    try:
        _core.replay(steps, case["engine"], arrival_s, prompts, outputs, arguments["blocks"], arguments["starts"])
    except (_core.PlanError, TypeError, OverflowError):
        return None
    return None
