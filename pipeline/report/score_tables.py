"""Tables of test scores: experiments, seeds, languages, classes, and published rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from pipeline.metrics.statistics import class_f1
from pipeline.report.experiments import Experiment, lead_experiment
from pipeline.report.load import Metrics, RunResult, Task
from pipeline.report.protocols import BASELINES, UNSTATED, Metric, metrics_of
from pipeline.report.published import PublishedRow
from pipeline.report.resampling import Interval, Resampler
from pipeline.report.significance import Verdict, explain
from pipeline.report.tables import Cell, Column, Row, Table, p_cell, show_range, text_cell

_NAME = Column("experiment", "Experiment", numeric=False)
_FUSION = Column("fusion", "Fusion", numeric=False)
_SETUP = Column("setup", "Setup", numeric=False)
_SEEDS = Column("seeds", "Seeds")


def main_table(
    dataset: str,
    task: Task,
    experiments: Sequence[Experiment],
    verdicts: Mapping[str, Verdict],
    resampler: Resampler,
) -> Table:
    """Make the table of one task: every experiment, best first, then the trivial baselines.

    `verdicts` holds the comparisons with the lead in the task's headline metric.
    """
    lead = lead_experiment(experiments)
    headline = lead.headline(task)
    metrics = [
        metric
        for metric in metrics_of(task, lead.result.protocol)
        if any(experiment.mean(metric.key) is not None for experiment in experiments)
    ]
    rows = []
    for each in by_score(experiments, headline):
        verdict = verdicts.get(each.name)
        p_value = () if not verdicts else (p_cell(verdict.p_value) if verdict else Cell("–"),)
        rows.append(
            Row(
                (
                    text_cell(each.name),
                    *(_score_cell(each, task, one, experiments, resampler) for one in metrics),
                    *p_value,
                    Cell(str(len(each.runs)), len(each.runs)),
                    text_cell(each.result.fusion),
                    text_cell(each.setup_among(experiments)),
                )
            )
        )
    compared = (Column("p_value", f"p, {headline.title}"),) if verdicts else ()
    key, title = BASELINES[task]
    trivial = _distinct(each.result.baselines.get(key) for each in experiments)
    for scores in trivial:
        cells = _plain_cells(scores, metrics)
        blank = (Cell(""),) * (len(compared) + 3)
        name = f"{title}, n = {scores.get(f'n_{task}', '–')}" if len(trivial) > 1 else title
        rows.append(Row((text_cell(name), *cells, *blank), baseline=True))
    return Table(
        f"{dataset}-{task}",
        f"{'Emotion classification' if task == 'classification' else 'Sentiment'}, "
        f"{_tested_on(lead)}",
        (_NAME, *_metric_columns(metrics, measured=True), *compared, _SEEDS, _FUSION, _SETUP),
        tuple(rows),
        notes=(
            _units(task, experiments),
            resampler.method,
            *((explain(lead, headline, len(verdicts)),) if verdicts else ()),
        ),
    )


def _tested_on(lead: Experiment) -> str:
    """Say what the figures of a table are of."""
    if lead.folds:
        return f"{len(lead.result.folds)} folds, each {lead.folds} the test split once, pooled"
    return "test" if lead.result.split == "test" else "validation"


def _units(task: Task, experiments: Sequence[Experiment]) -> str:
    """Say how many utterances the figures are of, their units, and what ± and bold mean."""
    sizes = sorted({int(n) for each in experiments for n in each.values(f"n_{task}")})
    counted = " or ".join(f"{size:,}" for size in sizes)
    scale = (
        "Accuracy, F1 and UAR (unweighted average recall) in per cent."
        if task == "classification"
        else "Accuracies and F1 in per cent, MAE on the scale of the scores."
    )
    several = any(len(each.runs) > 1 for each in experiments)
    spread = " ±: sample standard deviation over seeds." if several else ""
    best = " Bold: the best mean." if len(experiments) > 1 else ""
    return f"n = {counted} utterances. {scale}{spread}{best}"


def seed_table(
    dataset: str, task: Task, experiments: Sequence[Experiment], resampler: Resampler
) -> Table | None:
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
                *(
                    _cell(
                        metric,
                        run.result.scores.get(metric.key),
                        resampler.seed_interval(experiment, place, task, metric.key),
                    )
                    for metric in metrics
                ),
            )
        )
        for experiment in several
        for place, run in enumerate(experiment.runs)
    ]
    columns = (_NAME, Column("seed", "Seed"), *_metric_columns(metrics, intervals=True))
    return Table(
        f"{dataset}-{task}-seeds", f"Every seed: {task}", columns, tuple(rows), folded=True
    )


def language_table(
    dataset: str, task: Task, experiments: Sequence[Experiment], resampler: Resampler
) -> Table | None:
    """Make the table of scores by language (mean over seeds), None for one language."""
    metrics = metrics_of(task, experiments[0].result.protocol)
    rows = []
    for experiment in experiments:
        for language in sorted({one for run in experiment.runs for one in run.result.by_language}):
            scores = [run.result.by_language.get(language, {}) for run in experiment.runs]
            n = scores[0].get(f"n_{task}")
            cells = (
                _cell(
                    metric,
                    _mean(one.get(metric.key) for one in scores),
                    resampler.interval(experiment, task, metric.key, language=language),
                )
                for metric in metrics
            )
            count = Cell("–" if n is None else f"{n:,}", n)
            rows.append(Row((text_cell(experiment.name), text_cell(language), *cells, count)))
    if not rows:
        return None
    columns = (
        _NAME,
        Column("language", "Language", numeric=False),
        *_metric_columns(metrics, intervals=True),
        Column("n", "Utterances"),
    )
    return Table(
        f"{dataset}-{task}-languages", f"By language: {task}", columns, tuple(rows), folded=True
    )


def class_table(dataset: str, experiment: Experiment, resampler: Resampler) -> Table | None:
    """Make the table of precision, recall and F1 of each class, mean over the lead's seeds."""
    result = experiment.result
    per_class = [run.result.scores.get("per_class", {}) for run in experiment.runs]
    if not any(per_class):
        return None
    precision, recall, f1 = (
        Metric(key, title)
        for key, title in (("precision", "Precision"), ("recall", "Recall"), ("f1", "F1"))
    )
    words = {language: names for language, names in result.label_words.items() if language != "en"}
    rows = []
    for number, label in enumerate(result.labels):
        scores = [one.get(label, {}) for one in per_class]
        bounds = resampler.interval(experiment, "classification", class_f1(number))
        support = scores[0].get("support")
        shown = (names[label] for names in words.values() if names.get(label, label) != label)
        rows.append(
            Row(
                (
                    Cell(" ".join((label, *shown)), label),
                    _cell(precision, _mean(one.get("precision") for one in scores)),
                    _cell(recall, _mean(one.get("recall") for one in scores)),
                    _cell(f1, _mean(one.get("f1") for one in scores), bounds),
                    Cell("–" if support is None else f"{support:,}", support),
                )
            )
        )
    columns = (
        Column("label", "Class", numeric=False),
        *_metric_columns((precision, recall)),
        *_metric_columns((f1,), intervals=True),
        Column("support", "Support"),
    )
    return Table(
        f"{dataset}-classes",
        f"By class: {experiment.name}",
        columns,
        tuple(rows),
        notes=("In per cent, mean over seeds. Support: utterances of the class.",),
    )


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
            *_metric_columns(metrics, spread=any(row.sd for row in rows)),
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
    interval = resampler.interval(experiment, task, metric.key)
    return replace(_cell(metric, mean, interval, spread), best=best)


def _cell(
    metric: Metric,
    score: float | None,
    interval: Interval | None = None,
    spread: float | None = None,
) -> Cell:
    shown = show_range(interval, metric.show) if interval else ""
    return Cell(metric.show(score, spread), score, spread, interval=interval, range=shown)


def _plain_cells(scores: Metrics, metrics: Sequence[Metric]) -> tuple[Cell, ...]:
    return tuple(_cell(metric, scores.get(metric.key)) for metric in metrics)


def _metric_columns(
    metrics: Sequence[Metric],
    *,
    measured: bool = False,
    spread: bool = False,
    intervals: bool = False,
) -> tuple[Column, ...]:
    """Return a column a metric; one that was measured has a spread over seeds and an interval."""
    return tuple(
        Column(
            metric.key,
            f"{metric.title} {'↑' if metric.higher_is_better else '↓'}",
            spread=measured or spread,
            interval=measured or intervals,
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
