"""Every metric as a function of sums over rows, so that thousands of resamples are scored at once.

A bootstrap resample draws each row some number of times. All metrics of the protocols depend on
their rows through a few sums alone (hits, cells of a confusion matrix, products of centred
scores), so that one matrix product of the drawn counts with those terms scores every resample in
every metric. The plain definitions are in `classification` and `regression`; the classes and bins
are theirs, and the tests hold both to the same figures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.regression import (
    SIMS_EDGES_2,
    SIMS_EDGES_3,
    SIMS_EDGES_5,
    Classes,
    RegressionProtocol,
    Values,
    binned,
    non_negative,
    positive,
    rounded,
    weak_sentiment,
)

Sums = Mapping[str, NDArray[np.float64]]
"""Sums by name, `[resamples, terms]` each."""

Score = Callable[[Sums], NDArray[np.float64]]

_CONSTANT = 1e-9
"""A variance below this is rounding: the values are constant."""


@dataclass(frozen=True)
class Statistics:
    """The metrics of one task: the terms that each row adds, and the scores of their sums.

    `terms` maps truth and prediction `[rows]` to named arrays `[rows, terms]`; class numbers for a
    classification, scores for a regression; unreadable is -1 or NaN.
    """

    terms: Callable[[NDArray[Any], NDArray[Any]], dict[str, NDArray[Any]]]
    scores: Mapping[str, Score]


def score_resamples(
    statistics: Statistics,
    truth: NDArray[Any],
    prediction: NDArray[Any],
    counts: NDArray[np.float32],
) -> dict[str, NDArray[np.float64]]:
    """Score every resample in every metric.

    Args:
        statistics: Of the task.
        truth: `[rows]`.
        prediction: `[rows]`.
        counts: How often each resample draws each row, `[resamples, rows]`.

    Returns:
        `[resamples]` by metric, NaN where it is undefined.
    """
    terms = statistics.terms(truth, prediction)
    # One product for all terms; float32 holds every count exactly and any sum to six digits.
    together = np.concatenate(list(terms.values()), axis=1).astype(np.float32)
    summed = (counts @ together).astype(np.float64)
    edges = np.cumsum([0, *(each.shape[1] for each in terms.values())])
    sums = {name: summed[:, edges[i] : edges[i + 1]] for i, name in enumerate(terms)}
    with np.errstate(invalid="ignore", divide="ignore"):
        return {key: score(sums) for key, score in statistics.scores.items()}


def classification_statistics(n_labels: int) -> Statistics:
    """Return accuracy, weighted and macro F1, unweighted average recall and each class's F1."""

    def terms(truth: NDArray[Any], prediction: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {"cells": _cells(truth, prediction, n_labels)}

    return Statistics(
        terms,
        {
            "accuracy": lambda sums: _accuracy(sums["cells"], n_labels),
            "weighted_f1": lambda sums: _weighted_f1(sums["cells"], n_labels),
            "macro_f1": lambda sums: np.mean(_f1(sums["cells"], n_labels), axis=-1),
            "uar": lambda sums: _uar(sums["cells"], n_labels),
            **{class_f1(number): _class_f1(number, n_labels) for number in range(n_labels)},
        },
    )


def class_f1(number: int) -> str:
    """Return under which key the F1 of one class stands among the resampled scores."""
    return f"f1_of_class_{number}"


def regression_statistics(protocol: RegressionProtocol) -> Statistics:
    """Return the metrics of one of the two regression protocols."""
    if protocol == "mosi":
        return Statistics(_mosi_terms, _MOSI)
    return Statistics(_sims_terms, _SIMS)


def _mosi_terms(truth: Values, prediction: Values) -> dict[str, NDArray[Any]]:
    kept = np.where(truth != 0.0, 1.0, 0.0)[:, None]
    return {
        **_errors(truth, prediction),
        "has0": _cells(non_negative(truth), non_negative(prediction), 2),
        "non0": kept * _cells(positive(truth), positive(prediction), 2),
        "acc5": _hits(rounded(truth, 2), rounded(prediction, 2)),
        "acc7": _hits(rounded(truth, 3), rounded(prediction, 3)),
    }


def _sims_terms(truth: Values, prediction: Values) -> dict[str, NDArray[Any]]:
    truth, prediction = np.clip(truth, -1.0, 1.0), np.clip(prediction, -1.0, 1.0)
    two = _cells(binned(truth, SIMS_EDGES_2), binned(prediction, SIMS_EDGES_2), 2)
    return {
        **_errors(truth, prediction),
        "two": two,
        "weak": weak_sentiment(truth)[:, None] * two,
        "acc3": _hits(binned(truth, SIMS_EDGES_3), binned(prediction, SIMS_EDGES_3)),
        "acc5": _hits(binned(truth, SIMS_EDGES_5), binned(prediction, SIMS_EDGES_5)),
    }


def _errors(truth: Values, prediction: Values) -> dict[str, NDArray[Any]]:
    """Return what error, correlation and R squared need of the readable rows, centred."""
    readable = ~np.isnan(prediction)
    if not readable.any():
        return {"errors": np.zeros((len(truth), 8))}
    residual = np.where(readable, prediction - truth, 0.0)
    x = np.where(readable, truth - truth[readable].mean(), 0.0)
    y = np.where(readable, prediction - prediction[readable].mean(), 0.0)
    terms = [readable, np.abs(residual), residual**2, x, y, x * x, y * y, x * y]
    return {"errors": np.stack(terms, axis=1)}


def _mae(sums: Sums) -> NDArray[np.float64]:
    n, absolute = sums["errors"][:, 0], sums["errors"][:, 1]
    return absolute / n


def _corr(sums: Sums) -> NDArray[np.float64]:
    n, _, _, x, y, xx, yy, xy = sums["errors"].T
    spread_x, spread_y = xx - x * x / n, yy - y * y / n
    constant = (spread_x <= _CONSTANT * n) | (spread_y <= _CONSTANT * n)
    return np.where(constant, np.nan, (xy - x * y / n) / np.sqrt(spread_x * spread_y))


def _r2(sums: Sums) -> NDArray[np.float64]:
    n, _, squared, x, _, xx, _, _ = sums["errors"].T
    total = xx - x * x / n
    return np.where(total <= _CONSTANT * n, np.nan, 1.0 - squared / total)


def _hits(truth: Classes, prediction: Classes) -> NDArray[Any]:
    return np.stack([truth == prediction, np.ones(len(truth), dtype=bool)], axis=1)


def _hit_rate(name: str) -> Score:
    return lambda sums: sums[name][:, 0] / sums[name][:, 1]


def _cells(truth: Classes, prediction: Classes, n: int) -> NDArray[np.float32]:
    """Return the cell of each row, one-hot; the last column of the matrix holds the unreadable."""
    column = np.where(prediction < 0, n, prediction)
    cells = np.zeros((len(truth), n * (n + 1)), dtype=np.float32)
    cells[np.arange(len(truth)), truth * (n + 1) + column] = 1.0
    return cells


def _matrix(cells: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    return cells.reshape(len(cells), n, n + 1)


def _accuracy(cells: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    hits: NDArray[np.float64] = np.trace(_matrix(cells, n), axis1=1, axis2=2)
    return hits / cells.sum(axis=1)


def _f1(cells: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    matrix = _matrix(cells, n)
    hits = np.diagonal(matrix, axis1=1, axis2=2)
    both = matrix.sum(axis=2) + matrix.sum(axis=1)[:, :n]
    f1: NDArray[np.float64] = 2.0 * hits / np.maximum(both, 1.0)
    return f1


def _class_f1(number: int, n: int) -> Score:
    return lambda sums: _f1(sums["cells"], n)[:, number]


def _weighted_f1(cells: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    weighted: NDArray[np.float64] = np.sum(_f1(cells, n) * _matrix(cells, n).sum(axis=2), axis=1)
    return weighted / cells.sum(axis=1)


def _uar(cells: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    matrix = _matrix(cells, n)
    support = matrix.sum(axis=2)
    recall = np.diagonal(matrix, axis1=1, axis2=2) / np.maximum(support, 1.0)
    mean: NDArray[np.float64] = recall.sum(axis=1) / np.sum(support > 0, axis=1)
    return mean


_MOSI: dict[str, Score] = {
    "mae": _mae,
    "corr": _corr,
    "acc2_has0": lambda sums: _accuracy(sums["has0"], 2),
    "f1_has0": lambda sums: _weighted_f1(sums["has0"], 2),
    "acc2_non0": lambda sums: _accuracy(sums["non0"], 2),
    "f1_non0": lambda sums: _weighted_f1(sums["non0"], 2),
    "acc5": _hit_rate("acc5"),
    "acc7": _hit_rate("acc7"),
}
_SIMS: dict[str, Score] = {
    "mae": _mae,
    "corr": _corr,
    "acc2": lambda sums: _accuracy(sums["two"], 2),
    "f1": lambda sums: _weighted_f1(sums["two"], 2),
    "acc2_weak": lambda sums: _accuracy(sums["weak"], 2),
    "acc3": _hit_rate("acc3"),
    "acc5": _hit_rate("acc5"),
    "r2": _r2,
}
