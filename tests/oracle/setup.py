"""A point with its specs looked up: its passes and its layers (physics.md section 8)."""

import math
from dataclasses import dataclass
from typing import Any

from .equations import Block, Model, stored_names
from .how import AS_IT_IS, Run
from .local import Env, Pass
from .mesh import Mesh


@dataclass(frozen=True)
class Setup:
    """A point with its specs looked up."""

    model: Model
    gpu: dict[str, Any]
    mesh: Mesh
    max_batched_tokens: int
    batch: int
    prompt: int
    output: int
    run: Run = AS_IT_IS

    def env(self, block: Block, step: Pass) -> Env:
        """Environment of one block in one pass."""
        stored = stored_names(self.model, block, step.phase)
        return Env(self.model, self.gpu, self.mesh, block, step, stored, self.run)

    def layers(self, step: Pass) -> list[tuple[int, Env]]:
        """(stage, environment) of every layer in one pass, in execution order."""
        by_block = {id(block): self.env(block, step) for block in self.model.blocks}
        return [(stage, by_block[id(block)]) for stage, block in expand(self.model, self.mesh.pp)]

    def full_prefill_pass(self) -> int:
        """Return the sequences of a full prefill pass (b_max of Eq. 8.6)."""
        b0 = math.ceil(self.batch / self.mesh.dp)
        return int(min(math.ceil(b0 / self.mesh.pp), max(1, self.max_batched_tokens * self.mesh.cp // self.prompt)))

    def prefill_passes(self) -> tuple[int, Pass]:
        """Return the number of prefill passes, and one of them (Eq. 8.6)."""
        b0 = math.ceil(self.batch / self.mesh.dp)
        n = math.ceil(b0 / self.full_prefill_pass())
        return n, Pass("prefill", b0 / n, self.prompt, self.prompt)

    def decode_passes(self) -> tuple[int, Pass]:
        """Return the number of passes of a decode step, and one of them (Eq. 8.8)."""
        b0 = math.ceil(self.batch / self.mesh.dp)
        n = min(self.mesh.pp, b0)
        return n, Pass("decode", b0 / n, 1, self.prompt + max(self.output, 2) / 2)


def expand(model: Model, pp: int) -> list[tuple[int, Block]]:
    """(stage, block) of every layer, in execution order (section 8)."""
    total = sum(block.repeat for block in model.blocks if block.repeat > 1)
    stage_of: list[int] = []
    for stage in range(pp):
        stage_of += [stage] * (total // pp + (1 if stage < total % pp else 0))
    layers: list[tuple[int, Block]] = []
    dealt = 0
    for block in model.blocks:
        if block.repeat > 1:
            for _ in range(block.repeat):
                layers.append((stage_of[dealt], block))
                dealt += 1
        else:
            layers.append((0 if dealt == 0 else pp - 1, block))
    return layers
