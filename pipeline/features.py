"""Features on their way to the model: read from shards, pooled, standardised, padded to batches.

Memory is bounded: a small corpus stays in memory whole, of a large one a part, and the rest is read
from the shards whenever it is needed. Standardisation uses the training split's mean and standard
deviation of each dimension, kept in the run's `scaling.json`, so that a later prediction sees the
numbers that training saw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fuse.streams import Stream
from pipeline.pooling import pool_rows
from pipeline.scaling import Scaling

MEMORY_BYTES = 48 * 1024**2
"""Pooled features are kept in memory up to this size; beyond it they are read again each epoch."""

MEANS_BYTES = 96 * 1024**2
"""The same for the mean rows of neighbouring turns."""


class Reader(Protocol):
    """Reads features by id; `extract.features.FeatureReader`, or a few clips in memory."""

    def value(self, name: str) -> NDArray[Any]:
        """Return an utterance's rows, [rows, dim]; none when absent."""


class Source(Protocol):
    """Features of one modality; `extract.features.FeatureSet`, or a few clips in memory."""

    @property
    def dim(self) -> int:
        """Width of a row."""

    def reader(self) -> Reader:
        """Return a reader."""

    def lengths(self) -> dict[str, int]:
        """Return how many rows each id has."""


class RowStore:
    """Rows of many utterances, end to end in one array of at most `limit` bytes.

    First come, first kept: in a shuffled epoch every utterance is asked for once, so that one kept
    is worth as much as another, and to replace any would gain nothing.
    """

    def __init__(self, limit: int) -> None:
        # The system hands out memory as pages are written: a small corpus takes little.
        self._values = np.empty(limit // 4, np.float32)
        self._places: dict[tuple[str, str], tuple[int, int]] = {}
        self._used = 0

    def get(self, key: tuple[str, str], dim: int) -> NDArray[np.float32] | None:
        """Return the rows of a modality and utterance, [rows, dim]; None where not kept."""
        place = self._places.get(key)
        return None if place is None else self._values[place[0] : place[1]].reshape(-1, dim)

    def put(self, key: tuple[str, str], rows: NDArray[np.float32]) -> None:
        """Keep a copy of rows, [rows, dim], if there is room."""
        end = self._used + rows.size
        if end <= len(self._values):
            self._values[self._used : end] = rows.reshape(-1)
            self._places[key] = self._used, end
            self._used = end


@dataclass
class Features:
    """The features of one run, ready to be batched; modalities in the order of `sets`."""

    sets: Mapping[str, Source]
    pool: Mapping[str, int]
    scaling: Mapping[str, Scaling] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._readers = {name: each.reader() for name, each in self.sets.items()}
        self._kept, self._means = RowStore(MEMORY_BYTES), RowStore(MEANS_BYTES)

    @property
    def dims(self) -> dict[str, int]:
        """Feature dimension of each modality."""
        return {name: each.dim for name, each in self.sets.items()}

    def lengths(self) -> Counter[str]:
        """Return how many rows each utterance has, over all modalities and as they are pooled."""
        rows: Counter[str] = Counter()
        for name, each in self.sets.items():
            pool = self.pool.get(name, 1)
            rows.update({key: ceil(count / pool) for key, count in each.lengths().items()})
        return rows

    def has(self, modality: str, utterance: str) -> bool:
        """Tell whether the utterance has this modality at all."""
        return len(self._rows(modality, utterance)) > 0

    def mean(self, modality: str, utterance: str) -> NDArray[np.float32] | None:
        """Return the standardised mean row, [dim]; None where the modality is absent."""
        key = modality, utterance
        kept = self._means.get(key, self.sets[modality].dim)
        if kept is None:
            rows = self._rows(modality, utterance)
            kept = rows.mean(axis=0, keepdims=True) if len(rows) else rows
            self._means.put(key, kept)
        if not len(kept):
            return None
        scaling = self.scaling[modality]
        standardised: NDArray[np.float32] = (kept[0] - scaling.mean) / scaling.deviation
        return standardised

    def batch(self, ids: Sequence[str]) -> dict[str, Stream]:
        """Return standardised, padded streams, `[batch, time, dim]` for each modality."""
        return {name: self._stream(name, ids) for name in self.sets}

    def _stream(self, name: str, ids: Sequence[str]) -> Stream:
        scaling = self.scaling[name]
        rows = [self._rows(name, each) for each in ids]
        longest = max(1, *(len(each) for each in rows))
        value = np.zeros((len(ids), longest, self.sets[name].dim), dtype=np.float32)
        mask = np.zeros((len(ids), longest), dtype=bool)
        for index, each in enumerate(rows):
            place = value[index, : len(each)]
            np.subtract(each, scaling.mean, out=place)
            np.divide(place, scaling.deviation, out=place)
            mask[index, : len(each)] = True
        return Stream(torch.from_numpy(value), torch.from_numpy(mask))

    def _rows(self, name: str, utterance: str) -> NDArray[np.float32]:
        key = name, utterance
        kept = self._kept.get(key, self.sets[name].dim)
        if kept is None:
            kept = pool_rows(self._readers[name].value(utterance), self.pool.get(name, 1))
            self._kept.put(key, kept)
        return kept
