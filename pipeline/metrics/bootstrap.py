"""Percentile bootstrap: intervals of scores, and a paired test of two systems.

Rows of one group (a dialogue, a video) are drawn together, since they are not independent of each
other. A comparison draws seeds as well, for each system on its own: what another training run would
have given is part of what is uncertain.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


@dataclass(frozen=True)
class PairedDifference:
    """Score of a first system minus that of a second one on the same utterances."""

    difference: float
    low: float
    high: float
    p_value: float


def draw_counts(
    rows: int, groups: Sequence[str] | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float32]:
    """Draw rows, or whole groups of rows, with replacement.

    Args:
        rows: How many there are.
        groups: The group of each row; None draws every row alone.
        resamples: How often all are drawn.
        seed: Equal arguments give equal draws.

    Returns:
        How often each row was drawn, `[resamples, rows]`.

    Raises:
        ValueError: On no rows, or groups of another length.
    """
    if rows < 1 or (groups is not None and len(groups) != rows):
        raise ValueError(f"{rows} rows, {rows if groups is None else len(groups)} groups")
    member = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(member.max()) + 1
    drawn = np.random.default_rng(seed).integers(0, units, size=(resamples, units))
    drawn += np.arange(resamples)[:, None] * units
    counts = np.bincount(drawn.ravel(), minlength=resamples * units).reshape(resamples, units)
    return counts.astype(np.float32)[:, member]


def interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of a score's resamples `[resamples]`.

    Resamples in which the score is undefined are left out; None when it is in all of them.
    """
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def paired_difference(
    difference: float,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    seed: int = 1,
) -> PairedDifference | None:
    """Judge a difference by resamples that drew the same utterances for both systems.

    The p-value is two-sided: twice the smaller share of resamples in which the difference falls on
    either side of zero, each share with one added to numerator and denominator, so that no finite
    number of resamples claims zero.

    Args:
        difference: Of the mean scores.
        first: The first system's resampled scores, `[seeds, resamples]`.
        second: The second system's, on the same draws; it may have another number of seeds.
        seed: Of the drawn seeds.

    Returns:
        None when the difference is undefined in every resample.
    """
    draw = np.random.default_rng(seed)
    values = _draw_seeds(first, draw) - _draw_seeds(second, draw)
    bounds = interval(values)
    if bounds is None:
        return None
    known = values[~np.isnan(values)]
    tail = min(int(np.sum(known <= 0.0)), int(np.sum(known >= 0.0)))
    return PairedDifference(difference, *bounds, min(1.0, 2.0 * (tail + 1) / (len(known) + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of one family of tests, so that the family errs as rarely as one test.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for place, index in enumerate(order):
        largest = max(largest, (len(order) - place) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def _draw_seeds(scores: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """Average over seeds drawn with replacement, anew for every resample."""
    seeds, resamples = scores.shape
    drawn = draw.integers(0, seeds, size=(seeds, resamples))
    mean: NDArray[np.float64] = np.take_along_axis(scores, drawn, axis=0).mean(axis=0)
    return mean
