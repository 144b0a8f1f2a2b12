"""`energylens schema`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from energylens.cli.app import app
from energylens.cli.command import OUT, Parameter
from energylens.cli.output import document


@app.command
def schema(
    kind: Annotated[str | None, Parameter(help="model, gpu, workload, sweep or point; all with --out.")] = None,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=OUT, help="A folder to write KIND.schema.json files into.")] = None,
) -> None:
    """Print the JSON Schema of a spec file, with which YAML editors complete and check it.

    Example: energylens schema model
    """
    from energylens.common.errors import EnergylensError, Problem
    from energylens.common.parquet_file import write_file
    from energylens.inputs.schema import KINDS, text

    if kind is None and out is None:
        hint = f"one of {', '.join(KINDS)}; --out FOLDER writes all"
        raise EnergylensError(Problem("which kind of file?", hint=hint, code="schema"))
    texts = {name: text(name) for name in ([kind] if kind is not None else KINDS)}
    if out is None:
        document("".join(texts.values()))
        return
    for name, content in texts.items():
        write_file(out / f"{name}.schema.json", content.encode())
    print(f"wrote {', '.join(f'{name}.schema.json' for name in texts)} into {out}", file=sys.stderr)
    print("begin files beside them with:", file=sys.stderr)
    for name in texts:
        print(f"# yaml-language-server: $schema={name}.schema.json", file=sys.stderr)
