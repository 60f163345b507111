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
        """Stack the neighbours, each modality of a turn averaged into one row."""
        near = [self.context.of(each) for each in utterances]
        shape = (len(near), max(1, *(len(each) for each in near)))
        offset, speaker = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        dims = self.features.dims
        values = {name: np.zeros((*shape, dim), np.float32) for name, dim in dims.items()}
        masks = {name: np.zeros(shape, bool) for name in dims}
        for row, neighbours in enumerate(near):
            for column, each in enumerate(neighbours):
                offset[row, column] = each.offset
                speaker[row, column] = each.speaker
                for name in dims:
                    mean = self.features.mean(name, each.utterance.id)
                    if mean is not None:
                        values[name][row, column] = mean
                        masks[name][row, column] = True
        streams = {
            name: Stream(torch.from_numpy(values[name]), torch.from_numpy(masks[name]))
            for name in dims
        }
        return Turns(streams, torch.from_numpy(offset), torch.from_numpy(speaker))
