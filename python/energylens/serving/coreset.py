"""Few requests that stand for many: bins as published, and a weighted coreset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from energylens.serving.least_squares import nonnegative_least_squares
from energylens.serving.sums import row_sums

Column = NDArray[np.float64]

INPUT_BINS: Final = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
OUTPUT_BINS: Final = (8, 16, 32, 64, 128, 256, 512)
"""Lengths to which Fernandez et al. (arXiv 2504.17674) round requests up."""

_STRONG = 100.0
_MOST_DISTINCT = 50_000
_ROUNDS = 20


def binned(
    requests: pl.DataFrame, inputs: Sequence[int] = INPUT_BINS, outputs: Sequence[int] = OUTPUT_BINS
) -> pl.DataFrame:
    """Return bins with the number of requests in each, as published: lengths rounded up, longer ones dropped.

    Columns `prompt_tokens`, `output_tokens`, `weight`.
    """

    def up(name: str, bins: Sequence[int]) -> pl.Series:
        edges = np.array([*bins, 0], dtype=np.float64)
        return pl.Series(name, edges[np.searchsorted(edges[:-1], requests[name].to_numpy())])

    both = pl.DataFrame([up("prompt_tokens", inputs), up("output_tokens", outputs)])
    counted = both.filter((pl.col("prompt_tokens") > 0) & (pl.col("output_tokens") > 0))
    bins = counted.group_by("prompt_tokens", "output_tokens").agg(weight=pl.len().cast(pl.Float64))
    return bins.sort("prompt_tokens", "output_tokens")


def _strata(points: Column, weight: Column, number: int) -> NDArray[np.int64]:
    """Return so many points: of each quantile of the first column the middles of quantiles of the second."""
    wide = max(1, round(float(np.sqrt(2.0 * number))))
    sizes = np.diff(np.linspace(0, number, wide + 1).round().astype(int))

    def parts(order: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
        held = np.cumsum(weight[order]) - weight[order] / 2.0
        part = np.minimum((held / weight[order].sum() * count).astype(int), count - 1)
        return [order[part == index] for index in range(count) if (part == index).any()]

    chosen: list[int] = []
    for column, size in zip(parts(np.argsort(points[:, 0], kind="stable"), wide), sizes, strict=False):
        for cell in parts(column[np.argsort(points[column, 1], kind="stable")], max(1, int(size))):
            chosen.append(int(cell[len(cell) // 2]))
    return np.unique(np.array(chosen))


def moments(prompts: Column, outputs: Column) -> Column:
    """Return what joules of requests follow, by row: prompt tokens, tokens made, cache read, prompt attention."""
    parts = np.stack([np.ones_like(prompts), prompts, outputs, outputs * (prompts + outputs / 2), prompts**2])
    moments_of: Column = parts
    return moments_of


def coreset(requests: pl.DataFrame, number: int = 32) -> pl.DataFrame:
    """Return so many of the requests, with weights (adding up to 1) so that they stand for all.

    Weighted k-medoids of log lengths (the first medoids are those of quantiles of outputs within quantiles of
    prompts, so that the outcome is always the same), then weights near the sizes of the clusters that keep the means
    of `moments` (non-negative least squares). Where no more than that differ in length, all of them with their shares.
    Columns `prompt_tokens`, `output_tokens`, `weight`.
    """
    lengths = [pl.col(name).cast(pl.Float64) for name in ("prompt_tokens", "output_tokens")]
    share = pl.col("weight") if "weight" in requests.columns else pl.lit(1.0).alias("weight")
    alike = requests.select(*lengths, share).group_by("prompt_tokens", "output_tokens").agg(pl.col("weight").sum())
    if alike.height > _MOST_DISTINCT:  # lengths within 2 % of each other count as one
        near = [(pl.col(name).log() / 0.02).round() for name in ("prompt_tokens", "output_tokens")]
        means = [
            (pl.col(name) * pl.col("weight")).sum() / pl.col("weight").sum()
            for name in ("prompt_tokens", "output_tokens")
        ]
        alike = alike.group_by(near[0].alias("i"), near[1].alias("o")).agg(*means, pl.col("weight").sum())
    alike = alike.sort("prompt_tokens", "output_tokens")
    prompts, outputs, weight = (alike[name].to_numpy() for name in ("prompt_tokens", "output_tokens", "weight"))
    weight = weight / weight.sum()
    if len(prompts) <= number:  # all of them
        return alike.select("prompt_tokens", "output_tokens", pl.Series("weight", weight))
    points = np.stack([np.log(prompts), np.log(outputs)], axis=1)
    points = (points - points.mean(axis=0)) / np.maximum(points.std(axis=0), 1e-9)
    centres = points[_strata(points, weight, number)]

    def nearest_of() -> NDArray[np.int64]:
        clusters: NDArray[np.int64] = ((points[:, None, :] - centres[None, :, :]) ** 2).sum(axis=2).argmin(axis=1)
        return clusters

    for _ in range(_ROUNDS):
        nearest, fresh = nearest_of(), centres.copy()
        for cluster in range(len(centres)):
            members = nearest == cluster
            if members.any():
                mean = np.average(points[members], axis=0, weights=weight[members])
                fresh[cluster] = points[members][((points[members] - mean) ** 2).sum(axis=1).argmin()]
        if np.array_equal(fresh, centres):
            break
        centres = fresh
    nearest = nearest_of()
    chosen = np.array([int(((points - centre) ** 2).sum(axis=1).argmin()) for centre in centres])
    sizes = np.array([weight[nearest == cluster].sum() for cluster in range(len(centres))])
    wanted = row_sums(moments(prompts, outputs), weight)
    medoids = moments(prompts[chosen], outputs[chosen]) / wanted[:, None]
    left = np.concatenate([_STRONG * medoids, np.eye(len(centres))])
    right = np.concatenate([_STRONG * np.ones(len(wanted)), sizes])
    solution = nonnegative_least_squares(left, right)
    positive = solution > 0
    columns = {
        "prompt_tokens": prompts[chosen][positive],
        "output_tokens": outputs[chosen][positive],
        "weight": solution[positive] / solution.sum(),
    }
    return pl.DataFrame(columns).sort("prompt_tokens", "output_tokens")
