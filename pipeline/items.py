"""From rows of the utterance table to what the language model is asked and should write.

An *item* is one question about one utterance: a row with both an emotion and a sentiment gives two.
Without the text modality neither transcript nor history enters the prompt, so that "audio only"
hears and does not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from numbers import Integral
from sys import intern
from typing import TYPE_CHECKING

from generate.answers import number_answer, number_grid
from generate.prompts import Prompt, render
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.manifest import DatasetEntry

TEXT = "text"
COLUMNS = ("id", "split", "language", "text", "label", "score", "group", "order", "speaker")
"""The columns of the utterance table that stage two reads."""
HISTORY_SEPARATOR = " / "

QuestionKey = tuple[str, str]
"""A task and a language."""


@dataclass(frozen=True)
class Question:
    """One kind of question: a task in a language, with all its permitted answers.

    `values` are what the answers stand for: label names, or numbers.
    """

    task: str
    language: str
    lines: tuple[str, ...]
    answers: tuple[str, ...]
    values: tuple[str | float, ...]
    fills: Mapping[str, str]

    def prompt(self, text: str | None, history: Sequence[str] = ()) -> Prompt:
        """Render the prompt; without a transcript or a history their lines are left out."""
        turns = HISTORY_SEPARATOR.join(history) or None
        return render(self.lines, {**self.fills, "text": text, "history": turns})


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row as stage two sees it; `label` and `score` are None where not labelled."""

    id: str
    split: str
    language: str
    text: str | None
    label: str | None
    score: float | None
    group: str | None = None
    order: int | None = None
    speaker: str | None = None

    def truth(self, task: str) -> str | float | None:
        """Return the true label or score for a task."""
        return self.label if task == "classification" else self.score


def utterances_of(table: pd.DataFrame) -> list[Utterance]:
    """Turn the utterance table into rows; empty text counts as absent."""
    columns = (table[each].array for each in COLUMNS)
    # What rows, or tables and features, share is kept once: corpora have a million rows.
    return [
        Utterance(
            id=intern(name),
            split=intern(split),
            language=intern(language),
            text=text if isinstance(text, str) and text.strip() else None,
            label=_shared(label),
            score=None if isnan(score) else float(score),
            group=_shared(group),
            order=int(order) if isinstance(order, Integral) else None,
            speaker=_shared(speaker),
        )
        for name, split, language, text, label, score, group, order, speaker in zip(
            *columns, strict=True
        )
    ]


def _shared(value: object) -> str | None:
    return intern(value) if isinstance(value, str) else None


def questions_of(entry: DatasetEntry, languages: Iterable[str]) -> dict[QuestionKey, Question]:
    """Return the questions of a dataset, by task and language.

    A language without prompts of its own is asked, and answers, in the manifest's fallback.

    Raises:
        PipelineError: the manifest has no prompt for a task.
    """
    from pipeline.manifest import FALLBACK_LANGUAGE

    questions: dict[QuestionKey, Question] = {}
    for language in languages:
        for task in entry.task:
            own = getattr(entry.prompts.get(language), task, None)
            spoken = FALLBACK_LANGUAGE if own is None else language
            answers, values, fills = _answers(entry, task, spoken)
            questions[task, language] = Question(
                task, language, entry.prompt(spoken, task), answers, values, fills
            )
    return questions


def written_answer(question: Question, truth: str | float) -> str:
    """Return what the model should write for a true label or score."""
    if question.task == "regression":
        low, high = float(question.values[0]), float(question.values[-1])
        return number_answer(min(max(float(truth), low), high))
    return question.answers[question.values.index(truth)]


def _answers(
    entry: DatasetEntry, task: str, language: str
) -> tuple[tuple[str, ...], tuple[str | float, ...], dict[str, str]]:
    if task == "classification":
        words = tuple(label.word(language) for label in entry.labels)
        joiner = "、" if language == "zh" else ", "
        return words, tuple(label.name for label in entry.labels), {"labels": joiner.join(words)}
    if entry.scores is None:
        raise PipelineError(f"dataset '{entry.name}': a regression task needs 'scores'")
    grid = number_grid(entry.scores.low, entry.scores.high)
    fills = {"low": number_answer(grid[0]), "high": number_answer(grid[-1])}
    return tuple(number_answer(x) for x in grid), tuple(grid), fills
