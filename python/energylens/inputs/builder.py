"""A model written in Python: the same words as in YAML, the same plan byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from energylens.inputs.form import check
from energylens.inputs.model import ModelSpec
from energylens.inputs.plan import LoadedModel, Plan

Equations = str | Sequence[str] | Mapping[str, Any]


class Model:
    """A graph of einsums, built block by block.

    Parameters
    ----------
    name
        Name of the model in results: letters, digits and `-._`.
    ranks
        Extent of every rank, by its letter; `{"extent": 128, "active": 8}` makes one the rank of routed experts.
    cache
        Tensors kept for later tokens.
    mask
        Mask of the scores of an attention kernel, by tensor: `"causal"` or `{"window": 4096}`.
    dtypes
        Number formats of `weights`, `activations` and `cache`, and of single tensors by name; bf16, if left out.
    shard
        Mesh axis that splits a rank, by rank.
    overlap
        Kernels that run in stages alongside their collective.
    tied
        Weights that blocks share.
    source
        Where the architecture comes from.

    Raises
    ------
    SpecError
        When it is first used: with every problem.

    Examples
    --------
    >>> model = Model("tiny", ranks={"d": 64, "f": 256}, shard={"f": "tp"})
    >>> _ = model.block(2, kernels={
    ...     "up": "A[b,s,f] = X[b,s,d] * Wu[d,f]",
    ...     "down": "X[b,s,d] = A[b,s,f] * Wd[f,d]",
    ... })
    >>> model.parameters
    65536.0

    References
    ----------
    docs/physics.md, sections 2 and 3: the language of the equations.
    """

    def __init__(
        self,
        name: str,
        *,
        ranks: Mapping[str, int | Mapping[str, int]],
        cache: Sequence[str] = (),
        mask: Mapping[str, str | Mapping[str, int]] | None = None,
        dtypes: Mapping[str, str] | None = None,
        shard: Mapping[str, str] | None = None,
        overlap: Mapping[str, Mapping[str, int | str]] | None = None,
        tied: Sequence[str] = (),
        source: str | None = None,
    ) -> None:
        self._data: dict[str, Any] = {"name": name, "ranks": _copied(ranks), "blocks": [], "cache": _copied(cache)}
        self._data |= {"tied": _copied(tied)}
        optional = {"mask": mask, "dtypes": dtypes, "shard": shard, "overlap": overlap}
        self._data |= {key: _copied(value) for key, value in optional.items() if value is not None}
        if source is not None:
            self._data["source"] = source

    def block(
        self,
        repeat: int = 1,
        *,
        kernels: Mapping[str, Equations],
        name: str | None = None,
        shard: Mapping[str, str] | None = None,
        mask: Mapping[str, str | Mapping[str, int]] | None = None,
        overlap: Mapping[str, Mapping[str, int | str]] | None = None,
    ) -> Model:
        """Append a block of kernels, and return the model.

        Parameters
        ----------
        repeat
            How many times it runs in one pass (layers).
        kernels
            Kernels by name: an equation, a list of them (one launch), or `{"phase": ..., "equations": [...]}`.
        name
            Name of the block; `block_0`, `block_1`, ..., if None.
        shard, mask, overlap
            As of the model, in place of its entries.

        Returns
        -------
        Model
            The model itself, so that calls can be chained.
        """
        listed: Any = kernels
        if isinstance(kernels, Mapping):
            listed = {key: _copied(value) for key, value in kernels.items()}
        block: dict[str, Any] = {"name": name or f"block_{len(self._data['blocks'])}", "repeat": repeat}
        block["kernels"] = listed
        optional = {"shard": shard, "mask": mask, "overlap": overlap}
        block |= {key: _copied(value) for key, value in optional.items() if value is not None}
        self._data["blocks"].append(block)
        return self

    @property
    def name(self) -> str:
        """Name of the model."""
        return str(self._data["name"])

    @property
    def parameters(self) -> float:
        """Number of weights, counted from the equations."""
        return Plan([self.loaded()], []).core.parameters(0)

    def loaded(self) -> LoadedModel:
        """Return the checked spec; raise `SpecError` with all problems."""
        return LoadedModel(check(ModelSpec, self._data, None, f"model {self.name}"))


def _copied(value: object) -> Any:
    """Return a copy of a mapping or sequence as the form takes it; whatever else it is, the form says what is wrong."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else value
