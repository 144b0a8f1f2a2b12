"""Energy and time of a block beside an all-reduce on c SMs: writes README.md from template.md and results.json.

`--refresh` works results.json and the plots out again from the measured runs (ENERGYLENS_DATA). `--check` compares what
is committed: README.md and the A100 profile always, results.json where ENERGYLENS_DATA is set.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from string import Template
from typing import Any

from overlap_tables import must, words

HERE = Path(__file__).parent
RESULTS, README = HERE / "results.json", HERE / "README.md"
TOLERANCE = 0.02
"""Share by which a figure may differ where it is worked out again; choices may flip on another machine's arithmetic."""


def rounded(node: Any) -> Any:
    """Return plain data with numbers of five digits."""
    if isinstance(node, dict):
        return {key: rounded(value) for key, value in node.items()}
    if isinstance(node, list):
        return [rounded(value) for value in node]
    return float(f"{node:.5g}") if isinstance(node, float) else node


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Return where two results differ by more than the tolerance."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return [line for key in old for line in differences(old[key], new[key], f"{path}/{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for i, (a, b) in enumerate(zip(old, new, strict=True)) for line in differences(a, b, f"{path}/{i}")
        ]
    number = (int, float)
    close = isinstance(old, number) and isinstance(new, number) and abs(old - new) <= TOLERANCE * max(1.0, abs(old))
    return [] if close or old == new else [f"{path}: committed {old!r}, now {new!r}"]


def readme() -> str:
    """Return README.md as the committed results make it."""
    told = json.loads(RESULTS.read_text(encoding="utf-8"))
    return Template((HERE / "template.md").read_text(encoding="utf-8")).substitute(words(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the committed results with a fresh run")
    parser.add_argument(
        "--refresh", action="store_true", help="work results.json and the plots out again from the data"
    )
    options = parser.parse_args()
    have = bool(os.environ.get("ENERGYLENS_DATA"))
    if options.refresh and not have:
        sys.exit("set ENERGYLENS_DATA: README.md says where the data are public")
    if options.refresh or (options.check and have):
        from overlap_account import results

        from energylens.calibrate.measured import data_dir

        found, runs, predicted = results(data_dir())
        fresh = json.loads(json.dumps(rounded(found)))
    if options.check:
        must(README.read_text(encoding="utf-8") == readme(), "README.md is what run.py writes")
        print("README.md is what the committed results make it; the A100 profile carries the fitted coefficients")
        if have:
            off = differences(json.loads(RESULTS.read_text(encoding="utf-8")), fresh)
            must(not off, "\n".join(["results.json is what the data give", *off[:20]]))
            print("results.json is what the data give")
        else:
            print("skipped: results.json (ENERGYLENS_DATA is not set)")
        return
    if options.refresh:
        from overlap_pictures import draw

        text = json.dumps(fresh, separators=(",", ":")).replace("},", "},\n")
        RESULTS.write_text(text + "\n", encoding="utf-8")
        draw(runs, *predicted, HERE)
    README.write_text(readme(), encoding="utf-8")


if __name__ == "__main__":
    main()
