"""Estimates with intervals: means, paired differences and differences of groups, resampled by picture.

Several questions are asked about one picture, so their answers are not independent: every interval here
resamples whole pictures (clusters), never single rows. Nothing here knows what a metric means; that is
ops/comparison.py. Nothing draws or formats.
"""

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np

LEVEL = 0.95
DRAWS = 2000
_CELLS = 2_000_000
Kind = Literal["rate", "difference", "free"]


def draw_order(seed: int, name: str) -> str:
    """Sort by this to draw in an order that the seed and the names alone decide."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


@dataclass(frozen=True)
class Estimate:
    """A mean (or a difference of means), its interval and what it rests on.

    ci_low and ci_high are None where no interval can be had: a free-valued mean over a single picture.
    """

    value: float
    ci_low: float | None
    ci_high: float | None
    n: int
    n_clusters: int

    def excludes(self, value: float) -> bool:
        """Whether the interval exists and does not hold `value`."""
        return (
            self.ci_low is not None and self.ci_high is not None and not self.ci_low <= value <= self.ci_high
        )


def wilson(rate: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson score interval of a rate in [0, 1] seen on n > 0 independent trials."""
    if n < 1 or not 0.0 <= rate <= 1.0:
        raise ValueError(f"wilson: saw rate={rate}, n={n}; wanted 0 <= rate <= 1 and n >= 1")
    z2 = NormalDist().inv_cdf(0.5 + level / 2) ** 2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (rate * (1 - rate) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_by_cluster(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    kind: Kind = "free",
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Estimate | None:
    """Mean of `values` with a percentile bootstrap interval over clusters (same length as values).

    None for no values. Where the bootstrap has nothing to resample (one cluster, or all values equal) a
    percentile interval has no width and would claim certainty; then a "rate" (values in [0, 1]) takes the
    Wilson interval on the number of clusters, a "difference" (values in [-1, 1]) takes value +- the Wilson
    bound of never having seen another value, and a "free" value has an interval only from two clusters on.
    Neither the order of the rows nor that of the clusters matters.
    """
    sums, counts = _per_cluster(values, clusters)
    n, n_clusters = int(counts.sum()), len(counts)
    if n == 0:
        return None
    value = float(sums.sum() / n)
    low: float | None
    high: float | None
    flat = float(np.ptp(np.asarray(values, dtype=np.float64))) == 0.0
    if kind == "rate" and (flat or n_clusters == 1):
        low, high = wilson(min(max(value, 0.0), 1.0), n_clusters, level)
    elif kind == "difference" and (flat or n_clusters == 1):
        unseen = wilson(0.0, n_clusters, level)[1]
        low, high = max(-1.0, value - unseen), min(1.0, value + unseen)
    elif n_clusters == 1:
        low = high = None
    else:
        low, high = _percentiles(_resampled(sums, counts, seed, draws), level)
    return Estimate(value, low, high, n, n_clusters)


def paired_difference(
    values: Mapping[Hashable, float],
    reference: Mapping[Hashable, float],
    cluster_of: Mapping[Hashable, Hashable],
    *,
    seed: int = 0,
    kind: Kind = "free",
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Estimate | None:
    """Mean of values - reference over the keys that both have; None when they share none."""
    shared = [key for key in values if key in reference]
    differences = [values[key] - reference[key] for key in shared]
    clusters = [cluster_of[key] for key in shared]
    return mean_by_cluster(differences, clusters, seed=seed, kind=kind, draws=draws, level=level)


def group_difference(
    first: tuple[Sequence[float], Sequence[Hashable]],
    second: tuple[Sequence[float], Sequence[Hashable]],
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Estimate | None:
    """mean(first) - mean(second) for two groups of rows, each given as (values, clusters).

    A picture may have rows in both groups: pictures of the union are resampled, so the dependence stays in.
    n is the number of rows of both groups. Draws that leave a group empty are left out.
    None when a group is empty.
    """
    if not len(first[0]) or not len(second[0]):
        return None
    names = sorted({*first[1], *second[1]}, key=str)
    sums_a, counts_a = _per_cluster(*first, names=names)
    sums_b, counts_b = _per_cluster(*second, names=names)
    value = float(sums_a.sum() / counts_a.sum() - sums_b.sum() / counts_b.sum())
    low: float | None = None
    high: float | None = None
    if len(names) > 1:
        drawn = _resampled(sums_a, counts_a, seed, draws) - _resampled(sums_b, counts_b, seed, draws)
        if np.isfinite(drawn).any():
            low, high = _percentiles(drawn, level)
    return Estimate(value, low, high, int(counts_a.sum() + counts_b.sum()), len(names))


def _per_cluster(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable],
    names: Sequence[Hashable] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of values of each cluster, clusters in sorted order (or in that of names)."""
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) != len(clusters):
        raise ValueError(
            f"values of shape {numbers.shape} with {len(clusters)} clusters; wanted one cluster per value"
        )
    if not np.isfinite(numbers).all():
        raise ValueError("values hold NaN or infinity; leave unscorable rows out and count them apart")
    order = sorted(set(clusters), key=str) if names is None else names
    index = {name: i for i, name in enumerate(order)}
    places = np.array([index[c] for c in clusters], dtype=np.int64)
    sums = np.bincount(places, weights=numbers, minlength=len(index))
    return sums, np.bincount(places, minlength=len(index)).astype(np.float64)


@lru_cache(maxsize=8)
def _times_drawn(n_clusters: int, seed: int, start: int, draws: int) -> np.ndarray:
    """How often each cluster is drawn, float32 [draws, n_clusters]; kept, because many metrics share it."""
    drawn = np.random.default_rng([seed, n_clusters, start]).integers(0, n_clusters, (draws, n_clusters))
    drawn += np.arange(draws)[:, None] * n_clusters
    counts = np.bincount(drawn.ravel(), minlength=draws * n_clusters)
    return counts.reshape(draws, n_clusters).astype(np.float32)


def _resampled(sums: np.ndarray, counts: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """Bootstrap means [draws]; NaN where a draw holds no row. At most _CELLS numbers are drawn at once."""
    n_clusters = len(counts)
    both = np.stack([sums, counts], axis=1)
    at_once = max(1, _CELLS // n_clusters)
    totals = np.concatenate(
        [
            _times_drawn(n_clusters, seed, start, min(at_once, draws - start)) @ both
            for start in range(0, draws, at_once)
        ]
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return totals[:, 0] / totals[:, 1]


def _percentiles(drawn: np.ndarray, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2 * 100
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])
    return float(low), float(high)
