"""From a point to the start of a server that runs it: vLLM, SGLang, TensorRT-LLM, Dynamo."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from energylens.common.errors import EnergylensError, Problem, did_you_mean
from energylens.common.show import shown
from energylens.exports.launch import Launch
from energylens.exports.settings import settings
from energylens.results.point import Point, read_point

SERVERS: Final = ("vllm", "sglang", "trtllm", "dynamo")
"""Servers by the name of `--to`, each with a module of that name."""


def export(point: str | Path | Mapping[str, Any] | Point, to: str = "vllm", *, model: str | None = None) -> Launch:
    """Return how to start a server that runs a point: flags, files, and commands that set clocks and power caps.

    Parameters
    ----------
    point
        A configuration or a deployment, as `compare` takes it: a row of a result's file, a point file, text, or fields.
    to
        The server: `vllm`, `sglang`, `trtllm` or `dynamo`.
    model
        Name or path of the weights; that of the spec's source, if none.

    Returns
    -------
    Launch
        Its `script` is a shell script. Sizes are those of one data-parallel rank where the server counts so.

    Raises
    ------
    EnergylensError
        If the server is unknown, or cannot run the point; with all that it cannot run.

    Examples
    --------
    >>> launch = export("llama-3.1-70b; gpu=h100-sxm; tp=4; batch=64", "vllm")
    >>> "--tensor-parallel-size 4" in launch.script
    True
    """
    if not isinstance(to, str) or to not in SERVERS:
        hint = did_you_mean(shown(to), SERVERS) or f"known: {', '.join(SERVERS)}"
        raise EnergylensError(Problem(f"no server `{shown(to)}` to export to", hint=hint, code="export"))
    if model is not None and not isinstance(model, (str, Path)):
        hint = "give the name or the path of the weights"
        raise EnergylensError(Problem(f"`model` names weights, found `{shown(model)}`", hint=hint, code="export"))
    read = point if isinstance(point, Point) else read_point(point)
    launched: Launch = import_module(f"energylens.exports.{to}").launch(
        settings(read, None if model is None else str(model))
    )
    return launched


__all__ = ["SERVERS", "Launch", "export"]
