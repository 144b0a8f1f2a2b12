"""Blocks, ranks, masks and shard maps of a spec from the shape of a decoder."""

from __future__ import annotations

from collections import Counter
from typing import Any

from energylens.inputs.hf import attention, feedforward
from energylens.inputs.hf.shape import Grouped, Kind, Shape

Spec = dict[str, Any]

AXES = {"g": "tp", "h": "tp", "r": "tp", "f": "tp", "u": "tp", "v": "tp", "x": "ep", "m": "moe_tp"}


def ranks(shape: Shape) -> Spec:
    """Return the extents of the model's ranks; a routed rank also says how many of its values a token meets."""
    out: Spec = {"d": shape.hidden} | attention.ranks(shape.attention)
    if shape.dense:
        out["f"] = shape.dense.extent
    if shape.experts:
        out["x"] = {"extent": shape.experts.extent, "active": shape.experts.active}
        if shape.experts.groups:
            out["x"] |= dict(zip(("groups", "active_groups"), shape.experts.groups, strict=True))
        out["m"] = shape.experts.intermediate
        if shape.experts.shared:
            out["u"] = shape.experts.shared
    return out | {"v": shape.vocab}


def shard(shape: Shape) -> dict[str, str]:
    """Split heads, intermediate and vocabulary over tp, experts over ep, sequences over dp and layers over pp."""
    present = ranks(shape)
    return {"b": "dp"} | {rank: axis for rank, axis in AXES.items() if rank in present} | {"repeat": "pp"}


def mask(shape: Shape) -> Spec:
    """Mask the scores: with the window that all layers share, else causally."""
    windows = {kind.window for kind in shape.kinds}
    return _mask(windows.pop() if len(windows) == 1 else None)


def cache(shape: Shape) -> list[str]:
    """Name the tensors kept along the tokens: keys and values, or the latent and the rotary key."""
    return ["K", "V"] if isinstance(shape.attention, Grouped) else ["C", "Kz"]


def blocks(shape: Shape) -> list[Spec]:
    """Return the embedding, one block for every kind of layer in order of appearance, and the head."""
    counts = Counter(shape.kinds)
    layers = [_layer(shape, kind, counts[kind], counts) for kind in dict.fromkeys(shape.kinds)]
    return [_embedding(shape), *layers, _head(shape)]


def _mask(window: int | None) -> Spec:
    return {"S": "causal" if window is None else {"window": window}}


def _embedding(shape: Shape) -> Spec:
    """Look up the tokens and norm them for the first layer."""
    lookup = "embed(Tokens[b,s], We[v,d])"
    embedding: str | list[str] = f"X[b,s,d] = {lookup}"
    if shape.scaled_embedding:
        embedding = [f"X0[b,s,d] = {lookup}", "X[b,s,d] = scale(X0[b,s,d])"]
    return {"name": "embedding", "kernels": {"embedding": embedding, "first_norm": "N[b,s,d] = norm(X[b,s,d], Wn0[d])"}}


def _layer(shape: Shape, kind: Kind, repeat: int, kinds: Counter[Kind]) -> Spec:
    """One kind of layer, named by what tells it from the others."""
    words = []
    mixed_windows = len({other.window for other in kinds}) > 1
    if mixed_windows:
        words.append("full" if kind.window is None else "sliding")
    if len({other.routed for other in kinds}) > 1:
        words.append("moe" if kind.routed else "dense")
    kernels = attention.kernels(shape) | _add_norm(shape, "mlp_norm", "Y", "Wn1")
    if kind.routed and shape.experts:
        feed, result = feedforward.expert_kernels(shape.experts)
    else:
        assert shape.dense is not None
        feed, result = feedforward.dense_kernels(shape.dense, shape.experts is not None), "M"
    kernels |= feed | _add_norm(shape, "next_norm", result, "Wn2")
    block: Spec = {"name": "_".join([*words, "layer"]), "repeat": repeat}
    if mixed_windows and kind.window is not None:
        block["mask"] = _mask(kind.window)
    return block | {"kernels": kernels}


def _add_norm(shape: Shape, name: str, branch: str, weight: str) -> dict[str, list[str]]:
    """Add a branch to the residual, normed before where the model does, and norm the sum for what follows."""
    equations = []
    if shape.post_norms:
        after = f"{branch}n"
        equations.append(f"{after}[b,s,d] = norm({branch}[b,s,d], {weight}p[d])")
        branch = after
    equations.append(f"X[b,s,d] = add(X[b,s,d], {branch}[b,s,d])")
    return {name: [*equations, f"N[b,s,d] = norm(X[b,s,d], {weight}[d])"]}


def _head(shape: Shape) -> Spec:
    """Take the last token's state to the next token; tied models read the embedding's table again."""
    hidden = "Hl" if shape.experts else "H"
    product = f"{hidden}[b,d] * " + ("We[v,d]" if shape.tied else "Wh[d,v]")
    head: str | list[str] = f"L[b,v] = {product}"
    if shape.logit_softcap:
        head = [f"L0[b,v] = {product}", "L[b,v] = sigmoid(L0[b,v])"]
    kernels = {"last_token": f"{hidden}[b,d] = last(N[b,s,d])", "lm_head": head, "sample": "Next[b] = sample(L[b,v])"}
    return {"name": "head", "kernels": kernels}
