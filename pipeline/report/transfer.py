"""Trained on one corpus, tested on another: a matrix for each metric, across all datasets.

A row is what one experiment was trained on, a column a test split, the diagonal the corpus's own.
Elsewhere the model is asked as it was trained: only labels that both corpora have are permitted
answers, and only rows with such a label count. Scores of one column are therefore comparable where
their footnotes say the same labels and rows.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipeline.report.experiments import Experiment
from pipeline.report.load import Metrics, Task, TransferRecord
from pipeline.report.protocols import BASELINES, CLASSIFICATION, REGRESSION, Metric
from pipeline.report.tables import Cell, Column, Row, Table, text_cell

_METRICS: dict[Task, tuple[Metric, ...]] = {
    "classification": CLASSIFICATION,
    "regression": tuple(dict.fromkeys((*REGRESSION["mosi"], *REGRESSION["sims"]))),
}

Tested = Mapping[str, Sequence[Metrics]]
"""An experiment's scores by the corpus that they are of, a record a seed."""


def transfer_tables(by_dataset: Mapping[str, Sequence[Experiment]]) -> list[Table]:
    """Make a matrix a metric of every experiment that was tested on a corpus beside its own.

    Args:
        by_dataset: The experiments of each dataset, those with folds left out.
    """
    trained = [
        (dataset, experiment, tested)
        for dataset, experiments in by_dataset.items()
        for experiment in experiments
        if len(tested := _tested(dataset, experiment)) > 1
    ]
    if not trained:
        return []
    tables = (
        _matrix(task, metric, trained, by_dataset)
        for task, metrics in _METRICS.items()
        for metric in metrics
    )
    return [table for table in tables if table is not None]


def _tested(dataset: str, experiment: Experiment) -> Tested:
    """Return an experiment's scores on its own corpus, then on others."""
    runs = experiment.runs
    found: dict[str, list[Metrics]] = {dataset: [run.result.scores for run in runs]}
    for run in runs:
        for name, record in run.result.transfer.items():
            found.setdefault(name, []).append(record.scores)
    return found


def _matrix(
    task: Task,
    metric: Metric,
    trained: Sequence[tuple[str, Experiment, Tested]],
    by_dataset: Mapping[str, Sequence[Experiment]],
) -> Table | None:
    """Make one metric's matrix; None where no model has it on a corpus beside its own."""
    kept = [
        (dataset, experiment, tested)
        for dataset, experiment, tested in trained
        if any(_values(records, metric) for name, records in tested.items() if name != dataset)
    ]
    if not kept:
        return None
    names = dict.fromkeys(name for _, _, tested in kept for name in (*by_dataset, *tested))
    columns = [name for name in names if any(_values(one.get(name), metric) for _, _, one in kept)]
    rows = []
    for dataset, experiment, tested in kept:
        cells = (_cell(metric, tested.get(name), own=name == dataset) for name in columns)
        seeds = len(experiment.runs)
        trained_on = " + ".join(experiment.result.train_datasets) or dataset
        rows.append(
            Row(
                (text_cell(trained_on), text_cell(experiment.name), *cells, Cell(str(seeds), seeds))
            )
        )
    key, title = BASELINES[task]
    trivial = [_baseline(by_dataset.get(name, ()), key, metric) for name in columns]
    if any(value is not None for value in trivial):
        cells = (Cell(metric.show(value), value) for value in trivial)
        rows.append(Row((text_cell(title), text_cell(""), *cells, Cell("")), baseline=True))
    arrow = "↑" if metric.higher_is_better else "↓"
    return Table(
        f"transfer-{task}-{metric.key}",
        f"{metric.title} {arrow}, trained on a row, tested on a column",
        (
            Column("trained_on", "Trained on", numeric=False),
            Column("experiment", "Experiment", numeric=False),
            *(Column(name, name, spread=True) for name in columns),
            Column("seeds", "Seeds"),
        ),
        tuple(rows),
        notes=(
            "Every column by its own corpus's protocol. Mean, with the sample standard deviation "
            "over seeds where there are several; bold: the test split of the corpus trained on. "
            "No intervals are drawn here. "
            f"{title}: fitted on the tested corpus's own training split, scored on all its labels.",
            *dict.fromkeys(
                note
                for dataset, experiment, _ in trained
                for run in experiment.runs
                for name, record in run.result.transfer.items()
                for note in _notes(task, f"{dataset} → {name}", record, experiment)
            ),
        ),
        folded=metric.key not in ("weighted_f1", "mae", "acc2"),
    )


def _cell(metric: Metric, records: Sequence[Metrics] | None, *, own: bool) -> Cell:
    values = _values(records, metric)
    if not values:
        return Cell("–")
    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Cell(metric.show(mean, spread), mean, spread, best=own)


def _notes(task: Task, way: str, record: TransferRecord, experiment: Experiment) -> Iterator[str]:
    """Say on which labels and how many rows another corpus was tested, and what was left out."""
    n = record.scores.get(f"n_{task}")
    if isinstance(n, int):
        labelled = record.rows.get(task, {}).get("labelled", n)
        text = f"{way}: {n:,} of {labelled:,} labelled utterances"
        if task == "classification":
            same = (f"{theirs} as {ours}" for theirs, ours in record.mapped.items())
            text += f", {len(record.labels)} of {len(experiment.result.labels)} labels "
            text += f"({'; '.join((', '.join(record.labels), *same))})"
        elif record.rescaled:
            text += ", predictions rescaled to its range"
        yield f"{text}."
    if record.left_out and task in experiment.result.task:
        yield f"{way}: {record.left_out}."


def _baseline(experiments: Sequence[Experiment], key: str, metric: Metric) -> float | None:
    for each in experiments:
        value = each.result.baselines.get(key, {}).get(metric.key)
        if value is not None:
            return float(value)
    return None


def _values(records: Sequence[Metrics] | None, metric: Metric) -> list[float]:
    found = (record.get(metric.key) for record in records or ())
    return [float(value) for value in found if isinstance(value, int | float)]
