"""One simulated session of the quick suite, recorded once, for all tests that replay it."""

from __future__ import annotations

from pathlib import Path

import pytest

from energylens.measurement.harness import Session
from energylens.measurement.recording import Recorder
from measurement.simulated import SimulatedGpu, truth

CLOCKS_MHZ = (1980, 1650, 1350, 1050)


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the recorded session: eight GPUs, four locked clocks."""
    folder = tmp_path_factory.mktemp("recording")
    path = folder / "session.jsonl.gz"
    backend = Recorder(SimulatedGpu(truth(folder), gpus=8), path)
    Session(backend, folder / "recorded.parquet", "quick").run(None, CLOCKS_MHZ)
    backend.close()
    return path
