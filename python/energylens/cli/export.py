"""`energylens export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from energylens.cli.app import app, emit
from energylens.cli.command import OUT, Parameter
from energylens.cli.compare import POINT
from energylens.cli.options import Json
from energylens.cli.output import document


@app.command
def export(
    point: Annotated[str, Parameter(help=POINT)],
    /,
    *,
    to: Annotated[str, Parameter(help="The server: vllm, sglang, trtllm, dynamo.")] = "vllm",
    model: Annotated[str | None, Parameter(help="Name or path of the weights; what the spec says if left out.")] = None,
    out: Annotated[Path | None, Parameter(name=OUT, help="Write the script there.")] = None,
    json: Json = False,
) -> None:
    """Print the start of a server that runs a point: its flags, its files, the line that locks the clock.

    Example: energylens export front.parquet --to vllm
    """
    from energylens.common.parquet_file import checked_target, write_file
    from energylens.exports import export as launch

    if out is not None:
        checked_target(out)
    launched = launch(point, to, model=model)
    if out is not None:
        write_file(out, launched.script.encode())
        print(f"wrote {out}", file=sys.stderr)
    if json:
        emit(launched.as_dict())
    elif out is None:
        document(launched.script)
