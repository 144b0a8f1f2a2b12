"""`energylens models`, `gpus`, `show` and `import-hf`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from energylens.cli.app import app, emit
from energylens.cli.command import OUT, Parameter
from energylens.cli.options import Json
from energylens.cli.output import document as print_document
from energylens.common.errors import Problem, SpecError
from energylens.common.files import is_there, printable
from energylens.common.format import billions, si, table


@app.command
def models(*, json: Json = False) -> None:
    """List the bundled models.

    Example: energylens models
    """
    from energylens.inputs.library import models as listed

    frame = listed()
    if json:
        emit(frame.to_dicts())
        return
    rows = [
        [
            r["model"],
            billions(r["parameters"]),
            r["layers"],
            f"{r['active_experts']} of {r['experts']}" if r["experts"] else "-",
            r["weights"],
        ]
        for r in frame.iter_rows(named=True)
    ]
    print(table(["model", "parameters", "layers", "experts", "weights"], rows))


@app.command
def gpus(
    name: Annotated[str | None, Parameter(help="One GPU: every coefficient with its source.")] = None,
    /,
    *,
    show: Annotated[str | None, Parameter(help="The same.")] = None,
    json: Json = False,
) -> None:
    """List the bundled GPUs, or print every coefficient of one with its source.

    Example: energylens gpus --show h100-sxm
    """
    from energylens.inputs.library import gpus as listed
    from energylens.inputs.library import load_gpu
    from energylens.reports.text.spec import gpu_text

    if name is not None and show is not None and name != show:
        fault = f"`{name}` and --show `{show}` exclude each other: one GPU is shown at a time"
        raise SpecError(Problem(fault, hint="give one of them", code="options"))
    if (wanted := show if show is not None else name) is not None:
        loaded = load_gpu(wanted)
        if json:
            emit(loaded.profile.sections | {"trust": loaded.trust})
        else:
            print(gpu_text(loaded))
        return
    frame = listed()
    if json:
        emit(frame.to_dicts())
        return
    rows = [
        [
            r["gpu"],
            r["trust"],
            si(r["memory_bytes"], "B"),
            si(r["bandwidth_bytes_per_s"], "B/s"),
            si(r["bf16_flops_per_s"], "FLOP/s"),
            f"{r['tdp_w']:.0f} W",
            f"{r['static_w']:.0f} W",
        ]
        for r in frame.iter_rows(named=True)
    ]
    print(table(["gpu", "trust", "memory", "bandwidth", "bf16 peak", "TDP", "static"], rows))


@app.command
def show(
    model: Annotated[str, Parameter(help="A bundled model or a path to a spec.")],
    /,
    *,
    explain: Annotated[bool, Parameter(help="Print each equation's formulas and collectives.")] = False,
    json: Json = False,
) -> None:
    """Show a model: its kernels, what they compute and move, and the collectives its shard map implies.

    Example: energylens show llama-3.1-70b --explain
    """
    from energylens.inputs.library import load_model
    from energylens.reports.text.spec import explain_model, model_text

    loaded = load_model(model)
    if json:
        emit({"model": loaded.spec.model_dump(), "kernels": explain_model(loaded)})
    else:
        print(model_text(loaded, explain))


@app.command(name="import-hf")
def import_hf(
    config: Annotated[Path, Parameter(help="A Hugging Face config.json.")],
    /,
    *,
    name: Annotated[str | None, Parameter(help="Name of the spec.")] = None,
    out: Annotated[Path | None, Parameter(name=OUT, help="Write the YAML here instead of printing it.")] = None,
) -> None:
    """Write a model spec from a Hugging Face config.json.

    Example: energylens import-hf config.json --name my-model --out my-model.yaml
    """
    from energylens.common.parquet_file import write_file
    from energylens.inputs.form import check
    from energylens.inputs.hf import InvalidConfig, UnsupportedArchitecture, not_counted, spec_from_hf, write_yaml
    from energylens.inputs.library import load_model
    from energylens.inputs.model import ModelSpec
    from energylens.inputs.plan import LoadedModel, Plan
    from energylens.inputs.yaml import Document

    if name is not None:
        _check_name(name)
    data, where = _read_config(config)
    try:
        spec = spec_from_hf(data, name or _stem(out or config))
    except (UnsupportedArchitecture, InvalidConfig) as error:
        raise SpecError([_placed(problem, config, where) for problem in error.problems]) from None
    if towers := not_counted(data):
        part = " and ".join(towers)
        print(f"note: this is the text part; the weights of the {part} tower are not counted", file=sys.stderr)
    # Editors check the file where `energylens schema model --out .` has put its schema beside it.
    text = f"# yaml-language-server: $schema=model.schema.json\n{write_yaml(spec)}"
    document = Document(text, str(out or config))
    loaded = LoadedModel(check(ModelSpec, document.data, document, config.name), document)
    parameters = Plan([loaded], []).core.parameters(0)
    if out is None:
        print_document(text)
    else:
        write_file(out, text.encode())
        load_model(out)
    formats = f"weights {spec['dtypes']['weights']}, KV cache {spec['dtypes']['cache']}"
    summary = f"{spec['name']}: {billions(parameters)} parameters, {formats}" + (f", wrote {out}" if out else "")
    print(summary, file=sys.stderr)


def _stem(config: Path) -> str:
    stem = config.stem if config.stem != "config" else config.resolve().parent.name
    plain = "".join(c if c.isalnum() or c in "-._" else "-" for c in stem.lower()).strip("-._")
    return plain or "model"


def _read_config(config: Path) -> tuple[dict[str, Any], Path]:
    """Return a config and the file that its number formats are from: `hf_quant_config.json`, if it has none."""
    from energylens.common.json_file import read_json

    data, separate = read_json(config, "config"), config.parent / "hf_quant_config.json"
    text_part = data.get("text_config")
    parts = [data, text_part] if isinstance(text_part, dict) else [data]
    if any(part.get("quantization_config") for part in parts) or not is_there(separate):
        return data, config
    quantization = read_json(separate, "config").get("quantization")
    if quantization is None:
        message = "missing field `quantization`"
        raise SpecError(Problem(message, code="invalid-config", where=printable(str(separate))))
    print(f"number formats from {printable(str(separate))}", file=sys.stderr)
    return data | {"quantization_config": quantization}, separate


def _check_name(name: str) -> None:
    from energylens.inputs.form import plain_name

    try:
        plain_name(name.rsplit("/", 1)[-1] or name, "model")
    except ValueError as error:
        raise SpecError(Problem(str(error), hint="give another --name", code="value_error")) from None


def _placed(problem: Problem, config: Path, quantisation: Path) -> Problem:
    """Return a problem with the file that it is of."""
    file = quantisation if "quantization_config" in problem.message else config
    return Problem(problem.message, None, problem.hint, problem.code, printable(str(file)))


__all__ = ["gpus", "import_hf", "models", "show"]
