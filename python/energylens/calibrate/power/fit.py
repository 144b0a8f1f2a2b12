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
        columns_by_term = {f"active_{CLASSES[name]}": blank + (family == name) for name in self.active}
        if self.shared:
            columns_by_term["active"] = blank + 1
        for name in _ARITHMETIC:
            columns_by_term[f"flop_{name}"] = rows[f"flop_{name}"].to_numpy()
        columns_by_term["flop_bf16"] = columns_by_term["flop_bf16"] + VECTOR * rows["vector_rate"].to_numpy()
        bytes_ = {f"hbm_{name}": rows[f"{name}_rate"].to_numpy() for name in _THREE}
        if self.prices == 3:
            return columns_by_term | bytes_
        return columns_by_term | {"hbm": bytes_["hbm_weight"] + bytes_["hbm_kv"] + bytes_["hbm_activation"]}


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
    in_fit: Array
    test: Array
    rows: pl.DataFrame
    train: Array = field(default_factory=lambda: np.zeros(0, int))
    memory: Array = field(default_factory=lambda: np.array(meter.START))

    @property
    def capped(self) -> Array:
        return self.watts >= CAP_SHARE * self.limit

    def power(self, coefficients: Array, static: float) -> Array:
        return np.minimum(self.columns @ coefficients + self.fixed + static, self.limit)

    def shown(self, coefficients: Array, static: float) -> Array:
        return meter.smear(self.power(coefficients, static), self.memory[self.buckets], self.starts)

    def seen(self, coefficients: Array | None, static: float) -> tuple[Array, Array]:
        """Return columns and fixed watts as the meter shows them; loads before are cut at the cap, its own is not."""
        cut = np.ones(len(self.watts))
        if coefficients is not None:
            cut = np.minimum(1, (self.limit - static) / np.maximum(self.columns @ coefficients + self.fixed, 1))
        keep = self.memory[self.buckets]
        throttled = (1 - keep) * (1 - cut)
        series = np.column_stack([self.columns, self.fixed])
        shown = np.column_stack(
            [
                meter.smear(column * cut, keep, self.starts) + throttled * column if column.any() else column
                for column in series.T
            ]
        )
        return shown[self.train, :-1], shown[self.train, -1]


def held_out(shapes: pl.Series) -> Array:
    """Return which shapes are held out, by a hash that never changes."""
    return np.array([zlib.crc32(shape.encode()) % HELD_OUT == 0 for shape in shapes.to_list()])


def fit(power: KernelPower, gpu: str, form: str = CHOSEN, reasons: dict[str, str] | None = None) -> Fit:
    """Return the fitted model of one GPU (J/FLOP, J/B, W); a coefficient out of its band needs a reason."""
    rows = power.rows.filter(pl.col("gpu") == gpu)
    if not rows.filter(pl.col("in_fit")).height:
        raise SpecError(Problem(f"no kernel power of `{gpu}`", hint=f"measured: {', '.join(STATIC_W)}", code="power"))
    static = STATIC_W[gpu]
    names, families = _families(rows, FORMS[form])
    coefficients: Array | None = None
    for _ in range(ROUNDS):
        table = _Table.of(families, coefficients, static)
        condition = robust.check_rank(table.columns / table.watts[:, None], names)
        coefficients = table.fit(np.arange(len(table.watts)))
        for family in families:
            below = family.train[~family.capped[family.train]]
            family.memory = meter.search(
                family.power(coefficients, static), family.watts, below, family.buckets, family.starts, family.memory
            )
    assert coefficients is not None
    draw, blocks = np.random.default_rng(0), np.array_split(np.arange(len(table.watts)), 200)
    tries = [
        table.fit(np.concatenate([blocks[i] for i in draw.integers(0, len(blocks), len(blocks))]))
        for _ in range(_BOOTSTRAPS)
    ]
    values = {name: rounded(float(value)) for name, value in zip(names, coefficients, strict=True)}
    limits = cap_table(families, static, _ARITHMETIC)
    # Times of capped kernels already hold their throttling: dearer FLOPs would throttle them twice.
    notes = {}
    for row in limits:
        name = f"flop_{row['dtype']}"
        if values.get(name, 0.0) > row["flop_j"]:
            notes[name] = f"fitted {values[name]:.3g}, lowered to what a GEMM at the cap shows"
            values[name] = row["flop_j"]
    final = np.array([values[name] for name in names])
    errors, mean = error_table(families, [family.shown(final, static) for family in families], _ARITHMETIC)
    out = check_bands(gpu, values, reasons or {})
    spread = {name: float(f"{x:.2g}") for name, x in zip(names, np.std(tries, axis=0, ddof=1), strict=True)}
    memory = {family.name: [float(x) for x in family.memory] for family in families}
    return Fit(gpu, form, static, values, spread, memory, rounded(condition), errors, mean, limits, out, notes)


def compare(power: KernelPower, gpu: str) -> list[dict[str, object]]:
    """Return the held-out mean error (%) and coefficients of every form; bands are not asked of forms not chosen."""
    free = {name: "compared only" for form in FORMS.values() for name in _names(form)}
    form_fits = [fit(power, gpu, name, free) for name in FORMS]
    return [
        {"form": form_fit.form, "mean_error": form_fit.mean_error, "coefficients": form_fit.coefficients}
        for form_fit in form_fits
    ]


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
        member = _Family(
            family, np.zeros(0), ON_CHIP * part["chip_rate"].to_numpy(), part["watts"].to_numpy(),
            part["limit"].to_numpy(), arithmetic, starts, meter.bucket(part["seconds"].to_numpy()),
            part["in_fit"].to_numpy(), held_out(part["shape"]), part,
        )  # fmt: skip
        pick = np.flatnonzero(member.in_fit & ~member.test)
        thin = [pick[arithmetic[pick] == dtype] for dtype in _ARITHMETIC]
        member.train = np.concatenate(
            [rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).astype(int))] for rows in thin]
        )
        parts.append(member)
    names = [
        name
        for name in terms[0]
        if any(columns[name][member.train].any() for member, columns in zip(parts, terms, strict=True))
    ]
    for member, columns in zip(parts, terms, strict=True):
        member.columns = np.column_stack([columns[name] for name in names])
    return names, parts


@dataclass
class _Table:
    columns: Array
    watts: Array
    offset: Array
    weight: Array
    capped: Array

    @classmethod
    def of(cls, families: list[_Family], coefficients: Array | None, static: float) -> _Table:
        seen = [family.seen(coefficients, static) for family in families]
        rows = sum(len(family.train) for family in families)
        return cls(
            np.vstack([columns for columns, _ in seen]),
            np.concatenate([family.watts[family.train] for family in families]),
            np.concatenate([static + fixed for _, fixed in seen]),
            np.concatenate([np.full(len(family.train), rows / max(len(family.train), 1)) for family in families]),
            np.concatenate([family.capped[family.train] for family in families]),
        )

    def fit(self, rows: Array) -> Array:
        return robust.fit(self.columns[rows], self.watts[rows], self.offset[rows], self.weight[rows], self.capped[rows])
