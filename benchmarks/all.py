"""Runs the benchmarks one after another and writes what they print to docs/benchmarks.md.

`python benchmarks/all.py --venvs DIR` (a folder for the peers' own environments) takes about half an hour; leave the
machine alone meanwhile. `--only throughput,search` runs some of them and keeps the other sections.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"

SECTIONS = {
    "throughput": "Points a second",
    "search": "Searches",
    "peers": "Compared with other tools",
    "scaling": "Over threads and processes",
    "instructions": "Instructions",
    "kill": "Killed at random moments",
}


def processor() -> str:
    """Return the name of the processor."""
    try:
        model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        model = None
    return model[1] if model else platform.processor() or "unknown"


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venvs", help="a folder for the environments of the peers")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    options = parser.parse_args()
    sections = dict(re.findall(r"<!-- (\w+) -->\n(.*?)<!-- /\1 -->", PAGE.read_text(), re.S)) if PAGE.exists() else {}
    for name in options.only.split(","):
        command = [sys.executable, f"benchmarks/{name}.py"]
        command += ["--venvs", options.venvs] if name == "peers" and options.venvs else []
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stdout}\n{done.stderr}")
        machine = f"{processor()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
        sections[name] = f"`python benchmarks/{name}.py` on {machine}:\n\n```text\n{done.stdout.strip()}\n```\n"
    parts = [
        f"## {title}\n\n<!-- {name} -->\n{sections[name]}<!-- /{name} -->\n"
        for name, title in SECTIONS.items()
        if name in sections
    ]
    head = (
        "# Benchmarks\n\nPrinted by the scripts in `benchmarks/` and put here by `benchmarks/all.py`, never by hand.\n"
    )
    PAGE.write_text("\n".join([head, *parts]))


if __name__ == "__main__":
    main()
