"""Scores of predictors that never look at their input.

They are fitted on the training split, as a model is. A run that only equals them has collapsed.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.classification import classification_metrics
from pipeline.metrics.regression import RegressionProtocol, regression_metrics


def majority_baseline(
    train_truth: Sequence[str], truth: Sequence[str], labels: Sequence[str]
) -> dict[str, Any]:
    """Score the training split's most frequent label (the first in `labels` on a tie)."""
    counts = Counter(train_truth)
    majority = max(labels, key=lambda label: counts[label])
    return classification_metrics(truth, [majority] * len(truth), labels)


def median_baseline(
    train_truth: NDArray[np.floating[Any]],
    truth: NDArray[np.floating[Any]],
    protocol: RegressionProtocol,
) -> dict[str, Any]:
    """Score the training split's median, the constant with the least absolute error there."""
    constant = float(np.median(np.asarray(train_truth, dtype=np.float64)))
    return regression_metrics(truth, np.full(len(truth), constant), protocol)
