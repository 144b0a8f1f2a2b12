"""What a transformer decoder consists of, read from a config and independent of its field names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Grouped:
    """Grouped-query attention: `kv_heads` groups of `group` query heads of size `head`."""

    kv_heads: int
    group: int
    head: int
    qk_norm: bool = False
    softcap: bool = False
    rotary: bool = True


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): a compressed cache shared by the heads."""

    heads: int
    nope: int
    rope: int
    value: int
    q_lora: int | None
    kv_lora: int


@dataclass(frozen=True)
class Dense:
    """A feed-forward network of one intermediate size, gated (two input matrices) or not."""

    extent: int
    activation: str
    gated: bool = True


@dataclass(frozen=True)
class Experts:
    """Routed experts, of which a token meets `active`, with the width of the shared experts (0: none).

    `groups`: how many there are, and in how many of them all experts of a token are.
    """

    extent: int
    active: int
    intermediate: int
    activation: str
    shared: int = 0
    shared_gate: bool = False
    groups: tuple[int, int] | None = None


@dataclass(frozen=True)
class Kind:
    """What tells one layer from another: its sliding window (None: full attention) and its feed-forward network."""

    window: int | None
    routed: bool


@dataclass(frozen=True)
class Shape:
    """A decoder: sizes, attention, feed-forward networks, and the kind of every layer in order."""

    hidden: int
    vocab: int
    attention: Grouped | Latent
    kinds: list[Kind]
    dense: Dense | None = None
    experts: Experts | None = None
    tied: bool = False
    post_norms: bool = False
    scaled_embedding: bool = False
    logit_softcap: bool = False
