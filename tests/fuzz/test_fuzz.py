"""The corpus, and new cases for half a minute: the same in every run, so that what passes here passes elsewhere."""

from __future__ import annotations

import itertools
import json
import random

from fuzz import mutate
from fuzz.__main__ import corpus, fuzz, new_cases
from fuzz.makers import MAKERS
from fuzz.pool import Worker
from fuzz.worker import case_of

ROUNDS = 40
"""New cases of each target: some half a minute on two cores."""


def test_nothing_goes_wrong() -> None:
    new = itertools.islice(new_cases(0, list(MAKERS)), ROUNDS * len(MAKERS))
    count, faults = fuzz(itertools.chain(corpus(), new), workers=2)
    assert count > ROUNDS * len(MAKERS)
    assert not faults, "\n\n".join(f"{fault.job}: {fault.text}" for fault in faults)


def test_cases_are_plain_json_and_repeatable() -> None:
    for target in MAKERS:
        case = case_of(target, 7)
        assert json.loads(json.dumps(case)) is not None
        assert json.dumps(case) == json.dumps(case_of(target, 7))


def test_limits_end_a_worker() -> None:
    worker = Worker(most_bytes=4 * 10**8)
    try:
        hanging = worker.run({"case": {"loop": "seconds"}})
        greedy = worker.run({"case": {"loop": "bytes"}})
        dying = worker.run({"case": {"loop": "abort"}})
        raising = worker.run({"case": {"loop": "raise"}})
        fine = worker.run({"case": {"argv": ["models"], "files": {}}})
    finally:
        worker.close()
    assert hanging is not None and "no answer within" in hanging.text
    assert greedy is not None and "of memory" in greedy.text
    assert dying is not None and "died with -6" in dying.text
    assert raising is not None and "ZeroDivisionError" in raising.text
    assert fine is None


def test_mutations_change_texts_and_bytes() -> None:
    source = random.Random(1)
    assert len({mutate.text(source, "a: 1\nb: [2, 3]\n") for _ in range(100)}) > 50
    assert len({mutate.data(source, bytes(range(200))) for _ in range(100)}) > 50
