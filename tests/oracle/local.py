"""Local extents and elements on one GPU, operand ranks and product classification (sections 2, 3 and 5)."""

import math
from dataclasses import dataclass
from typing import Any

from .equations import FUNCTION_FLOPS, Block, Equation, Factor, Kernel, Model, Tensor
from .how import AS_IT_IS, Run
from .mesh import Mesh, split

BYTES = {
    "fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp8_block": 1 + 4 / 16384, "int8": 1.0,
    "mxfp4": 0.53125, "nvfp4": 0.5625, "int4": 0.515625,
}  # fmt: skip
ARITHMETIC = {"fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}  # all others compute in bf16


def ceil(x: float) -> int:
    """Round up, taking a value within 1e-12 (relative) above an integer as that integer."""
    return math.ceil(x * (1 - 1e-12))


def mean_visible(s: float, t: float, window: int | None) -> float:
    """Tokens a new token sees on average, over `s` new tokens ending at `t` (Eq. 5.11)."""
    if window is None or t <= window:
        return t - (s - 1) / 2
    if t - s + 1 >= window:
        return float(window)
    w, c = window, t - s
    return ((w - c) * c + (w - c) * (w - c + 1) / 2 + (t - w) * w) / s


@dataclass(frozen=True)
class Pass:
    """One pass through the stages: `b` sequences of one dp rank, `s` new and `t` visible tokens each."""

    phase: str
    b: float
    s: float
    t: float


@dataclass(frozen=True)
class Product:
    """A matrix product with its ranks sorted."""

    equation: Equation
    batch: tuple[str, ...]
    m: tuple[str, ...]
    n: tuple[str, ...]
    k: tuple[str, ...]
    grouped: bool


@dataclass(frozen=True)
class Env:
    """What local counts depend on: a block of a model on a mesh of GPUs, in one pass."""

    model: Model
    gpu: dict[str, Any]
    mesh: Mesh
    block: Block
    step: Pass
    stored: frozenset[str]
    run: Run = AS_IT_IS

    @property
    def new(self) -> float:
        """New tokens of a sequence on one context-parallel rank: prefill splits them (Eq. 8.5)."""
        return self.step.s / (self.mesh.cp if self.step.phase == "prefill" else 1)

    @property
    def seen_split(self) -> int:
        """Ways the visible tokens are split over context-parallel ranks: in decode (Eq. 8.5)."""
        return self.mesh.cp if self.step.phase == "decode" else 1

    def tokens(self) -> float:
        """T, the tokens in the pool of all dp ranks (Eq. 6.1)."""
        return self.mesh.dp * self.step.b * self.new

    def extent(self, rank: str, ways: dict[str, int], routed: str | None) -> float:
        """Local extent of a rank; the routed rank of a routed equation counts the values tokens meet (Eq. 3.2)."""
        if rank == "b":
            return self.step.b
        if rank == "s":
            return self.new
        if rank == "t":
            return self.step.t / self.seen_split
        if rank == routed:
            return self.mesh.dp * self.model.active[rank] / self.mesh.ep
        return self.model.extents[rank] / ways.get(rank, 1)

    def equation_extents(self, equation: Equation, kernel: Kernel) -> dict[str, float]:
        """Local extents of all ranks of an equation; t counts its mean when s and t meet in a masked kernel."""
        ranks = equation.all_ranks()
        ways, _ = split(ranks, equation, self.block, self.model, self.mesh)
        extents = {rank: self.extent(rank, ways, equation.routed) for rank in ranks}
        if "s" in ranks and "t" in ranks:
            extents["t"] = self.visible(kernel)
        return extents

    def elements(self, tensor: Tensor, equation: Equation, kernel: Kernel | None, whole: str | None = None) -> float:
        """Local elements of a tensor as used in `equation` (`whole`: a rank not to split; Eq. 3.2)."""
        weight = tensor.name in self.model.weights
        ways, _ = split(tensor.ranks, equation, self.block, self.model, self.mesh)
        count = 1.0
        for rank in tensor.ranks:
            if rank == whole:
                count *= self.model.extents[rank]
            elif rank == "t" and "s" in tensor.ranks and kernel is not None:
                count *= self.visible(kernel)
            else:
                count *= self.extent(rank, ways, None if weight else equation.routed)
        return count

    def dtype(self, tensor: Tensor, kind: str) -> str:
        """Return the tensor's own dtype if it is named in `dtypes`, else the kind's."""
        return self.model.dtypes.get(tensor.name, self.model.dtypes[kind])

    def operand(self, equation: Equation) -> str:
        """Format of a matrix product's weight operand, else of the activations."""
        dtype = self.model.dtypes["activations"]
        for factor in equation.factors:
            if self.is_weight(factor):
                dtype = self.dtype(factor.args[0], "weights")
        return dtype

    def arithmetic(self, equation: Equation) -> str:
        """Arithmetic of a matrix product: by its weight operand, else by the activations."""
        return self.supported(self.operand(equation))

    def supported(self, dtype: str) -> str:
        """Arithmetic of a format, bf16 where the GPU has no narrower one."""
        kind = ARITHMETIC.get(dtype, "bf16")
        return kind if self.gpu["compute"]["peak_flops"].get(kind) is not None else "bf16"

    def is_weight(self, factor: Factor) -> bool:
        """Whether a factor is a weight without function."""
        return factor.function is None and factor.args[0].name in self.model.weights

    def largest(self, factor: Factor) -> Tensor:
        """Return the function's largest argument: the one with the most ranks, the first of several."""
        best = factor.args[0]
        for arg in factor.args[1:]:
            if len(arg.ranks) > len(best.ranks):
                best = arg
        return best

    def factor_ranks(self, factor: Factor, equation: Equation) -> tuple[str, ...]:
        """Ranks of a factor; a function keeps those of its largest argument that the result has (section 2)."""
        if factor.function is None:
            return factor.args[0].ranks
        if factor.function == "embed":
            ranks = [rank for arg in factor.args for rank in arg.ranks]
        else:
            ranks = list(self.largest(factor).ranks)
        return tuple(rank for rank in ranks if rank in equation.result.ranks)

    def contracted(self, equation: Equation) -> list[str]:
        """Ranks in a factor and not in the result."""
        contracted: list[str] = []
        for factor in equation.factors:
            for rank in self.factor_ranks(factor, equation):
                if rank not in equation.result.ranks and rank not in contracted:
                    contracted.append(rank)
        return contracted

    def product(self, equation: Equation) -> Product | None:
        """Sort the ranks of a matrix product; None if the equation is vector work (section 2)."""
        contracted = self.contracted(equation)
        if len(equation.factors) != 2 or not contracted:
            return None
        grouped = equation.routed is not None and any(self.is_weight(factor) for factor in equation.factors)
        left, right = (self.factor_ranks(factor, equation) for factor in equation.factors)
        batch: list[str] = []
        rows: list[str] = []
        columns: list[str] = []
        for rank in equation.result.ranks:
            if grouped and rank == equation.routed:
                continue
            if rank in left and rank in right:
                batch.append(rank)
            elif rank in left:
                rows.append(rank)
            elif rank in right:
                columns.append(rank)
        depth = [rank for rank in contracted if not (grouped and rank == equation.routed)]
        if not rows or not columns:
            return None
        if grouped and set(columns) <= {"b", "s"}:  # written the other way round
            rows, columns = columns, rows
        return Product(equation, tuple(batch), tuple(rows), tuple(columns), tuple(depth), grouped)

    def kernel_class(self, kernel: Kernel) -> str:
        """Class of a kernel (section 2)."""
        sorted_ranks = [self.product(equation) for equation in kernel.equations]
        products = [product for product in sorted_ranks if product is not None]
        with_s_and_t = [product for product in products if {"s", "t"} <= set(product.equation.all_ranks())]
        if len(with_s_and_t) >= 2:
            return "attention"
        if any(product.grouped for product in products):
            return "grouped_gemm"
        return "gemm" if products else "elementwise"

    def masks(self, kernel: Kernel) -> list[int | None]:
        """Windows (None: plain causal) of the mask tensors of an attention kernel, in order; empty: not masked."""
        if self.kernel_class(kernel) != "attention":
            return []
        names: list[str] = []
        for equation in kernel.equations:
            for tensor in [equation.result, *equation.reads()]:
                if tensor.name in self.block.mask and tensor.name not in names:
                    names.append(tensor.name)
        return [self.block.mask[name] for name in names]

    def window(self, kernel: Kernel) -> int | None:
        """Window of the first mask of the kernel, if it has one."""
        masks = self.masks(kernel)
        return masks[0] if masks else None

    def visible(self, kernel: Kernel) -> float:
        """Count of `t` for what carries s and t: the mean over the mask, or t."""
        masks = self.masks(kernel)
        seen = mean_visible(self.step.s, self.step.t, masks[0]) if masks else self.step.t
        return seen / self.seen_split

    def cached(self, kernel: Kernel) -> list[tuple[Tensor, Equation]]:
        """Cache tensors that an attention kernel reads along t, each once; none of other kernels."""
        reads: dict[str, tuple[Tensor, Equation]] = {}
        if self.kernel_class(kernel) == "attention":
            for equation in kernel.equations:
                for tensor in equation.reads():
                    if tensor.name in self.model.cache and "t" in tensor.ranks:
                        reads.setdefault(tensor.name, (tensor, equation))
        return list(reads.values())

    def function_flops(self, equation: Equation, kernel: Kernel) -> float:
        """Vector FLOPs of the functions in an equation (Eq. 2.2)."""
        total = 0.0
        for factor in equation.factors:
            if factor.function is not None:
                largest = self.largest(factor)
                total += FUNCTION_FLOPS[factor.function] * self.elements(largest, equation, kernel)
        return total

    def product_flops(self, equation: Equation, kernel: Kernel) -> float:
        """FLOPs of the product part of an equation (Eq. 2.1)."""
        contracted = self.contracted(equation)
        ranks: set[str] = set(equation.result.ranks)
        if len(equation.factors) == 1:
            if equation.factors[0].function is not None or not contracted:
                return 0.0
            scale = 1.0
        else:
            scale = 2.0 if contracted else 1.0
        if contracted:
            for factor in equation.factors:
                ranks.update(self.factor_ranks(factor, equation))
        extents = self.equation_extents(equation, kernel)
        count = 1.0
        for rank in sorted(ranks):
            count *= extents[rank]
        return scale * count
