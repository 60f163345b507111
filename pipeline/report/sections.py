"""One dataset's part of the report: tables, drawings, alarms and notes, for every output format."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline.metrics import reliability
from pipeline.report.alarms import alarms
from pipeline.report.ceilings import COMPARED, AgainstCeiling, against_ceiling
from pipeline.report.corpus import read_corpus
from pipeline.report.experiments import (
    Experiment,
    group_experiments,
    lead_experiment,
    prediction_scores,
)
from pipeline.report.figures import Drawing
from pipeline.report.gates import gate_drawings
from pipeline.report.load import Run, Task
from pipeline.report.mistakes import mistake_table
from pipeline.report.plots import (
    draw_ceilings,
    draw_confusion,
    draw_reliability,
    draw_scores,
    draw_training,
)
from pipeline.report.protocols import BASELINES, HEADLINES, headline
from pipeline.report.published import published_rows
from pipeline.report.resampling import Resampler
from pipeline.report.run_tables import (
    cost_table,
    environment_notes,
    extraction_table,
    footnotes,
)
from pipeline.report.score_tables import (
    by_score,
    class_table,
    language_table,
    main_table,
    published_table,
    seed_table,
)
from pipeline.report.study_tables import (
    ceiling_table,
    comparison_tables,
    missing_table,
    probe_table,
)
from pipeline.report.tables import Table, show_range

WATERMARK = "random weights: figures show that the pipeline works, not what the method reaches"

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Card:
    """One figure to see first."""

    title: str
    value: str
    details: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A headed part of a dataset's section."""

    title: str
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return the notes of all tables, each once."""
        return tuple(dict.fromkeys(note for table in self.tables for note in table.notes))


@dataclass(frozen=True)
class Section:
    """One dataset."""

    key: str
    name: str
    title: str
    summary: str
    random_weights: bool
    alarms: tuple[str, ...]
    cards: tuple[Card, ...]
    parts: tuple[Part, ...]
    notes: tuple[str, ...]
    environment: tuple[str, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """Return all tables in reading order."""
        return tuple(table for part in self.parts for table in part.tables)


def make_section(number: int, runs: Sequence[Run], cache: Path | None, *, draw: bool) -> Section:
    """Make the section of one dataset from its runs; drawings cost time and are optional."""
    grouped = group_experiments(runs)
    lead = lead_experiment(grouped)
    experiments = by_score(grouped, headline(lead.result.task[0], lead.result.protocol))
    name, tasks = lead.result.dataset, lead.result.task
    others = [each for each in experiments if each is not lead]
    corpus = read_corpus(cache, name, {run.result.table_sha256 for run in runs})
    resampler = Resampler(corpus.groups)
    key = f"d{number}"
    ceilings = [
        against_ceiling(experiments, task, metric, resampler)
        for task, metric in COMPARED
        if task in tasks
    ]
    random_weights = any(run.result.random_weights for run in runs)
    notes = footnotes(experiments)
    parts = (
        Part("Scores", _known(main_table(name, task, experiments, resampler) for task in tasks)),
        Part(
            "Modality subsets against the ceiling",
            _known(ceiling_table(name, rows, resampler.method) for rows in ceilings),
            _ceiling_drawings(key, ceilings) if draw else (),
        ),
        Part("Comparison", tuple(comparison_tables(name, lead, others, resampler))),
        Part("When a modality is missing", _known([missing_table(name, lead, experiments)])),
        Part(f"Answers: {lead.name}", drawings=_answers(key, lead) if draw else ()),
        Part(
            f"Errors worth reading: {lead.name}",
            _known(mistake_table(name, task, lead, corpus) for task in tasks),
        ),
        Part(
            f"What the gate listens to: {lead.name}",
            _known([probe_table(name, experiments)]),
            gate_drawings(key, lead) if draw else (),
        ),
        Part(
            "By class, language and seed",
            _known(
                [
                    class_table(name, lead),
                    *(language_table(name, task, experiments) for task in tasks),
                    *(seed_table(name, task, experiments) for task in tasks),
                ]
            ),
        ),
        Part(
            "Published results",
            _known([published_table(name, lead.result, published_rows().get(name, ()))]),
        ),
        Part(
            "Training and cost",
            _known([cost_table(name, experiments), extraction_table(name, corpus.extractions)]),
            tuple(draw_training(f"{key}-training", lead.runs)) if draw else (),
        ),
    )
    return Section(
        key,
        name,
        lead.result.title,
        f"{_count(experiments, 'experiment')}, {_count(runs, 'run')}",
        random_weights,
        tuple(alarms(experiments)),
        tuple(_card(task, experiments, ceilings, resampler) for task in tasks),
        tuple(part for part in parts if part.tables or part.drawings),
        tuple([WATERMARK[0].upper() + WATERMARK[1:] + ".", *notes] if random_weights else notes),
        tuple(environment_notes(lead, experiments)),
    )


def _card(
    task: Task,
    experiments: Sequence[Experiment],
    ceilings: Sequence[Sequence[AgainstCeiling]],
    resampler: Resampler,
) -> Card:
    metric = headline(task, experiments[0].result.protocol)
    best = by_score(experiments, metric)[0]
    details = [f"{best.name}: {best.setup}"]
    interval = resampler.interval(best, task, metric)
    if interval:
        details.append(f"95 % interval {show_range(interval, metric.show)}")
    for row in (row for rows in ceilings for row in rows):
        if row.experiment is best and row.metric == metric:
            details.append(_beside_ceiling(row))
    key, title = BASELINES[task]
    trivial = best.result.baselines.get(key, {}).get(metric.key)
    if trivial is not None:
        details.append(f"{title.lower()}: {metric.show(trivial)}")
    shown = metric.show(best.mean(metric.key), best.spread(metric.key))
    return Card(f"{metric.title}, best of {len(experiments)}", shown, tuple(details))


def _beside_ceiling(row: AgainstCeiling) -> str:
    if row.share is None:
        return f"best possible: {row.metric.show(row.ceiling)}"
    bounds = row.share_interval
    shown = f" ({show_range(bounds, lambda value: f'{100 * value:.1f}')})" if bounds else ""
    return f"{100 * row.share:.1f} % of its ceiling{shown}"


def _ceiling_drawings(
    key: str, ceilings: Sequence[Sequence[AgainstCeiling]]
) -> tuple[Drawing, ...]:
    return tuple(
        draw_ceilings(f"{key}-ceiling-{rows[0].metric.key}", rows)
        for rows in ceilings
        if rows and rows[0].metric in HEADLINES
    )


def _answers(key: str, lead: Experiment) -> tuple[Drawing, ...]:
    drawings: list[Drawing] = []
    result = lead.result
    if "classification" in result.task:
        counts = np.sum([run.result.scores["confusion"] for run in lead.runs], axis=0)
        drawings.append(draw_confusion(f"{key}-confusion", result.labels, counts))
    scores = prediction_scores(lead.runs[0]) if "regression" in result.task else None
    if scores is not None:
        drawings.append(draw_scores(f"{key}-scores", *scores))
    return (*drawings, *_calibration(key, lead))


def _calibration(key: str, lead: Experiment) -> tuple[Drawing, ...]:
    """Draw the reliability of the first seed's labels: each seed has a temperature of its own."""
    run = lead.runs[0]
    rows = run.of_task("classification")
    if rows is None:
        return ()
    rows = rows[rows["valid"] & rows["probability"].between(0.0, 1.0)]
    if rows.empty:
        return ()
    correct = (rows["prediction"] == rows["truth"]).to_numpy(dtype=bool)
    found = reliability(rows["probability"].to_numpy(dtype=np.float64), correct)
    temperature = run.result.temperatures.get("classification")
    return (draw_reliability(f"{key}-calibration", found, temperature, run.name),)


def _known(values: Iterable[Kind | None]) -> tuple[Kind, ...]:
    return tuple(value for value in values if value is not None)


def _count(items: Sequence[object], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
