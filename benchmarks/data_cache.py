"""A cache of made-up features, written by the code that writes real ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from extract.features import (
    Description,
    describe_feature_set,
    feature_set_folder,
    fingerprint_of,
    write_quarantine,
)
from extract.shards import (
    Features,
    Identity,
    Sidecar,
    shard_path,
    sidecar_path,
    write_shard,
    write_sidecar,
)
from extract.table import write_table

ROWS_PER_SHARD = 512
SEED = 1111
LONGEST = 543
_POOL_ROWS = 4096  # of random rows, from which utterances take stretches


@dataclass(frozen=True)
class Shape:
    """One modality: the width of a row, and the mean number of rows; `spread` lets them vary."""

    dim: int
    rows: int
    spread: bool = False


CHERMA = {"audio": Shape(1024, 150, spread=True), "visual": Shape(2048, 16)}
SMALL = {"audio": Shape(64, 40, spread=True), "visual": Shape(64, 8)}


def write_cache(
    cache: Path, dataset: str, splits: Mapping[str, int], shapes: Mapping[str, Shape]
) -> None:
    """Write the utterance table and one feature set for each modality.

    Args:
        cache: where.
        dataset: a Chinese one with CHERMA's labels.
        splits: number of utterances of each.
        shapes: of the features, by modality.
    """
    ids = [f"{split}-{number:06d}" for split, count in splits.items() for number in range(count)]
    write_table(_table(ids), cache / dataset / "utterances.parquet")
    for modality, shape in shapes.items():
        _write_set(cache, dataset, modality, shape, ids)


def _table(ids: list[str]) -> pd.DataFrame:
    rng = np.random.default_rng(SEED)
    labels = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
    letters = np.array([chr(code) for code in range(0x4E00, 0x4E00 + 800)])
    return pd.DataFrame(
        {
            "id": ids,
            "split": [each.split("-")[0] for each in ids],
            "label": rng.choice(labels, len(ids)),
            "text": ["".join(rng.choice(letters, rng.integers(4, 25))) for _ in ids],
            "language": "zh",
        }
    )


def _write_set(cache: Path, dataset: str, modality: str, shape: Shape, ids: list[str]) -> None:
    fingerprint = fingerprint_of({"benchmark": modality, "dim": shape.dim})
    folder = feature_set_folder(cache, dataset, modality, "random", fingerprint)
    describe_feature_set(
        folder,
        Description(
            dataset=dataset,
            modality=modality,
            encoder="random:",
            slug="random",
            fingerprint=fingerprint,
            fingerprinted={},
            weights_digest="",
            dim=shape.dim,
            dtype="float16",
            rows_per_second=None,
            random_weights=True,
            preset=None,
            versions={},
            created="",
        ),
    )
    identity = Identity(dataset, modality, fingerprint)
    for number, (names, values) in enumerate(_shards(ids, shape)):
        features = [Features(each, np.arange(len(each), dtype=np.float32)) for each in values]
        path = shard_path(folder, number)
        sha256, size = write_shard(path, identity, names, features, dim=shape.dim)
        sidecar = Sidecar(
            dataset=dataset,
            modality=modality,
            fingerprint=fingerprint,
            sha256=sha256,
            size=size,
            ids=names,
            digests=["0" * 64] * len(names),
            rows=[len(each) for each in values],
        )
        write_sidecar(sidecar_path(folder, number), sidecar)
    write_quarantine(folder, [])


def _shards(ids: list[str], shape: Shape) -> Iterator[tuple[list[str], list[NDArray[np.float16]]]]:
    """Yield ids and values of each shard; every utterance is a stretch of one random table."""
    rng = np.random.default_rng(SEED)
    table = rng.standard_normal((_POOL_ROWS, shape.dim), dtype=np.float32).astype(np.float16)
    for start in range(0, len(ids), ROWS_PER_SHARD):
        names = ids[start : start + ROWS_PER_SHARD]
        counts = np.full(len(names), shape.rows)
        if shape.spread:
            counts = rng.gamma(4.0, shape.rows / 4.0, len(names)).round().astype(int)
            counts = counts.clip(4, LONGEST)
        starts = rng.integers(0, _POOL_ROWS - LONGEST, len(names))
        yield names, [table[at : at + n] for at, n in zip(starts, counts, strict=True)]
