"""The specs that come with the package: models, GPUs, workloads and sweeps, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

Kind = Literal["models", "hardware", "sweeps", "workloads"]
"""Folders of bundled specs."""


def bundled(kind: Kind) -> dict[str, Path]:
    """Return the bundled specs of a kind by name."""
    folder = Path(str(files("energylens") / "specs" / kind))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
