"""Writes the plan that the Rust benchmarks evaluate to target/bench-plan.json."""

from __future__ import annotations

from pathlib import Path

import energylens

TARGET = Path(__file__).parent.parent / "target" / "bench-plan.json"


def main() -> None:
    """Write it."""
    space = energylens.Space(models=["llama-3.1-70b", "qwen3-235b-a22b"], gpus=["h100-sxm", "b200"])
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(space.plan.json)


if __name__ == "__main__":
    main()
