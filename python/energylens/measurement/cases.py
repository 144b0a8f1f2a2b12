"""What is measured: kernels by shape, and the suites of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

SIZES: Final = (
    "rows", "columns", "depth", "bytes", "batch", "tokens", "heads", "kv_heads", "head_dim", "hidden", "inner",
    "experts", "active", "gpus", "sms",
)  # fmt: skip
"""Sizes of all families; a case has those of its own."""

SUITES: Final = ("quick", "full")
REPEATS: Final = {"quick": 2, "full": 3}
SWEPT: Final = ("idle", "stream", "gemm", "attention_decode", "attention_prefill")
"""Families measured at locked clocks."""

COLLECTIVES: Final = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


@dataclass(frozen=True)
class Case:
    """One thing to measure: a family, which of its kind, a number format, and sizes."""

    family: str
    variant: str
    dtype: str
    sizes: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, family: str, variant: str = "", dtype: str = "bf16", **sizes: int) -> Case:
        """Return a case with its sizes in the order of `SIZES`."""
        return cls(family, variant, dtype, tuple((name, sizes[name]) for name in SIZES if name in sizes))

    def __getitem__(self, name: str) -> int:
        """Return one size."""
        return dict(self.sizes)[name]

    @property
    def name(self) -> str:
        """The case in words, always the same for the same case."""
        words = [word for word in (self.family, self.variant, self.dtype) if word]
        return " ".join([*words, *(f"{name}={value}" for name, value in self.sizes)])


@dataclass(frozen=True)
class Extent:
    """How finely a suite covers the sizes; shapes of `PAIRS` are (columns, depth)."""

    rows: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]
    fp8_rows: tuple[int, ...]
    stream: tuple[int, ...]
    prefill: tuple[tuple[int, int], ...]
    decode: tuple[tuple[int, int], ...]
    heads: tuple[tuple[int, int], ...]
    experts: tuple[tuple[int, int, int, int], ...]
    routed_tokens: tuple[int, ...]
    element_rows: tuple[int, ...]
    model_prefill: tuple[tuple[int, int], ...]
    model_decode: tuple[tuple[int, int], ...]
    messages: tuple[int, ...]
    sms: tuple[int, ...]


_QUICK = Extent(
    rows=(1, 16, 64, 256, 1024, 4096),
    pairs=((2048, 2048), (4096, 4096), (10240, 2048), (2048, 8192), (14336, 4096), (4096, 14336), (32768, 4096)),
    fp8_rows=(16, 1024),
    stream=(26, 29, 32),
    prefill=((1, 512), (4, 1024), (1, 2048), (4, 2048), (1, 8192), (2, 4096)),
    decode=((1, 512), (1, 8192), (8, 2048), (32, 512), (32, 2048), (32, 8192), (128, 512), (128, 2048)),
    heads=((32, 8), (16, 2)),
    experts=((64, 8, 2048, 1024), (8, 2, 4096, 8192)),
    routed_tokens=(1, 16, 256, 4096),
    element_rows=(1, 1024, 8192),
    model_prefill=((1, 512), (4, 1024), (1, 4096), (8, 2048)),
    model_decode=((1, 512), (1, 4096), (8, 1024), (32, 1024), (64, 2048), (128, 512)),
    messages=(12, 14, 16, 18, 20, 22, 24, 26, 28),
    sms=(0, 4),
)

_FULL = Extent(
    rows=(1, 2, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
    pairs=(*_QUICK.pairs, (8192, 1024), (1024, 4096), (4096, 1024), (8192, 8192), (28672, 8192)),
    fp8_rows=(16, 64, 256, 1024, 4096, 8192),
    stream=(24, 26, 28, 29, 31, 32),
    prefill=(*_QUICK.prefill, (1, 1024), (16, 512), (1, 4096), (1, 16384), (8, 2048)),
    decode=(
        *_QUICK.decode, (1, 2048), (1, 32768), (8, 512), (8, 8192), (64, 1024), (64, 4096), (256, 512), (256, 2048),
    ),
    heads=(*_QUICK.heads, (64, 8), (8, 1)),
    experts=(*_QUICK.experts, (128, 8, 2048, 768), (32, 4, 2880, 2880)),
    routed_tokens=(1, 4, 16, 64, 256, 1024, 4096),
    element_rows=(1, 16, 64, 256, 1024, 4096, 16384),
    model_prefill=(*_QUICK.model_prefill, (1, 1024), (2, 2048), (16, 512), (1, 8192)),
    model_decode=(*_QUICK.model_decode, (1, 1024), (4, 2048), (16, 512), (16, 4096), (32, 4096), (128, 2048)),
    messages=tuple(range(12, 30)),
    sms=(0, 1, 2, 4, 8, 16),
)  # fmt: skip

_EXTENTS = {"quick": _QUICK, "full": _FULL}
_ELEMENTWISE = {"norm": 4096, "add_norm": 4096, "rope": 4096, "silu_mul": 14336}
_LAWS = ("balanced", "power_law_1.2")
_GB = 10**9


def suite(name: str, *, fp8: bool = True, gpus: int = 1, memory_bytes: int = 80 * _GB) -> list[Case]:
    """Return the cases of a suite that a GPU can run: without fp8 where it has none, and what fits in its memory.

    With several GPUs also collectives over 2, 4, ... of them, by size of the message and SMs (0: as NCCL chooses).
    """
    candidates = [*_kernels(_EXTENTS[name], fp8), *_models(_EXTENTS[name]), *_collectives(_EXTENTS[name], gpus)]
    return [case for case in candidates if held_bytes(case) <= 0.8 * memory_bytes]


def swept(cases: Iterable[Case]) -> list[Case]:
    """Return the cases measured at each locked clock: of each family in `SWEPT` the one with most work, and fewer."""
    chosen: list[Case] = []
    for family in SWEPT:
        of_family = [case for case in cases if case.family == family and case.dtype in ("bf16", "")]
        of_family.sort(key=lambda case: (_products(case), held_bytes(case)), reverse=True)
        chosen += (
            [of_family[place] for place in sorted({0, len(of_family) // 4, len(of_family) // 2, len(of_family) - 1})]
            if of_family
            else []
        )
    return chosen


def _products(case: Case) -> int:
    size = dict(case.sizes)
    return size["rows"] * size["columns"] * size["depth"] if case.family == "gemm" else 0


def held_bytes(case: Case) -> int:
    """Return about how much memory a case holds."""
    size = dict(case.sizes)
    match case.family:
        case "gemm":
            m, n, k = size["rows"], size["columns"], size["depth"]
            return 2 * (m * k + n * k + m * n)
        case "stream":
            return 2 * size["bytes"]
        case "attention_prefill" | "attention_decode":
            new = size["tokens"] if case.family == "attention_prefill" else 1
            heads = size["tokens"] * size["kv_heads"] + new * size["heads"]
            return 4 * size["batch"] * size["head_dim"] * heads
        case "grouped_gemm":
            return 6 * size["experts"] * size["hidden"] * size["inner"]
        case "elementwise":
            return 8 * size["rows"] * size["columns"]
        case "model":
            return 6 * _GB + 2**16 * size["batch"] * size["tokens"]
        case "collective":
            return 4 * size["bytes"]
    return 0


def _kernels(e: Extent, fp8: bool) -> Iterator[Case]:
    yield Case.of("idle", "deep", "")
    yield Case.of("idle", "waiting", "")
    yield Case.of("launch", dtype="")
    for (columns, depth), rows in product(e.pairs, e.rows):
        yield Case.of("gemm", rows=rows, columns=columns, depth=depth)
    for (columns, depth), rows in product(e.pairs, e.fp8_rows) if fp8 else ():
        yield Case.of("gemm", dtype="fp8", rows=rows, columns=columns, depth=depth)
    for kind, power in product(("weights", "kv"), e.stream):
        yield Case.of("stream", kind, bytes=2**power)
    for (heads, kv_heads), (batch, tokens) in product(e.heads, e.prefill):
        yield _attention("attention_prefill", batch, tokens, heads, kv_heads)
    for (heads, kv_heads), (batch, tokens) in product(e.heads, e.decode):
        yield _attention("attention_decode", batch, tokens, heads, kv_heads)
    for (experts, active, hidden, inner), tokens, law in product(e.experts, e.routed_tokens, _LAWS):
        yield Case.of("grouped_gemm", law, tokens=tokens, experts=experts, active=active, hidden=hidden, inner=inner)
    for (name, columns), rows in product(_ELEMENTWISE.items(), e.element_rows):
        yield Case.of("elementwise", name, rows=rows, columns=columns)


def _attention(family: str, batch: int, tokens: int, heads: int, kv_heads: int) -> Case:
    return Case.of(family, batch=batch, tokens=tokens, heads=heads, kv_heads=kv_heads, head_dim=128)


def _models(e: Extent) -> Iterator[Case]:
    for phase, some in (("prefill", e.model_prefill), ("decode", e.model_decode)):
        for batch, tokens in some:
            yield Case.of("model", phase, batch=batch, tokens=tokens)


def _collectives(e: Extent, gpus: int) -> Iterator[Case]:
    counts = [2**power for power in range(1, 11) if 2**power <= gpus]
    for number, operation, power in product(counts, COLLECTIVES, e.messages):
        yield Case.of("collective", operation, bytes=2**power, gpus=number, sms=0)
    for sms in e.sms[1:] if counts else ():
        yield Case.of("collective", "all_reduce", bytes=2 ** e.messages[-1], gpus=counts[-1], sms=sms)
