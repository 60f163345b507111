"""Experiments in which every speaker, group or language was the test split once.

They are another protocol than the release's splits: more training data, other test rows. So they
are set apart, never ranked among the others, and given twice: pooled (all answers scored together)
and as a mean over folds, since papers print either.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pipeline.report.corpus import Corpus
from pipeline.report.experiments import Experiment
from pipeline.report.figures import Drawing
from pipeline.report.load import Task
from pipeline.report.plots import draw_folds
from pipeline.report.protocols import Metric, metrics_of
from pipeline.report.resampling import Resampler
from pipeline.report.tables import Cell, Column, Row, Table, text_cell

_NAME = Column("experiment", "Experiment", numeric=False)


def by_folds(experiments: Iterable[Experiment]) -> Mapping[str, list[Experiment]]:
    """Split experiments by the column that made their folds; the release's splits come first."""
    found: dict[str, list[Experiment]] = {"": []}
    for each in experiments:
        found.setdefault(each.folds, []).append(each)
    return {column: members for column, members in found.items() if members}


def resampler_of(experiments: Sequence[Experiment], corpus: Corpus) -> Resampler:
    """Return how experiments of one protocol are resampled.

    What one speaker said belongs together, and so does what one dialogue or video holds.
    """
    column = experiments[0].folds
    groups = _folds_of_rows(experiments) if column == "speaker" else None
    return Resampler(groups, "speakers") if groups else Resampler(corpus.groups)


def fold_tables(dataset: str, experiments: Sequence[Experiment]) -> list[Table]:
    """Make the tables of the mean over folds, and of every fold, of experiments of one column."""
    tables = []
    for task in experiments[0].result.task:
        metrics = metrics_of(task, experiments[0].result.protocol)
        tables.append(_mean_table(dataset, task, experiments, metrics))
        tables.append(_every_fold_table(dataset, task, experiments, metrics))
    return tables


def fold_drawings(key: str, experiments: Sequence[Experiment]) -> list[Drawing]:
    """Draw every fold's score beside the pooled one, a figure a task."""
    drawings = []
    for task in experiments[0].result.task:
        metric = experiments[0].headline(task)
        rows = {
            each.name: (fold_scores(each, metric), each.mean(metric.key)) for each in experiments
        }
        title = f"{metric.title} by {experiments[0].folds}"
        drawings.append(draw_folds(f"{key}-{metric.key}", rows, metric, title))
    return drawings


def fold_scores(experiment: Experiment, metric: Metric) -> dict[str, float]:
    """Return each fold's score, mean over seeds, by the value that was its test split."""
    scores: dict[str, list[float]] = {}
    for run in experiment.runs:
        for fold in run.result.folds:
            score = fold.get(metric.key)
            if score is not None:
                scores.setdefault(str(fold.get("test", "–")), []).append(float(score))
    return {value: float(np.mean(each)) for value, each in scores.items()}


def _folds_of_rows(experiments: Sequence[Experiment]) -> dict[str, str]:
    """Return the fold of each test row by id, as far as the predictions name it."""
    found: dict[str, str] = {}
    for run in (run for each in experiments for run in each.runs):
        if run.predictions is not None and "fold" in run.predictions:
            pairs = zip(run.predictions["id"], run.predictions["fold"], strict=True)
            found |= {str(key): str(fold) for key, fold in pairs}
    return found


def _mean_table(
    dataset: str, task: Task, experiments: Sequence[Experiment], metrics: Sequence[Metric]
) -> Table:
    rows = []
    for experiment in experiments:
        folds = len(experiment.result.folds)
        cells = []
        for metric in metrics:
            scores = list(fold_scores(experiment, metric).values())
            mean = float(np.mean(scores)) if scores else None
            spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
            cells.append(Cell(metric.show(mean, spread), mean, spread))
        rows.append(Row((text_cell(experiment.name), *cells, Cell(str(folds), folds))))
    column = experiments[0].folds
    return Table(
        f"{dataset}-folds-{column}-{task}-mean",
        f"Mean over folds: {task}",
        (_NAME, *(Column(m.key, m.title, spread=True) for m in metrics), Column("folds", "Folds")),
        tuple(rows),
        notes=(
            f"Mean ± sample standard deviation over folds, one fold a {column}, each fold first "
            "averaged over seeds. A mean over folds weighs folds alike, pooling weighs utterances "
            "alike; a class that a fold lacks counts 0 in that fold's macro F1 and is left out of "
            "its UAR.",
        ),
    )


def _every_fold_table(
    dataset: str, task: Task, experiments: Sequence[Experiment], metrics: Sequence[Metric]
) -> Table:
    rows = []
    for experiment in experiments:
        by_metric = {metric: fold_scores(experiment, metric) for metric in metrics}
        for fold in experiment.result.folds:
            value, n = str(fold.get("test", "–")), fold.get(f"n_{task}")
            scores = [by_metric[metric].get(value) for metric in metrics]
            cells = (
                Cell(metric.show(score), score)
                for metric, score in zip(metrics, scores, strict=True)
            )
            count = Cell("–" if n is None else f"{n:,}", n)
            rows.append(Row((text_cell(experiment.name), text_cell(value), *cells, count)))
    column = experiments[0].folds
    return Table(
        f"{dataset}-folds-{column}-{task}-each",
        f"Every fold: {task}",
        (
            _NAME,
            Column(column, column.capitalize(), numeric=False),
            *(Column(metric.key, metric.title) for metric in metrics),
            Column("n", "Utterances"),
        ),
        tuple(rows),
        folded=True,
    )
