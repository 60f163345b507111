"""Scores against the best that any model could reach from the same modalities.

Only a corpus whose generator is known has such a ceiling, and only for single utterances: context
tells more. A score that grows towards its ceiling is given as a share of it. An error is not: its
ratio to the best possible error says little (an error twice the best is no model half as good),
so the table gives the difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.experiments import Experiment
from pipeline.report.load import Task
from pipeline.report.protocols import ACCURACY, CORR, MAE, WEIGHTED_F1, Metric
from pipeline.report.resampling import Interval, Resampler

COMPARED: tuple[tuple[Task, Metric], ...] = (
    ("classification", WEIGHTED_F1),
    ("classification", ACCURACY),
    ("regression", MAE),
    ("regression", CORR),
)


@dataclass(frozen=True)
class AgainstCeiling:
    """One experiment's score in one metric beside the best possible one."""

    experiment: Experiment
    metric: Metric
    score: float
    interval: Interval | None
    ceiling: float

    @property
    def share(self) -> float | None:
        """Return the share of the ceiling that the score reaches, None for an error."""
        return self.score / self.ceiling if self.metric.higher_is_better else None

    @property
    def share_interval(self) -> Interval | None:
        """Return the 95 % interval of the share."""
        if self.interval is None or not self.metric.higher_is_better:
            return None
        return self.interval[0] / self.ceiling, self.interval[1] / self.ceiling


def against_ceiling(
    experiments: Sequence[Experiment], task: Task, metric: Metric, resampler: Resampler
) -> list[AgainstCeiling]:
    """Compare every experiment that has a ceiling in this metric, most modalities first."""
    found = []
    for experiment in experiments:
        result = experiment.result
        ceiling, score = (result.ceiling or {}).get(metric.key), experiment.mean(metric.key)
        if not ceiling or score is None or result.context or result.context_after:
            continue
        interval = resampler.interval(experiment, task, metric.key)
        found.append(AgainstCeiling(experiment, metric, score, interval, ceiling))
    found.sort(key=lambda row: -len(row.experiment.result.modalities))
    return found
