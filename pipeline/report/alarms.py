"""Say loudly what a table of means would hide: collapse, mixtures, figures that do not add up."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics import classification_metrics, regression_metrics
from pipeline.report.experiments import (
    Experiment,
    prediction_scores,
    readable_labels,
    setups_of,
)
from pipeline.report.load import Metrics, Run, Task
from pipeline.report.protocols import BASELINES, family
from pipeline.report.wording import sentence

_SAME = 1e-9
_CONSTANT = 1e-6


def alarms(experiments: Sequence[Experiment]) -> list[str]:
    """Return what the reader has to know before believing a dataset's tables."""
    found = _mixed_setups(experiments) + _mixed_versions(experiments)
    if without := [each.name for each in experiments if each.result.split == "valid"]:
        found.append(
            f"No test split: the figures of {', '.join(without)} are of the validation split, "
            "which chose the epoch."
        )
    tables = {each.result.table_sha256 for each in experiments}
    if len(tables) > 1:
        found.append(
            f"The experiments were scored on {len(tables)} different versions of the labels: "
            "compare rows with the same label fingerprint alone."
        )
    found += _other_rows(experiments)
    for experiment in experiments:
        for run in experiment.runs:
            found += [f"{run.experiment}, seed {run.result.seed}: {one}" for one in _problems(run)]
    return found


def collapse(run: Run) -> list[str]:
    """Return signs that a run predicts the same whatever its input is."""
    found = []
    result = run.result
    if "classification" in result.task:
        columns = np.sum(result.scores["confusion"], axis=0)
        truths = np.count_nonzero(np.sum(result.scores["confusion"], axis=1))
        if truths > 1 and np.count_nonzero(columns) == 1:
            label = result.labels[int(np.argmax(columns))]
            found.append(f"COLLAPSED: all {columns.sum()} predictions are “{label}”.")
        elif _equal(run, "classification", ("accuracy", "weighted_f1")):
            found.append("COLLAPSED: the scores equal the majority class's.")
    if "regression" in result.task:
        scores = prediction_scores(run)
        if scores is not None and (problem := _collapsed_scores(*scores)):
            found.append(problem)
        elif result.scores["corr"] is None or _equal(run, "regression", ("mae", "acc5")):
            found.append("COLLAPSED: the predictions are constant, or score as a constant.")
    return found


def disagreement(run: Run) -> list[str]:
    """Score the predictions file again and return what differs from the result file."""
    if run.predictions is None:
        return [
            f"{run.predictions_file} is missing or unreadable: nothing can be checked against it."
        ]
    again: Metrics = {}
    try:
        if (rows := run.of_task("classification")) is not None:
            again |= classification_metrics(
                rows["truth"].tolist(), readable_labels(rows), run.result.labels
            )
        if (scores := prediction_scores(run)) is not None:
            again |= regression_metrics(*scores, family(run.result.protocol))
    except ValueError as error:
        return [f"{run.predictions_file} cannot be scored: {error}."]
    found = []
    for key, value in again.items():
        printed = run.result.scores.get(key)
        if not isinstance(value, int | float) or not isinstance(printed, int | float):
            continue
        if abs(value - printed) > _SAME:
            found.append(f"result.json has {key} {printed:.6g}, its predictions give {value:.6g}.")
    return found


def _mixed_setups(experiments: Sequence[Experiment]) -> list[str]:
    found = []
    by_name: dict[str, list[Run]] = {}
    for each in experiments:
        by_name.setdefault(each.runs[0].experiment, []).append(each.runs[0])
    for name, runs in by_name.items():
        setups = setups_of(runs)
        differing = [key for key in setups[0] if any(one[key] != setups[0][key] for one in setups)]
        if differing:
            found.append(
                f"The seeds of {name} differ in {', '.join(differing)}: "
                "they stand in separate rows and are not averaged."
            )
    return found


def _mixed_versions(experiments: Sequence[Experiment]) -> list[str]:
    found = []
    for experiment in experiments:
        environments = [run.result.environment for run in experiment.runs]
        differing = sorted(
            library
            for library in set().union(*environments)
            if len({versions.get(library) for versions in environments}) > 1
        )
        if differing:
            found.append(
                f"The seeds of {experiment.name} ran with different versions of "
                f"{', '.join(differing)}; their mean mixes them."
            )
    return found


def _other_rows(experiments: Sequence[Experiment]) -> list[str]:
    """Say which experiments of one protocol were scored on more or fewer utterances than most."""
    found = []
    for task in dict.fromkeys(task for each in experiments for task in each.result.task):
        for folds in dict.fromkeys(each.folds for each in experiments):
            sizes = {
                each.name: int(max(each.values(f"n_{task}"), default=0))
                for each in experiments
                if each.folds == folds and task in each.result.task
            }
            usual, _ = Counter(sizes.values()).most_common(1)[0] if sizes else (0, 0)
            found += [
                f"{name} was scored on {size:,} utterances in {task}, the others on {usual:,}: "
                "their scores are not of the same test split."
                for name, size in sizes.items()
                if size != usual
            ]
    return found


def _problems(run: Run) -> list[str]:
    """Return the alarms that training raised, collapse unless it did, and contradictions."""
    own = [sentence(text) for text in run.result.alarms if text]
    collapsed = any(text.startswith("Collapsed") for text in own)
    return [*own, *([] if collapsed else collapse(run)), *disagreement(run)]


def _collapsed_scores(truth: NDArray[np.float64], scores: NDArray[np.float64]) -> str | None:
    scores = scores[~np.isnan(scores)]
    if not scores.size or np.ptp(truth) == 0:
        return None
    if np.ptp(scores) < _CONSTANT:
        return f"COLLAPSED: all predictions are {scores[0]:+.2f}."
    both_signs = (truth > 0).any() and (truth < 0).any()
    if both_signs and ((scores <= 0).all() or (scores >= 0).all()):
        return "COLLAPSED: all predictions lie on the same side of zero."
    return None


def _equal(run: Run, task: Task, keys: tuple[str, ...]) -> bool:
    baseline = run.result.baselines.get(BASELINES[task][0], {})
    pairs = [(run.result.scores.get(key), baseline.get(key)) for key in keys]
    return all(
        own is not None and trivial is not None and abs(own - trivial) < _SAME
        for own, trivial in pairs
    )
