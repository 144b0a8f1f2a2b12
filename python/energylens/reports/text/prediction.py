"""One prediction as text: results, joules by cause, the kernels that matter."""

from __future__ import annotations

from typing import Final

from energylens import _core
from energylens.common.format import number, si, table
from energylens.reports.text.answer import trust_line
from energylens.results.prediction import Prediction
from energylens.results.words import configuration

CAUSE_NAMES: Final = {
    "compute": "compute, running",
    "hbm_weights": "HBM: weights",
    "hbm_kv": "HBM: KV cache",
    "hbm_activations": "HBM: activations",
    "communication": "communication",
    "static": "static, kernels running",
    "waiting": "static, waiting",
}
_KERNELS_SHOWN = 8


def prediction_text(prediction: Prediction) -> str:
    """Return the whole prediction."""
    return "\n\n".join(
        [
            headline(prediction),
            _results(prediction),
            _limits(prediction),
            _causes(prediction),
            _kernels(prediction),
            _trust(prediction),
        ]
    )


def headline(prediction: Prediction) -> str:
    """Return the one-line answer."""
    p, v = prediction.point, prediction.values
    what = configuration(p | v)
    tokens = p["batch"] * p["output_tokens"]
    low, high = (number(v[name] / tokens) for name in ("energy_lo_j", "energy_hi_j"))
    return (
        f"{number(v['energy_per_output_token_j'])} J per output token (80 % interval {low} to {high}): "
        f"{p['model']} on {what}, "
        f"{p['prompt_tokens']:,} prompt and {p['output_tokens']:,} output tokens"
    )


def _results(prediction: Prediction) -> str:
    v = prediction.values
    rows = [
        ["time to first token (TTFT)", si(v["ttft_s"], "s")],
        ["time per output token (TPOT)", si(v["tpot_s"], "s")],
        ["latency of a request", si(v["latency_s"], "s")],
        ["output tokens/s", number(v["output_tokens_per_s"])],
        ["power of each GPU", si(v["power_w_per_gpu"], "W")],
        ["energy of the batch", si(v["energy_j"], "J")],
        ["  prefill / decode", f"{si(v['energy_prefill_j'], 'J')} / {si(v['energy_decode_j'], 'J')}"],
        ["energy of a request", si(v["energy_per_request_j"], "J")],
        ["memory of each GPU", si(v["memory_bytes_per_gpu"], "B")],
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def _limits(prediction: Prediction) -> str:
    """Return what decides the time of each phase, in shares."""
    lines = []
    for phase, seconds in prediction.limits.items():
        total = sum(seconds.values()) or 1.0
        shares = ", ".join(
            f"{_LIMITS[name]} {value / total:.0%}" for name, value in seconds.items() if value >= 0.005 * total
        )
        lines.append(f"{phase} is bound by {shares}")
    return "\n".join(lines)


_LIMITS = {
    "compute": "compute",
    "hbm": "HBM",
    "launch": "kernel launches",
    "link": "links",
    "host": "the host",
    "cap": "the power cap",
}


def _causes(prediction: Prediction) -> str:
    rows = []
    totals = {phase: sum(joules.values()) or 1.0 for phase, joules in prediction.causes.items()}
    for cause in _core.CAUSES:
        cells = [
            f"{number(prediction.causes[p][cause])} ({prediction.causes[p][cause] / totals[p]:.0%})" for p in totals
        ]
        rows.append([CAUSE_NAMES[cause], *cells])
    return table(["joules by cause", "prefill", "decode"], rows)


def _kernels(prediction: Prediction) -> str:
    rows: list[list[object]] = []
    for phase in ("prefill", "decode"):
        kernels = [row for row in prediction.kernels.iter_rows(named=True) if row["phase"] == phase]
        total = sum(row["runs"] * (row["kernel_s"] + row["communication_s"]) for row in kernels) or 1.0
        kernels.sort(key=lambda row: -abs(row["runs"] * (row["kernel_s"] + row["communication_s"])))
        for row in kernels[:_KERNELS_SHOWN]:
            seconds = row["kernel_s"] + row["communication_s"]
            joules = sum(
                row[name] for name in ("compute_j", "hbm_weights_j", "hbm_kv_j", "hbm_activations_j", "link_j")
            )
            rows.append(
                [
                    phase,
                    f"{row['block']}.{row['kernel']}",
                    row["class"],
                    f"{row['runs']:.0f}",
                    si(row["kernel_s"], "s"),
                    si(row["communication_s"], "s") if row["communication_s"] else "-",
                    f"{row['runs'] * seconds / total:.0%}",
                    si(joules, "J"),
                ]
            )
    header = ["phase", "kernel", "class", "runs", "time", "communication", "share", "dynamic energy"]
    names = set(prediction.kernels["kernel"].to_list())
    notes = {
        "power_cap": "power_cap is what the cap adds to them",
        "board_limit": "board_limit is what they lose, as the limit had slowed them already when they were measured",
    }
    said = "".join(f"; {note}" for kernel, note in notes.items() if kernel in names)
    return table(header, rows) + f"\n(of one GPU and one pass; the largest kernels of each phase{said})"


def _trust(prediction: Prediction) -> str:
    line = trust_line({prediction.point["gpu"]: prediction.account})
    if prediction.values["extrapolated"]:
        line += (
            "\nextrapolated: a number format, the number of GPUs, the batch, the length or the way of running (overlap,"
            " a lock, a cap) is beyond what the fits saw"
        )
    return line
