"""`energylens report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from energylens.cli.app import app
from energylens.cli.command import OUT, Parameter


@app.command
def report(
    result: Annotated[Path, Parameter(help="A file of explore, search, split, serve-plan, serve-pools or a sweep.")],
    /,
    *,
    out: Annotated[Path, Parameter(name=OUT, help="The page.")] = Path("report.html"),
    charts: Annotated[Path | None, Parameter(help="Also write each chart there, as PNG and SVG.")] = None,
) -> None:
    """Write a result as one page that needs no network: the answer, its front, where the joules go, levers, trust.

    Example: energylens report front.parquet -o report.html
    """
    from energylens.common.errors import EnergylensError, Problem
    from energylens.common.parquet_file import checked_target
    from energylens.reports.charts import Charts, require, save_chart
    from energylens.reports.html import write_page
    from energylens.reports.subject import read_subject

    if out.suffix.lower() not in {".html", ".htm"}:
        hint = "name it .html; --charts FOLDER writes pictures"
        raise EnergylensError(Problem(f"`{out}` would be a page of HTML", hint=hint, code="write"))
    checked_target(out)
    if charts is not None:
        checked_target(charts / "front.png")
    require()
    subject = read_subject(result)
    write_page(subject, out, result.name)
    print(f"wrote {out}: {subject.answer}", file=sys.stderr)
    if charts is not None:
        for name, chart in Charts(subject).known().items():
            for kind in ("png", "svg"):
                save_chart(chart, charts / f"{name}.{kind}")
        print(f"wrote charts to {charts}", file=sys.stderr)
