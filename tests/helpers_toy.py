"""A corpus for stage two whose features carry the label plainly, written with the real store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

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

LABELS = ("anger", "joy")
SIZES = {"train": 64, "valid": 16, "test": 16}
DIMS = {"text": 6, "audio": 8, "visual": 4}

MANIFEST = """
datasets:
  toy:
    title: Toy
    task: [classification, regression]
    language: row
    labels:
      - {name: anger, en: anger, zh: 愤怒}
      - {name: joy, en: joy, zh: 喜悦}
    scores: {low: -1, high: 1, step: 0.1}
    splits: {train: 64, valid: 16, test: 16}
    layout: {reader: table, folder: toy, table: toy.csv}
    protocol: mosi
"""


def write_toy_manifest(path: Path) -> None:
    path.write_text(MANIFEST, encoding="utf-8")


def toy_table(text: str | None = None) -> pd.DataFrame:
    """Return the table; `text` replaces every transcript."""
    rng = np.random.default_rng(0)
    rows = []
    for split, size in SIZES.items():
        for i in range(size):
            joy = bool(rng.integers(2))
            rows.append(
                {
                    "id": f"{split}-{i:02d}",
                    "split": split,
                    "label": LABELS[joy],
                    "score": round(float(rng.uniform(0.2, 1.0)) * (1 if joy else -1), 1),
                    "text": text or f"words number {i}",
                    "language": "zh" if i % 2 else "en",
                    "group": f"{split}-{i // 4}",
                    "order": i % 4,
                    "speaker": "A",
                }
            )
    return pd.DataFrame(rows)


def toy_features(table: pd.DataFrame, modality: str, seed: int = 0) -> list[Features]:
    """Return noisy rows around the score; the first test row lacks audio."""
    rng = np.random.default_rng(seed + len(modality))
    dim = DIMS[modality]
    direction = rng.normal(size=dim)
    features = []
    for row in table.to_dict("records"):
        count = int(rng.integers(2, 6))
        if modality == "audio" and row["id"] == "test-00":
            count = 0
        value = row["score"] * direction + rng.normal(scale=0.3, size=(count, dim))
        features.append(Features(value.astype(np.float16), np.arange(count, dtype=np.float32)))
    return features


def write_feature_set(
    cache: Path,
    modality: str,
    ids: Sequence[str],
    features: Sequence[Features],
    *,
    dataset: str = "toy",
    encoder: str = "toy:signal",
    random_weights: bool = False,
) -> Path:
    """Write one feature set of two shards; returns its folder."""
    dim = DIMS.get(modality, features[0].value.shape[1])
    fingerprint = fingerprint_of({"encoder": encoder, "modality": modality})
    folder = feature_set_folder(cache, dataset, modality, "toy", fingerprint)
    describe_feature_set(
        folder,
        Description(
            dataset=dataset,
            modality=modality,
            encoder=encoder,
            slug="toy",
            fingerprint=fingerprint,
            fingerprinted={},
            weights_digest="0" * 64,
            dim=dim,
            dtype="float16",
            rows_per_second=None,
            random_weights=random_weights,
            preset=None,
            versions={},
            created="2026-01-01",
        ),
    )
    half = len(ids) // 2
    for number, part in enumerate((slice(None, half), slice(half, None))):
        path = shard_path(folder, number)
        identity = Identity(dataset, modality, fingerprint)
        sha256, size = write_shard(path, identity, ids[part], features[part], dim=dim)
        sidecar = Sidecar(
            dataset=dataset,
            modality=modality,
            fingerprint=fingerprint,
            sha256=sha256,
            size=size,
            ids=list(ids[part]),
            digests=["0"] * len(ids[part]),
            rows=[len(each.value) for each in features[part]],
        )
        write_sidecar(sidecar_path(folder, number), sidecar)
    write_quarantine(folder, [])
    return folder


def write_toy_cache(cache: Path, text: str | None = None) -> None:
    table = toy_table(text)
    write_table(table, cache / "toy" / "utterances.parquet")
    for modality in DIMS:
        write_feature_set(cache, modality, table["id"].tolist(), toy_features(table, modality))


@contextmanager
def no_progress(_: str, __: int) -> Iterator[Callable[[int], None]]:
    """Show nothing."""
    yield lambda count: None
