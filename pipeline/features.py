"""Features on their way to the model: read from shards, pooled, standardised, padded to batches.

Standardisation uses the training split's mean and standard deviation of each dimension, kept in the
run's `scaling.json`, so that a later prediction sees the numbers that training saw.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fuse.streams import Stream

MEMORY_BYTES = 2 * 1024**3
"""Pooled features are kept in memory up to this size; beyond it they are read again each epoch."""


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of each feature dimension of one modality."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]


def pool_rows(value: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Average each `count` successive rows of [rows, dim] into one; the last may average fewer."""
    if count == 1 or len(value) == 0:
        return value
    starts = np.arange(0, len(value), count)
    sizes = np.diff(np.append(starts, len(value)))
    sums = np.add.reduceat(value, starts, axis=0)
    return (sums / sizes[:, None]).astype(np.float32)


def fit_scaling(sequences: Iterable[NDArray[np.float32]], dim: int) -> Scaling:
    """Compute mean and standard deviation over all rows; a constant dimension gets deviation 1."""
    count, total, squares = 0, np.zeros(dim), np.zeros(dim)
    for value in sequences:
        rows = value.astype(np.float64)
        count += len(rows)
        total += rows.sum(axis=0)
        squares += np.square(rows).sum(axis=0)
    mean = total / max(count, 1)
    variance = np.maximum(squares / max(count, 1) - mean**2, 0.0)
    deviation = np.sqrt(variance)
    deviation[deviation < 1e-6 * (1 + np.abs(mean))] = 1.0
    return Scaling(mean.astype(np.float32), deviation.astype(np.float32))


def write_scaling(scaling: Mapping[str, Scaling], path: Path) -> None:
    """Store the scaling of each modality as JSON."""
    rows = {
        name: {"mean": each.mean.tolist(), "deviation": each.deviation.tolist()}
        for name, each in scaling.items()
    }
    path.write_text(json.dumps(rows))


def read_scaling(path: Path) -> dict[str, Scaling]:
    """Read what `write_scaling` wrote."""
    return {
        name: Scaling(
            np.asarray(each["mean"], np.float32), np.asarray(each["deviation"], np.float32)
        )
        for name, each in json.loads(path.read_text()).items()
    }


class Reader(Protocol):
    """Reads features by id; `extract.features.FeatureReader`, or a few clips in memory."""

    def read(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return `value` [rows, dim] and `time` [rows]; no rows when absent."""


class Source(Protocol):
    """Features of one modality; `extract.features.FeatureSet`, or a few clips in memory."""

    @property
    def dim(self) -> int:
        """Width of a row."""

    def reader(self) -> Reader:
        """Return a reader."""


@dataclass
class Features:
    """The features of one run, ready to be batched; modalities in the order of `sets`."""

    sets: Mapping[str, Source]
    pool: Mapping[str, int]
    scaling: dict[str, Scaling] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._readers = {name: each.reader() for name, each in self.sets.items()}
        self._memory: dict[tuple[str, str], NDArray[np.float32]] = {}
        self._bytes = 0

    @property
    def dims(self) -> dict[str, int]:
        """Feature dimension of each modality."""
        return {name: each.dim for name, each in self.sets.items()}

    def fit(self, ids: Sequence[str]) -> None:
        """Fit the scaling of every modality on these utterances (the training split)."""
        for name, dim in self.dims.items():
            self.scaling[name] = fit_scaling((self._rows(name, each) for each in ids), dim)

    def has(self, modality: str, utterance: str) -> bool:
        """Tell whether the utterance has this modality at all."""
        return len(self._rows(modality, utterance)) > 0

    def mean(self, modality: str, utterance: str) -> NDArray[np.float32] | None:
        """Return the standardised mean row, [dim]; None where the modality is absent."""
        rows = self._rows(modality, utterance)
        if not len(rows):
            return None
        scaling = self.scaling[modality]
        return (rows.mean(axis=0) - scaling.mean) / scaling.deviation

    def batch(self, ids: Sequence[str]) -> dict[str, Stream]:
        """Return standardised, padded streams, `[batch, time, dim]` for each modality."""
        return {name: self._stream(name, ids) for name in self.sets}

    def _stream(self, name: str, ids: Sequence[str]) -> Stream:
        scaling = self.scaling[name]
        rows = [self._rows(name, each) for each in ids]
        longest = max(1, *(len(each) for each in rows))
        value = np.zeros((len(ids), longest, self.dims[name]), dtype=np.float32)
        mask = np.zeros((len(ids), longest), dtype=bool)
        for index, each in enumerate(rows):
            value[index, : len(each)] = (each - scaling.mean) / scaling.deviation
            mask[index, : len(each)] = True
        return Stream(torch.from_numpy(value), torch.from_numpy(mask))

    def _rows(self, name: str, utterance: str) -> NDArray[np.float32]:
        kept = self._memory.get((name, utterance))
        if kept is not None:
            return kept
        value, _ = self._readers[name].read(utterance)
        pooled = pool_rows(value, self.pool.get(name, 1))
        if self._bytes + pooled.nbytes <= MEMORY_BYTES:
            self._memory[name, utterance] = pooled
            self._bytes += pooled.nbytes
        return pooled
