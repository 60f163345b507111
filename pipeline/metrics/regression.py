"""Metrics of sentiment regression by the two protocols of the field.

`mosi` (CMU-MOSI and CMU-MOSEI, scores in [-3, 3]): accuracies on rounded scores, mean absolute
error and correlation on the scores as they are, two conventions for the binary figures. `sims`
(CH-SIMS and its second version, scores in [-1, 1]): everything on clipped scores, classes by
right-closed bins. Both as the code of MMSA and MSE-Adapter computes them.

An unreadable prediction (NaN) is wrong in every accuracy and F1 and stays out of the error, the
correlation and R squared, where no value could stand for it.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

RegressionProtocol = Literal["mosi", "sims"]

Values = NDArray[np.float64]
Classes = NDArray[np.int64]

_NO_CLASS = -1

# The outer edges lie a little outside [-1, 1], so that -1 itself falls into the first bin.
SIMS_EDGES_2 = (-1.01, 0.0, 1.01)
SIMS_EDGES_3 = (-1.01, -0.1, 0.1, 1.01)
SIMS_EDGES_5 = (-1.01, -0.7, -0.1, 0.1, 0.7, 1.01)
SIMS_WEAK = 0.4


def regression_metrics(
    truth: NDArray[np.floating[Any]],
    prediction: NDArray[np.floating[Any]],
    protocol: RegressionProtocol,
) -> dict[str, Any]:
    """Score predicted intensities by one of the two protocols.

    Args:
        truth: True scores, `[rows]`, finite.
        prediction: Predicted scores, `[rows]`; NaN marks an answer that could not be read.
        protocol: `mosi` or `sims`.

    Returns:
        `n_regression`, `mae`, `corr`, `exact_zeros`, `unreadable_regression`, and for `mosi`
        `acc2_has0`, `f1_has0`, `acc2_non0`, `f1_non0`, `acc5`, `acc7`, for `sims` `acc2`, `f1`,
        `acc2_weak`, `acc3`, `acc5`, `r2`.

    Raises:
        ValueError: On no rows, shapes that differ, an infinite value or a truth that is NaN.
    """
    true: Values = np.asarray(truth, dtype=np.float64)
    predicted: Values = np.asarray(prediction, dtype=np.float64)
    if true.ndim != 1 or true.shape != predicted.shape or not true.size:
        raise ValueError(f"true scores {true.shape} against predictions {predicted.shape}")
    if not np.isfinite(true).all() or np.isinf(predicted).any():
        raise ValueError("scores must be finite; NaN is allowed as an unreadable prediction only")
    if protocol == "mosi":
        scores = _mosi(true, predicted)
    elif protocol == "sims":
        scores = _sims(np.clip(true, -1.0, 1.0), np.clip(predicted, -1.0, 1.0))
    else:
        raise ValueError(f"unknown protocol {protocol!r}: mosi or sims")
    return {
        "n_regression": int(true.size),
        **scores,
        "exact_zeros": int(np.sum(predicted == 0.0)),
        "unreadable_regression": int(np.isnan(predicted).sum()),
    }


def _mosi(truth: Values, prediction: Values) -> dict[str, float | None]:
    kept = truth != 0.0
    has0 = non_negative(truth), non_negative(prediction)
    non0 = positive(truth[kept]), positive(prediction[kept])
    return {
        "mae": mean_absolute_error(truth, prediction),
        "corr": pearson(truth, prediction),
        "acc2_has0": accuracy(*has0),
        "f1_has0": binary_weighted_f1(*has0),
        "acc2_non0": accuracy(*non0),
        "f1_non0": binary_weighted_f1(*non0),
        "acc5": accuracy(rounded(truth, 2), rounded(prediction, 2)),
        "acc7": accuracy(rounded(truth, 3), rounded(prediction, 3)),
    }


def _sims(truth: Values, prediction: Values) -> dict[str, float | None]:
    two = binned(truth, SIMS_EDGES_2), binned(prediction, SIMS_EDGES_2)
    weak = weak_sentiment(truth)
    return {
        "mae": mean_absolute_error(truth, prediction),
        "corr": pearson(truth, prediction),
        "acc2": accuracy(*two),
        "f1": binary_weighted_f1(*two),
        "acc2_weak": accuracy(two[0][weak], two[1][weak]),
        "acc3": accuracy(binned(truth, SIMS_EDGES_3), binned(prediction, SIMS_EDGES_3)),
        "acc5": accuracy(binned(truth, SIMS_EDGES_5), binned(prediction, SIMS_EDGES_5)),
        "r2": r_squared(truth, prediction),
    }


def non_negative(scores: Values) -> Classes:
    """Return 1 for a score of at least zero, 0 below ("has0")."""
    return _classes(scores, scores >= 0.0)


def positive(scores: Values) -> Classes:
    """Return 1 above zero, else 0 ("non0"): a prediction of exactly zero counts as negative."""
    return _classes(scores, scores > 0.0)


def rounded(scores: Values, limit: int) -> Classes:
    """Clip scores to [-limit, limit] and round half to even: classes -limit .. limit from 0."""
    return _classes(scores, np.round(np.clip(np.nan_to_num(scores), -limit, limit)) + limit)


def binned(scores: Values, edges: tuple[float, ...]) -> Classes:
    """Return the right-closed bin of each score.

    The comparison is made in float32, the type of the released labels: widened to float64, a
    float32 label of 0.1 or -0.7 lies just above an edge that it equals, and changes its class.
    """
    inner = np.asarray(edges[1:-1], dtype=np.float32)
    return _classes(scores, np.searchsorted(inner, scores.astype(np.float32), side="left"))


def weak_sentiment(truth: Values) -> NDArray[np.bool_]:
    """Select the rows whose true score is at most 0.4 from zero (compared in float32)."""
    selected: NDArray[np.bool_] = np.abs(truth).astype(np.float32) <= np.float32(SIMS_WEAK)
    return selected


def accuracy(truth: Classes, prediction: Classes) -> float | None:
    """Return the share of equal classes, None without rows."""
    return float(np.mean(truth == prediction)) if truth.size else None


def binary_weighted_f1(truth: Classes, prediction: Classes) -> float | None:
    """Return F1 over classes 0 and 1, weighted by their support in the truth."""
    if not truth.size:
        return None
    total = 0.0
    for each in (0, 1):
        support = int(np.sum(truth == each))
        hits = int(np.sum((truth == each) & (prediction == each)))
        total += support * 2 * hits / max(support + int(np.sum(prediction == each)), 1)
    return total / truth.size


def mean_absolute_error(truth: Values, prediction: Values) -> float | None:
    """Return the mean absolute error over readable predictions."""
    truth, prediction = _readable(truth, prediction)
    return float(np.mean(np.abs(prediction - truth))) if truth.size else None


def pearson(truth: Values, prediction: Values) -> float | None:
    """Return Pearson's correlation, None where either side is constant."""
    truth, prediction = _readable(truth, prediction)
    if not truth.size or np.ptp(truth) == 0.0 or np.ptp(prediction) == 0.0:
        return None
    return float(np.corrcoef(truth, prediction)[0, 1])


def r_squared(truth: Values, prediction: Values) -> float | None:
    """Return 1 - residual / total sum of squares, None where the truth is constant."""
    truth, prediction = _readable(truth, prediction)
    if not truth.size or np.ptp(truth) == 0.0:
        return None
    total = np.sum((truth - truth.mean()) ** 2)
    return float(1.0 - np.sum((truth - prediction) ** 2) / total)


def _readable(truth: Values, prediction: Values) -> tuple[Values, Values]:
    kept = ~np.isnan(prediction)
    return truth[kept], prediction[kept]


def _classes(scores: Values, classes: NDArray[Any]) -> Classes:
    return np.where(np.isnan(scores), _NO_CLASS, classes).astype(np.int64)
