"""Examples in docstrings of what people call."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["results.comparison", "results.prediction", "searches.exhaustive", "exports"])
def test_examples_run(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"energylens.{module}"))
    assert outcome.attempted
    assert not outcome.failed
