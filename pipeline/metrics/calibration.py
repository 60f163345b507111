"""How far a probability can be believed: reliability by bins and the expected calibration error.

Source: Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Occupied bins of equal width: mean probability, share of right answers, answers in each."""

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error: the gap of each bin, weighted by its answers."""
        gap = np.abs(self.accuracy - self.confidence)
        return float(np.sum(gap * self.count) / np.sum(self.count))


def reliability(
    probability: NDArray[np.float64], correct: NDArray[np.bool_], *, bins: int = BINS
) -> Reliability:
    """Bin answers by the probability of the predicted label; bins are right-closed.

    Raises:
        ValueError: On no answers, shapes that differ or a probability outside [0, 1].
    """
    if probability.shape != correct.shape or not probability.size:
        raise ValueError(f"probabilities {probability.shape} of answers {correct.shape}")
    if not ((probability >= 0.0) & (probability <= 1.0)).all():
        raise ValueError("a probability lies outside [0, 1]")
    place = np.clip(np.ceil(probability * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    kept = count > 0
    confidence, right = (
        np.bincount(place, weights=each, minlength=bins)[kept] / count[kept]
        for each in (probability, correct)
    )
    return Reliability(confidence, right, count[kept])
