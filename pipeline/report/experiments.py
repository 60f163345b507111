"""Group runs into experiments, and read what they predicted.

Runs of one experiment are averaged only when nothing but the seed tells them apart. Where their
setup, labels or features differ, each setup becomes an experiment of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.identity import ENTRY_SHA256, LLM_SHA256, RECORDED_LATER, comparable
from pipeline.metrics.classification import class_numbers
from pipeline.report.load import Run, RunResult, Task
from pipeline.report.protocols import Metric, headline

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
        """Return one metric of every seed, without those where it is undefined."""
        found = (run.result.scores.get(key) for run in self.runs)
        return [float(value) for value in found if value is not None]

    def mean(self, key: str) -> float | None:
        """Return the mean of a metric over seeds."""
        values = self.values(key)
        return float(np.mean(values)) if values else None

    def spread(self, key: str) -> float | None:
        """Return the sample standard deviation over seeds, None with fewer than two."""
        values = self.values(key)
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    @property
    def folds(self) -> str:
        """By what the runs were split into folds; empty where they have the release's splits."""
        return self.runs[0].fold_column

    def headline(self, task: Task) -> Metric:
        """Return the metric of one of its tasks that abstracts quote."""
        return headline(task, self.result.protocol, self.folds)

    @property
    def setup(self) -> str:
        """Say in words what went in: modalities, and what differs from the default but fusion."""
        result = self.result
        parts = [" + ".join(result.modalities)]
        if result.ablate:
            parts.append(f"without {', '.join(result.ablate)}")
        if result.context or result.context_after:
            after = f" + {result.context_after} after" if result.context_after else ""
            parts.append(f"context {result.context}{after}")
        if len(result.train_datasets) > 1:
            parts.append(f"trained on {' + '.join(result.train_datasets)}")
        if result.train_languages:
            parts.append(f"trained on {', '.join(result.train_languages)}")
        if result.select == "last":
            parts.append("last epoch")
        return "; ".join(parts)

    def setup_among(self, others: Sequence["Experiment"]) -> str:
        """Say what went in, with the encoders and the language model where they differ."""
        result = self.result
        parts = [self.setup]
        for modality, feature in result.features.items():
            sets = {each.result.features.get(modality, feature).fingerprint for each in others}
            if len(sets) > 1:
                parts.append(f"{modality} of {feature.slug}")
        if len({each.result.llm for each in others}) > 1:
            parts.append(f"writes with {short_model(result.llm)}")
        if result.random_weights and not all(each.result.random_weights for each in others):
            parts.append("random weights")
        return "; ".join(parts)


def group_experiments(runs: Iterable[Run]) -> list[Experiment]:
    """Group runs of one dataset by experiment, and by setup where an experiment mixes several."""
    experiments = []
    for name, members in groupby(sorted(runs, key=lambda run: run.experiment), _experiment_name):
        setups: dict[str, list[Run]] = {}
        mixed = list(members)
        for run, setup in zip(mixed, setups_of(mixed), strict=True):
            setups.setdefault(repr(setup), []).append(run)
        for number, same in enumerate(setups.values()):
            mark = f" (setup {_SETUP[number % len(_SETUP)]})" if len(setups) > 1 else ""
            same.sort(key=lambda run: run.result.seed)
            experiments.append(Experiment(name + mark, tuple(same)))
    return experiments


def setups_of(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return of each run of an experiment all but the seed that may tell it from the others.

    What one of them, of an older version, did not record is not compared.
    """
    return list(map(_setup_of, runs, comparable([run.config for run in runs])))


def _setup_of(run: Run, config: Mapping[str, Any]) -> dict[str, Any]:
    result = run.result
    return {
        "labels and splits": result.table_sha256,
        "features": {name: item.fingerprint for name, item in result.features.items()},
        "language model": config.get(LLM_SHA256, result.llm),
        "questions and answers": config.get(ENTRY_SHA256),
        "modalities": result.modalities,
        "fusion": result.fusion,
        "ablation": result.ablate,
        "context": (result.context, result.context_after),
        "settings": {key: config[key] for key in config if key not in RECORDED_LATER},
        "split shown": result.split,
        "folds": run.fold_column,
        "languages trained on": result.train_languages,
        "datasets trained on": result.train_datasets,
    }


def short_model(llm: str) -> str:
    """Return the end of a language model's path, or its name on a hub."""
    return "/".join(Path(llm).parts[-2:])


def lead_experiment(experiments: Sequence[Experiment]) -> Experiment:
    """Choose the experiment whose figures are shown: the whole model on the most modalities.

    Single utterances go before context, which is another protocol, and all of the
    corpus alone before some of its languages or several corpora.
    """

    def rank(experiment: Experiment) -> tuple[Any, ...]:
        result = experiment.result
        metric = experiment.headline(result.task[0])
        score = experiment.mean(metric.key)
        signed = -np.inf if score is None else score if metric.higher_is_better else -score
        whole = result.fusion == "egmf" and not result.ablate
        single = not (result.context or result.context_after)
        every = not result.train_languages and len(result.train_datasets) < 2
        return result.split == "test", len(result.modalities), whole, single, every, signed

    return max(experiments, key=rank)


def readable_labels(rows: pd.DataFrame) -> list[str | None]:
    """Return the predicted labels, None where the answer could not be read."""
    pairs = zip(rows["prediction"], rows["valid"], strict=True)
    return [label if valid else None for label, valid in pairs]


def prediction_classes(run: Run) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return true and predicted class numbers of the split shown, ordered by id."""
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
    """Return true and predicted scores of the split shown, ordered by id; NaN is unreadable."""
    rows = run.of_task("regression")
    if rows is None:
        return None
    truth = pd.to_numeric(rows["truth"], errors="coerce").to_numpy(dtype=np.float64)
    if np.isnan(truth).any():
        return None
    scores = pd.to_numeric(rows["prediction"], errors="coerce").to_numpy(dtype=np.float64)
    return truth, np.where(rows["valid"], scores, np.nan)


def _experiment_name(run: Run) -> str:
    return run.experiment
