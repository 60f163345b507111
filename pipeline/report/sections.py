"""One dataset's part of the report: tables, drawings, alarms and notes, for every output format."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline.report.alarms import alarms
from pipeline.report.calibration import calibration_drawings, calibration_table
from pipeline.report.cards import Card, make_card
from pipeline.report.ceilings import COMPARED, AgainstCeiling, against_ceiling
from pipeline.report.corpus import Corpus, read_corpus
from pipeline.report.experiments import (
    Experiment,
    group_experiments,
    lead_experiment,
    prediction_scores,
)
from pipeline.report.figures import Drawing
from pipeline.report.folds import by_folds, fold_drawings, fold_tables, resampler_of
from pipeline.report.gates import gate_drawings
from pipeline.report.load import Run, Task
from pipeline.report.mistakes import mistake_table
from pipeline.report.plots import draw_ceilings, draw_confusion, draw_scores, draw_training
from pipeline.report.protocols import HEADLINES
from pipeline.report.published import published_rows
from pipeline.report.resampling import Resampler
from pipeline.report.run_tables import (
    cost_table,
    environment_notes,
    extraction_table,
    footnotes,
    provenance,
)
from pipeline.report.score_tables import (
    by_score,
    class_table,
    language_table,
    main_table,
    published_table,
    seed_table,
)
from pipeline.report.significance import Verdict, judge_against
from pipeline.report.study_tables import (
    ceiling_table,
    comparison_tables,
    missing_table,
    probe_table,
    subset_table,
)
from pipeline.report.tables import Table
from pipeline.report.transfer import transfer_tables
from pipeline.report.wording import sentence

WATERMARK = "random weights: figures show that the pipeline works, not what the method reaches"

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Part:
    """A headed part of a dataset's section."""

    title: str
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()

    @property
    def annotated(self) -> tuple[tuple[Table, tuple[str, ...]], ...]:
        """Return each table with its notes, without those that an open table above it has."""
        found, said = [], set[str]()
        for table in self.tables:
            found.append((table, tuple(note for note in table.notes if note not in said)))
            said |= set() if table.folded else set(table.notes)
        return tuple(found)


@dataclass(frozen=True)
class Section:
    """One dataset, or what goes across all of them.

    `provenance` stands below every table: fingerprints of labels, features and language model.
    """

    key: str
    name: str
    title: str
    summary: str
    random_weights: bool
    provenance: str
    parts: tuple[Part, ...]
    alarms: tuple[str, ...] = ()
    cards: tuple[Card, ...] = ()
    notes: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()

    @property
    def tables(self) -> tuple[Table, ...]:
        """Return all tables in reading order."""
        return tuple(table for part in self.parts for table in part.tables)

    @property
    def drawings(self) -> tuple[Drawing, ...]:
        """Return all drawings in reading order."""
        return tuple(drawing for part in self.parts for drawing in part.drawings)


def make_section(number: int, runs: Sequence[Run], cache: Path | None, *, draw: bool) -> Section:
    """Make the section of one dataset from its runs; drawings cost time and are optional."""
    grouped = group_experiments(runs)
    protocols = by_folds(grouped)
    shown = next(iter(protocols.values()))
    lead = lead_experiment(shown)
    name, tasks = lead.result.dataset, lead.result.task
    experiments = by_score(shown, lead.headline(tasks[0]))
    others = [each for each in experiments if each is not lead]
    corpus = read_corpus(cache, name, {run.result.table_sha256 for run in runs})
    resampler = resampler_of(shown, corpus)
    verdicts = _verdicts(lead, others, resampler)
    key = f"d{number}"
    ceilings = [
        against_ceiling(experiments, task, metric, resampler)
        for task, metric in COMPARED
        if task in tasks
    ]
    parts = (
        Part("Scores", _main_tables(name, lead, experiments, verdicts, resampler)),
        _subsets(key, lead, experiments, ceilings, resampler, draw=draw),
        Part("Comparison", tuple(comparison_tables(name, lead, others, verdicts))),
        *(
            _folds(key, column, members, corpus, ranked=members is not shown, draw=draw)
            for column, members in protocols.items()
            if column
        ),
        Part("When a modality is missing", _known([missing_table(name, lead, experiments)])),
        Part(
            f"Answers: {lead.name}",
            _known([calibration_table(name, experiments)]),
            _answers(key, lead) if draw else (),
        ),
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
                    class_table(name, lead, resampler),
                    *(language_table(name, task, experiments, resampler) for task in tasks),
                    *(seed_table(name, task, experiments, resampler) for task in tasks),
                ]
            ),
        ),
        Part(
            "Published results",
            _known([published_table(name, lead.result, published_rows().get(name, ()))]),
        ),
        Part(
            "Training and cost",
            _known([cost_table(name, grouped), extraction_table(name, corpus.extractions)]),
            tuple(draw_training(f"{key}-training", lead.runs)) if draw else (),
        ),
    )
    random_weights = any(run.result.random_weights for run in runs)
    notes = footnotes(grouped, corpus)
    return Section(
        key,
        name,
        lead.result.title,
        f"{_count(grouped, 'experiment')}, {_count(runs, 'run')}",
        random_weights,
        provenance(grouped),
        tuple(part for part in parts if part.tables or part.drawings),
        tuple(alarms(grouped)),
        tuple(
            make_card(task, lead, by_score(shown, lead.headline(task)), ceilings, resampler)
            for task in tasks
        ),
        tuple([sentence(WATERMARK), *notes] if random_weights else notes),
        tuple(environment_notes(lead, grouped)),
    )


