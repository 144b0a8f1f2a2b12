"""Counts instructions of the core under valgrind, which no other load on the machine disturbs, against those committed.

`python benchmarks/instructions.py` compares and exits with 1 if some work got slower by more than two per cent;
`--update` writes `instructions.json`. Valgrind has no 512-bit vectors, so the 256-bit copy is what is counted.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from energylens.common.format import table

ROOT = Path(__file__).parent.parent
KEPT = Path(__file__).with_suffix(".json")
PLAN = ROOT / "target" / "bench-plan.json"
POINTS = {"table": 1, "mapping": 1, "direct": 4 * 64 * 64, "factored": 4 * 64 * 64, "random": 4096, "search": 5000}
TOLERANCE = 0.02


def built() -> Path:
    """Build the program that does one piece of work, and return it."""
    command = ["cargo", "bench", "--locked", "-p", "energylens-core", "--bench", "instructions", "--no-run"]
    summary = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    result = re.search(r"\((target/release/deps/instructions-\w+)\)", summary)
    if result is None:
        raise SystemExit(f"cannot find the program in:\n{summary}")
    return ROOT / result[1]


def count(program: Path, work: str) -> int:
    """Return the instructions of one run."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program), str(PLAN), work]
    summary = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    result = re.search(r"Collected\s*:\s*(\d+)", summary)
    if result is None:
        raise SystemExit(summary)
    return int(result[1])


def main() -> None:
    """Count, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="keep these counts")
    update = parser.parse_args().update
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed")
    subprocess.run([sys.executable, "benchmarks/plan.py"], cwd=ROOT, check=True)
    program = built()
    base = count(program, "plan")
    counts = {work: count(program, work) - base for work in POINTS}
    before: dict[str, int] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    rows = [
        [
            work,
            f"{counts[work]:,}",
            f"{counts[work] / points:,.0f}",
            f"{counts[work] / before[work] - 1:+.1%}" if work in before else "-",
        ]
        for work, points in POINTS.items()
    ]
    print(table(["work", "instructions", "a point", "change"], rows))
    slower = [work for work in POINTS if work in before and counts[work] > before[work] * (1 + TOLERANCE)]
    if update:
        KEPT.write_text(json.dumps(counts, indent=2) + "\n")
    elif slower:
        print(f"more instructions than before: {', '.join(slower)}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
