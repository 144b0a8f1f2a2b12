"""Write the tables of docs/calibration.md and the README from the bundled profiles; `--check` says if they are current.

python docs/write_tables.py [--check]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from refresh import markdown, update

from energylens.inputs.curves import Fit
from energylens.inputs.gpu import Kernels
from energylens.inputs.library import load_gpu

PAGES = (Path(__file__).parent / "calibration.md", Path(__file__).parent.parent / "README.md")
FITTED = ("h100-sxm", "h200-sxm", "b200", "gb200", "a100-sxm-80gb", "l40s")
FRAMEWORKS = {"": "vLLM", "@trtllm": "TensorRT-LLM", "@sglang": "SGLang"}
CLASSES = {"gemm": "GEMM", "grouped_gemm": "experts", "attention_prefill": "prefill", "attention_decode": "decode"}
QUANTITIES = {
    "energy_per_output_token_j": "J/token",
    "itl_s": "ITL",
    "output_tokens_per_s": "tokens/s",
    "power_w_per_gpu": "W/GPU",
}


def _sets(kernels: Kernels, kind: str) -> dict[str, tuple[float, bool]]:
    """Return the held-out error of each number format, and whether the table is another framework's."""
    errors = {}
    for form, fitted in getattr(kernels, kind):
        if fitted is not None and fitted.fit is not None:
            errors[form] = (fitted.fit.mape_percent, "no table of its own" in fitted.source)
    return errors


def kernels() -> str:
    """Return held-out errors of kernels and collectives; a star marks another framework's table."""
    rows = []
    for name in FITTED:
        for suffix, framework in FRAMEWORKS.items():
            spec = load_gpu(name + suffix).spec
            assert spec.kernels is not None
            cells = [
                ", ".join(
                    f"{form} {error:g}{'*' if lent else ''}"
                    for form, (error, lent) in _sets(spec.kernels, kind).items()
                )
                for kind in CLASSES
            ]
            rows.append([name, framework, *cells])
    table = markdown(["GPU", "framework", *CLASSES.values()], rows)
    collectives = []
    for name in FITTED:
        spec = load_gpu(name).spec
        assert spec.collectives is not None
        cells = []
        for operation in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "dispatch", "combine"):
            fitted = getattr(spec.collectives, operation)
            cells.append(", ".join(f"{i.name} {i.fit.mape_percent:g}" for i in fitted if i.fit is not None))
        collectives.append([name, *cells])
    heads = ["GPU", "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "dispatch", "combine"]
    return f"{table}\n\n(* from another framework's table.)\n\n{markdown(heads, collectives)}"


def serving() -> str:
    """Return errors of serving runs, in the fit and left out, from the profiles."""
    rows = []
    for name in FITTED:
        host = load_gpu(name).spec.host
        if host is None or host.fit is None:
            continue
        cells = [_both(host.fit[quantity]) for quantity in QUANTITIES]
        rows.append([name, f"{host.fit['itl_s'].rows}", *cells])
    return markdown(["GPU", "runs", *QUANTITIES.values()], rows)


def _both(fit: Fit) -> str:
    seen = re.search(r"mean ([\d.]+) %", fit.notes or "")
    return f"{seen[1] if seen else '?'} / {fit.mape_percent:.1f}"


def written(text: str) -> str:
    """Return a page with its tables written anew."""
    for name, table in (("kernels", kernels), ("serving", serving), ("accuracy", serving)):
        marked = re.compile(rf"^( *)<!-- {name} -->\n.*?<!-- /{name} -->", re.DOTALL | re.MULTILINE)
        if match := marked.search(text):
            lines = [f"<!-- {name} -->", *table().splitlines(), f"<!-- /{name} -->"]
            text = text[: match.start()] + "\n".join(match[1] + line for line in lines) + text[match.end() :]
    return text


def main() -> int:
    """Write or check; return the exit code."""
    return update({page: written(page.read_text(encoding="utf-8")) for page in PAGES}, "write_tables.py")


if __name__ == "__main__":
    sys.exit(main())
