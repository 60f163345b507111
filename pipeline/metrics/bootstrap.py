"""Percentile bootstrap over utterances: intervals, and a paired test of two systems.

A statistic reduces the last axis, so that one call scores all resamples together and the same
function gives the point estimate. Predictions may come from several seeds, `[seeds, rows]`: every
resample then draws the same utterances for all of them and the statistic is averaged over seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.classification import UNREADABLE

Statistic = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]
"""Maps truth and predictions `[..., rows]` to scores `[...]`."""

_CHUNK = 1 << 13
"""Values scored at once: the fresh memory of larger arrays costs more than the calls they save."""


@dataclass(frozen=True)
class PairedDifference:
    """Score of a first system minus that of a second one on the same utterances."""

    difference: float
    low: float
    high: float
    p_value: float


def bootstrap_interval(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    statistic: Statistic,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic.

    Args:
        truth: `[rows]`.
        prediction: `[rows]` or `[seeds, rows]`.
        statistic: See `Statistic`.
        resamples: How many times the rows are drawn with replacement.
        seed: Seed of the draws; equal seeds and lengths draw the same rows.
    """
    return interval(bootstrap_values(truth, prediction, statistic, resamples=resamples, seed=seed))


def bootstrap_values(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    statistic: Statistic,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return the statistic of every resample, `[resamples]`, averaged over seeds."""
    truth, prediction = np.asarray(truth), np.atleast_2d(prediction)
    if truth.ndim != 1 or prediction.ndim != 2 or prediction.shape[1] != len(truth):
        raise ValueError(f"truth {truth.shape} against predictions {prediction.shape}")
    drawn = _draws(len(truth), resamples, seed)
    chunks = []
    step = max(1, _CHUNK // prediction.size)
    for start in range(0, resamples, step):
        rows = drawn[start : start + step]
        scores = statistic(truth[rows], prediction[:, rows])
        chunks.append(np.broadcast_to(scores, (len(prediction), len(rows))).mean(axis=0))
    return np.concatenate(chunks)


def paired_bootstrap(
    truth: NDArray[Any],
    first: NDArray[Any],
    second: NDArray[Any],
    statistic: Statistic,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two systems on the same utterances.

    The p-value is two-sided: twice the smaller share of resamples in which the difference falls on
    either side of zero, each share with one added to numerator and denominator, so that no finite
    number of resamples claims zero.
    """
    draws = {"resamples": resamples, "seed": seed}
    return paired_difference(
        float(np.mean(statistic(truth, first)) - np.mean(statistic(truth, second))),
        bootstrap_values(truth, first, statistic, **draws),
        bootstrap_values(truth, second, statistic, **draws),
    )


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile interval of bootstrap values."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def paired_difference(
    difference: float, first: NDArray[np.float64], second: NDArray[np.float64]
) -> PairedDifference:
    """Judge a difference by the bootstrap values of both systems on the same draws."""
    values = first - second
    tail = min(int(np.sum(values <= 0.0)), int(np.sum(values >= 0.0)))
    low, high = interval(values)
    return PairedDifference(difference, low, high, min(1.0, 2.0 * (tail + 1) / (len(values) + 1)))


def accuracy(truth: NDArray[Any], prediction: NDArray[Any]) -> NDArray[np.float64]:
    """Return the share of equal class numbers."""
    return np.mean(truth == prediction, axis=-1)


def weighted_f1(n_labels: int) -> Statistic:
    """Make the statistic of F1 weighted by the truth's support, over fixed class numbers."""

    def score(truth: NDArray[Any], prediction: NDArray[Any]) -> NDArray[np.float64]:
        truth, prediction = np.broadcast_arrays(truth, prediction)
        side = n_labels + 1  # one more column holds the unreadable answers
        column = np.where(prediction == UNREADABLE, n_labels, prediction)
        cell = (truth * side + column).reshape(-1, truth.shape[-1])
        cell = cell + np.arange(len(cell))[:, None] * side**2
        counts = np.bincount(cell.ravel(), minlength=len(cell) * side**2)
        matrix = counts.reshape(*truth.shape[:-1], side, side).astype(np.float64)
        support = matrix.sum(axis=-1)[..., :n_labels]
        predicted = matrix.sum(axis=-2)[..., :n_labels]
        hits = np.diagonal(matrix, axis1=-2, axis2=-1)[..., :n_labels]
        f1 = 2.0 * hits / np.maximum(support + predicted, 1.0)
        weighted: NDArray[np.float64] = np.sum(f1 * support, axis=-1) / truth.shape[-1]
        return weighted

    return score


def mae(truth: NDArray[Any], prediction: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean absolute error over readable (not NaN) predictions."""
    return _mean(np.abs(prediction - truth))[..., 0]


def corr(truth: NDArray[Any], prediction: NDArray[Any]) -> NDArray[np.float64]:
    """Return Pearson's correlation over readable predictions, NaN where a side is constant."""
    x = np.where(np.isnan(prediction), np.nan, truth)
    x, y = (np.nan_to_num(values - _mean(values)) for values in (x, prediction))
    spread = np.einsum("...i,...i", x, x) * np.einsum("...i,...i", y, y)
    return _ratio(np.einsum("...i,...i", x, y), np.sqrt(spread))


def _mean(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean of what is not NaN, `[..., 1]`; fast where nothing is."""
    mean: NDArray[np.float64] = np.mean(values, axis=-1, keepdims=True)
    if np.isnan(mean).any():
        known = ~np.isnan(values)
        total = np.sum(values, axis=-1, keepdims=True, where=known)
        mean = _ratio(total, np.sum(known, axis=-1, keepdims=True))
    return mean


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: NDArray[np.float64] = np.divide(above, below)
    return ratio


@lru_cache(maxsize=4)
def _draws(rows: int, resamples: int, seed: int) -> NDArray[np.int64]:
    drawn = np.random.default_rng(seed).integers(0, rows, size=(resamples, rows))
    drawn.flags.writeable = False
    return drawn