def transfer_section(runs: Iterable[Run]) -> list[Section]:
    """Make the section of what goes across datasets; none where no run was tested elsewhere."""
    by_dataset: dict[str, list[Experiment]] = {}
    for name, members in groupby(runs, lambda run: run.result.dataset):
        found = by_folds(group_experiments(members)).get("")
        by_dataset |= {name: found} if found else {}
    tables = tuple(transfer_tables(by_dataset))
    if not tables:
        return []
    every = [each for experiments in by_dataset.values() for each in experiments]
    random_weights = any(each.result.random_weights for each in every)
    part = Part("Transfer between corpora", tables)
    known = provenance(every)
    names = ", ".join(by_dataset)
    return [
        Section(
            "transfer",
            "transfer",
            "Transfer",
            f"trained on {names}, tested on every corpus in the cache that shares a task",
            random_weights,
            known,
            (part,),
            notes=(sentence(WATERMARK), known) if random_weights else (known,),
        )
    ]


def _verdicts(
    lead: Experiment, others: Sequence[Experiment], resampler: Resampler
) -> dict[Task, Mapping[str, Verdict]]:
    return {
        task: judge_against(lead, others, task, lead.headline(task), resampler)
        for task in lead.result.task
    }


def _main_tables(
    name: str,
    lead: Experiment,
    experiments: Sequence[Experiment],
    verdicts: Mapping[Task, Mapping[str, Verdict]],
    resampler: Resampler,
) -> tuple[Table, ...]:
    return tuple(
        main_table(name, task, experiments, verdicts[task], resampler) for task in lead.result.task
    )


def _subsets(
    key: str,
    lead: Experiment,
    experiments: Sequence[Experiment],
    ceilings: Sequence[Sequence[AgainstCeiling]],
    resampler: Resampler,
    *,
    draw: bool,
) -> Part:
    """Set subsets of the modalities beside each other, against the ceiling where it is known."""
    name = lead.result.dataset
    if not any(ceilings):
        return Part("Modality subsets", _known([subset_table(name, lead, experiments, resampler)]))
    drawings = tuple(
        draw_ceilings(f"{key}-ceiling-{rows[0].metric.key}", rows)
        for rows in ceilings
        if draw and rows and rows[0].metric in HEADLINES
    )
    tables = _known(ceiling_table(name, rows, resampler.method) for rows in ceilings)
    return Part("Modality subsets against the ceiling", tables, drawings)


def _folds(
    key: str,
    column: str,
    members: Sequence[Experiment],
    corpus: Corpus,
    *,
    ranked: bool,
    draw: bool,
) -> Part:
    """Set apart what was tested by leaving one group out; `ranked` gives it a table of scores."""
    lead = lead_experiment(members)
    name = lead.result.dataset
    tables: tuple[Table, ...] = ()
    if ranked:
        resampler = resampler_of(members, corpus)
        verdicts = _verdicts(lead, [each for each in members if each is not lead], resampler)
        tables = _main_tables(f"{name}-folds-{column}", lead, members, verdicts, resampler)
    drawings = tuple(fold_drawings(f"{key}-folds-{column}", members)) if draw else ()
    return Part(f"Leave one {column} out", (*tables, *fold_tables(name, members)), drawings)


def _answers(key: str, lead: Experiment) -> tuple[Drawing, ...]:
    drawings: list[Drawing] = []
    result = lead.result
    if "classification" in result.task:
        counts = np.sum([run.result.scores["confusion"] for run in lead.runs], axis=0)
        drawings.append(draw_confusion(f"{key}-confusion", result.labels, counts))
    scores = prediction_scores(lead.runs[0]) if "regression" in result.task else None
    if scores is not None:
        drawings.append(draw_scores(f"{key}-scores", *scores))
    return (*drawings, *calibration_drawings(key, lead))


def _known(values: Iterable[Kind | None]) -> tuple[Kind, ...]:
    return tuple(value for value in values if value is not None)


def _count(items: Sequence[object], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
