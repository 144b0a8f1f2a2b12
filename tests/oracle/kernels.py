"""Time of one kernel (physics.md sections 5 and 6)."""

import math
from dataclasses import dataclass
from typing import Any

from .equations import Kernel
from .loads import experts_hit as experts_hit
from .loads import worked
from .local import Env, Product, ceil
from .mesh import split
from .traffic import Cost, add_reads, add_writes

SPLITS = (1, 2, 4, 8)


@dataclass
class Merged:
    """Matrix products that share the left operand, run as one (section 2, merging)."""

    first: Product
    n_elements: float
    flops: float


def merged_products(env: Env, kernel: Kernel) -> list[Merged]:
    """Matrix products of a kernel, merged where they read the same left operand (section 2)."""
    merged: dict[tuple[str, frozenset[str], frozenset[str], bool, str], Merged] = {}
    for equation in kernel.equations:
        product = env.product(equation)
        if product is None:
            continue
        extents = env.equation_extents(equation, kernel)
        n_elements = math.prod(extents[rank] for rank in product.n)
        flops = env.product_flops(equation, kernel)
        routed = equation.routed is not None
        kind = env.arithmetic(equation)
        key = (equation.factors[0].key, frozenset(product.k), frozenset(product.batch), routed, kind)
        if key in merged:
            merged[key].n_elements += n_elements
            merged[key].flops += flops
        else:
            merged[key] = Merged(product, n_elements, flops)
    return list(merged.values())


def tiled_time(
    entry: dict[str, Any], down: dict[int, float], columns: float, depth: float, rate: float, sms: int, cut: bool
) -> float:
    """Shortest time over tiles and splits (Eq. 5.5, 6.8).

    `down` counts the tiles over the rows, by rows of a tile; `rate` is that of one SM.
    """
    best = math.inf
    for tile_m, tile_n, share in entry["tiles"]:
        number = ceil(down[tile_m] * ceil(columns / tile_n))
        for parts in SPLITS if cut else (1,):
            waves = ceil(number * parts / sms)
            deep = depth / parts + entry.get("depth_0", 0)
            joined = entry.get("split_s", 0) if parts > 1 else 0
            best = min(best, waves * 2 * tile_m * tile_n * deep / (rate * share) + joined)
    return best


def matrix_time(env: Env, kernel: Kernel, products: list[Merged], entry: dict[str, Any], sms: int) -> float:
    """Seconds of the matrix products of a kernel on `sms` of the GPU's SMs (Eq. 5.5, 5.8, 5.9, 6.8)."""
    peaks, all_sms = env.gpu["compute"]["peak_flops"], int(env.gpu["compute"]["sms"])
    if env.kernel_class(kernel) == "attention":
        return attention_time(env, kernel, products, entry, sms)
    total = 0.0
    for merged in products:
        product = merged.first
        rate = peaks[env.arithmetic(product.equation)] * entry["compute_efficiency"] / all_sms
        extents = env.equation_extents(product.equation, kernel)
        depth = math.prod(extents[rank] for rank in product.k)
        count = math.prod(extents[rank] for rank in product.batch)
        rows = math.prod(extents[rank] for rank in product.m)
        down = {tile_m: count * ceil(rows / tile_m) for tile_m, _, _ in entry["tiles"]}
        if product.grouped and product.equation.routed is not None:
            tiles = worked(env, product.equation.routed, entry).tiles
            down = {tile_m: count * tiles[tile_m] for tile_m in down}
        total += tiled_time(entry, down, merged.n_elements, depth, rate, sms, not product.grouped)
    return total


def attention_rate(
    env: Env, kernel: Kernel, products: list[Merged], entry: dict[str, Any], sms: int
) -> dict[str, float]:
    """FLOP/s that an attention kernel reaches on `sms` of the GPU's SMs, by arithmetic (Eq. 5.7)."""
    product = next(merged.first for merged in products if "t" in merged.first.equation.all_ranks())
    extents = env.equation_extents(product.equation, kernel)
    depth = math.prod(extents[rank] for rank in product.k)
    reached = entry["compute_efficiency"] * (depth / 128) ** entry.get("head_dim_power", 0)
    share = reached * sms / env.gpu["compute"]["sms"]
    return {kind: peak * share for kind, peak in env.gpu["compute"]["peak_flops"].items() if peak is not None}


