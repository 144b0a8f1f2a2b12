"""Joules per FLOP and byte, and watts of running kernels, fitted to measured kernel powers."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from energylens.calibrate import robust
from energylens.calibrate.power import meter
from energylens.calibrate.power.kernel_power import CAP_SHARE, KernelPower
from energylens.calibrate.power.report import Fit, cap_table, check_bands, error_table, rounded
from energylens.calibrate.robust import Array
from energylens.common.errors import Problem, SpecError

CLASSES = {
    "gemm": "gemm",
    "moe": "grouped_gemm",
    "attention_prefill": "attention_prefill",
    "attention_decode": "attention_decode",
}
"""Kernel class of docs/physics.md by family of the tables."""
STATIC_W = {"h200-sxm": 116.0, "b200": 238.0}
"""W of a loaded GPU that waits (arjunds/efficient-ai serving fits); rows of running kernels cannot tell it."""
ON_CHIP = 1.16e-11
"""J/B, Antepara et al. SC'25 table 3 (GH200 L1): fixed, attention FLOPs and on-chip bytes go together."""
VECTOR = 2.0
"""Joules of a vector FLOP, in those of a bf16 tensor FLOP (assumed)."""
MOST_ROWS = 4000
"""Fitted rows of one family and arithmetic."""
HELD_OUT = 5
"""Every fifth shape is held out."""
ROUNDS = 3
_BOOTSTRAPS = 16
_ARITHMETIC = ("bf16", "fp8", "fp4")
_THREE = ("weight", "kv", "activation")
_RATES = [f"flop_{name}" for name in _ARITHMETIC] + [f"{name}_rate" for name in ("vector", *_THREE)]


@dataclass(frozen=True)
class Form:
    """Terms of the power: families with active watts (all, some, none, or one for all), one or three HBM prices."""

    name: str
    active: tuple[str, ...] = ()
    shared: bool = False
    prices: int = 1

    def columns(self, rows: pl.DataFrame, family: str) -> dict[str, Array]:
        """Return the terms of one family's rows, in units of 1/coefficient·W."""
        blank = np.zeros(rows.height)
        found = {f"active_{CLASSES[name]}": blank + (family == name) for name in self.active}
        if self.shared:
            found["active"] = blank + 1
        for name in _ARITHMETIC:
            found[f"flop_{name}"] = rows[f"flop_{name}"].to_numpy()
        found["flop_bf16"] = found["flop_bf16"] + VECTOR * rows["vector_rate"].to_numpy()
        bytes_ = {f"hbm_{name}": rows[f"{name}_rate"].to_numpy() for name in _THREE}
        if self.prices == 3:
            return found | bytes_
        return found | {"hbm": bytes_["hbm_weight"] + bytes_["hbm_kv"] + bytes_["hbm_activation"]}


_OTHERS = ("moe", "attention_prefill", "attention_decode")
FORMS = {
    form.name: form
    for form in (
        Form("waiting floor"),
        Form("waiting floor, three HBM prices", prices=3),
        Form("one running floor", shared=True),
        Form("one running floor, three HBM prices", shared=True, prices=3),
        Form("running floor of every class", tuple(CLASSES)),
        Form("running floor of all but GEMM", _OTHERS),
        Form("running floor of all but GEMM, three HBM prices", _OTHERS, prices=3),
    )
}
CHOSEN = "one running floor"
"""One active power for all kernels: a floor by class is 0.2 to 0.5 points better on held-out rows, and less stable."""


@dataclass
class _Family:
    name: str
    columns: Array
    fixed: Array
    watts: Array
    limit: Array
    arithmetic: Array
    starts: Array
    buckets: Array
    kept: Array
    test: Array
    rows: pl.DataFrame
    train: Array = field(default_factory=lambda: np.zeros(0, int))
    memory: Array = field(default_factory=lambda: np.array(meter.START))

    @property
    def capped(self) -> Array:
        return self.watts >= CAP_SHARE * self.limit

    def power(self, found: Array, static: float) -> Array:
        return np.minimum(self.columns @ found + self.fixed + static, self.limit)

    def shown(self, found: Array, static: float) -> Array:
        return meter.smear(self.power(found, static), self.memory[self.buckets], self.starts)

    def seen(self, found: Array | None, static: float) -> tuple[Array, Array]:
        """Return columns and fixed watts as the meter shows them; loads before are cut at the cap, its own is not."""
        cut = np.ones(len(self.watts))
        if found is not None:
            cut = np.minimum(1, (self.limit - static) / np.maximum(self.columns @ found + self.fixed, 1))
        keep = self.memory[self.buckets]
        own = (1 - keep) * (1 - cut)
        series = np.column_stack([self.columns, self.fixed])
        shown = np.column_stack(
            [meter.smear(one * cut, keep, self.starts) + own * one if one.any() else one for one in series.T]
        )
        return shown[self.train, :-1], shown[self.train, -1]


def held_out(shapes: pl.Series) -> Array:
    """Return which shapes are held out, by a hash that never changes."""
    return np.array([zlib.crc32(shape.encode()) % HELD_OUT == 0 for shape in shapes.to_list()])


