"""The account of the error: bundled profiles against measured serving runs, in tables anyone can reproduce."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from energylens.calibrate.engines.leave_one_out import QUANTITIES, Account, predict, serving_rows
from energylens.calibrate.engines.runs import data_dir, serving_runs
from energylens.common.accuracy import coverage, errors, picks, spearman
from energylens.common.errors import EnergylensError, Problem, needs_extra
from energylens.inputs.library import load_gpu

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST_BOUND: Final = (
    "the host set the pace: 2 to 5 times the latency of the same model's chat runs, at about half the watts"
)

LIMITS_MS: Final = (15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 100.0, 150.0)
"""Inter-token latencies within which the cheapest configuration is asked for."""

TOLERANCE: Final = 0.05
"""A pick counts if measured at most this share above the best cost and the limit: the least by which repeats differ."""

_CHOSEN_BY: Final = ("energy_per_output_token_j", "itl_s")

BANDS: Final = ((16, "<= 16"), (64, "17-64"), (256, "65-256"), (1 << 30, "> 256"))


@dataclass(frozen=True)
class Validation:
    """Measured runs with two predictions each, and what follows from them."""

    runs: pl.DataFrame
    """One row a run: the point, what was measured, and predictions with its model `in_sample` and `left_out`."""
    excluded: pl.DataFrame
    """Runs that no fit saw, each with the reason."""
    coverage_percent: dict[str, float]
    """Share of left-out runs in an 80 % interval whose deviations come from the other models' runs, by GPU."""

    def table(self, cut: str | None = None) -> pl.DataFrame:
        """Return errors in percent by GPU, and by a column of `runs` if one is given: both fits, all quantities."""
        rows = []
        for keys, group in self._groups(cut):
            for fit in ("in_sample", "left_out"):
                for name in QUANTITIES:
                    error = errors(group[f"{name}_{fit}"].to_numpy(), group[name].to_numpy())
                    rows.append({**keys, "fit": fit, "quantity": name, **error.as_dict()})
        return pl.DataFrame(rows)

    def ranking(self) -> pl.DataFrame:
        """Return rank correlations of J/token within each (GPU, model, task), and how often the cheapest run is picked.

        Repeats of one configuration are taken together. `right` allows `TOLERANCE` in measured cost and latency,
        `right_strictly` in cost alone.
        """
        keys = ["gpu", "model", "task"]
        values = [f"{name}{suffix}" for name in _CHOSEN_BY for suffix in ("", "_in_sample", "_left_out")]
        once = self.runs.group_by([*keys, "gpus", pl.col("batch").round()], maintain_order=True).agg(
            pl.col(values).mean()
        )
        rows = []
        for names, group in once.sort(["gpu", "model", "task"], descending=[True, False, False]).group_by(
            keys, maintain_order=True
        ):
            for fit in ("in_sample", "left_out"):
                joules, seconds = (list(zip(group[f"{name}_{fit}"], group[name], strict=True)) for name in _CHOSEN_BY)
                choices_of = {
                    name: [picks(joules, seconds, limit / 1e3, TOLERANCE, slack) for limit in LIMITS_MS]
                    for name, slack in (("right", TOLERANCE), ("right_strictly", 0.0))
                }
                rows.append(
                    {
                        **dict(zip(keys, names, strict=True)),
                        "fit": fit,
                        "configurations": group.height,
                        "spearman": spearman(*zip(*joules, strict=True)),
                        "choices": sum(pick is not None for pick in choices_of["right"]),
                        **{name: sum(pick is True for pick in picked) for name, picked in choices_of.items()},
                    }
                )
        return pl.DataFrame(rows)

    def summary(self) -> dict[str, Any]:
        """Return the headline figures as plain data."""
        ranking = self.ranking()
        by_gpu: dict[str, Any] = {"excluded_runs": self.excluded.height, "by_gpu": {}}
        for (gpu, fit), group in ranking.group_by(["gpu", "fit"], maintain_order=True):
            by_fit = by_gpu["by_gpu"].setdefault(
                gpu,
                {
                    "coverage_percent": self.coverage_percent[str(gpu)],
                    "bundled_coverage_percent": self.bundled_coverage(str(gpu)),
                },
            )
            choices = int(group["choices"].sum())
            by_fit[fit] = {
                "top1_percent": 100.0 * int(group["right"].sum()) / choices if choices else None,
                "top1_strictly_percent": 100.0 * int(group["right_strictly"].sum()) / choices if choices else None,
                "choices": choices,
                "spearman_median": group["spearman"].drop_nans().median(),
                "spearman_least": group["spearman"].drop_nans().min(),
            }
        for row in self.table().iter_rows(named=True):
            statistics = {
                name: row[name] for name in ("rows", "mape_percent", "median_percent", "p90_percent", "bias_percent")
            }
            by_gpu["by_gpu"][row["gpu"]][row["fit"]][row["quantity"]] = statistics
        return by_gpu

    def bundled_coverage(self, gpu: str) -> float:
        """Return the share of left-out runs in the interval that the bundled profile gives, in percent."""
        runs = self.runs.filter(pl.col("gpu") == gpu)
        low, high = (runs[f"energy_per_output_token_{end}_j_left_out"].to_numpy() for end in ("lo", "hi"))
        return coverage(low, high, runs["energy_per_output_token_j"].to_numpy())

    def _groups(self, cut: str | None) -> Iterator[tuple[dict[str, Any], pl.DataFrame]]:
        by = ["gpu"] if cut is None else ["gpu", cut]
        for values, group in self.runs.sort(by, descending=[True, *[False] * (len(by) - 1)]).group_by(
            by, maintain_order=True
        ):
            yield dict(zip(by, values, strict=True)), group


