"""`energylens predict`."""

from __future__ import annotations

import sys
from typing import Annotated

from energylens.cli import axes
from energylens.cli.app import app, emit
from energylens.cli.command import Parameter
from energylens.cli.options import Json, Out
from energylens.inputs.plan import MAX_BATCHED_TOKENS
from energylens.inputs.run_options import HELP, RUNNING


@app.command
def predict(
    model: Annotated[str, Parameter(help="A bundled model (energylens models) or a path to a spec.")],
    /,
    *,
    gpu: Annotated[str, Parameter(help="A bundled GPU (energylens gpus) or a path to a profile.")] = "h100-sxm",
    tp: Annotated[int, Parameter(converter=axes.whole, help="Tensor parallelism.")] = 1,
    pp: Annotated[int, Parameter(converter=axes.whole, help="Pipeline stages.")] = 1,
    dp: Annotated[int, Parameter(converter=axes.whole, help="Attention data parallelism inside the engine.")] = 1,
    ep: Annotated[int, Parameter(converter=axes.whole, help="Expert parallelism.")] = 1,
    cp: Annotated[int, Parameter(converter=axes.whole, help="Context parallelism.")] = 1,
    overlap_stages: Annotated[
        int | None, Parameter(converter=axes.whole, help=f"{HELP['overlap_stages']}; the spec's own if not given.")
    ] = None,
    overlap_sms: Annotated[int, Parameter(converter=axes.whole, help=f"{HELP['overlap_sms']}.")] = 0,
    overlap_where: Annotated[str, Parameter(help=f"{HELP['overlap_where']}.")] = "prefill",
    sequence_parallel: Annotated[
        bool, Parameter(converter=axes.switch, bare="on", help=f"{HELP['sequence_parallel']}.")
    ] = False,
    fused_norm: Annotated[bool, Parameter(converter=axes.switch, bare="on", help=f"{HELP['fused_norm']}.")] = False,
    sm_clock_mhz: Annotated[
        int | None, Parameter(converter=axes.whole, help=f"{HELP['sm_clock_mhz']}; as measured if not given.")
    ] = None,
    power_cap_w: Annotated[
        int | None, Parameter(converter=axes.whole, help=f"{HELP['power_cap_w']}; the limit if not given.")
    ] = None,
    routing: Annotated[str | None, Parameter(help=f"{HELP['routing']}; the spec's own if not given.")] = None,
    placement: Annotated[str, Parameter(help=f"{HELP['placement']}.")] = "contiguous",
    batch: Annotated[int, Parameter(converter=axes.whole, help="Sequences running in the engine.")] = 1,
    prompt_tokens: Annotated[int, Parameter(converter=axes.whole, help="Prompt tokens of each.")] = 1024,
    output_tokens: Annotated[int, Parameter(converter=axes.whole, help="Output tokens of each.")] = 256,
    weight_dtype: Annotated[str | None, Parameter(help="Weight format; the spec's own if not given.")] = None,
    kv_dtype: Annotated[str | None, Parameter(help="KV cache format; the spec's own if not given.")] = None,
    max_batched_tokens: Annotated[
        int, Parameter(converter=axes.whole, help="Prompt tokens of one prefill pass.")
    ] = MAX_BATCHED_TOKENS,
    json: Json = False,
    out: Out = None,
) -> None:
    """Predict one configuration: latency, energy, and where the joules go.

    Example: energylens predict llama-3.1-70b --gpu h100-sxm --tp 4 --batch 64 --json
    """
    import polars as pl

    from energylens.reports.text.prediction import prediction_text
    from energylens.results.parquet import write_parquet
    from energylens.results.prediction import predict as predict_one

    degrees = {"tp": tp, "pp": pp, "dp": dp, "ep": ep}
    sizes = {"batch": batch, "prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
    formats = {"weight_dtype": weight_dtype, "kv_dtype": kv_dtype}
    given = {
        "cp": cp,
        "overlap_stages": overlap_stages,
        "overlap_sms": overlap_sms,
        "overlap_where": overlap_where,
        "sequence_parallel": sequence_parallel,
        "fused_norm": fused_norm,
        "sm_clock_mhz": sm_clock_mhz,
        "power_cap_w": power_cap_w,
        "routing": routing,
        "placement": placement,
    }
    asked = {axis: value for axis, value in given.items() if value != RUNNING[axis]}
    found = predict_one(model, gpu, max_batched_tokens=max_batched_tokens, **degrees, **asked, **sizes, **formats)
    if out is not None:
        write_parquet(pl.DataFrame([found.point | found.values]), out, found.plan_sha256)
        print(f"wrote {out}", file=sys.stderr)
    if json:
        emit(found.as_dict())
    else:
        print(prediction_text(found))
