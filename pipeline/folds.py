"""Leave-one-group-out: each speaker, group or language is the test split once.

A fold is a corpus of its own, so that scaling, early stopping and context never see its test rows.
The rows of all folds are pooled into one table of predictions and scored once, as the field does,
beside the score of each fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from extract.files import publish_json, publishing
from pipeline.errors import PipelineError
from pipeline.evaluation import metrics_of
from pipeline.features import Features
from pipeline.fitting import task_of
from pipeline.items import Utterance
from pipeline.manifest import nearest
from pipeline.one_run import train_and_score
from pipeline.probes import collapse_alarms
from pipeline.report.load import read_predictions
from pipeline.request import Bench, Request
from pipeline.results import baselines, best_possible, describe
from pipeline.runs import RunFolder, environment, jsonable, prepare
from pipeline.sources import Corpus
from pipeline.training import Task

COLUMNS = ("speaker", "group", "language")


@dataclass(frozen=True)
class Fold:
    """One fold: the value whose rows are its test split, and the one that validates, if any."""

    number: int
    test: str
    valid: str | None
    corpus: Corpus


def make_folds(corpus: Corpus, column: str, *, validate: bool) -> list[Fold]:
    """Split all labelled rows by the values of a column, in the values' order.

    Args:
        corpus: with the splits of its release, which folds replace.
        column: one of `COLUMNS`.
        validate: let the next value in order (after the last, the first) be the validation split.

    Raises:
        PipelineError: there is no such column, a labelled row lacks it, or its values are too few.
    """
    if column not in COLUMNS:
        raise PipelineError(
            f"--folds {column}: no such column{nearest(column, COLUMNS)}; give one of "
            f"{', '.join(COLUMNS)}"
        )
    rows = [
        each
        for rows in corpus.utterances.values()
        for each in rows
        if each.label is not None or each.score is not None
    ]
    lacking = [each.id for each in rows if getattr(each, column) is None]
    if lacking:
        raise PipelineError(
            f"--folds {column}: {len(lacking):,} of {len(rows):,} labelled utterances of "
            f"{corpus.entry.name!r} have none (first: {lacking[0]}); fill the column in the "
            "dataset's table and run egmf-extract again"
        )
    values = sorted({str(getattr(each, column)) for each in rows})
    needed = 3 if validate else 2
    if len(values) < needed:
        remedy = "; with --select last two are enough" if len(values) == 2 else ""
        raise PipelineError(
            f"--folds {column}: {corpus.entry.name!r} has {len(values)} of them among its labelled "
            f"utterances, at least {needed} are needed{remedy}"
        )
    folds = []
    for number, test in enumerate(values):
        valid = values[(number + 1) % len(values)] if validate else None
        split = {test: "test"} | ({valid: "valid"} if valid is not None else {})
        folds.append(Fold(number, test, valid, _split(corpus, rows, column, split)))
    return folds


def run_folds(
    request: Request,
    corpus: Corpus,
    folds: Sequence[Fold],
    config: Mapping[str, Any],
    folder: RunFolder,
    bench: Bench,
) -> None:
    """Train and score every fold that is not finished, then pool them into one result."""
    places = []
    for fold in folds:
        place = RunFolder(folder.path / f"fold-{fold.number}")
        places.append(place)
        own = {**config, "fold": {"number": fold.number, "test": fold.test, "valid": fold.valid}}
        # Whether unfinished folds may go on was asked of the whole.
        if prepare(place, own, resume=True, fresh=False):
            bench.say(f"{place.path}: {request.folds} {fold.test} is the test split")
            train_and_score(request, fold.corpus, own, place, bench)
    result = _pool(request, corpus, config, folder, folds, places)
    publish_json(folder.result, jsonable(result))
    for alarm in result["alarms"]:
        folder.append_log({"kind": "alarm", "alarm": alarm})


def _split(
    corpus: Corpus, rows: Sequence[Utterance], column: str, split: Mapping[str, str]
) -> Corpus:
    """Give every row the split of its column's value; train where none is named.

    Rows of the release's split `unlabelled` stay there, but for those of a value that is named.
    """
    utterances: dict[str, list[Utterance]] = {"train": [], "valid": [], "test": []}
    for each in rows:
        name = split.get(str(getattr(each, column)), "train")
        utterances[name].append(replace(each, split=name))
    labelled = {each.id for each in rows}
    utterances["unlabelled"] = [
        each
        for each in corpus.utterances.get("unlabelled", ())
        if each.id not in labelled and str(getattr(each, column)) not in split
    ]
    # The release's split sizes say nothing about a fold's.
    entry = corpus.entry.model_copy(update={"splits": {}})
    return replace(corpus, entry=entry, utterances=utterances)


def _pool(
    request: Request,
    corpus: Corpus,
    config: Mapping[str, Any],
    folder: RunFolder,
    folds: Sequence[Fold],
    places: Sequence[RunFolder],
) -> dict[str, Any]:
    """Pool predictions and costs of all folds.

    The trivial baselines are the majority and the median of all rows, since every row is trained on
    in some fold. What was measured on single models, such as the noise probe, stays with the folds.
    """
    task = task_of(corpus)
    results = [place.read_result() for place in places]
    test = _pool_predictions(folder, places, "test")
    metrics = _metrics(test, task)
    rows = [each for fold in folds for each in fold.corpus.utterances["test"]]
    valid: dict[str, Any] = {}
    if request.settings.select == "best":
        valid = _metrics(_pool_predictions(folder, places, "valid"), task)
    trivial = baselines(rows, rows, task)
    everything = replace(corpus, utterances={"test": rows})
    features = Features(corpus.sets, request.settings.pool)
    return {
        **describe(request.llm, corpus, config, task),
        "valid": valid,
        "test": metrics,
        "by_language": {
            str(language): _metrics(part, task) for language, part in test.groupby("language")
        },
        "folds": [
            {"number": fold.number, "test": fold.test, "valid": fold.valid, **result["test"]}
            for fold, result in zip(folds, results, strict=True)
        ],
        "baselines": trivial,
        "alarms": collapse_alarms(test, metrics, trivial),
        "ceiling": best_possible(everything, features, max(request.context)),
        "shortened_prompts": sum(each["shortened_prompts"] for each in results),
        "parameters": results[0]["parameters"],
        "best_epoch": round(sum(each["best_epoch"] for each in results) / len(results)),
        "epochs": max(each["epochs"] for each in results),
        "steps": sum(each["steps"] for each in results),
        "skipped_steps": sum(each["skipped_steps"] for each in results),
        "seconds": {
            name: sum(each["seconds"][name] for each in results) for name in results[0]["seconds"]
        },
        "utterances_per_second": sum(each["utterances_per_second"] for each in results)
        / len(results),
        "peak_memory_bytes": max(each["peak_memory_bytes"] for each in results),
        "environment": environment()["libraries"],
    }


def _pool_predictions(folder: RunFolder, places: Sequence[RunFolder], split: str) -> pd.DataFrame:
    """Put the predictions of all folds into one file, with a column that names the fold."""
    parts = [
        read_predictions(place.predictions(split)).assign(fold=number)
        for number, place in enumerate(places)
    ]
    table = pd.concat(parts, ignore_index=True)
    for name in ("truth", "prediction"):
        table[name] = table[name].where(table[name] != "", None)
    with publishing(folder.predictions(split)) as temporary:
        table.to_csv(temporary, index=False)
    return table


def _metrics(table: pd.DataFrame, task: Task) -> dict[str, Any]:
    return metrics_of(table, task.labels, task.protocol)
