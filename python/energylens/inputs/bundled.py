"""The specs that come with the package: models, GPUs, workloads and sweeps, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

Kind = Literal["models", "hardware", "sweeps", "workloads"]
"""Folders of bundled specs."""

KINDS: Final[tuple[Kind, ...]] = ("models", "hardware", "sweeps", "workloads")

SPECS: Final = Path(__file__).parent.parent / "specs"
"""The folder of these folders."""


def bundled(kind: Kind) -> dict[str, Path]:
    """Return the bundled specs of a kind by name."""
    return {path.stem: path for path in sorted((SPECS / kind).glob("*.yaml"))}