def validate(data: Path | None = None, gpus: Sequence[str] | None = None) -> Validation:
    """Return the account of bundled profiles against measured serving runs.

    `data` is the folder of measured data (`ENERGYLENS_DATA` if not given). Raises `EnergylensError` where the data is
    missing or faulty, or holds no run of a GPU asked for.
    """
    measured = serving_runs(data_dir(data))
    known = measured["gpu"].drop_nulls().unique().sort(descending=True).to_list()
    if unknown := [gpu for gpu in gpus or [] if gpu not in known]:
        hint = f"there are runs of {', '.join(known)}"
        raise EnergylensError(Problem(f"no serving runs of `{unknown[0]}`", hint=hint, code="no-data"))
    parts, covered = [], {}
    for name in gpus or known:
        rows = serving_rows(measured, name)
        gpu = load_gpu(name)
        account = Account.of(rows, gpu)
        parts.append(
            rows.hstack(_suffixed(predict(rows, gpu), "in_sample")).hstack(_suffixed(account.left_out, "left_out"))
        )
        covered[name] = account.coverage
    runs = pl.concat(parts).with_columns(
        pl.when(pl.col("model").str.contains("-a[0-9]+b|gpt-oss"))
        .then(pl.lit("routed"))
        .otherwise(pl.lit("dense"))
        .alias("kind"),
        pl.col("weight_dtype").fill_null("own").alias("format"),
        _band().alias("batch_band"),
    )
    return Validation(runs, _excluded(measured, gpus or known), covered)


def _band() -> pl.Expr:
    return pl.coalesce(pl.when(pl.col("batch") <= most + 0.5).then(pl.lit(name)) for most, name in BANDS)


def _suffixed(predicted: pl.DataFrame, fit: str) -> pl.DataFrame:
    interval = ("energy_per_output_token_lo_j", "energy_per_output_token_hi_j", "extrapolated")
    return predicted.select(pl.col(name).alias(f"{name}_{fit}") for name in (*QUANTITIES, *interval))


def _excluded(measured: pl.DataFrame, gpus: Sequence[str]) -> pl.DataFrame:
    why = (
        pl.when(pl.col("suspect")).then(pl.lit(HOST_BOUND))
        .when(pl.col("model").is_null()).then(pl.lit("no spec of this model"))
    )  # fmt: skip
    excluded_rows = measured.filter(pl.col("gpu").is_in(list(gpus))).with_columns(why.alias("reason"))
    return excluded_rows.filter(pl.col("reason").is_not_null()).select(
        "run_id", "gpu", "model", "task", "batch", "reason"
    )


def plots(account: Validation, folder: Path) -> list[Path]:
    """Write predicted against measured and error against batch as PNGs; raise `EnergylensError` without altair."""
    try:
        import altair as alt
        import vl_convert  # noqa: F401
    except ImportError:
        raise EnergylensError(needs_extra("plots need altair and vl-convert-python", "report")) from None
    folder.mkdir(parents=True, exist_ok=True)
    shown = account.runs.select(
        "gpu",
        "model",
        "batch",
        pl.col("energy_per_output_token_j").alias("measured"),
        pl.col("energy_per_output_token_j_left_out").alias("predicted"),
    ).with_columns((100 * (pl.col("predicted") / pl.col("measured") - 1)).alias("error"))
    ends = [float(shown.select(pl.min_horizontal(pl.col("measured", "predicted").min())).item()),
            float(shown.select(pl.max_horizontal(pl.col("measured", "predicted").max())).item())]  # fmt: skip
    model = alt.Color("model:N", title=None, scale=alt.Scale(scheme="tableau10"))
    points = (
        alt.Chart(shown)
        .mark_point(filled=True, size=45, opacity=0.8)
        .encode(color=model, shape=alt.Shape("gpu:N", title=None))
    )
    log = alt.Scale(type="log", domain=[0.8 * ends[0], 1.2 * ends[1]], nice=False)
    line = (
        alt.Chart(pl.DataFrame({"x": ends, "y": ends}))
        .mark_line(color="#888", strokeDash=[4, 3])
        .encode(x="x:Q", y="y:Q")
    )
    against = line + points.encode(
        x=alt.X("measured:Q", scale=log, title="measured, J per output token"),
        y=alt.Y("predicted:Q", scale=log, title="predicted with its model left out, J per output token"),
    )
    zero = alt.Chart(pl.DataFrame({"y": [0.0]})).mark_rule(color="#888", strokeDash=[4, 3]).encode(y="y:Q")
    by_batch = zero + points.encode(
        x=alt.X("batch:Q", scale=alt.Scale(type="log", nice=False), title="running requests"),
        y=alt.Y("error:Q", title="error of J per output token, %"),
    )
    written = []
    for name, chart in (("predicted-against-measured", against), ("error-against-batch", by_batch)):
        target = folder / f"{name}.png"
        sized = chart.properties(width=460, height=360).configure_axis(labelFontSize=11, titleFontSize=12)
        sized.save(str(target), scale_factor=2)
        written.append(target)
    return written
