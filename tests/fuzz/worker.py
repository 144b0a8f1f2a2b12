"""A process that runs cases: a line of JSON in (`{"target", "seed"}` or `{"case"}`), a line out (`{"fault"}`)."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from pathlib import Path

from fuzz.makers import MAKERS, Case, results, results_of_sweep
from fuzz.run_case import run_case


def case_of(target: str, seed: int) -> Case:
    """Return the case that a target's maker makes of a seed."""
    return MAKERS[target](random.Random(f"{target} {seed}"))


def main() -> None:
    """Answer until standard input ends; whatever commands print goes nowhere."""
    lines, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nothing, number)
    results()
    results_of_sweep()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in lines:
        job = json.loads(line)
        case = job["case"] if "case" in job else case_of(job["target"], job["seed"])
        folder = Path(tempfile.mkdtemp(prefix="energylens-fuzz-"))
        os.chdir(folder)
        try:
            fault = run_case(case)
        finally:
            os.chdir("/")
            shutil.rmtree(folder, ignore_errors=True)
        print(json.dumps({"fault": fault}), file=answers, flush=True)


if __name__ == "__main__":
    main()
