"""Evaluation: the probability of every permitted answer, decisions from it, and the gate's weights.

An unreadable answer is impossible here, since only permitted answers are scored. Questions of one
task and language share their answers and are scored together, sorted by length.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats

from fuse.gates import GateWeights
from pipeline.augment import replace_by_noise
from pipeline.inputs import Inputs
from pipeline.items import Question, QuestionKey, Utterance
from pipeline.metrics import RegressionProtocol, classification_metrics, regression_metrics
from pipeline.model import Egmf
from pipeline.prompting import Prompter

NOISE_SEED = 20_260


@dataclass(frozen=True)
class Scored:
    """One question about one utterance: the probability of each answer, and the gate's weights.

    `gate_experts` [experts], `gate_modalities` [experts, modalities].
    """

    utterance: Utterance
    question: Question
    probabilities: NDArray[np.float64]
    gate_experts: NDArray[np.float32]
    gate_modalities: NDArray[np.float32]


@torch.no_grad()
def score(
    model: Egmf,
    inputs: Inputs,
    prompter: Prompter,
    utterances: Sequence[Utterance],
    tasks: Sequence[str],
    batch_size: int,
) -> list[Scored]:
    """Score all questions about `utterances`; results follow the utterances' order by task."""
    model.eval()
    results: dict[tuple[str, str], Scored] = {}
    for batch in _batches(utterances, batch_size):
        fused = model.fuse(*inputs.batch(batch))
        groups: dict[QuestionKey, list[int]] = defaultdict(list)
        for row, utterance in enumerate(batch):
            for task in tasks:
                groups[task, utterance.language].append(row)
        for (task, _), rows in groups.items():
            question = prompter.question(task, batch[rows[0]])
            prompts = [prompter.tokens(task, batch[row]) for row in rows]
            pseudo = fused.pseudo_tokens[torch.tensor(rows, device=model.device)]
            scores = model.language.answer_scores(prompts, question.answers, pseudo)
            probabilities = scores.double().softmax(dim=-1).cpu().numpy()
            for row, each in zip(rows, probabilities, strict=True):
                results[batch[row].id, task] = Scored(
                    batch[row], question, each, *_gate_row(fused.gate, row)
                )
    return [results[each.id, task] for task in tasks for each in utterances]


def prediction_table(
    scored: Sequence[Scored], experts: Sequence[str], modalities: Sequence[str], decision: str
) -> pd.DataFrame:
    """Turn scores into decisions, one row a question.

    A label is the most probable one. A number is the expectation over the grid, or with
    `decision="argmax"` the most probable one. `answer` is the single most probable answer.
    """
    rows = []
    for each in scored:
        question, best = each.question, int(each.probabilities.argmax())
        row: dict[str, Any] = {
            "id": each.utterance.id,
            "task": question.task,
            "language": question.language,
            "truth": each.utterance.truth(question.task),
            "answer": question.answers[best],
            "prediction": question.values[best],
            "valid": True,
            "probability": float(each.probabilities[best]),
            "expectation": None,
        }
        if question.task == "regression":
            values = np.asarray(question.values, dtype=np.float64)
            row["expectation"] = float(each.probabilities @ values)
            if decision == "expectation":
                row["prediction"] = row["expectation"]
        effective = each.gate_experts @ each.gate_modalities
        row |= {
            f"gate_expert_{n}": float(w) for n, w in zip(experts, each.gate_experts, strict=True)
        }
        row |= {f"gate_modality_{n}": float(w) for n, w in zip(modalities, effective, strict=True)}
        for expert, weights in zip(experts, each.gate_modalities, strict=True):
            row |= {
                f"gate_{expert}_{n}": float(w) for n, w in zip(modalities, weights, strict=True)
            }
        rows.append(row)
    return pd.DataFrame(rows)


def metrics_of(predictions: pd.DataFrame, labels: Sequence[str], protocol: str) -> dict[str, Any]:
    """Score a prediction table by the dataset's protocol; rows without a truth are left out."""
    known = predictions[predictions["truth"].notna()]
    metrics: dict[str, Any] = {}
    rows = known[known["task"] == "classification"]
    if len(rows):
        metrics |= classification_metrics(
            rows["truth"].tolist(), rows["prediction"].tolist(), labels
        )
    rows = known[known["task"] == "regression"]
    if len(rows):
        metrics |= regression_metrics(
            rows["truth"].to_numpy(dtype=np.float64),
            rows["prediction"].to_numpy(dtype=np.float64),
            regression_family(protocol),
        )
    return metrics


def regression_family(protocol: str) -> RegressionProtocol:
    """Return which family of metrics scores the numbers of a dataset."""
    return "sims" if protocol == "sims" else "mosi"


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
    for batch in _batches(utterances, batch_size):
        streams, turns = inputs.batch(batch)
        before = model.fuse(streams, turns).gate.effective.cpu()
        present = torch.stack([stream.present for stream in streams.values()], dim=1)
        for index, name in enumerate(names):
            chosen = present[:, index] & (present.sum(dim=1) > 1)
            noisy = {**streams, name: replace_by_noise(streams[name], chosen, generator)}
            after = model.fuse(noisy, turns).gate.effective.cpu()
            pairs = torch.stack([before[chosen, index], after[chosen, index]], dim=1)
            weights[name].extend((float(a), float(b)) for a, b in pairs)
    report = {}
    for name, pairs_of in weights.items():
        if not pairs_of:
            continue
        was, now = np.array(pairs_of).T
        report[name] = {
            "before": float(was.mean()),
            "after": float(now.mean()),
            "drop": float(1.0 - now.mean() / was.mean()) if was.mean() > 0 else 0.0,
            "p_value": _fall_p_value(was, now),
            "n": len(pairs_of),
        }
    return report


def _fall_p_value(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Test one-sidedly, in pairs, whether `after` lies below `before` (Wilcoxon's signed ranks)."""
    if np.array_equal(before, after):
        return 1.0
    return float(stats.wilcoxon(before, after, alternative="greater").pvalue)


def _batches(utterances: Sequence[Utterance], size: int) -> Iterator[list[Utterance]]:
    """Cut into batches of similar prompt length."""
    ordered = sorted(utterances, key=lambda each: (each.language, len(each.text or ""), each.id))
    for start in range(0, len(ordered), size):
        yield list(ordered[start : start + size])


def _gate_row(gate: GateWeights, row: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return gate.experts[row].float().cpu().numpy(), gate.modalities[row].float().cpu().numpy()
