"""Cross-corpus transfer: a trained model judged on the test splits of other cached datasets.

The model is asked as it was trained, with the scaling of its own training split. Where labels
differ, only those that both datasets name alike are permitted answers, and only rows with such a
label count. Numbers are compared where both datasets have the same range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from extract.errors import ExtractError
from extract.features import FeatureSet, list_feature_sets
from extract.table import read_table
from pipeline.context import find_context
from pipeline.errors import PipelineError
from pipeline.evaluation import decision_without_writing, metrics_of, prediction_table, score
from pipeline.features import Features
from pipeline.inputs import Inputs
from pipeline.items import Question, QuestionKey, Utterance, questions_of, utterances_of
from pipeline.judging import prompter_of
from pipeline.manifest import DatasetEntry, load_manifest
from pipeline.model import Egmf
from pipeline.request import Request
from pipeline.sources import Corpus
from pipeline.training import Task


def judge_transfer(
    model: Egmf,
    inputs: Inputs,
    corpus: Corpus,
    task: Task,
    request: Request,
    temperatures: Mapping[str, float],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Score the model on every cached dataset that fits; metrics and permitted labels by dataset.

    A dataset of the same task whose features are missing or damaged is left out with a word.
    """
    known = load_manifest(request.source.manifest).datasets
    found = {}
    for path in sorted(request.source.cache.glob("*/utterances.parquet")):
        entry = known.get(path.parent.name)
        if entry is None or entry.name == corpus.entry.name:
            continue
        tasks, labels = _shared(corpus.entry, entry)
        if not tasks:
            continue
        try:
            sets = _same_features(request.source.cache, entry, corpus.sets)
            rows = _rows(path, tasks, labels, sets)
        except (ExtractError, PipelineError) as problem:
            say(f"transfer to {entry.name} left out: {problem}")
            continue
        if not rows:
            continue
        questions = _questions(corpus.entry, rows, labels)
        asked = replace(task, names=tasks, questions=questions)
        own = Features(sets, inputs.features.pool, inputs.features.scaling)
        theirs = Inputs(own, find_context(rows, *request.context))
        prompter = prompter_of(model, theirs, asked, request.settings)
        size = request.settings.eval_batch_size
        scored = score(model, theirs, prompter, rows, tasks, size)
        config = model.fusion.config
        decision = decision_without_writing(request.settings.decision)
        names = tuple(config.inputs)
        table = prediction_table(scored, config.gated_experts, names, decision, temperatures)
        found[entry.name] = {
            "labels": list(labels),
            **metrics_of(table, labels, entry.protocol),
        }
    return found


def _shared(own: DatasetEntry, other: DatasetEntry) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tasks that both have, and the labels that both name, in our order."""
    theirs = {label.name for label in other.labels}
    labels = tuple(label.name for label in own.labels if label.name in theirs)
    fits = {"classification": len(labels) > 1, "regression": _range(own) == _range(other)}
    tasks = tuple(task for task in own.task if task in other.task and fits[task])
    return tasks, labels if "classification" in tasks else ()


def _range(entry: DatasetEntry) -> tuple[float, float] | None:
    return None if entry.scores is None else (entry.scores.low, entry.scores.high)


def _same_features(
    cache: Path, entry: DatasetEntry, own: Mapping[str, FeatureSet]
) -> dict[str, FeatureSet]:
    """Return a dataset's feature sets of the very encoders that a model was trained with.

    Raises:
        PipelineError: one is missing.
    """
    there = {
        (each.modality, each.fingerprint): each for each in list_feature_sets(cache, entry.name)
    }
    for name, each in own.items():
        if (name, each.fingerprint) not in there:
            raise PipelineError(
                f"it has no {name} features of {each.encoder} with the same settings; "
                f"run egmf-extract --dataset {entry.name} with this encoder"
            )
    return {name: there[name, each.fingerprint] for name, each in own.items()}


def _rows(
    table: Path,
    tasks: Sequence[str],
    labels: Sequence[str],
    sets: Mapping[str, FeatureSet],
) -> list[Utterance]:
    """Return the test rows; a label that is not shared counts as none.

    Raises:
        PipelineError: some are not extracted yet.
    """
    rows = [
        replace(each, label=each.label if each.label in labels else None)
        for each in utterances_of(read_table(table))
        if each.split == "test"
    ]
    for name, each in sets.items():
        done = each.index()
        if missing := sum(row.id not in done for row in rows):
            raise PipelineError(
                f"{missing:,} of {len(rows):,} test utterances lack extracted {name} features; "
                "run egmf-extract again to finish it"
            )
    return rows if any(row.truth(task) is not None for row in rows for task in tasks) else []


def _questions(
    entry: DatasetEntry, rows: Sequence[Utterance], labels: Sequence[str]
) -> dict[QuestionKey, Question]:
    """Return our own questions in the languages of the rows, with the shared labels as answers."""
    questions = questions_of(entry, sorted({each.language for each in rows}))
    for key, question in questions.items():
        if question.task == "classification":
            kept = [place for place, value in enumerate(question.values) if value in labels]
            questions[key] = replace(
                question,
                answers=tuple(question.answers[place] for place in kept),
                values=tuple(question.values[place] for place in kept),
            )
    return questions
