"""Scaling: the mean and standard deviation of each feature dimension on the training split.

They follow from sums over rows, and sums add up: each shard gives its own, which are remembered
beside the shards in `moments.npz`: extraction sums up what it has written, so that training starts
without reading a whole corpus first. What a sum depends on (the shard's digest, the rows that
train, the pooling) is its key, so that an edited shard or a moved row is summed anew and nothing
else is. Sums are exact, never sampled.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extract.errors import ExtractError
from extract.features import FeatureSet, list_feature_sets
from extract.files import publishing
from extract.table import read_table
from pipeline.pooling import pool_rows
from pipeline.settings import TrainSettings
from pipeline.sources import cached_table

MEMORY_NAME = "moments.npz"
REMEMBERED_BYTES = 16 * 1024**2
"""What is remembered beyond the shards of the last fit: those of other folds or languages."""

_VERSION = 1  # of the way in which rows are pooled and summed
_SMALLEST_DEVIATION = 1e-6


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of each feature dimension of one modality."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]


@dataclass(frozen=True)
class Moments:
    """Number of rows, and the sum and the sum of squares of each dimension, [dim]."""

    rows: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.rows + other.rows, self.total + other.total, self.squares + other.squares
        )

    def scaling(self) -> Scaling:
        """Return mean and standard deviation; a constant dimension gets deviation 1."""
        mean = self.total / max(self.rows, 1)
        variance = np.maximum(self.squares / max(self.rows, 1) - mean**2, 0.0)
        deviation = np.sqrt(variance)
        deviation[deviation < _SMALLEST_DEVIATION * (1 + np.abs(mean))] = 1.0
        return Scaling(mean.astype(np.float32), deviation.astype(np.float32))


def fit_scaling(
    sets: Mapping[str, FeatureSet], pool: Mapping[str, int], ids: Sequence[str]
) -> dict[str, Scaling]:
    """Fit the scaling of every modality on these utterances (the training split).

    Args:
        sets: feature set of each modality.
        pool: rows averaged into one, by modality.
        ids: utterances.

    Raises:
        ExtractError: a shard is missing or damaged.
    """
    return {
        name: moments_of(features, ids, pool.get(name, 1)).scaling()
        for name, features in sets.items()
    }


def moments_of(features: FeatureSet, ids: Sequence[str], pool: int = 1) -> Moments:
    """Sum up the pooled rows of some utterances; shards whose sums are remembered are not read.

    Raises:
        ExtractError: a shard is missing or damaged.
    """
    wanted = set(ids)
    known = _recall(features.folder, features.dim)
    used: dict[str, Moments] = {}
    for number, sidecar in features.sidecars():
        rows = [row for row, name in enumerate(sidecar.ids) if name in wanted]
        if rows:
            key = _key(sidecar.sha256, rows, pool)
            used[key] = known.get(key) or _sum_shard(features, number, rows, pool)
    if used.keys() - known.keys():
        _remember(features.folder, used, known)
    nothing = Moments(0, np.zeros(features.dim), np.zeros(features.dim))
    return sum(used.values(), start=nothing)


def remember_sums(cache: Path, dataset: str) -> None:
    """Sum up the training split of a cached dataset, pooled as training does unless told otherwise.

    A shard that cannot be read is none of this function's business: whoever trains is told.
    """
    table = read_table(cached_table(cache, dataset))
    train = table.loc[table["split"] == "train", "id"].tolist()
    pool = TrainSettings().pool
    with suppress(ExtractError):
        for each in list_feature_sets(cache, dataset):
            moments_of(each, train, pool.get(each.modality, 1))


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


def _key(sha256: str, rows: Sequence[int], pool: int) -> str:
    return hashlib.sha256(json.dumps([_VERSION, sha256, rows, pool]).encode()).hexdigest()


def _sum_shard(features: FeatureSet, number: int, rows: Sequence[int], pool: int) -> Moments:
    count, total, squares = 0, np.zeros(features.dim), np.zeros(features.dim)
    with features.shard(number) as shard:
        for row in rows:
            value = pool_rows(shard.value(row), pool).astype(np.float64)
            count += len(value)
            total += value.sum(axis=0)
            squares += np.einsum("rd,rd->d", value, value)
    return Moments(count, total, squares)


def _recall(folder: Path, dim: int) -> dict[str, Moments]:
    """Return the sums that are remembered, those of the last fit first; none where damaged."""
    try:
        with np.load(folder / MEMORY_NAME, allow_pickle=False) as stored:
            keys, rows = stored["keys"], stored["rows"]
            total, squares = stored["total"], stored["squares"]
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, SyntaxError, zipfile.BadZipFile):
        return {}
    if total.shape != (len(keys), dim) or squares.shape != total.shape or len(rows) != len(keys):
        return {}
    return {
        str(key): Moments(int(rows[index]), total[index], squares[index])
        for index, key in enumerate(keys)
    }


def _remember(folder: Path, used: Mapping[str, Moments], known: Mapping[str, Moments]) -> None:
    """Write the sums of this fit and, as far as there is room, those of earlier ones."""
    first = next(iter(used.values()))
    room = max(len(used), REMEMBERED_BYTES // (first.total.nbytes + first.squares.nbytes))
    kept = dict(list({**used, **known}.items())[:room])
    try:
        with publishing(folder / MEMORY_NAME) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                keys=np.array(list(kept)),
                rows=np.array([each.rows for each in kept.values()]),
                total=np.stack([each.total for each in kept.values()]),
                squares=np.stack([each.squares for each in kept.values()]),
            )
    except OSError:
        pass  # a cache that may only be read, or a full disk: the next fit reads the shards again
