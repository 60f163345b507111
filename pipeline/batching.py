"""From utterances to what a training step computes: one process's share, augmented, on the CPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fuse.streams import Stream, Turns
from generate.language_model import PromptTokens
from pipeline.augment import Augmented, augment, disturb
from pipeline.distributed import Processes
from pipeline.items import TEXT, Utterance, written_answer
from pipeline.parts import Part
from pipeline.sampler import derive_seed
from pipeline.settings import TrainSettings


@dataclass(frozen=True)
class Items:
    """The items of a batch: which utterance each belongs to, its prompt and its answer.

    `permitted` are all answers that its question allows; `weights` are None where all count alike.
    """

    rows: Sequence[int]
    prompts: Sequence[PromptTokens]
    answers: Sequence[str]
    permitted: Sequence[tuple[str, ...]]
    weights: Sequence[float] | None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Sequence[int]) -> Items:
        """Return some of the items."""
        return Items(
            [self.rows[each] for each in places],
            [self.prompts[each] for each in places],
            [self.answers[each] for each in places],
            [self.permitted[each] for each in places],
            None if self.weights is None else [self.weights[each] for each in places],
        )


@dataclass(frozen=True)
class AuxiliaryTargets:
    """Targets of the auxiliary head; -100 and NaN mark what is not labelled.

    `label` [batch] int64, `score` [batch] float, scaled to about one.
    """

    label: Tensor
    score: Tensor


@dataclass(frozen=True)
class Batch:
    """What one process computes of a step.

    `corrupted` [batch, modalities] bool marks what was replaced by noise. A process that is left
    without utterances takes one that counts for nothing (`counted` false), since all processes must
    go the same way.
    """

    streams: Mapping[str, Stream]
    turns: Turns | None
    items: Items
    auxiliary: AuxiliaryTargets
    corrupted: Tensor
    counted: bool


@dataclass(frozen=True)
class Share:
    """The utterances of a step that one process computes: those at `places` of the step's.

    `seeds` of each decide on its augmentation, `seed` on the noise that the whole step shares;
    `counted` as in `Batch`.
    """

    part: Part
    step: Sequence[Utterance]
    places: Sequence[int]
    seeds: Sequence[int]
    seed: int
    counted: bool

    @property
    def utterances(self) -> list[Utterance]:
        """The utterances."""
        return [self.step[each] for each in self.places]

    def read(self, settings: TrainSettings) -> tuple[Augmented, Turns | None]:
        """Read and augment what the fusion is given."""
        streams, turns = self._disturbed(settings.feature_noise)
        drop, noise = settings.modality_dropout, settings.modality_noise
        most = settings.modalities_dropped
        return augment(streams, drop, noise, self.seeds, most), turns

    def _disturbed(self, strength: Mapping[str, float]) -> tuple[dict[str, Stream], Turns | None]:
        """Read the share; where a row may be mixed into any other of the step, read the step."""
        inputs = self.part.inputs
        if not strength:
            return inputs.batch(self.utterances)
        generator = torch.Generator().manual_seed(self.seed)
        streams, turns = disturb(*inputs.batch(self.step), strength, generator)
        if len(self.places) == len(self.step):
            return streams, turns
        near = turns and Turns(
            _rows(turns.streams, self.places), turns.offset[self.places], turns.speaker[self.places]
        )
        return _rows(streams, self.places), near


def share_of(part: Part, utterances: Sequence[Utterance], seed: int, processes: Processes) -> Share:
    """Return this process's share of a step.

    Args:
        part: the dataset that the step is from.
        utterances: all of the step.
        seed: of the step; with an utterance's place in it, it decides on the augmentation.
        processes: among which the step is shared out.
    """
    own = processes.share(range(len(utterances)))
    places = own or [0]
    return Share(
        part,
        utterances,
        places,
        [derive_seed(seed, each) for each in places],
        seed,
        counted=bool(own),
    )


def make_batch(share: Share, read: tuple[Augmented, Turns | None]) -> Batch:
    """Ask the questions about what was read."""
    changed, turns = read
    items = _items(share.part, share.utterances, changed)
    auxiliary = _auxiliary(share.part, share.utterances)
    return Batch(changed.streams, turns, items, auxiliary, changed.corrupted, share.counted)


def _rows(streams: Mapping[str, Stream], places: Sequence[int]) -> dict[str, Stream]:
    return {name: Stream(s.value[places], s.mask[places]) for name, s in streams.items()}


def _items(part: Part, utterances: Sequence[Utterance], changed: Augmented) -> Items:
    """Ask every labelled question; whose text was dropped or spoiled is shown no transcript."""
    task, prompter = part.task, part.prompter
    rows, prompts, answers, permitted, weights = [], [], [], [], []
    spoiled = changed.dropped | changed.corrupted
    text_column = list(changed.streams).index(TEXT) if TEXT in changed.streams else None
    for row, utterance in enumerate(utterances):
        hide = text_column is not None and bool(spoiled[row, text_column])
        for name in task.names:
            truth = utterance.truth(name)
            if truth is None:
                continue
            rows.append(row)
            prompts.append(prompter.tokens(name, utterance, hide_text=hide))
            question = prompter.question(name, utterance)
            answers.append(written_answer(question, truth))
            permitted.append(question.answers)
            label = name == "classification"
            weights.append(task.label_weights[str(truth)] if label and task.label_weights else 1.0)
    return Items(rows, prompts, answers, permitted, weights if task.label_weights else None)


def _auxiliary(part: Part, utterances: Sequence[Utterance]) -> AuxiliaryTargets:
    task = part.task
    outputs = part.outputs or {name: place for place, name in enumerate(task.labels)}
    label = [-100 if u.label is None else outputs[u.label] for u in utterances]
    score = [math.nan if u.score is None else u.score / task.score_scale * 4 for u in utterances]
    return AuxiliaryTargets(torch.tensor(label), torch.tensor(score))
