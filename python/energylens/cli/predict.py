"""`energylens predict`."""

from __future__ import annotations

import sys
from typing import Annotated

from energylens.cli.app import app, emit
from energylens.cli.command import Parameter
from energylens.cli.options import Json, Out, PointOptions


@app.command
def predict(
    model: Annotated[str, Parameter(help="A bundled model (energylens models) or a path to a spec.")],
    /,
    *,
    point: PointOptions,
    json: Json = False,
    out: Out = None,
) -> None:
    """Predict one configuration: latency, energy, and where the joules go.

    Example: energylens predict llama-3.1-70b --gpu h100-sxm --tp 4 --batch 64 --json
    """
    import polars as pl

    from energylens.reports.text.prediction import prediction_text
    from energylens.results.parquet import write_parquet
    from energylens.results.prediction import predict as predict_point

    prediction = predict_point(model, **point.arguments())
    if out is not None:
        write_parquet(pl.DataFrame([prediction.point | prediction.values]), out, prediction.plan_sha256)
        print(f"wrote {out}", file=sys.stderr)
    if json:
        emit(prediction.as_dict())
    else:
        print(prediction_text(prediction))
