"""Counts the core's instructions under valgrind, whatever the load on the machine, and compares with committed counts.

`python benchmarks/instructions.py` exits with 1 if some work takes more than three per cent more instructions than
`instructions.json` says; `--update` writes that file. `make test` runs it. Where nothing can be compared (no valgrind,
or another compiler, C library or processor family than the counts are of), it says so and exits with 0. Valgrind has no
512-bit vectors, so the 256-bit copy is what is counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from energylens.common.format import table

ROOT = Path(__file__).parent.parent
REFERENCE = Path(__file__).with_suffix(".json")
PLAN = ROOT / "target" / "bench-plan.json"
POINTS = {"table": 1, "mapping": 1, "direct": 4 * 64 * 64, "factored": 4 * 64 * 64, "random": 4096, "search": 5000}
TOLERANCE = 0.03


def build() -> Path:
    """Build the program that does one piece of work, and return its path."""
    command = ["cargo", "build", "--release", "--locked", "-p", "energylens-work", "--message-format=json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    (program,) = [message["executable"] for message in messages if message.get("executable")]
    return Path(program)


def count(program: Path, work: str) -> int:
    """Return the instructions of one run."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program), str(PLAN), work]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    collected = re.search(r"Collected\s*:\s*(\d+)", report)
    if collected is None:
        raise SystemExit(report)
    return int(collected[1])


def conditions() -> dict[str, str]:
    """Return what counts depend on besides the code."""
    compiler = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {"rustc": compiler.split()[1], "machine": platform.machine(), "libc": " ".join(platform.libc_ver())}


def main() -> None:
    """Count, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="accept these counts")
    update = parser.parse_args().update
    if shutil.which("valgrind") is None:
        print("instruction counts: not checked, valgrind is not installed")
        return
    reference = json.loads(REFERENCE.read_text())
    current = conditions()
    if not update and reference["conditions"] != current:
        print(f"instruction counts: not checked, committed counts are of {reference['conditions']}, this is {current}")
        return
    subprocess.run([sys.executable, "benchmarks/plan.py"], cwd=ROOT, check=True)
    program = build()
    with ThreadPoolExecutor(2) as pool:
        base, *sums = pool.map(lambda work: count(program, work), ["plan", *POINTS])
    counts = {work: total - base for work, total in zip(POINTS, sums, strict=True)}
    before: dict[str, int] = reference["counts"]
    rows = [
        [
            work,
            f"{counts[work]:,}",
            f"{counts[work] / points:,.0f}",
            f"{counts[work] / before[work] - 1:+.1%}" if work in before else "-",
        ]
        for work, points in POINTS.items()
    ]
    print(table(["work", "instructions", "per point", "change"], rows))
    slower = [work for work in POINTS if work in before and counts[work] > before[work] * (1 + TOLERANCE)]
    if update:
        REFERENCE.write_text(json.dumps({"conditions": current, "counts": counts}, indent=2) + "\n")
    elif slower:
        print(
            f"error: more instructions than committed, by more than {TOLERANCE:.0%}: {', '.join(slower)}\n"
            "hint: if the change is worth it, run `python benchmarks/instructions.py --update` and commit the counts",
            file=sys.stderr,
        )
        raise SystemExit(1)


if __name__ == "__main__":
    main()
