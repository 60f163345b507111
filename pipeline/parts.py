"""What a run trains on: datasets, each with its rows, how they are read, and what is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.inputs import Inputs
from pipeline.items import Question, QuestionKey, Utterance
from pipeline.prompting import Prompter


@dataclass(frozen=True)
class Task:
    """What a run is trained and judged on.

    `label_weights` weigh the items of each label in training; empty where all count alike.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    score_scale: float
    protocol: str
    questions: Mapping[QuestionKey, Question]
    label_weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One dataset of a run: its rows by split, how they are read, and what is asked about them.

    `outputs` is the place of each label among the auxiliary head's outputs, where that is not its
    place among the task's labels.
    """

    name: str
    inputs: Inputs
    prompter: Prompter
    utterances: Mapping[str, Sequence[Utterance]]
    task: Task
    outputs: Mapping[str, int] = field(default_factory=dict)
