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

from overlap_tables import words
from pages import differences, must, rounded

HERE = Path(__file__).parent
RESULTS, README = HERE / "results.json", HERE / "README.md"
TOLERANCE = 0.02
"""Share by which a figure may differ where it is worked out again; choices may flip on another machine's arithmetic."""


def few_digits(value: float) -> float:
    """Return a number of five digits."""
    return float(f"{value:.5g}")


def close(old: float, new: float) -> bool:
    """Whether two figures differ by less than the tolerance."""
    return abs(old - new) <= TOLERANCE * max(1.0, abs(old))


def close_of_few(old: float, new: float) -> bool:
    """Whether two errors of fits to four windows are close: they have several minima, and machines reach others."""
    return abs(old - new) <= 2.5 * TOLERANCE * max(1.0, abs(old))


def readme() -> str:
    """Return README.md as the committed results make it."""
    summary = json.loads(RESULTS.read_text(encoding="utf-8"))
    return Template((HERE / "template.md").read_text(encoding="utf-8")).substitute(words(summary))


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

        from energylens.calibrate.engines.runs import data_dir

        result, runs, predicted = results(data_dir())
        fresh = json.loads(json.dumps(rounded(result, few_digits)))
    if options.check:
        must(README.read_text(encoding="utf-8") == readme(), "README.md is what run.py writes")
        print("README.md is what the committed results make it; the A100 profile carries the fitted coefficients")
        if have:
            committed = json.loads(RESULTS.read_text(encoding="utf-8"))
            off = differences(committed.pop("few"), fresh.pop("few"), close_of_few, "/few")
            off += differences(committed, fresh, close)
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
