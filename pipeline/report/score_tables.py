"""Tables of test scores: experiments, seeds, languages, classes, and published rows."""

from collections.abc import Callable, Iterable, Sequence

from pipeline.report.experiments import Experiment, lead_experiment
from pipeline.report.load import Metrics, RunResult, Task
from pipeline.report.protocols import BASELINES, UNSTATED, Metric, headline, metrics_of
from pipeline.report.published import PublishedRow
from pipeline.report.resampling import Resampler
from pipeline.report.tables import Cell, Column, Row, Table, show_range, text_cell

_NAME = Column("experiment", "Experiment", numeric=False)
_SETUP = Column("setup", "Setup", numeric=False)
_SEEDS = Column("seeds", "Seeds")


def main_table(
    dataset: str, task: Task, experiments: Sequence[Experiment], resampler: Resampler
) -> Table:
    """Make the table of one task: every experiment, best first, then the trivial baselines."""
    lead = lead_experiment(experiments).result
    metrics = [
        metric
        for metric in metrics_of(task, lead.protocol)
        if any(experiment.mean(metric.key) is not None for experiment in experiments)
    ]
    ranked = by_score(experiments, headline(task, lead.protocol))
    rows = [
        Row(
            (
                text_cell(each.name),
                *(_score_cell(each, task, metric, experiments, resampler) for metric in metrics),
                Cell(str(len(each.runs)), len(each.runs)),
                text_cell(each.setup),
            )
        )
        for each in ranked
    ]
    key, title = BASELINES[task]
    for scores in _distinct(each.result.baselines.get(key) for each in experiments):
        cells = (
            Cell(metric.show(scores.get(metric.key)), scores.get(metric.key)) for metric in metrics
        )
        rows.append(Row((text_cell(title), *cells, Cell(""), text_cell("")), baseline=True))
    return Table(
        f"{dataset}-{task}",
        f"{'Emotion classification' if task == 'classification' else 'Sentiment'}, "
        f"{'test' if lead.split == 'test' else 'validation'}",
        (_NAME, *_metric_columns(metrics, measured=True), _SEEDS, _SETUP),
        tuple(rows),
        notes=(resampler.method,),
    )


def seed_table(dataset: str, task: Task, experiments: Sequence[Experiment]) -> Table | None:
    """Make the table of every seed's own scores, None where no experiment has several."""
    several = [each for each in experiments if len(each.runs) > 1]
    if not several:
        return None
    metrics = metrics_of(task, several[0].result.protocol)
    rows = [
        Row(
            (
                text_cell(experiment.name),
                Cell(str(run.result.seed), run.result.seed),
                *_plain_cells(run.result.scores, metrics),
            )
        )
        for experiment in several
        for run in experiment.runs
    ]
    columns = (_NAME, Column("seed", "Seed"), *_metric_columns(metrics))
    return Table(
        f"{dataset}-{task}-seeds", f"Every seed: {task}", columns, tuple(rows), folded=True
    )


def language_table(dataset: str, task: Task, experiments: Sequence[Experiment]) -> Table | None:
    """Make the table of scores by language (mean over seeds), None for one language."""
    metrics = metrics_of(task, experiments[0].result.protocol)
    rows = []
    for experiment in experiments:
        for language in sorted({one for run in experiment.runs for one in run.result.by_language}):
            scores = [run.result.by_language.get(language, {}) for run in experiment.runs]
            means = {metric.key: _mean(one.get(metric.key) for one in scores) for metric in metrics}
            cells = _plain_cells(means, metrics)
            rows.append(Row((text_cell(experiment.name), text_cell(language), *cells)))
    if not rows:
        return None
    columns = (_NAME, Column("language", "Language", numeric=False), *_metric_columns(metrics))
    return Table(
        f"{dataset}-{task}-languages", f"By language: {task}", columns, tuple(rows), folded=True
    )


