"""Intervals and comparisons of experiments, from one set of bootstrap draws of their rows.

Equal ids give equal draws, so that experiments of one split are compared on the same resamples.
Where the cache tells which utterances belong to one dialogue or video, these are drawn together;
where each speaker was a fold, all that one speaker said.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics import (
    PairedDifference,
    classification_statistics,
    draw_counts,
    interval,
    paired_difference,
    regression_statistics,
    score_resamples,
)
from pipeline.metrics.bootstrap import RESAMPLES
from pipeline.report.experiments import Experiment, prediction_classes, prediction_scores
from pipeline.report.load import Task
from pipeline.report.protocols import Metric, family

Interval = tuple[float, float]


@dataclass(frozen=True)
class Resampled:
    """An experiment's scores on every resample: `[seeds, resamples]` by metric."""

    ids: tuple[str, ...]
    truth: NDArray[Any]
    scores: Mapping[str, NDArray[np.float64]]


class Resampler:
    """Scores the experiments of one dataset on shared draws, each once."""

    def __init__(
        self, groups: Mapping[str, str] | None = None, unit: str = "dialogues or videos"
    ) -> None:
        """Take the group of each utterance id, and what a group is.

        None, or ids that it lacks, draws utterances alone.
        """
        self._groups = groups
        self._unit = unit
        self._done: dict[tuple[str, Task, str], Resampled | None] = {}
        self._drawn: tuple[tuple[str, ...], NDArray[np.float32]] | None = None

    def interval(
        self, experiment: Experiment, task: Task, key: str, *, language: str = ""
    ) -> Interval | None:
        """Return the 95 % interval of an experiment's mean over seeds, of one language perhaps."""
        found = self._of(experiment, task, language)
        if found is None or key not in found.scores:
            return None
        return interval(found.scores[key].mean(axis=0))

    def seed_interval(
        self, experiment: Experiment, place: int, task: Task, key: str
    ) -> Interval | None:
        """Return the 95 % interval of the score of one of an experiment's seeds."""
        found = self._of(experiment, task)
        return None if found is None else interval(found.scores[key][place])

    def compare(
        self, first: Experiment, second: Experiment, task: Task, metric: Metric
    ) -> PairedDifference | None:
        """Return first minus second, None unless both answered the same rows."""
        one, two = self._of(first, task), self._of(second, task)
        means = first.mean(metric.key), second.mean(metric.key)
        if one is None or two is None or means[0] is None or means[1] is None:
            return None
        if one.ids != two.ids or not np.array_equal(one.truth, two.truth):
            return None
        scores = one.scores[metric.key], two.scores[metric.key]
        return paired_difference(means[0] - means[1], *scores)

    @property
    def method(self) -> str:
        """Say how intervals and p-values were made."""
        unit = "utterances" if self._groups is None else f"whole {self._unit}"
        return (
            f"Intervals are of 95 %: percentile bootstrap over {unit}, {RESAMPLES:,} resamples, "
            "of the mean over seeds."
        )

    def _of(self, experiment: Experiment, task: Task, language: str = "") -> Resampled | None:
        key = experiment.name, task, language
        if key not in self._done:
            self._done[key] = self._resample(experiment, task, language)
        return self._done[key]

    def _resample(self, experiment: Experiment, task: Task, language: str) -> Resampled | None:
        read = prediction_classes if task == "classification" else prediction_scores
        pairs = [read(run) for run in experiment.runs]
        tables = [run.of_task(task) for run in experiment.runs]
        every = {tuple(map(str, table["id"])) for table in tables if table is not None}
        known = [pair for pair in pairs if pair is not None]
        if len(every) != 1 or len(known) != len(pairs):
            return None
        ids, truth = every.pop(), known[0][0]
        if not all(np.array_equal(truth, other) for other, _ in known):
            return None
        statistics = (
            classification_statistics(len(experiment.result.labels))
            if task == "classification"
            else regression_statistics(family(experiment.result.protocol))
        )
        counts = self._counts(ids)
        chosen = np.ones(len(ids), dtype=bool)
        if language and tables[0] is not None:
            chosen = (tables[0]["language"] == language).to_numpy(dtype=bool)
        if not chosen.any():
            return None
        scored = [
            score_resamples(statistics, truth[chosen], one[chosen], counts[:, chosen])
            for _, one in known
        ]
        return Resampled(ids, truth, {k: np.stack([each[k] for each in scored]) for k in scored[0]})

    def _counts(self, ids: tuple[str, ...]) -> NDArray[np.float32]:
        """Return the draws of these rows; the last are kept, as most experiments share them."""
        if self._drawn is None or self._drawn[0] != ids:
            groups = None
            if self._groups is not None:
                groups = [self._groups.get(each, each) for each in ids]
            self._drawn = ids, draw_counts(len(ids), groups)
        return self._drawn[1]
