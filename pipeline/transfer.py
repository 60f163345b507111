"""Cross-corpus transfer: a trained model judged on the test splits of other cached datasets.

The model is asked as it was trained, with the scaling of its own training split. Labels are mapped
by the manifest: those of one name, or of names that an entry calls the same, are one label; only
they are permitted answers, and only rows with such a label count. Numbers are compared where the
ranges agree, or after rescaling where the manifest says that both measure the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from extract.errors import ExtractError
from extract.features import FeatureSet, list_feature_sets
from extract.files import publishing
from extract.table import read_table
from pipeline.context import find_context
from pipeline.errors import PipelineError
from pipeline.evaluation import decision_without_writing, metrics_of, prediction_table, score
from pipeline.features import Features
from pipeline.fitting import Material
from pipeline.inputs import Inputs
from pipeline.items import COLUMNS, Question, QuestionKey, Utterance, questions_of, utterances_of
from pipeline.judging import prompter_of
from pipeline.manifest import DatasetEntry, Range, load_manifest
from pipeline.model import Egmf
from pipeline.request import Request
from pipeline.runs import RunFolder


@dataclass(frozen=True)
class Match:
    """What two datasets have in common.

    `tasks` that can be scored; `labels`, theirs to ours; `rescale`, from our range to theirs, where
    they differ; `misfits`, why a task of both cannot be scored.
    """

    tasks: tuple[str, ...]
    labels: Mapping[str, str]
    rescale: tuple[Range, Range] | None
    misfits: tuple[str, ...]


def match(own: DatasetEntry, other: DatasetEntry) -> Match:
    """Find out what a model of `own` can be asked about `other`."""
    tasks, misfits = [], []
    labels: dict[str, str] = {}
    rescale = None
    shared = [task for task in own.task if task in other.task]
    if "classification" in shared:
        found = {each.name: each.counterpart(own.labels) for each in other.labels}
        labels = {theirs: ours.name for theirs, ours in found.items() if ours is not None}
        if len(set(labels.values())) > 1:
            tasks.append("classification")
        else:
            misfits.append(f"{len(set(labels.values()))} of its labels are ours, two are needed")
            labels = {}
    if "regression" in shared and own.scores and other.scores:
        ours, theirs = own.scores, other.scores
        same = (ours.low, ours.high) == (theirs.low, theirs.high)
        if same or (ours.measures is not None and ours.measures == theirs.measures):
            tasks.append("regression")
            rescale = None if same else (ours, theirs)
        else:
            misfits.append(
                f"its scores run from {theirs.low:g} to {theirs.high:g}, ours from {ours.low:g} to "
                f"{ours.high:g}, and the manifest does not say that they measure the same"
            )
    return Match(tuple(tasks), labels, rescale, tuple(misfits))


def judge_transfer(
    model: Egmf,
    material: Material,
    request: Request,
    temperatures: Mapping[str, float],
    folder: RunFolder,
    say: Callable[[str], None],
    leave_out: Collection[str] = (),
) -> dict[str, Any]:
    """Score the model on every cached dataset that shares a task with its own, `leave_out` apart.

    The predictions go to `transfer-{dataset}.csv` in the run's folder.

    Returns:
        By dataset: metrics, the labels asked for, theirs as ours, how many of the labelled rows
        were scored for each task, whether scores were rescaled, and `left_out`, the reason, where
        a task or all of it could not be scored.
    """
    own = material.corpus.entry
    known = load_manifest(request.source.manifest).datasets
    found = {}
    for path in sorted(request.source.cache.glob("*/utterances.parquet")):
        entry = known.get(path.parent.name)
        if entry is None or entry.name == own.name or entry.name in leave_out:
            continue
        common = match(own, entry)
        problems = list(common.misfits)
        record: dict[str, Any] = {}
        if common.tasks:
            try:
                sets = _same_features(request.source.cache, entry, material.corpus.sets)
                rows = _rows(path, sets)
            except (ExtractError, PipelineError) as problem:
                problems.append(str(problem))
            else:
                place = folder.transfer(entry.name)
                record = _judge(
                    model, material, entry, common, sets, rows, request, temperatures, place
                )
        if problems:
            say(f"transfer to {entry.name} left out: {'; '.join(problems)}")
            record["left_out"] = "; ".join(problems)
        if record:
            found[entry.name] = record
    return found


def _judge(
    model: Egmf,
    material: Material,
    entry: DatasetEntry,
    common: Match,
    sets: Mapping[str, FeatureSet],
    test: Sequence[Utterance],
    request: Request,
    temperatures: Mapping[str, float],
    place: Path,
) -> dict[str, Any]:
    """Score the model on another dataset's test rows; nothing where none has a known truth."""
    shared = set(common.labels.values())
    labels = tuple(label for label in material.task.labels if label in shared)
    rows = [replace(each, label=common.labels.get(each.label or "")) for each in test]
    if all(row.truth(task) is None for row in rows for task in common.tasks):
        return {}
    asked = replace(
        material.task,
        names=common.tasks,
        questions=_questions(material.corpus.entry, rows, labels),
    )
    features = material.inputs.features
    theirs = Inputs(
        Features(sets, features.pool, features.scaling), find_context(rows, *request.context)
    )
    prompter = prompter_of(model, theirs, asked, request.settings)
    scored = score(model, theirs, prompter, rows, common.tasks, request.settings.eval_batch_size)
    config = model.fusion.config
    decision = decision_without_writing(request.settings.decision)
    names = tuple(config.inputs)
    table = prediction_table(scored, config.gated_experts, names, decision, temperatures)
    if common.rescale is not None:
        table = _rescaled(table, *common.rescale)
    with publishing(place) as temporary:
        table.to_csv(temporary, index=False)
    counted = {
        task: {
            "scored": sum(row.truth(task) is not None for row in rows),
            "labelled": sum(row.truth(task) is not None for row in test),
        }
        for task in common.tasks
    }
    return {
        "tasks": list(common.tasks),
        "labels": list(labels),
        "mapped": {theirs: ours for theirs, ours in common.labels.items() if theirs != ours},
        "rows": counted,
        "rescaled": common.rescale is not None,
        **metrics_of(table, labels, entry.protocol),
    }


def _rescaled(table: pd.DataFrame, ours: Range, theirs: Range) -> pd.DataFrame:
    """Map the numbers predicted in our range linearly onto theirs."""
    numbers = table["task"] == "regression"
    predicted = table.loc[numbers, "prediction"].astype(float)
    stretched = (predicted - ours.low) * (theirs.high - theirs.low) / (ours.high - ours.low)
    prediction = table["prediction"].astype(object)
    prediction[numbers] = theirs.low + stretched
    return table.assign(prediction=prediction)


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


def _rows(table: Path, sets: Mapping[str, FeatureSet]) -> list[Utterance]:
    """Return the test rows.

    Raises:
        PipelineError: some are not extracted yet.
    """
    rows = [each for each in utterances_of(read_table(table, COLUMNS)) if each.split == "test"]
    for name, each in sets.items():
        done = each.index()
        if missing := sum(row.id not in done for row in rows):
            raise PipelineError(
                f"{missing:,} of {len(rows):,} test utterances lack extracted {name} features; "
                "run egmf-extract again to finish it"
            )
    return rows


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