def attention_time(env: Env, kernel: Kernel, products: list[Merged], entry: dict[str, Any], sms: int) -> float:
    """Matrix seconds of an attention kernel on `sms` of the GPU's SMs (Eq. 5.8, 5.9, 5.10)."""
    product = next(merged.first for merged in products if "t" in merged.first.equation.all_ranks())
    extents = env.equation_extents(product.equation, kernel)
    heads = math.prod(extents[rank] for rank in [*product.batch, *product.m] if rank != "s")
    rate = attention_rate(env, kernel, products, entry, sms)
    total = sum(merged.flops / rate[env.arithmetic(merged.first.equation)] for merged in products)
    if env.step.phase == "decode":
        return float(total + entry.get("sequence_head_s", 0) * math.prod(extents[rank] for rank in product.batch))
    s, pad = env.new, entry.get("pad_rows", 1)
    seen = extents["t"]
    padded = total * ceil(s / pad) * pad / s * (1 + (pad - 1) / 2 / seen)
    with_t = [merged for merged in products if "t" in merged.first.equation.all_ranks()]
    pairs = sum(merged.flops / rate[env.arithmetic(merged.first.equation)] for merged in with_t)
    token = 128 * sms * pairs / (heads * s * seen)
    longest = min(env.step.t, env.window(kernel) or math.inf)
    waves = ceil(heads * ceil(s / 128) / sms)
    return float(padded + token * (entry.get("length_factor", 0) * longest + entry.get("wave_depth", 0) * waves))


def coefficients(env: Env, kernel: Kernel, products: list[Merged]) -> dict[str, Any]:
    """Coefficient set of a kernel: by its class and a format (sections 5 and 6)."""
    kind, profile = env.kernel_class(kernel), env.gpu["kernels"]
    if kind == "elementwise":
        return dict(profile["elementwise"])
    if kind == "attention":
        fmt = cache_format(env, kernel)
        sets, names = profile[f"attention_{env.step.phase}"], (fmt, env.supported(fmt), "bf16")
    else:
        first = products[0].first.equation
        sets, names = profile[kind], (env.operand(first), env.arithmetic(first), "bf16")
    return dict(next(sets[name] for name in names if name in sets))


def shrink(env: Env, kernel: Kernel, cost: Cost) -> None:
    """Under sequence parallelism a norm or an add sees only its share of the tokens (section 11)."""
    functions = {factor.function for equation in kernel.equations for factor in equation.factors} - {None}
    if env.kernel_class(kernel) != "elementwise" or not functions or not functions <= {"norm", "add"}:
        return
    for equation in kernel.equations:
        ways, _ = split(equation.all_ranks(), equation, env.block, env.model, env.mesh)
        if any(count > 1 for count in ways.values()):
            return
    cost.vector_flops /= env.mesh.tp
    cost.weight_bytes /= env.mesh.tp
    cost.busiest_weight_bytes /= env.mesh.tp
    cost.kv_bytes /= env.mesh.tp
    cost.activation_bytes /= env.mesh.tp
    cost.on_chip_bytes /= env.mesh.tp


def add_padding(env: Env, kernel: Kernel, products: list[Merged], entry: dict[str, Any], cost: Cost) -> None:
    """FLOPs of the rows that pad each expert worked on: joules, not time (Eq. 6.11)."""
    for merged in products:
        routed = merged.first.equation.routed
        if merged.first.grouped and routed is not None:
            extents = env.equation_extents(merged.first.equation, kernel)
            elements = merged.n_elements * math.prod(extents[rank] for rank in merged.first.k)
            padding = 2 * entry["padding_rows"] * worked(env, routed, entry).mean * elements
            kind = env.arithmetic(products[0].first.equation)
            cost.padding_flops[kind] = cost.padding_flops.get(kind, 0.0) + padding


