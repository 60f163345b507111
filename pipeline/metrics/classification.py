"""Metrics of emotion classification (MELD, CHERMA and corpora like them).

The list of labels is fixed by the dataset and never by what happens to occur: a class that a run
never predicts and that the test split lacks still counts in the macro average, so that seeds stay
comparable. Neutral is a class like any other.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNREADABLE = -1
"""Class number of an answer that names no label: wrong for every truth, right for none."""


def classification_metrics(
    truth: Sequence[str], prediction: Sequence[str | None], labels: Sequence[str]
) -> dict[str, Any]:
    """Score predicted labels.

    Args:
        truth: The true label of each utterance, `[rows]`.
        prediction: The predicted label, or None where the answer could not be read, `[rows]`.
            Such an answer is wrong and stands in no column of the confusion matrix.
        labels: All labels of the dataset in its own order.

    Returns:
        `n_classification`, `accuracy`, `weighted_f1` (weighted by the support in the truth),
        `macro_f1`, `uar` (unweighted average recall over the labels that occur in the truth),
        `per_class`, `confusion` (`[truth, prediction]`), `unreadable_classification`.

    Raises:
        ValueError: On no rows, on lengths that differ, and on a label outside `labels`.
    """
    if not truth or len(truth) != len(prediction):
        raise ValueError(f"{len(truth)} true labels against {len(prediction)} predictions")
    true_class = class_numbers(truth, labels)
    predicted_class = class_numbers(prediction, labels)
    if UNREADABLE in true_class:
        raise ValueError("a true label is None")
    counts = confusion(true_class, predicted_class, len(labels))
    hits = np.diagonal(counts)
    support = np.bincount(true_class, minlength=len(labels))
    precision, recall = share(hits, counts.sum(axis=0)), share(hits, support)
    f1 = share(2 * hits, counts.sum(axis=0) + support)
    return {
        "n_classification": len(truth),
        "accuracy": float(np.mean(true_class == predicted_class)),
        "weighted_f1": float(np.sum(f1 * support) / len(truth)),
        "macro_f1": float(np.mean(f1)),
        "uar": float(np.mean(recall[support > 0])),
        "per_class": {
            label: {
                "precision": float(precision[number]),
                "recall": float(recall[number]),
                "f1": float(f1[number]),
                "support": int(support[number]),
            }
            for number, label in enumerate(labels)
        },
        "confusion": counts.tolist(),
        "unreadable_classification": int(np.sum(predicted_class == UNREADABLE)),
    }


def share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Divide, 0 where the whole is 0 (the field's convention for F1 of what never occurs)."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole != 0)


def class_numbers(values: Sequence[str | None], labels: Sequence[str]) -> NDArray[np.int64]:
    """Return each label's place in `labels`, and `UNREADABLE` for None."""
    numbers: dict[str | None, int] = {label: number for number, label in enumerate(labels)}
    numbers[None] = UNREADABLE
    unknown = {value for value in values if value not in numbers}
    if unknown:
        raise ValueError(f"not among the labels {list(labels)}: {sorted(map(repr, unknown))}")
    return np.array([numbers[value] for value in values], dtype=np.int64)


def confusion(
    true_class: NDArray[np.int64], predicted_class: NDArray[np.int64], n_labels: int
) -> NDArray[np.int64]:
    """Count readable answers by true and predicted class, `[truth, prediction]`."""
    readable = predicted_class != UNREADABLE
    cell = true_class[readable] * n_labels + predicted_class[readable]
    return np.bincount(cell, minlength=n_labels**2).reshape(n_labels, n_labels)
