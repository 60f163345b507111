"""Scores by the field's protocols, trivial baselines, bootstrap intervals and calibration.

One rule is one small function, so that each quirk of a benchmark's published protocol can be read
and tested alone. Every figure is a fraction or a plain number; what is undefined (the correlation
of a constant, a score on an empty subset) is None, which JSON writes as null.
"""

from pipeline.metrics.baselines import majority_baseline, median_baseline
from pipeline.metrics.bootstrap import (
    PairedDifference,
    draw_counts,
    holm,
    interval,
    paired_difference,
)
from pipeline.metrics.calibration import Reliability, reliability
from pipeline.metrics.classification import classification_metrics
from pipeline.metrics.regression import RegressionProtocol, regression_metrics
from pipeline.metrics.statistics import (
    Statistics,
    classification_statistics,
    regression_statistics,
    score_resamples,
)

__all__ = [
    "PairedDifference",
    "RegressionProtocol",
    "Reliability",
    "Statistics",
    "classification_metrics",
    "classification_statistics",
    "draw_counts",
    "holm",
    "interval",
    "majority_baseline",
    "median_baseline",
    "paired_difference",
    "regression_metrics",
    "regression_statistics",
    "reliability",
    "score_resamples",
]
