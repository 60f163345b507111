"""Scores against the best that any model could reach from the same modalities.

Only a corpus whose generator is known has such a ceiling. The interval is that of the mean over
seeds, from a bootstrap over test utterances; the same draws compare an experiment with the lead
experiment, the one on the most modalities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics import (
    PairedDifference,
    Statistic,
    bootstrap,
    bootstrap_values,
)
from pipeline.report.experiments import (
    Experiment,
    lead_experiment,
    prediction_classes,
    prediction_scores,
)
from pipeline.report.load import Task
from pipeline.report.protocols import ACCURACY, CORR, MAE, WEIGHTED_F1, Metric

COMPARED: tuple[tuple[Task, Metric], ...] = (
    ("classification", ACCURACY),
    ("classification", WEIGHTED_F1),
    ("regression", CORR),
    ("regression", MAE),
)


@dataclass(frozen=True)
class AgainstCeiling:
    """One experiment's score in one metric; the shares are those of the ceiling reached."""

    experiment: Experiment
    metric: Metric
    score: float
    interval: tuple[float, float] | None
    ceiling: float
    lead: Experiment
    difference: PairedDifference | None

    @property
    def share(self) -> float:
        """Return the share of the ceiling that the score reaches."""
        return self._share(self.score)

    @property
    def share_interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval of the share."""
        if self.interval is None:
            return None
        low, high = sorted(self._share(bound) for bound in self.interval)
        return low, high

    def _share(self, score: float) -> float:
        if self.metric.higher_is_better:
            return score / self.ceiling if self.ceiling else float("nan")
        return self.ceiling / score if score else float("nan")


def against_ceiling(
    experiments: Sequence[Experiment], task: Task, metric: Metric
) -> list[AgainstCeiling]:
    """Compare every experiment that has a ceiling in this metric, most modalities first."""
    candidates = [each for each in experiments if (each.result.ceiling or {}).get(metric.key)]
    if not candidates:
        return []
    lead = lead_experiment(candidates)
    statistic = _statistic(metric, len(lead.result.labels))
    lead_rows = _predictions(lead, task)
    lead_values = _values(lead_rows, statistic)
    found = []
    for experiment in candidates:
        score = experiment.mean(metric.key)
        if score is None:
            continue
        rows = lead_rows if experiment is lead else _predictions(experiment, task)
        values = lead_values if experiment is lead else _values(rows, statistic)
        difference = None
        if experiment is not lead and _comparable(rows, lead_rows):
            lead_score = lead.mean(metric.key)
            if lead_score is not None and values is not None and lead_values is not None:
                difference = bootstrap.paired_difference(score - lead_score, values, lead_values)
        found.append(
            AgainstCeiling(
                experiment,
                metric,
                score,
                bootstrap.interval(values) if values is not None else None,
                (experiment.result.ceiling or {})[metric.key],
                lead,
                difference,
            )
        )
    found.sort(key=lambda row: (-len(row.experiment.result.modalities), row.experiment.name))
    return found


@dataclass(frozen=True)
class _Predictions:
    ids: tuple[str, ...]
    truth: NDArray[Any]
    prediction: NDArray[Any]


def _predictions(experiment: Experiment, task: Task) -> _Predictions | None:
    """Stack the predictions of all seeds, `[seeds, rows]`; None unless they share their rows."""
    read = prediction_classes if task == "classification" else prediction_scores
    pairs = [read(run) for run in experiment.runs]
    tables = [run.of_task(task) for run in experiment.runs]
    ids = {tuple(table["id"]) for table in tables if table is not None}
    if len(ids) != 1:
        return None
    found = [pair for pair in pairs if pair is not None]
    if len(found) != len(pairs) or not all(np.array_equal(found[0][0], one[0]) for one in found):
        return None
    return _Predictions(ids.pop(), found[0][0], np.stack([pair[1] for pair in found]))


def _values(rows: _Predictions | None, statistic: Statistic) -> NDArray[np.float64] | None:
    return bootstrap_values(rows.truth, rows.prediction, statistic) if rows else None


def _comparable(rows: _Predictions | None, lead: _Predictions | None) -> bool:
    if rows is None or lead is None:
        return False
    return rows.ids == lead.ids and np.array_equal(rows.truth, lead.truth)


def _statistic(metric: Metric, n_labels: int) -> Statistic:
    if metric == WEIGHTED_F1:
        return bootstrap.weighted_f1(n_labels)
    return {ACCURACY: bootstrap.accuracy, CORR: bootstrap.corr, MAE: bootstrap.mae}[metric]
