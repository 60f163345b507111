"""Probes of a trained model: what it does when a modality breaks or is missing, and collapse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import nan
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats

from fuse.fusion import Fused
from pipeline.ahead import ahead
from pipeline.augment import replace_by_noise
from pipeline.evaluation import NOISE_SEED, batches
from pipeline.inputs import Inputs
from pipeline.items import Utterance
from pipeline.model import Egmf

COLLAPSED_SHARE = 0.99
"""Answers are called collapsed when at least this share of them is one and the same."""

CONSTANT_SPREAD = 0.02
"""Numbers are called constant when they spread less than this share of what the truth spreads."""


@torch.no_grad()
def probe_noise(
    model: Egmf, inputs: Inputs, utterances: Sequence[Utterance], batch_size: int
) -> dict[str, dict[str, float | int]]:
    """Measure how the gate answers when one modality's input is replaced by noise.

    For each modality, over the utterances that have it and at least one other: its mean effective
    weight before and after, the relative drop, and a one-sided paired Wilcoxon test of the fall.
    """
    model.eval()
    names = list(inputs.features.sets)
    weights: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    generator = torch.Generator().manual_seed(NOISE_SEED)
    for _, (streams, turns) in ahead(inputs.batch, batches(utterances, batch_size)):
        before = _gate_of(model.fuse(streams, turns))
        present = torch.stack([stream.present for stream in streams.values()], dim=1)
        for index, name in enumerate(names):
            chosen = present[:, index] & (present.sum(dim=1) > 1)
            noisy = {**streams, name: replace_by_noise(streams[name], chosen, generator)}
            after = _gate_of(model.fuse(noisy, turns))
            pairs = torch.stack([before[chosen, index], after[chosen, index]], dim=1)
            weights[name].extend((float(a), float(b)) for a, b in pairs)
    return {name: _fall(np.array(pairs).T) for name, pairs in weights.items() if pairs}


def proper_subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Return every non-empty subset but the whole, smallest first."""
    return [
        subset for size in range(1, len(modalities)) for subset in combinations(modalities, size)
    ]


def collapse_alarms(
    predictions: pd.DataFrame, metrics: Mapping[str, Any], baselines: Mapping[str, Any]
) -> list[str]:
    """Say where predictions are no better than a constant, in plain words; usually none are.

    Args:
        predictions: as `evaluation.prediction_table` gives them.
        metrics: of those with a truth.
        baselines: metrics of `majority` and `median`, as far as they apply.
    """
    alarms = []
    for task, rows in predictions.groupby("task", sort=False):
        unreadable = 1.0 - rows["valid"].mean()
        if unreadable >= COLLAPSED_SHARE:
            alarms.append(f"collapsed: {unreadable:.0%} of the {task} answers cannot be read")
    labels = predictions[(predictions["task"] == "classification") & predictions["valid"]]
    if len(labels):
        top = labels["prediction"].value_counts(normalize=True)
        accuracy = metrics.get("accuracy", nan)
        majority = baselines.get("majority", {}).get("accuracy", nan)
        if top.iloc[0] >= COLLAPSED_SHARE:
            alarms.append(f"collapsed: {top.iloc[0]:.0%} of all answers are {top.index[0]!r}")
        elif accuracy <= majority:
            alarms.append(f"accuracy {accuracy:.3f} does not exceed the majority's {majority:.3f}")
    numbers = predictions[(predictions["task"] == "regression") & predictions["valid"]]
    if len(numbers):
        found, truth = (numbers[n].to_numpy(dtype=np.float64) for n in ("prediction", "truth"))
        mae, median = metrics.get("mae", nan), baselines.get("median", {}).get("mae", nan)
        known = truth[np.isfinite(truth)]
        if len(known) and found.std() < CONSTANT_SPREAD * known.std():
            alarms.append(f"collapsed: all numbers lie within {np.ptp(found):.2f} of each other")
        elif mae >= median:
            alarms.append(f"MAE {mae:.3f} is no better than the median's {median:.3f}")
    return alarms


def _gate_of(fused: Fused) -> torch.Tensor:
    if fused.gate is None:
        raise ValueError("this fusion has no gate to probe")
    return fused.gate.effective.cpu()


def _fall(pairs: NDArray[np.float64]) -> dict[str, float | int]:
    before, after = pairs
    return {
        "before": float(before.mean()),
        "after": float(after.mean()),
        "drop": float(1.0 - after.mean() / before.mean()) if before.mean() > 0 else 0.0,
        "p_value": 1.0
        if np.array_equal(before, after)
        else float(stats.wilcoxon(before, after, alternative="greater").pvalue),
        "n": len(before),
    }
