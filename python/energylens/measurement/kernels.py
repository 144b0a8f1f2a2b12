"""The kernels of the suites in plain PyTorch, on random data that no cache holds from one call to the next."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from energylens.measurement.backend import CannotRun
from energylens.measurement.cases import Case
from energylens.measurement.transformer import Transformer, rotated

INPUT: Final = "normal(0, 1), seed 0; inputs and results take turns over four times the L2 cache"
"""What the inputs are: power depends on them (zeros draw far less)."""

COLD: Final = 4
"""Inputs of a kernel take turns over this many times the L2 cache."""

MOST_TURNS: Final = 256
"""Inputs that take turns, at most; attention has eight times as many, for its smallest caches."""
PAGE: Final = 16
"""Tokens of a page of the KV cache that `stream kv` gathers."""


@dataclass(frozen=True)
class Workload:
    """A function, and how many calls of the kernel it makes."""

    run: Callable[[], Any]
    calls: int


def workload(torch: Any, case: Case, device: str, l2_bytes: int) -> Workload:
    """Return a case as a function of PyTorch; raise `CannotRun` where this version has no such kernel."""
    torch.manual_seed(0)
    makers = {
        "launch": _launch,
        "gemm": _gemm,
        "stream": _stream,
        "attention_prefill": _attention,
        "attention_decode": _attention,
        "grouped_gemm": _experts,
        "elementwise": _elementwise,
    }
    if case.family == "model":
        step = Transformer(torch, device).run(case.variant, case["batch"], case["tokens"])

        def model() -> Any:
            with attending(torch, device, case):
                return step()

        return Workload(model, 1)
    first, size = makers[case.family](torch, case, device)
    most = MOST_TURNS * (8 if case.family.startswith("attention") else 1)
    turns = min(most, 1 + COLD * l2_bytes // max(size, 1)) if size else 1
    calls = [first, *(makers[case.family](torch, case, device)[0] for _ in range(turns - 1))]

    def run() -> list[Any]:
        with torch.no_grad(), attending(torch, device, case):
            return [call() for call in calls]  # results are kept, or all would be written to one place

    return Workload(run, len(calls))


def attending(torch: Any, device: str, case: Case) -> AbstractContextManager[Any]:
    """Return a context in which attention takes kernels that serving would take, never plain mathematics.

    FlashAttention; for prompts on Hopper and Blackwell that of cuDNN if it is there, as PyTorch itself would choose.
    """
    if not device.startswith("cuda") or case.family not in ("attention_prefill", "attention_decode", "model"):
        return nullcontext()
    kinds = torch.nn.attention.SDPBackend
    some = [kinds.FLASH_ATTENTION, kinds.CUDNN_ATTENTION]
    if torch.cuda.get_device_capability()[0] < 9:
        some = some[:1]
    elif case.family == "attention_prefill" or case.variant == "prefill":
        some = some[::-1]
    context: AbstractContextManager[Any] = torch.nn.attention.sdpa_kernel(some, set_priority=True)
    return context


Made = tuple[Callable[[], Any], int]
"""A function, and the bytes of its inputs."""


def _normal(torch: Any, device: str, *shape: int) -> Any:
    return torch.randn(*shape, device=device, dtype=torch.bfloat16)


def _launch(torch: Any, _case: Case, device: str) -> Made:
    counter = torch.zeros(1, device=device)
    return lambda: counter.add_(1), 0


def _gemm(torch: Any, case: Case, device: str) -> Made:
    m, n, k = case["rows"], case["columns"], case["depth"]
    x, w = _normal(torch, device, m, k), _normal(torch, device, n, k)
    if case.dtype == "bf16":
        out = torch.empty(m, n, device=device, dtype=torch.bfloat16)
        return lambda: torch.mm(x, w.t(), out=out), 2 * n * k
    x, w, unit_scale = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn), torch.ones((), device=device)
    return lambda: torch._scaled_mm(
        x, w.t(), unit_scale, unit_scale, out_dtype=torch.bfloat16, use_fast_accum=True
    ), n * k


def _stream(torch: Any, case: Case, device: str) -> Made:
    size = case["bytes"]
    if case.variant == "weights":
        rows = torch.randn(size // 4, device=device)
        return lambda: rows.sum(), size
    pages = _normal(torch, device, size // (2 * PAGE * 128), PAGE * 128)
    order = torch.randperm(len(pages), device=device)
    out = torch.empty_like(pages)
    return lambda: torch.index_select(pages, 0, order, out=out), size


def _attention(torch: Any, case: Case, device: str) -> Made:
    b, t, h, g, e = (case[name] for name in ("batch", "tokens", "heads", "kv_heads", "head_dim"))
    prefill = case.family == "attention_prefill"
    q = _normal(torch, device, b, h, t if prefill else 1, e)
    k, v = _normal(torch, device, b, g, t, e), _normal(torch, device, b, g, t, e)
    attend = torch.nn.functional.scaled_dot_product_attention
    return lambda: attend(q, k, v, is_causal=prefill, enable_gqa=True), 4 * b * g * t * e


def dealt(case: Case) -> list[int]:
    """Return the tokens that each expert gets: as many each, or by a power law (docs/physics.md, section 6)."""
    tokens, experts, active = case["tokens"], case["experts"], case["active"]
    total = tokens * active
    if case.variant == "balanced":
        return [total // experts + (expert < total % experts) for expert in range(experts)]
    alpha = float(case.variant.rpartition("_")[2])
    low, high = (1.0, 0.8 * tokens) if total > experts else (0.01, 2.0)
    drawn = np.random.default_rng(0).random(experts)
    share = (low ** (1 - alpha) + drawn * (high ** (1 - alpha) - low ** (1 - alpha))) ** (1 / (1 - alpha))
    wanted = total * share / share.sum()
    rows_by_expert = np.minimum(np.floor(wanted).astype(int), tokens)
    rest = np.argsort(rows_by_expert - wanted, kind="stable")
    turn = 0
    while rows_by_expert.sum() < total:
        expert = rest[turn % experts]
        rows_by_expert[expert] += rows_by_expert[expert] < tokens
        turn += 1
    return [int(count) for count in rows_by_expert]


def _experts(torch: Any, case: Case, device: str) -> Made:
    if device.startswith("cuda") and torch.cuda.get_device_capability()[0] not in (9, 10):
        raise CannotRun("PyTorch has a grouped product for Hopper and Blackwell (B200) only")
    functional = torch.nn.functional
    product = getattr(functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
    if product is None:
        raise CannotRun("this version of PyTorch has no grouped product")
    experts, hidden, inner = case["experts"], case["hidden"], case["inner"]
    rows = _normal(torch, device, case["tokens"] * case["active"], hidden)
    up, down = _normal(torch, device, experts, hidden, 2 * inner), _normal(torch, device, experts, inner, hidden)
    tokens = dealt(case)
    ends = torch.tensor(np.cumsum(tokens), device=device, dtype=torch.int32)

    def run() -> Any:
        gate, more = product(rows, up, offs=ends).chunk(2, dim=-1)
        return product(functional.silu(gate) * more, down, offs=ends)

    return run, 6 * hidden * inner * sum(count > 0 for count in tokens)


def _elementwise(torch: Any, case: Case, device: str) -> Made:
    functional, columns = torch.nn.functional, case["columns"]
    x, y = _normal(torch, device, case["rows"], columns), _normal(torch, device, case["rows"], columns)
    weight = torch.ones(columns, device=device, dtype=torch.bfloat16)
    turn = torch.randn(case["rows"], columns // 2, device=device, dtype=torch.complex64)
    kinds: dict[str, Callable[[], Any]] = {
        "norm": lambda: functional.rms_norm(x, (columns,), weight),
        "add_norm": lambda: functional.rms_norm(x + y, (columns,), weight),
        "rope": lambda: rotated(torch, x, turn),
        "silu_mul": lambda: functional.silu(x) * y,
    }
    return kinds[case.variant], 2 * case["rows"] * columns