def class_table(dataset: str, experiment: Experiment) -> Table | None:
    """Make the table of precision, recall and F1 of each class, mean over the lead's seeds."""
    result = experiment.result
    per_class = [run.result.scores.get("per_class", {}) for run in experiment.runs]
    if not any(per_class):
        return None
    metrics = (Metric("precision", "Precision"), Metric("recall", "Recall"), Metric("f1", "F1"))
    words = {language: names for language, names in result.label_words.items() if language != "en"}
    rows = []
    for label in result.labels:
        scores = [one.get(label, {}) for one in per_class]
        means = {metric.key: _mean(one.get(metric.key) for one in scores) for metric in metrics}
        support = scores[0].get("support")
        shown = (names[label] for names in words.values() if names.get(label, label) != label)
        rows.append(
            Row(
                (
                    Cell(" ".join((label, *shown)), label),
                    *_plain_cells(means, metrics),
                    Cell("–" if support is None else f"{support:,}", support),
                )
            )
        )
    columns = (
        Column("label", "Class", numeric=False),
        *_metric_columns(metrics),
        Column("support", "Support"),
    )
    return Table(f"{dataset}-classes", f"By class: {experiment.name}", columns, tuple(rows))


def published_table(dataset: str, result: RunResult, rows: Sequence[PublishedRow]) -> Table | None:
    """Make the block of published rows, each with its protocol, source and status."""
    own = (metric for task in result.task for metric in metrics_of(task, result.protocol))
    metrics = [
        metric for metric in (*own, *UNSTATED) if any(metric.key in row.metrics for row in rows)
    ]
    if not metrics:
        return None
    return Table(
        f"{dataset}-published",
        "Published results",
        (
            Column("method", "Method", numeric=False),
            *_metric_columns(metrics, measured=any(row.sd for row in rows), resampled=False),
            Column("modalities", "Modalities", numeric=False),
            Column("protocol", "Protocol", numeric=False),
            Column("status", "Status", numeric=False),
            Column("source", "Source", numeric=False),
        ),
        tuple(
            Row(
                (
                    text_cell(f"{row.method} ({row.backbone})" if row.backbone else row.method),
                    *(
                        Cell(
                            metric.show(row.metrics.get(metric.key), row.sd.get(metric.key)),
                            row.metrics.get(metric.key),
                            row.sd.get(metric.key),
                        )
                        for metric in metrics
                    ),
                    text_cell(row.modalities or "–"),
                    text_cell(row.protocol + (f"; {row.seeds} seeds" if row.seeds else "")),
                    text_cell(row.status),
                    text_cell(row.source),
                )
            )
            for row in rows
        ),
        intro="As their sources print them; none was measured here. Compare a row only where its "
        "protocol fits.",
        notes=(
            "verified: read in the authors' repository or computed from their logs; aggregator: "
            "printed by a third party; unverified: not traced to its source. A column with ? "
            "holds binary figures whose convention the source does not state.",
        ),
        measured=False,
        folded=True,
    )


def by_score(experiments: Iterable[Experiment], metric: Metric) -> list[Experiment]:
    """Order experiments from best to worst in one metric; undefined scores come last."""

    def rank(experiment: Experiment) -> tuple[bool, float]:
        score = experiment.mean(metric.key)
        if score is None:
            return True, 0.0
        return False, -score if metric.higher_is_better else score

    return sorted(experiments, key=rank)


def _score_cell(
    experiment: Experiment,
    task: Task,
    metric: Metric,
    all_of: Sequence[Experiment],
    resampler: Resampler,
) -> Cell:
    mean, spread = experiment.mean(metric.key), experiment.spread(metric.key)
    scores = [score for each in all_of if (score := each.mean(metric.key)) is not None]
    choose: Callable[[list[float]], float] = max if metric.higher_is_better else min
    best = len(scores) > 1 and mean == choose(scores)
    interval = resampler.interval(experiment, task, metric)
    shown = show_range(interval, metric.show) if interval else ""
    return Cell(metric.show(mean, spread), mean, spread, best, interval, shown)


def _plain_cells(scores: Metrics, metrics: Sequence[Metric]) -> tuple[Cell, ...]:
    return tuple(
        Cell(metric.show(scores.get(metric.key)), scores.get(metric.key)) for metric in metrics
    )


def _metric_columns(
    metrics: Sequence[Metric], *, measured: bool = False, resampled: bool = True
) -> tuple[Column, ...]:
    """Return a column a metric; measured ones have a spread, and an interval if resampled."""
    return tuple(
        Column(
            metric.key,
            f"{metric.title} {'↑' if metric.higher_is_better else '↓'}",
            spread=measured,
            interval=measured and resampled,
        )
        for metric in metrics
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _distinct(values: Iterable[Metrics | None]) -> list[Metrics]:
    found: list[Metrics] = []
    for value in values:
        if value and value not in found:
            found.append(value)
    return found
