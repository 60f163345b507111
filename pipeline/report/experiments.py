"""Group runs into experiments, and say loudly what a table of means would hide.

Runs of one experiment are averaged only when nothing but the seed tells them apart. Where their
setup, labels or features differ, each setup becomes an experiment of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.metrics import classification_metrics, regression_metrics
from pipeline.metrics.classification import class_numbers
from pipeline.report.load import Metrics, Run, RunResult, Task
from pipeline.report.protocols import BASELINES, family, headline

_SAME = 1e-9
_CONSTANT = 1e-6
_SETUP = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Experiment:
    """Runs that differ in their seed alone."""

    name: str
    runs: tuple[Run, ...]

    @property
    def result(self) -> RunResult:
        """What all runs of the experiment share, read from the first."""
        return self.runs[0].result

    def values(self, key: str) -> list[float]:
        """Return one test metric of every seed, without those where it is undefined."""
        found = (run.result.test.get(key) for run in self.runs)
        return [float(value) for value in found if value is not None]

    def mean(self, key: str) -> float | None:
        """Return the mean of a test metric over seeds."""
        values = self.values(key)
        return float(np.mean(values)) if values else None

    def spread(self, key: str) -> float | None:
        """Return the sample standard deviation over seeds, None with fewer than two."""
        values = self.values(key)
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    @property
    def setup(self) -> str:
        """Say in words what went in: modalities, and what differs from the default model."""
        result = self.result
        parts = [" + ".join(result.modalities)]
        if result.fusion != "egmf":
            parts.append(f"fusion {result.fusion}")
        if result.ablate:
            parts.append(f"without {', '.join(result.ablate)}")
        if result.context:
            parts.append(f"context {result.context}")
        return "; ".join(parts)


def group_experiments(runs: Iterable[Run]) -> list[Experiment]:
    """Group runs of one dataset by experiment, and by setup where an experiment mixes several."""
    experiments = []
    for name, members in groupby(sorted(runs, key=lambda run: run.experiment), _experiment_name):
        setups: dict[str, list[Run]] = {}
        for run in members:
            setups.setdefault(repr(setup_of(run.result)), []).append(run)
        for number, same in enumerate(setups.values()):
            mark = f" (setup {_SETUP[number % len(_SETUP)]})" if len(setups) > 1 else ""
            same.sort(key=lambda run: run.result.seed)
            experiments.append(Experiment(name + mark, tuple(same)))
    return experiments


def setup_of(result: RunResult) -> dict[str, Any]:
    """Return everything but the seed that tells two runs of one experiment apart."""
    return {
        "labels and splits": result.table_sha256,
        "features": {name: item.fingerprint for name, item in result.features.items()},
        "language model": result.llm,
        "modalities": result.modalities,
        "fusion": result.fusion,
        "ablation": result.ablate,
        "context": result.context,
    }


def lead_experiment(experiments: Sequence[Experiment]) -> Experiment:
    """Choose the experiment whose figures are shown: the whole model on the most modalities."""

    def rank(experiment: Experiment) -> tuple[Any, ...]:
        result = experiment.result
        metric = headline(result.task[0], result.protocol)
        score = experiment.mean(metric.key)
        signed = -np.inf if score is None else score if metric.higher_is_better else -score
        whole = result.fusion == "egmf" and not result.ablate
        return len(result.modalities), whole, signed

    return max(experiments, key=rank)


def alarms(experiments: Sequence[Experiment]) -> list[str]:
    """Return what the reader has to know before believing a dataset's tables."""
    found = []
    for name, same in groupby(experiments, lambda each: each.runs[0].experiment):
        setups = [setup_of(each.result) for each in same]
        differing = [key for key in setups[0] if any(one[key] != setups[0][key] for one in setups)]
        if differing:
            found.append(
                f"The seeds of {name} differ in {', '.join(differing)}: "
                "they stand in separate rows and are not averaged."
            )
    tables = {each.result.table_sha256 for each in experiments}
    if len(tables) > 1:
        found.append(
            f"The experiments were scored on {len(tables)} different versions of the labels: "
            "compare rows with the same label fingerprint alone."
        )
    for experiment in experiments:
        for run in experiment.runs:
            for problem in (*collapse(run), *disagreement(run)):
                found.append(f"{run.experiment}, seed {run.result.seed}: {problem}")
    return found


