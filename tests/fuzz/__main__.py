"""`python -m fuzz`: run the corpus, then new cases for a while; exit code 1 if anything went wrong."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fuzz.makers import MAKERS
from fuzz.pool import Fault, Worker
from fuzz.worker import case_of

CORPUS = Path(__file__).parent / "corpus"


def corpus() -> Iterator[dict[str, Any]]:
    """Yield the cases that failed once."""
    for path in sorted(CORPUS.glob("*.json")):
        yield {"name": path.name, "case": json.loads(path.read_text(encoding="utf-8"))}


def new_cases(seed: int, targets: list[str]) -> Iterator[dict[str, Any]]:
    """Yield new cases of each target in turn, without end."""
    for number in itertools.count(seed):
        for target in targets:
            yield {"target": target, "seed": number}


def fuzz(jobs: Iterator[dict[str, Any]], workers: int, seconds: float = math.inf) -> tuple[int, list[Fault]]:
    """Run jobs, none begun after so many seconds; return how many were run, and the faults."""
    faults: list[Fault] = []
    end, count, lock = time.monotonic() + seconds, 0, threading.Lock()

    def work() -> None:
        nonlocal count
        worker = Worker()
        try:
            while True:
                with lock:
                    job = next(jobs, None)
                    if job is None or time.monotonic() > end:
                        return
                    count += 1
                fault = worker.run(job)
                if fault is not None:
                    with lock:
                        faults.append(fault)
                        print(f"{fault.job.get('name') or fault.job}: {fault.text}", file=sys.stderr, flush=True)
        finally:
            worker.close()

    with ThreadPoolExecutor(workers) as threads:
        for future in [threads.submit(work) for _ in range(workers)]:
            future.result()
    return count, faults


def main() -> int:
    """Read the arguments, run, and write what failed."""
    parser = argparse.ArgumentParser(prog="python -m fuzz")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="first of the seeds (the clock's seconds); a case is target and seed")
    parser.add_argument("--target", action="append", choices=sorted(MAKERS), help="only these targets")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--case", type=Path, help="run this one case again")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="where cases that failed are written")
    options = parser.parse_args()
    if options.case is not None:
        fault = Worker().run({"case": json.loads(options.case.read_text(encoding="utf-8"))})
        print(fault.text if fault else "nothing went wrong")
        return 1 if fault else 0
    seed = int(time.time()) if options.seed is None else options.seed
    print(f"seeds from {seed}", file=sys.stderr)
    jobs = itertools.chain(corpus(), new_cases(seed, options.target or list(MAKERS)))
    count, faults = fuzz(jobs, options.workers, options.seconds)
    for fault in faults:
        options.out.mkdir(parents=True, exist_ok=True)
        case = fault.job.get("case") or case_of(fault.job["target"], fault.job["seed"])
        name = fault.job.get("name") or f"{fault.job['target']}-{fault.job['seed']}.json"
        (options.out / name).write_text(json.dumps(case), encoding="utf-8")
    print(f"{count:,} cases, {len(faults)} faults" + (f", written to {options.out}" if faults else ""))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
