"""The last and smallest layer of a profile: what a serving step takes and draws beyond its kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from energylens.calibrate.engines.features import Column, Runs, Step, between
from energylens.calibrate.profile_file import significant
from energylens.common.errors import EnergylensError, Problem
from energylens.inputs.gpu import Energy, Host, Stretch
from energylens.inputs.plan import LoadedGpu
from energylens.serving.fixed_concurrency import reading

FEWEST: Final = 20
"""Runs a fit needs."""

OTHER_INPUT_TOKENS: Final = 200.0
"""Assumed mean input of tasks that produce thousands of tokens: prompts are then a hundredth of the work."""

TIME: Final = {
    "host_s": (1e-3, 0.7),
    "sequence_s": (4e-5, 0.5),
    "gemm": (1.05, 0.1),
    "attention": (1.2, 0.15),
    "chat_input_tokens": (240.0, 0.2),
    "grouped_gemm": (1.2, 0.2),
}
"""Fitted seconds, factors and tokens: median, and standard deviation of the logarithm, before any run is seen."""

PRICES: Final = ("active_w", "sequence_w", "hbm_weight", "hbm_kv", "hbm_activation", "bf16", "narrow")
"""Fitted watts and prices, each as a factor of what the profile had, or of `SEQUENCE_W`."""

SEQUENCE_W: Final = 200.0
"""Watts of sampling above those of any kernel, before any run is seen (assumed)."""

FREEDOM: Final = {
    "measured": (0.5, 1.0, 0.1, 0.3, 0.1, 0.1, 0.1),
    "lent": (0.5, 1.0, 0.15, 0.3, 0.1, 0.2, 0.2),
}
"""Standard deviations of the logarithms of these factors before any run is seen: prices of a GPU whose kernel power was
measured are held, those lent by a neighbour are freer."""

_SOFT = 0.1
"""A residual from which on errors count by their size, not its square."""

_TIME_PRIOR = 0.4
"""Residual that one standard deviation of a time counts as: `_SOFT`, four times, since the runs of one model miss
together and a hundred of them tell no more than a few independent ones."""

_PRIOR = 0.15
"""The same of a price."""

_NEAR_CAP = 0.96


@dataclass(frozen=True)
class Layer:
    """Fitted values: `TIME` as they are, `PRICES` as factors."""

    time: dict[str, float]
    price: dict[str, float]

    def applied(self, gpu: LoadedGpu) -> LoadedGpu:
        """Return the profile with the layer in it."""
        spec = gpu.spec
        if spec.energy is None or spec.host is None:
            raise EnergylensError(Problem(f"`{spec.name}` has no `host` and `energy` to build on", code="calibrate"))
        chat = self.time["chat_input_tokens"]
        host = Host(
            host_s=self.time["host_s"],
            sequence_s=self.time["sequence_s"],
            stretch=Stretch(**{name: self.time[name] for name in ("gemm", "attention", "grouped_gemm")}),
            task_input_tokens={"lm-arena-chat": chat, "gpqa": OTHER_INPUT_TOKENS} if chat > 0 else None,
            source=spec.host.source,
        )
        return LoadedGpu(spec.model_copy(update={"host": host, "energy": self._prices(spec.energy)}), gpu.document)

    def _prices(self, energy: Energy) -> Energy:
        factor, flop = self.price, energy.flop_j
        narrow = {
            name: significant(value * factor["narrow"])
            for name in ("fp8", "fp4")
            if (value := getattr(flop, name)) is not None
        }
        wide = {name: significant(getattr(flop, name) * factor["bf16"]) for name in ("bf16", "vector")}
        changes: dict[str, Any] = {"flop_j": flop.model_copy(update=wide | narrow)}
        changes["active_w"] = significant(energy.active_w * factor["active_w"])
        changes["sequence_j"] = significant(SEQUENCE_W * factor["sequence_w"] * self.time["sequence_s"])
        for kind in ("hbm_weight", "hbm_kv", "hbm_activation"):
            changes[f"{kind}_j_per_byte"] = significant(getattr(energy, f"{kind}_j_per_byte") * factor[kind])
        return energy.model_copy(update=changes)


def _inputs(runs: Runs, chat_tokens: float) -> Column:
    if "input_tokens" in runs.rows.columns:
        return runs.column("input_tokens")
    chat = runs.rows["task"].to_numpy() != "gpqa"
    return np.where(chat, chat_tokens, OTHER_INPUT_TOKENS)


def _seconds(step: Step, held: Column, t: dict[str, float]) -> Column:
    """Return seconds of a step; `held` are the sequences of one data-parallel rank."""
    kernels = t["gemm"] * step["gemm_s"] + t["attention"] * step["attention_s"]
    kernels = kernels + t["grouped_gemm"] * step["grouped_gemm_s"] + t["sequence_s"] * held
    seconds: Column = t["host_s"] + kernels + step["communication_s"]
    return seconds


def mean(alone: Step, mixed: Step, share: Column) -> Step:
    """Return the sums of the mean step: a share of the steps is mixed."""
    return Step({name: (1.0 - share) * alone[name] + share * mixed[name] for name in alone.sums})


def predicted_times(runs: Runs, t: dict[str, float]) -> tuple[Column, Column]:
    """Return mean step and median inter-token latency of each run, in s (`fixed_concurrency.steady_state`)."""
    inputs, batch = _inputs(runs, t["chat_input_tokens"]), runs.column("batch")
    held = batch / runs.column("dp")
    mixed = _seconds(between(runs.mixed, inputs), held, t)
    alone = _seconds(between(runs.alone, inputs), held, t)
    starting = batch / runs.column("output_tokens")
    share = reading(starting)
    median = np.maximum(0.0, 1.0 - np.log(2.0) / starting)
    return (1.0 - share) * alone + share * mixed, alone + (mixed - alone) * median


def fit_time(runs: Runs, known: dict[str, float]) -> dict[str, float]:
    """Return host and kernel factors that give the measured inter-token latency and tokens/s (soft L1 of logarithms).

    Dense models, whose kernels are known best, tell all but the factor of routed experts; what is known is not fitted.
    """
    values = {name: median for name, (median, _) in TIME.items()} | known
    routed = _routed(runs)
    rest = tuple(name for name in TIME if name not in known and name != "grouped_gemm")
    for part, names in ((~routed, rest), (routed, ("grouped_gemm",))):
        if part.any():
            values = _fit_some(runs.take(part), values, names)
    return {name: significant(value) for name, value in values.items()}


def _fit_some(runs: Runs, start: dict[str, float], names: tuple[str, ...]) -> dict[str, float]:
    from scipy.optimize import least_squares

    batch, itl = runs.column("batch"), runs.column("itl_s")
    step = batch / runs.column("output_tokens_per_s")
    medians, deviations = (np.array([TIME[name][i] for name in names]) for i in range(2))

    def values(z: Column) -> dict[str, float]:
        return start | dict(zip(names, map(float, medians * np.exp(z)), strict=True))

    def residuals(z: Column) -> Column:
        mixed, median = predicted_times(runs, values(z))
        return np.concatenate([np.log(median / itl), np.log(mixed / step), _TIME_PRIOR * z / deviations])

    return values(least_squares(residuals, np.zeros(len(names)), loss="soft_l1", f_scale=_SOFT).x)


def _routed(runs: Runs) -> NDArray[np.bool_]:
    routed: NDArray[np.bool_] = runs.mixed[0]["grouped_gemm_s"] > 0
    return routed


def fit_prices(runs: Runs, t: dict[str, float], gpu: LoadedGpu, freedom: str) -> dict[str, float]:
    """Return factors of watts and prices that give the measured watts at fitted times, near what they were before."""
    from scipy.optimize import least_squares

    energy, tdp_w = gpu.spec.energy, gpu.spec.power.tdp_w
    assert energy is not None
    static_w = gpu.profile.static_w
    inputs, batch, watts = _inputs(runs, t["chat_input_tokens"]), runs.column("batch"), runs.column("power_w_per_gpu")
    share = reading(batch / runs.column("output_tokens"))
    step = mean(between(runs.alone, inputs), between(runs.mixed, inputs), share)
    held = batch / runs.column("dp")
    seconds = _seconds(step, held, t)
    kernels = seconds - t["host_s"] - step["communication_s"]
    narrow = np.isin(runs.rows["weight_dtype"].fill_null("bf16").to_numpy(), ("fp8", "fp8_block", "nvfp4"))
    compute = step["compute_j"] + step["padding_j"]
    columns = [
        energy.active_w * kernels,
        SEQUENCE_W * t["sequence_s"] * held,
        energy.hbm_weight_j_per_byte * step["weight_bytes"],
        energy.hbm_kv_j_per_byte * step["kv_bytes"],
        energy.hbm_activation_j_per_byte * step["activation_bytes"],
        np.where(narrow, 0.0, compute),
        np.where(narrow, compute, 0.0),
    ]
    terms = np.stack([column / seconds for column in columns], axis=1)
    rest = static_w + (step["link_j"] + energy.communication_w * step["communication_s"]) / seconds
    deviations = np.array(FREEDOM[freedom])

    def residuals(z: Column) -> Column:
        power = rest + terms @ np.exp(z)
        power = np.minimum(power, _NEAR_CAP * tdp_w + 0.02 * np.maximum(0.0, power - _NEAR_CAP * tdp_w))
        return np.concatenate([np.log(power / watts), _PRIOR * z / deviations])

    solution = least_squares(residuals, np.zeros(len(PRICES)), loss="soft_l1", f_scale=_SOFT)
    return {name: float(np.exp(z)) for name, z in zip(PRICES, solution.x, strict=True)}


def fit(runs: Runs, gpu: LoadedGpu, freedom: str, known: dict[str, float]) -> Layer:
    """Return the layer fitted to the runs; raise `EnergylensError` for too few of them."""
    if runs.rows.height < FEWEST:
        message = f"{runs.rows.height} serving runs of `{gpu.spec.name}`; a fit needs {FEWEST}"
        hint = "`energylens calibrate mine` has a smaller form"
        raise EnergylensError(Problem(message, hint=hint, code="too-few-runs"))
    time = fit_time(runs, known)
    return Layer(time, fit_prices(runs, time, gpu, freedom))


def left_out(runs: Runs, gpu: LoadedGpu, freedom: str, known: dict[str, float]) -> dict[str, Layer]:
    """Return for each model the layer fitted to the runs of all others."""
    models = runs.rows["model"].unique().sort().to_list()
    names = runs.rows["model"].to_numpy()
    return {model: fit(runs.take(names != model), gpu, freedom, known) for model in models}
