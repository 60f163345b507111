"""Scores by the field's protocols, trivial baselines and bootstrap intervals.

One rule is one small function, so that each quirk of a benchmark's published protocol can be read
and tested alone. Every figure is a fraction or a plain number; what is undefined (the correlation
of a constant, a score on an empty subset) is None, which JSON writes as null.
"""

from pipeline.metrics.baselines import majority_baseline, median_baseline
from pipeline.metrics.bootstrap import (
    PairedDifference,
    Statistic,
    bootstrap_interval,
    bootstrap_values,
    paired_bootstrap,
)
from pipeline.metrics.classification import classification_metrics
from pipeline.metrics.regression import RegressionProtocol, regression_metrics

__all__ = [
    "PairedDifference",
    "RegressionProtocol",
    "Statistic",
    "bootstrap_interval",
    "bootstrap_values",
    "classification_metrics",
    "majority_baseline",
    "median_baseline",
    "paired_bootstrap",
    "regression_metrics",
]
