"""One dataset's part of the report: tables, drawings, alarms and notes, for every output format."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd

from pipeline.report.ceilings import COMPARED, AgainstCeiling, against_ceiling
from pipeline.report.experiments import (
    Experiment,
    alarms,
    group_experiments,
    lead_experiment,
    prediction_scores,
)
from pipeline.report.figures import Drawing
from pipeline.report.load import Run, Task
from pipeline.report.plots import (
    draw_ceilings,
    draw_confusion,
    draw_gates,
    draw_probe,
    draw_scores,
    draw_training,
)
from pipeline.report.protocols import BASELINES, CORR, WEIGHTED_F1, headline
from pipeline.report.published import published_rows
from pipeline.report.run_tables import ceiling_table, cost_table, footnotes, probe_table
from pipeline.report.score_tables import (
    by_score,
    class_table,
    language_table,
    main_table,
    published_table,
    seed_table,
)
from pipeline.report.tables import Table

WATERMARK = "random weights: figures show that the pipeline works, not what the method reaches"
_DRAWN_CEILINGS = (WEIGHTED_F1, CORR)
_GATES = "gate_"

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
    environment: dict[str, str]

    @property
    def tables(self) -> tuple[Table, ...]:
        """Return all tables in reading order."""
        return tuple(table for part in self.parts for table in part.tables)


def make_section(number: int, runs: Sequence[Run], *, draw: bool) -> Section:
    """Make the section of one dataset from its runs; drawings cost time and are optional."""
    lead = lead_experiment(group_experiments(runs))
    metric = headline(lead.result.task[0], lead.result.protocol)
    experiments = by_score(group_experiments(runs), metric)
    name, tasks = lead.result.dataset, lead.result.task
    key = f"d{number}"
    ceilings = [against_ceiling(experiments, *pair) for pair in COMPARED if pair[0] in tasks]
    random_weights = any(run.result.random_weights for run in runs)
    notes = footnotes(experiments)
    return Section(
        key,
        name,
        lead.result.title,
        f"{_count(experiments, 'experiment')}, {_count(runs, 'run')}",
        random_weights,
        tuple(alarms(experiments)),
        tuple(_card(task, experiments, ceilings) for task in tasks),
        tuple(
            part
            for part in (
                Part("Scores", _known(main_table(name, task, experiments) for task in tasks)),
                Part(
                    "Modality subsets against the ceiling",
                    _known(ceiling_table(name, rows) for rows in ceilings),
                    _ceiling_drawings(key, ceilings) if draw else (),
                ),
                Part(
                    f"Answers and training: {lead.name}",
                    drawings=(*_answers(key, lead), *_training(key, lead)) if draw else (),
                ),
                Part(
                    "What the gate listens to",
                    _known([probe_table(name, experiments)]),
                    _gates_and_probe(key, lead) if draw else (),
                ),
                Part("By language", _known(language_table(name, t, experiments) for t in tasks)),
                Part("By class", _known([class_table(name, lead)])),
                Part("Seeds", _known(seed_table(name, task, experiments) for task in tasks)),
                Part(
                    "Published results",
                    _known([published_table(name, lead.result, published_rows().get(name, ()))]),
                ),
                Part("Cost", (cost_table(name, experiments),)),
            )
            if part.tables or part.drawings
        ),
        tuple([WATERMARK[0].upper() + WATERMARK[1:] + ".", *notes] if random_weights else notes),
        lead.result.environment,
    )


def _card(
    task: Task, experiments: Sequence[Experiment], ceilings: Sequence[Sequence[AgainstCeiling]]
) -> Card:
    metric = headline(task, experiments[0].result.protocol)
    best = by_score(experiments, metric)[0]
    details = [f"{best.name}: {best.setup}"]
    for row in (row for rows in ceilings for row in rows):
        if row.experiment is best and row.metric == metric:
            low_high = row.share_interval
            shown = f" ({100 * low_high[0]:.1f} to {100 * low_high[1]:.1f})" if low_high else ""
            details.append(f"{100 * row.share:.1f} % of its ceiling{shown}")
    key, title = BASELINES[task]
    trivial = best.result.baselines.get(key, {}).get(metric.key)
    if trivial is not None:
        details.append(f"{title.lower()}: {metric.show(trivial)}")
    shown = metric.show(best.mean(metric.key), best.spread(metric.key))
    return Card(f"{metric.title}, best of {len(experiments)}", shown, tuple(details))


def _ceiling_drawings(
    key: str, ceilings: Sequence[Sequence[AgainstCeiling]]
) -> tuple[Drawing, ...]:
    return tuple(
        draw_ceilings(f"{key}-ceiling-{rows[0].metric.key}", rows)
        for rows in ceilings
        if rows and rows[0].metric in _DRAWN_CEILINGS
    )


def _answers(key: str, lead: Experiment) -> tuple[Drawing, ...]:
    drawings: list[Drawing] = []
    result = lead.result
    if "classification" in result.task:
        counts = np.sum([run.result.test["confusion"] for run in lead.runs], axis=0)
        drawings.append(draw_confusion(f"{key}-confusion", result.labels, counts))
    scores = prediction_scores(lead.runs[0]) if "regression" in result.task else None
    if scores is not None:
        drawings.append(draw_scores(f"{key}-scores", *scores))
    return tuple(drawings)


def _training(key: str, lead: Experiment) -> tuple[Drawing, ...]:
    return tuple(draw_training(f"{key}-training", lead.runs))


def _gates(key: str, lead: Experiment) -> tuple[Drawing, ...]:
    groups = _groups(lead)
    if not groups:
        return ()
    names = map(str, next(iter(groups.values())).columns)
    columns = [column for column in names if column.startswith(_GATES)]
    experts = {
        column: column.removeprefix("gate_expert_")
        for column in columns
        if column.startswith("gate_expert_")
    }
    modalities = lead.result.modalities
    overall: dict[str, dict[str, str]] = {
        "Modalities, over all experts": {f"gate_modality_{m}": m for m in modalities}
    }
    inside = {
        f"Modalities, {expert} expert": {f"gate_{expert}_{m}": m for m in modalities}
        for expert in experts.values()
    }
    first = {"Experts": experts} if experts else {}
    several = len(modalities) > 1
    found = []
    for name, levels, title in (
        ("gates", first | (overall if several else {}), "Gate weights by class"),
        ("gates-experts", inside if several else {}, "Modality weights inside each expert"),
    ):
        whole = {
            level: members
            for level, members in levels.items()
            if members and all(column in columns for column in members)
        }
        if whole:
            caption = f"Mean weight in per cent on the test split, all seeds of {lead.name}."
            found.append(draw_gates(f"{key}-{name}", groups, whole, title, caption))
    return tuple(found)


def _groups(lead: Experiment) -> dict[str, pd.DataFrame]:
    """Split the test predictions of all seeds by true class, or by the sign of the true score."""
    task = lead.result.task[0]
    tables = [rows for run in lead.runs if (rows := run.of_task(task)) is not None]
    if not tables:
        return {}
    rows = pd.concat(tables, ignore_index=True)
    if task == "classification":
        masks = {label: rows["truth"] == label for label in lead.result.labels}
    else:
        score = pd.to_numeric(rows["truth"], errors="coerce")
        masks = {"negative": score < 0, "zero": score == 0, "positive": score > 0}
    return {name: rows[mask] for name, mask in masks.items() if mask.any()}


def _gates_and_probe(key: str, lead: Experiment) -> tuple[Drawing, ...]:
    """Return the drawings in the order that fills two columns evenly."""
    gates = _gates(key, lead)
    probe = lead.runs[0].result.noise_probe
    drawn = (draw_probe(f"{key}-probe", probe, lead.runs[0].name),) if probe else ()
    return (*gates[:1], *drawn, *gates[1:])


def _known(values: Iterable[Kind | None]) -> tuple[Kind, ...]:
    return tuple(value for value in values if value is not None)


def _count(items: Sequence[object], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
