"""Evaluation: the probability of every permitted answer, decisions from it, and their metrics.

By default only permitted answers are scored, so an unreadable answer is impossible. With
`decision="generate"` the model writes freely, and what cannot be read is counted as wrong and
unreadable, never guessed. Questions of one task and language share their answers and the start of
their prompts, which is encoded once, and are scored together, sorted by length.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from fuse.gates import GateWeights
from fuse.streams import Stream
from generate.answers import parse_label, parse_number
from generate.prefix import Prefix
from pipeline.ahead import ahead
from pipeline.augment import replace_by_noise
from pipeline.inputs import Inputs
from pipeline.items import TEXT, Question, QuestionKey, Utterance, written_answer
from pipeline.metrics import RegressionProtocol, classification_metrics, regression_metrics
from pipeline.model import Egmf
from pipeline.prompting import Prompter

GENERATE = "generate"
NOISE_SEED = 20_260
ALL_ROWS = torch.tensor(True)
COOLEST, HOTTEST = 0.05, 20.0


@dataclass(frozen=True)
class Scored:
    """One question about one utterance.

    `log_scores` [answers], log p(answer | prompt), not normalised; `written`, what the model wrote
    where it wrote freely; `gate_experts` [experts]; `gate_modalities` [experts, modalities], both
    without entries for a fusion without a gate.
    """

    utterance: Utterance
    question: Question
    log_scores: NDArray[np.float64]
    written: str | None
    gate_experts: NDArray[np.float32]
    gate_modalities: NDArray[np.float32]

    def probabilities(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """Return the probability of every permitted answer, [answers]."""
        return np.exp(log_softmax(self.log_scores / temperature))


@torch.no_grad()
def score(
    model: Egmf,
    inputs: Inputs,
    prompter: Prompter,
    utterances: Sequence[Utterance],
    tasks: Sequence[str],
    batch_size: int,
    *,
    write: bool = False,
    without: Collection[str] = (),
    noise_in: Collection[str] = (),
) -> list[Scored]:
    """Score all questions about `utterances`.

    Args:
        model: trained.
        inputs: features and context.
        prompter: of the run's questions.
        utterances: what is asked about.
        tasks: what is asked.
        batch_size: utterances at once.
        write: let the model also write freely.
        without: modalities to take away, from the neighbouring turns too; transcript and history
            included where text is one.
        noise_in: modalities whose features are replaced by noise, the neighbouring turns' too, the
            transcript taken away.

    Returns:
        One entry a question, in the utterances' order for each task.
    """
    model.eval()
    hide = TEXT in (*without, *noise_in)
    generator = torch.Generator().manual_seed(NOISE_SEED)
    prefixes = _encode_prefixes(model, prompter, utterances, tasks, hide)
    results: dict[tuple[str, str], Scored] = {}
    for batch, (streams, turns) in ahead(inputs.batch, batches(utterances, batch_size)):
        streams = _spoil(streams, without, noise_in, generator)
        if turns is not None:
            turns = replace(turns, streams=_spoil(turns.streams, without, noise_in, generator))
        fused = model.fuse(streams, turns)
        groups: dict[QuestionKey, list[int]] = defaultdict(list)
        for row, utterance in enumerate(batch):
            for task in tasks:
                groups[task, utterance.language].append(row)
        for (task, language), rows in groups.items():
            question = prompter.question(task, batch[rows[0]])
            prompts = [prompter.tokens(task, batch[row], hide_text=hide) for row in rows]
            pseudo = fused.pseudo_tokens[torch.tensor(rows, device=model.device)]
            prefix = prefixes[task, language]
            asked = prompts, question.answers, pseudo
            scores = model.language.answer_scores(*asked, prefix)
            written = model.language.write(*asked) if write else [None] * len(rows)
            for row, each, text in zip(rows, scores.double().cpu().numpy(), written, strict=True):
                results[batch[row].id, task] = Scored(
                    batch[row], question, each, text, *_gate_row(fused.gate, row)
                )
    return [results[each.id, task] for task in tasks for each in utterances]


def fit_temperatures(scored: Sequence[Scored]) -> dict[str, float]:
    """Fit one temperature a task on validation, by the likelihood of the true answers.

    Source: Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599.
    """
    temperatures = {}
    for task in dict.fromkeys(each.question.task for each in scored):
        known = [
            (each.log_scores, each.question.answers.index(written_answer(each.question, truth)))
            for each in scored
            if each.question.task == task and (truth := each.utterance.truth(task)) is not None
        ]
        if known:
            temperatures[task] = _best_temperature(known)
    return temperatures


def prediction_table(
    scored: Sequence[Scored],
    experts: Sequence[str],
    modalities: Sequence[str],
    decision: str,
    temperatures: Mapping[str, float],
) -> pd.DataFrame:
    """Turn scores into decisions, one row a question.

    A label is the most probable one. A number is the expectation over the grid, with
    `decision="median"` the median, or with `decision="argmax"` the most probable one. With
    `decision="generate"` both are what the model wrote, and `valid` is false where that cannot be
    read. `answer` is the permitted answer behind a decision, behind an expectation the most
    probable one, or what was written; `probability` is that answer's, none where it is unreadable.
    """
    rows = []
    for each in scored:
        question = each.question
        probabilities = each.probabilities(temperatures.get(question.task, 1.0))
        number = question.task == "regression"
        middle = number and decision == "median"
        place = median_of(probabilities) if middle else int(probabilities.argmax())
        answer, expectation = question.answers[place], None
        prediction: str | float | None = question.values[place]
        if number:
            expectation = float(probabilities @ np.asarray(question.values, dtype=np.float64))
            if decision == "expectation":
                prediction = expectation
        probability = float(probabilities[place])
        if decision == GENERATE:
            answer = each.written or ""
            prediction = read_answer(question, answer)
            read = None if prediction is None else _nearest(question, prediction)
            probability = np.nan if read is None else float(probabilities[read])
        row: dict[str, Any] = {
            "id": each.utterance.id,
            "task": question.task,
            "language": question.language,
            "truth": each.utterance.truth(question.task),
            "answer": answer,
            "prediction": prediction,
            "valid": prediction is not None,
            "probability": probability,
            "expectation": expectation,
        }
        row |= _named("gate_expert", experts, each.gate_experts)
        if experts:
            effective = each.gate_experts @ each.gate_modalities
            row |= _named("gate_modality", modalities, effective)
        for expert, weights in zip(experts, each.gate_modalities, strict=True):
            row |= _named(f"gate_{expert}", modalities, weights)
        rows.append(row)
    return pd.DataFrame(rows)


def decision_without_writing(decision: str) -> str:
    """Return how to decide where free writing is not worth its time."""
    return "expectation" if decision == GENERATE else decision


def median_of(probabilities: NDArray[np.float64]) -> int:
    """Return where half of the probability, [answers] in rising order, is reached."""
    return int(np.searchsorted(probabilities.cumsum(), 0.5 * probabilities.sum()))


def read_answer(question: Question, written: str) -> str | float | None:
    """Read a freely written answer; None where it is no permitted one."""
    if question.task == "regression":
        return parse_number(written, float(question.values[0]), float(question.values[-1]))
    found = parse_label(written, question.answers)
    return None if found is None else question.values[found]


def metrics_of(predictions: pd.DataFrame, labels: Sequence[str], protocol: str) -> dict[str, Any]:
    """Score a prediction table by the dataset's protocol; rows without a truth are left out."""
    known = predictions[predictions["truth"].notna()]
    metrics: dict[str, Any] = {}
    rows = known[known["task"] == "classification"]
    if len(rows):
        read = [each if isinstance(each, str) else None for each in rows["prediction"]]
        metrics |= classification_metrics(rows["truth"].tolist(), read, labels)
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


