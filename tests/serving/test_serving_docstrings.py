"""Examples in the docstrings of services, searches and sweeps give what they say."""

import doctest
from importlib import import_module

import pytest

MODULES = (
    "searches.searching",
    "serving.advice.batch",
    "serving.advice.levers",
    "serving.advice.sweet_spots",
    "serving.costs",
    "serving.evaluate",
    "serving.plan",
    "serving.pools",
    "serving.replay",
    "serving.split",
    "serving.workload",
    "sweeps.merge",
    "sweeps.run",
    "sweeps.status",
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str) -> None:
    outcome = doctest.testmod(import_module(f"energylens.{module}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0
