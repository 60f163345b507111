"""What the fusion is fed with: an utterance's own streams and its neighbouring turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fuse.streams import Stream, Turns
from pipeline.context import Context
from pipeline.features import Features
from pipeline.items import Utterance


@dataclass(frozen=True)
class Inputs:
    """Features and context of a run."""

    features: Features
    context: Context

    def batch(self, utterances: Sequence[Utterance]) -> tuple[dict[str, Stream], Turns | None]:
        """Return the streams of a batch, and its neighbouring turns where the run has context."""
        streams = self.features.batch([each.id for each in utterances])
        return streams, self._turns(utterances) if self.context.reach else None

    def _turns(self, utterances: Sequence[Utterance]) -> Turns:
        """Stack the neighbours, each modality of a turn averaged into one row.

        Neighbours of neighbours are neighbours: each turn's mean is looked up once and then copied
        to every place of the batch that shows it.
        """
        near = [self.context.of(each) for each in utterances]
        shape = (len(near), max(1, *(len(each) for each in near)))
        offset, speaker = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        turn = np.zeros(shape, np.int64)  # the turn's number from 1; 0 where there is none
        numbers: dict[str, int] = {}
        for row, neighbours in enumerate(near):
            count = len(neighbours)
            offset[row, :count] = [each.offset for each in neighbours]
            speaker[row, :count] = [each.speaker for each in neighbours]
            turn[row, :count] = [
                numbers.setdefault(each.utterance.id, len(numbers) + 1) for each in neighbours
            ]
        streams = {}
        for name, dim in self.features.dims.items():
            value = np.zeros((len(numbers) + 1, dim), np.float32)
            known = np.zeros(len(numbers) + 1, bool)
            for utterance, number in numbers.items():
                mean = self.features.mean(name, utterance)
                if mean is not None:
                    value[number], known[number] = mean, True
            streams[name] = Stream(torch.from_numpy(value[turn]), torch.from_numpy(known[turn]))
        return Turns(streams, torch.from_numpy(offset), torch.from_numpy(speaker))