def kernel_cost(env: Env, kernel: Kernel, reserved_sms: int = 0, fused: frozenset[str] | None = None) -> Cost:
    """Everything about one kernel (Eq. 5.1, 5.3, 5.4).

    `reserved_sms` are taken from it by an overlapped collective; `fused` names what is handed to it by the
    collective that it runs in (None: it runs by itself).
    """
    cost = Cost()
    products = merged_products(env, kernel)
    entry = coefficients(env, kernel, products)
    add_reads(env, kernel, cost, fused or frozenset(), entry)
    add_writes(env, kernel, cost)
    for merged in products:
        kind = env.arithmetic(merged.first.equation)
        cost.matrix_flops[kind] = cost.matrix_flops.get(kind, 0.0) + merged.flops
    for equation in kernel.equations:
        cost.vector_flops += env.function_flops(equation, kernel)
        if env.product(equation) is None:
            cost.vector_flops += env.product_flops(equation, kernel)
    if env.run.sequence_parallel:
        shrink(env, kernel, cost)

    kind_of_kernel = env.kernel_class(kernel)
    if kind_of_kernel == "grouped_gemm":
        add_padding(env, kernel, products, entry, cost)
    all_sms = int(env.gpu["compute"]["sms"])
    sms = all_sms - reserved_sms
    t_compute = 0.0
    if kind_of_kernel != "attention":
        t_compute += cost.vector_flops / (env.gpu["compute"]["peak_flops"]["vector"] * sms / all_sms)
    if products:
        t_compute += matrix_time(env, kernel, products, entry, sms)
    traffic = cost.busiest_weight_bytes + cost.kv_bytes + cost.activation_bytes
    bandwidth = env.gpu["memory"]["bandwidth_bytes_per_s"] * entry["memory_efficiency"]
    t_memory = traffic / bandwidth + entry["root_s_per_sqrt_byte"] * math.sqrt(traffic)
    cost.time = 0.0 if fused is not None else entry["t0_s"]
    cost.time += power_mean(t_compute, t_memory, entry["sharpness"])
    cost.clocked = clocked_seconds(t_compute, t_memory, entry["sharpness"])
    if kind_of_kernel in ("gemm", "grouped_gemm"):
        cost.time += added_time(env, kernel, products, entry)
    return cost


def added_time(env: Env, kernel: Kernel, products: list[Merged], entry: dict[str, Any]) -> float:
    """Quantising inputs of products, sorting tokens by expert, seconds of each expert worked on (Eq. 5.6, 6.9)."""
    moved, seconds, sorted_once = 0.0, 0.0, False
    for merged in products:
        product = merged.first
        extents = env.equation_extents(product.equation, kernel)
        depth = math.prod(extents[rank] for rank in product.k)
        routed = product.equation.routed
        if not product.grouped:
            ranks = [*product.batch, *product.m]
            moved += entry.get("quantise_bytes", 0) * math.prod(extents[rank] for rank in ranks) * depth
        elif routed is not None and not sorted_once:
            sorted_once = True
            moved += entry.get("routed_bytes", 0) * env.tokens() * env.model.active[routed] * depth
            seconds += entry.get("expert_s", 0) * worked(env, routed, entry).busiest
    return float(moved / env.gpu["memory"]["bandwidth_bytes_per_s"] + seconds)


def cache_format(env: Env, kernel: Kernel) -> str:
    """Format of the first cache tensor a kernel reads, of activations if it reads none."""
    for equation in kernel.equations:
        for tensor in equation.reads():
            if tensor.name in env.model.cache:
                return env.dtype(tensor, "cache")
    return env.model.dtypes["activations"]


def power_mean(a: float, b: float, p: float) -> float:
    """Smooth maximum (Eq. 5.2), scaled by the larger so that small times do not underflow."""
    large = max(a, b)
    if large == 0.0:
        return 0.0
    return float(large * ((a / large) ** p + (b / large) ** p) ** (1 / p))


def clocked_seconds(compute: float, memory: float, p: float) -> float:
    """How many seconds of a kernel follow the clock (Eq. 11.5)."""
    large = max(compute, memory)
    if large == 0.0:
        return 0.0
    work, rest = (compute / large) ** p, (memory / large) ** p
    return float(power_mean(compute, memory, p) * work / (work + rest))
