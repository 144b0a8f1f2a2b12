"""`energylens compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from energylens.cli.app import app, emit
from energylens.cli.command import Parameter
from energylens.cli.options import Json

POINT = 'A row of a result (front.parquet, front.parquet#3), a point .yaml, or "MODEL; gpu=h100-sxm; tp=4; batch=64".'


@app.command
def compare(
    before: Annotated[str, Parameter(help=POINT)],
    after: Annotated[str, Parameter(help="The same.")],
    /,
    *,
    chart: Annotated[Path | None, Parameter(help="Also draw a waterfall: .png, .svg or .html.")] = None,
    json: Json = False,
) -> None:
    """Compare two points: what changes, and where the joules go.

    Example: energylens compare "llama-3.1-70b; gpu=h100-sxm; tp=4; batch=64" "llama-3.1-70b; gpu=h100-sxm; tp=8;
    batch=64" --chart waterfall.png
    """
    from energylens.reports.charts import check_picture, save_chart
    from energylens.reports.text.comparison import comparison_text
    from energylens.results.comparison import compare as compare_points

    if chart is not None:
        check_picture(chart)
    comparison = compare_points(before, after)
    if chart is not None:
        save_chart(comparison.plot.waterfall(), chart)
        print(f"wrote {chart}", file=sys.stderr)
    if json:
        emit(comparison.as_dict())
    else:
        print(comparison_text(comparison))