def collapse(run: Run) -> list[str]:
    """Return signs that a run predicts the same whatever its input is."""
    found = []
    result = run.result
    if "classification" in result.task:
        columns = np.sum(result.test["confusion"], axis=0)
        truths = np.count_nonzero(np.sum(result.test["confusion"], axis=1))
        if truths > 1 and np.count_nonzero(columns) == 1:
            label = result.labels[int(np.argmax(columns))]
            found.append(f"COLLAPSED: all {columns.sum()} test predictions are “{label}”.")
        elif _equal(run, "classification", ("accuracy", "weighted_f1")):
            found.append("COLLAPSED: the scores equal the majority class's.")
    if "regression" in result.task:
        scores = prediction_scores(run)
        if scores is not None and (problem := _collapsed_scores(*scores)):
            found.append(problem)
        elif result.test["corr"] is None or _equal(run, "regression", ("mae", "acc5")):
            found.append("COLLAPSED: the test predictions are constant, or score as a constant.")
    return found


def disagreement(run: Run) -> list[str]:
    """Score the predictions file again and return what differs from the result file."""
    if run.predictions is None:
        return ["predictions-test.csv is missing or unreadable: nothing can be checked against it."]
    again: Metrics = {}
    try:
        if (rows := run.of_task("classification")) is not None:
            again |= classification_metrics(
                rows["truth"].tolist(), readable_labels(rows), run.result.labels
            )
        if (scores := prediction_scores(run)) is not None:
            again |= regression_metrics(*scores, family(run.result.protocol))
    except ValueError as error:
        return [f"predictions-test.csv cannot be scored: {error}."]
    found = []
    for key, value in again.items():
        printed = run.result.test.get(key)
        if not isinstance(value, float) or not isinstance(printed, int | float):
            continue
        if abs(value - printed) > _SAME:
            found.append(f"result.json has {key} {printed:.6g}, its predictions give {value:.6g}.")
    return found


def readable_labels(rows: pd.DataFrame) -> list[str | None]:
    """Return the predicted labels, None where the answer could not be read."""
    pairs = zip(rows["prediction"], rows["valid"], strict=True)
    return [label if valid else None for label, valid in pairs]


def prediction_classes(run: Run) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return true and predicted class numbers of the test split, ordered by id."""
    rows = run.of_task("classification")
    if rows is None:
        return None
    labels = run.result.labels
    try:
        truth = class_numbers(rows["truth"].tolist(), labels)
        return truth, class_numbers(readable_labels(rows), labels)
    except ValueError:
        return None


def prediction_scores(run: Run) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return true and predicted scores of the test split, ordered by id; NaN is unreadable."""
    rows = run.of_task("regression")
    if rows is None:
        return None
    truth = pd.to_numeric(rows["truth"], errors="coerce").to_numpy(dtype=np.float64)
    scores = pd.to_numeric(rows["prediction"], errors="coerce").to_numpy(dtype=np.float64)
    return truth, np.where(rows["valid"], scores, np.nan)


def _collapsed_scores(truth: NDArray[np.float64], scores: NDArray[np.float64]) -> str | None:
    scores = scores[~np.isnan(scores)]
    if not scores.size or np.ptp(truth) == 0:
        return None
    if np.ptp(scores) < _CONSTANT:
        return f"COLLAPSED: all test predictions are {scores[0]:+.2f}."
    both_signs = (truth > 0).any() and (truth < 0).any()
    if both_signs and ((scores <= 0).all() or (scores >= 0).all()):
        return "COLLAPSED: all test predictions lie on the same side of zero."
    return None


def _equal(run: Run, task: Task, keys: tuple[str, ...]) -> bool:
    baseline = run.result.baselines.get(BASELINES[task][0], {})
    pairs = [(run.result.test.get(key), baseline.get(key)) for key in keys]
    return all(
        own is not None and trivial is not None and abs(own - trivial) < _SAME
        for own, trivial in pairs
    )


def _experiment_name(run: Run) -> str:
    return run.experiment
