"""A report as one self-contained page: answer, front, where the joules go, levers, trust, provenance."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import polars as pl

from energylens import _core
from energylens.common.format import number
from energylens.inputs.axis_text import axis_words
from energylens.reports.charts import Charts, require
from energylens.reports.subject import Subject
from energylens.reports.text.answer import trust_words

MOST_ROWS: Final = 600
"""Points of a front that a page holds; of longer ones an even choice that keeps both ends."""

_SNIPPET: Final = "window.vegaEmbed = vegaEmbed;"
_MOST_CHOICES: Final = 40


def page(subject: Subject, source: str) -> str:
    """Return the page of a result as HTML, its scripts and data inside; raise `EnergylensError` without altair."""
    require()
    from jinja2 import Environment, StrictUndefined

    from energylens.reports.charts.front import label, thinned

    whole = subject.labelled()
    chosen = subject.chosen()
    frame = thinned(whole, MOST_ROWS, [at for _, at in chosen])
    specs = {name: _spec(chart) for name, chart in Charts(subject).known(MOST_ROWS).items()}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["data"] = _embedded
    best_gpu = str(subject.frame["gpu"][chosen[0][1]])
    trust = sorted(subject.trust.items(), key=lambda item: item[0] not in best_gpu)
    return environment.from_string(_asset("page.html")).render(
        subject=subject,
        source=source,
        version=_core.__version__,
        style=_asset("style.css"),
        script=_asset("script.js"),
        bundle=_bundle(),
        specs=specs,
        rows=_rows(subject, frame, label(subject, frame)),
        heads=[_head(name) for name in subject.columns],
        filters=_filters(subject, frame),
        shown=frame.height,
        total=whole.height,
        best=label(subject, subject.frame)[chosen[0][1]],
        gpus=[_trust(name, account) for name, account in trust],
        extrapolated=int(subject.frame["extrapolated"].sum()) if "extrapolated" in subject.frame.columns else None,
        intervals=len(specs["front"]["layer"]) > 1,
        chosen=[name for name, _ in chosen],
    )


def write_page(subject: Subject, path: Path, source: str) -> Path:
    """Write the page of a result under a temporary name, then rename; raise `EnergylensError`."""
    from energylens.common.parquet_file import write_file

    return write_file(path, page(subject, source).encode())


def _asset(name: str) -> str:
    return resources.files("energylens.reports.html").joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _bundle() -> str:
    import vl_convert

    return str(vl_convert.javascript_bundle(_SNIPPET)).replace("</script", "<\\/script")


def _embedded(data: Any) -> Any:
    """Return data as JSON that may stand in a script element."""
    from markupsafe import Markup

    text = json.dumps(data, separators=(",", ":"), allow_nan=False, default=str)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _spec(chart: Any) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict()
    spec.pop("$schema", None)
    return spec | {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}


def _rows(subject: Subject, frame: pl.DataFrame, labels: pl.Series) -> list[dict[str, Any]]:
    rows = []
    for label, row in zip(labels, frame.iter_rows(named=True), strict=True):
        cells = [{"text": number(_scaled(name, row[name])), "value": row[name]} for name in subject.columns]
        rows.append({"row": row["row"], "label": label, "cells": cells})
    return rows


_HEADS: Final = {
    "energy_per_output_token_j": "J/token",
    "latency_s": "latency s",
    "ttft_s": "TTFT s",
    "tpot_s": "TPOT ms",
    "ttft_p90_s": "P90 TTFT s",
    "tpot_p90_s": "P90 TPOT ms",
    "output_tokens_per_s": "tokens/s",
    "power_w_per_gpu": "W/GPU",
    "power_w": "W",
    "memory_bytes_per_gpu": "GB/GPU",
    "utilisation": "% used",
    "energy_prefill_per_request_j": "prefill J",
    "energy_decode_per_request_j": "decode J",
    "energy_transfer_per_request_j": "transfer J",
    "gpus": "GPUs",
}


def _head(name: str) -> str:
    return _HEADS.get(name, name)


def _scaled(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    scale = {"tpot_s": 1e3, "tpot_p90_s": 1e3, "memory_bytes_per_gpu": 1e-9, "utilisation": 1e2}.get(name, 1.0)
    return value * scale


def _filters(subject: Subject, frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the axes a reader can filter by, with their values as texts."""
    filters = []
    for axis in subject.axes:
        values = frame[axis].unique().to_list()
        if 2 <= len(values) <= _MOST_CHOICES:
            values = sorted(values, key=lambda value: (value is not None, value if value is not None else 0))
            filters.append({"axis": axis, "values": [axis_words(value) for value in values]})
    return filters


def _trust(name: str, account: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "level": account["trust"],
        "meaning": trust_words(account),
        "source": account.get("source"),
        "errors": account.get("errors", []),
    }