def fit(power: KernelPower, gpu: str, form: str = CHOSEN, reasons: dict[str, str] | None = None) -> Fit:
    """Return the fitted model of one GPU (J/FLOP, J/B, W); a coefficient out of its band needs a reason."""
    rows = power.rows.filter(pl.col("gpu") == gpu)
    if not rows.filter(pl.col("kept")).height:
        raise SpecError(Problem(f"no kernel power of `{gpu}`", hint=f"measured: {', '.join(STATIC_W)}", code="power"))
    static = STATIC_W[gpu]
    names, families = _families(rows, FORMS[form])
    found: Array | None = None
    for _ in range(ROUNDS):
        table = _Table.of(families, found, static)
        condition = robust.check_rank(table.columns / table.watts[:, None], names)
        found = table.fit(np.arange(len(table.watts)))
        for one in families:
            below = one.train[~one.capped[one.train]]
            one.memory = meter.search(one.power(found, static), one.watts, below, one.buckets, one.starts, one.memory)
    assert found is not None
    draw, blocks = np.random.default_rng(0), np.array_split(np.arange(len(table.watts)), 200)
    tries = [
        table.fit(np.concatenate([blocks[i] for i in draw.integers(0, len(blocks), len(blocks))]))
        for _ in range(_BOOTSTRAPS)
    ]
    values = {name: rounded(float(value)) for name, value in zip(names, found, strict=True)}
    limits = cap_table(families, static, _ARITHMETIC)
    # Times of capped kernels already hold their throttling: dearer FLOPs would throttle them twice.
    notes = {}
    for row in limits:
        name = f"flop_{row['dtype']}"
        if values.get(name, 0.0) > row["flop_j"]:
            notes[name] = f"fitted {values[name]:.3g}, lowered to what a GEMM at the cap shows"
            values[name] = row["flop_j"]
    final = np.array([values[name] for name in names])
    errors, mean = error_table(families, [one.shown(final, static) for one in families], _ARITHMETIC)
    out = check_bands(gpu, values, reasons or {})
    spread = {name: float(f"{x:.2g}") for name, x in zip(names, np.std(tries, axis=0, ddof=1), strict=True)}
    memory = {one.name: [float(x) for x in one.memory] for one in families}
    return Fit(gpu, form, static, values, spread, memory, rounded(condition), errors, mean, limits, out, notes)


def compare(power: KernelPower, gpu: str) -> list[dict[str, object]]:
    """Return the held-out mean error (%) and coefficients of every form; bands are not asked of forms not chosen."""
    free = {name: "compared only" for form in FORMS.values() for name in _names(form)}
    found = [fit(power, gpu, name, free) for name in FORMS]
    return [{"form": one.form, "mean_error": one.mean_error, "coefficients": one.coefficients} for one in found]


def _names(form: Form) -> list[str]:
    rows = pl.DataFrame({name: [0.0] for name in _RATES})
    return list(form.columns(rows, "gemm"))


def _families(rows: pl.DataFrame, form: Form) -> tuple[list[str], list[_Family]]:
    parts, terms = [], []
    for (name,), part in rows.group_by("family", maintain_order=True):
        family = str(name)
        arithmetic = part["arithmetic"].to_numpy()
        starts = np.zeros(part.height, bool)
        starts[0] = True
        if family == "gemm":
            starts[1:] = arithmetic[1:] != arithmetic[:-1]
        columns = form.columns(part, family)
        terms.append(columns)
        one = _Family(
            family, np.zeros(0), ON_CHIP * part["chip_rate"].to_numpy(), part["watts"].to_numpy(),
            part["limit"].to_numpy(), arithmetic, starts, meter.bucket(part["seconds"].to_numpy()),
            part["kept"].to_numpy(), held_out(part["shape"]), part,
        )  # fmt: skip
        pick = np.flatnonzero(one.kept & ~one.test)
        thin = [pick[arithmetic[pick] == dtype] for dtype in _ARITHMETIC]
        one.train = np.concatenate(
            [rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).astype(int))] for rows in thin]
        )
        parts.append(one)
    names = [
        name
        for name in terms[0]
        if any(columns[name][one.train].any() for one, columns in zip(parts, terms, strict=True))
    ]
    for one, columns in zip(parts, terms, strict=True):
        one.columns = np.column_stack([columns[name] for name in names])
    return names, parts


@dataclass
class _Table:
    columns: Array
    watts: Array
    offset: Array
    weight: Array
    capped: Array

    @classmethod
    def of(cls, families: list[_Family], found: Array | None, static: float) -> _Table:
        seen = [one.seen(found, static) for one in families]
        rows = sum(len(one.train) for one in families)
        return cls(
            np.vstack([columns for columns, _ in seen]),
            np.concatenate([one.watts[one.train] for one in families]),
            np.concatenate([static + fixed for _, fixed in seen]),
            np.concatenate([np.full(len(one.train), rows / max(len(one.train), 1)) for one in families]),
            np.concatenate([one.capped[one.train] for one in families]),
        )

    def fit(self, rows: Array) -> Array:
        return robust.fit(self.columns[rows], self.watts[rows], self.offset[rows], self.weight[rows], self.capped[rows])