def batches(utterances: Sequence[Utterance], size: int) -> Iterator[list[Utterance]]:
    """Cut into batches of similar prompt length."""
    ordered = sorted(utterances, key=lambda each: (each.language, len(each.text or ""), each.id))
    for start in range(0, len(ordered), size):
        yield list(ordered[start : start + size])


def _encode_prefixes(
    model: Egmf,
    prompter: Prompter,
    utterances: Sequence[Utterance],
    tasks: Sequence[str],
    hide_text: bool,
) -> dict[QuestionKey, Prefix | None]:
    """Encode what the prompts of each question begin with."""
    rows: dict[str, list[Utterance]] = defaultdict(list)
    for each in utterances:
        rows[each.language].append(each)
    return {
        (task, language): model.language.encode_prefix(
            prompter.tokens(task, each, hide_text=hide_text) for each in spoken
        )
        for task in tasks
        for language, spoken in rows.items()
    }


def _spoil(
    streams: Mapping[str, Stream],
    without: Collection[str],
    noise_in: Collection[str],
    generator: torch.Generator,
) -> dict[str, Stream]:
    """Take modalities away, and replace others by noise."""
    spoilt = dict(streams)
    for name in noise_in:
        spoilt[name] = replace_by_noise(streams[name], ALL_ROWS, generator)
    for name in without:
        stream = streams[name]
        spoilt[name] = Stream(stream.value * 0.0, stream.mask & False)
    return spoilt


def _best_temperature(known: Sequence[tuple[NDArray[np.float64], int]]) -> float:
    def loss(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        return -float(np.mean([log_softmax(s / temperature)[best] for s, best in known]))

    bounds = (np.log(COOLEST), np.log(HOTTEST))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def _nearest(question: Question, value: str | float) -> int:
    """Return the place of a label, or of the number of the grid that is nearest."""
    if isinstance(value, str):
        return question.values.index(value)
    return int(np.abs(np.asarray(question.values, dtype=np.float64) - value).argmin())


def _named(prefix: str, names: Sequence[str], values: NDArray[Any]) -> dict[str, float]:
    return {f"{prefix}_{n}": float(value) for n, value in zip(names, values, strict=True)}


def _gate_row(
    gate: GateWeights | None, row: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if gate is None:
        return np.zeros(0, np.float32), np.zeros((0, 0), np.float32)
    return gate.experts[row].float().cpu().numpy(), gate.modalities[row].float().cpu().numpy()
