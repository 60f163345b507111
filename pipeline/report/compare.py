"""Two experiments of a dataset beside each other, in every metric of its protocol."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.manifest import nearest
from pipeline.report.corpus import read_corpus
from pipeline.report.experiments import Experiment, group_experiments
from pipeline.report.load import Run, SkippedRun, Task, load_runs
from pipeline.report.protocols import metrics_of
from pipeline.report.resampling import Resampler
from pipeline.report.study_tables import difference_cells
from pipeline.report.tables import Cell, Column, Row, Table, text_cell


def compare_experiments(
    runs: Path, first: str, second: str, *, cache: Path | None = None
) -> list[Table]:
    """Compare two experiments: a table for each dataset that has both, and each of its tasks.

    Args:
        runs: Where training wrote.
        first: An experiment, as `name` or `dataset/name`.
        second: Another one of the same dataset.
        cache: The cache that the runs read: its dialogues are drawn whole.

    Raises:
        PipelineError: When there is no such experiment, or no dataset has both.
    """
    by_dataset: dict[str, list[Run]] = {}
    loaded = load_runs(runs)
    for run in loaded.runs:
        by_dataset.setdefault(run.result.dataset, []).append(run)
    experiments = {name: group_experiments(members) for name, members in by_dataset.items()}
    tables = []
    for dataset, known in experiments.items():
        one, two = _named(dataset, known, first), _named(dataset, known, second)
        if one is None or two is None:
            continue
        tables += _tables(dataset, one, two, cache, _left_out(loaded.skipped, dataset, one, two))
    if not tables:
        names = [
            f"{dataset}/{each.name}" for dataset in experiments for each in experiments[dataset]
        ]
        raise PipelineError(_missing(first, second, names))
    return tables


def _tables(
    dataset: str,
    first: Experiment,
    second: Experiment,
    cache: Path | None,
    left_out: Sequence[str],
) -> list[Table]:
    results = first.result, second.result
    corpus = read_corpus(cache, dataset, {each.table_sha256 for each in results})
    resampler = Resampler(corpus.groups)
    tables = []
    for task in results[0].task:
        if task not in results[1].task:
            continue
        rows = _rows(first, second, task, resampler)
        if all(row.cells[3].value is None for row in rows):
            raise PipelineError(
                f"{dataset}: {first.name} and {second.name} cannot be paired: their predictions "
                "are missing, or are of different utterances or labels; train both on one cache"
            )
        tables.append(
            Table(
                f"{dataset}-{task}-{first.name}-against-{second.name}".replace("/", "-"),
                f"{results[0].title}, {task}: {first.name} against {second.name}",
                (
                    Column("metric", "Metric", numeric=False),
                    Column("first", first.name, spread=True),
                    Column("second", second.name, spread=True),
                    Column("difference", "Difference"),
                    Column("interval", "95 % interval"),
                    Column("p_value", "p"),
                ),
                rows,
                notes=(*_notes(first, second, resampler), *left_out),
            )
        )
    return tables


def _rows(
    first: Experiment, second: Experiment, task: Task, resampler: Resampler
) -> tuple[Row, ...]:
    rows = []
    for metric in metrics_of(task, first.result.protocol):
        scores = [
            Cell(metric.show(each.mean(metric.key), each.spread(metric.key)), each.mean(metric.key),
                 each.spread(metric.key))
            for each in (first, second)
        ]  # fmt: skip
        if scores[0].value is None or scores[1].value is None:
            continue
        difference = difference_cells(resampler.compare(first, second, task, metric), metric)
        arrow = "↑" if metric.higher_is_better else "↓"
        rows.append(Row((text_cell(f"{metric.title} {arrow}"), *scores, *difference)))
    return tuple(rows)


def _notes(first: Experiment, second: Experiment, resampler: Resampler) -> tuple[str, ...]:
    seeds = len(first.runs), len(second.runs)
    notes = [
        f"{resampler.method} p: two-sided, paired on the same draws; seeds are drawn too "
        f"({seeds[0]} and {seeds[1]}). Not corrected for the number of metrics."
    ]
    if min(seeds) == 1:
        notes.append(
            "One seed tells nothing of how far another training run would land: "
            "the test judges these runs, not the methods."
        )
    if any(each.result.random_weights for each in (first, second)):
        notes.append("Random weights: figures show that the pipeline works, nothing more.")
    return tuple(notes)


def _left_out(
    skipped: Sequence[SkippedRun], dataset: str, first: Experiment, second: Experiment
) -> list[str]:
    """Say which runs of the two experiments could not be used, and why."""
    folders = {f"{dataset}/{each.runs[0].experiment}" for each in (first, second)}
    return [
        f"Left out: {run.name}, {run.reason}."
        for run in skipped
        if run.name.rsplit("/", 1)[0] in folders
    ]


def _named(dataset: str, known: Sequence[Experiment], wanted: str) -> Experiment | None:
    fitting = [each for each in known if wanted in (each.name, f"{dataset}/{each.name}")]
    return fitting[0] if fitting else None


def _missing(first: str, second: str, names: Sequence[str]) -> str:
    short = [name.split("/", 1)[1] for name in names]
    for wanted in (first, second):
        if wanted not in names and wanted not in short:
            hint = nearest(wanted, [*short, *names])
            return f"no experiment {wanted!r}{hint}; there are: {', '.join(names)}"
    return f"no dataset has both {first!r} and {second!r}; there are: {', '.join(names)}"
