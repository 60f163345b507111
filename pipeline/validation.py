"""Validation after every epoch: how good the model is, and whether its weights are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.distributed import Processes
from pipeline.evaluation import decision_without_writing, metrics_of, prediction_table, score
from pipeline.model import Egmf
from pipeline.parts import Part, Task
from pipeline.settings import TrainSettings

CRITERIA = {"classification": "weighted_f1", "regression": "mae"}
"""The metric of each task by which epochs are compared."""


def validate(
    model: Egmf, part: Part, settings: TrainSettings, processes: Processes
) -> dict[str, Any]:
    """Score a dataset's validation split, each process its share; nothing where there is none.

    A model that has diverged answers with probabilities that are no numbers: then the criteria are
    NaN too, since a label would come of it all the same.
    """
    utterances, task = part.utterances["valid"], part.task
    if not utterances:
        return {}
    with model.language.together():
        scored = score(
            model,
            part.inputs,
            part.prompter,
            processes.share(utterances),
            task.names,
            settings.eval_batch_size,
        )
    if processes.count > 1:
        everything = {
            (each.utterance.id, each.question.task): each
            for share in processes.gather(scored)
            for each in share
        }
        scored = [everything[each.id, name] for name in task.names for each in utterances]
    if any(np.isnan(each.log_scores).any() for each in scored):
        return {CRITERIA[name]: math.nan for name in task.names}
    config = model.fusion.config
    # Decided by probability whatever the run's decision is: free writing is for the final scores.
    decision = decision_without_writing(settings.decision)
    table = prediction_table(scored, config.gated_experts, tuple(config.inputs), decision, {})
    return metrics_of(table, task.labels, task.protocol)


def selection_value(metrics: Mapping[str, Any], task: Task) -> float:
    """Return what early stopping maximises: weighted F1, minus the error as a share of the range.

    For one task this is the field's criterion (weighted F1, or the mean absolute error). NaN, which
    no comparison prefers, where a metric is missing or undefined.
    """
    value = 0.0
    for name in task.names:
        metric = metrics.get(CRITERIA[name])
        if metric is None:
            return math.nan
        value += metric if name == "classification" else -metric / task.score_scale
    return value


def mean_selection(parts: Sequence[Part], metrics: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the mean of the datasets' selection values; None where there is no validation."""
    values = [
        selection_value(metrics[each.name], each.task) for each in parts if metrics[each.name]
    ]
    return sum(values) / len(values) if values else None
