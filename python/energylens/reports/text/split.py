"""Pairs of a prefill and a decode configuration as text."""

from __future__ import annotations

from energylens.common.format import number, si, table
from energylens.results.words import configuration, pair_words, pool_row
from energylens.serving.split import Split

_ROWS_SHOWN = 12


def split_sentence(result: Split) -> str:
    """Return the one-line answer."""
    best = result.best
    if best is None:
        return "no pair keeps the limits"
    within = f" within {', '.join(result.arguments['limits'])}" if result.arguments["limits"] else ""
    return (
        f"least energy{within}: {number(best['energy_per_output_token_j'])} J per output token - {result.model}, "
        f"{pair_words(best)}; TTFT {si(best['ttft_s'], 's')}, "
        f"TPOT {si(best['tpot_s'], 's')}, {number(best['prefill_engines'])} prefill engines for each decode engine"
    )


def split_text(result: Split) -> str:
    """Return the cheapest pair in a sentence, the front as a table, and what one deployment for both would cost."""
    frame = result.frame
    lines = [split_sentence(result), ""]
    if not frame.height:
        return lines[0]
    step = max(1.0, (frame.height - 1) / (_ROWS_SHOWN - 1)) if frame.height > 1 else 1.0
    picked = sorted({min(frame.height - 1, round(i * step)) for i in range(_ROWS_SHOWN)})
    rows = [
        [
            number(row["energy_per_output_token_j"]),
            number(row["energy_prefill_per_request_j"]),
            number(row["energy_decode_per_request_j"]),
            si(row["ttft_s"], "s"),
            si(row["tpot_s"], "s"),
            si(row["latency_s"], "s"),
            configuration(pool_row(row, "prefill")),
            configuration(pool_row(row, "decode")),
        ]
        for row in frame[picked].iter_rows(named=True)
    ]
    header = ["J/token", "prefill J", "decode J", "TTFT", "TPOT", "latency", "prefill on", "decode on"]
    lines.append(table(header, rows))
    if frame.height > len(picked):
        lines.append(f"({len(picked)} of {frame.height} pairs; --out writes all)")
    if (together := result.together) is not None:
        lines += [
            "",
            f"one deployment for both, a batch at a time: {number(together['energy_per_output_token_j'])} J per output "
            f"token on {configuration(together)}; TTFT {si(together['ttft_s'], 's')} of the whole batch, "
            f"TPOT {si(together['tpot_s'], 's')}",
        ]
    return "\n".join(lines)
