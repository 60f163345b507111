"""A small scored corpus, a file of features in MMSA's form, and a look at what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from extract.features import FeatureSet
from extract.importers.files import Imported, Request, import_files
from extract.importers.join import Listed
from extract.shards import Shard, shard_path
from extract.table import write_table

SIZES = {"train": 5, "valid": 2, "test": 3}
DIMS = {"text": 4, "audio": 3, "vision": 2}
TIMES = {"text": 6, "audio": 9, "vision": 7}
LABELS = {"negative": "negative", "neg": "negative", "positive": "positive", "消极": "negative"}

MANIFEST = """
datasets:
  mine:
    title: Mine
    task: [classification, regression]
    language: en
    labels:
      - {name: negative, en: negative, zh: 消极, aliases: [neg]}
      - {name: positive, en: positive, zh: 积极}
    scores: {low: -3, high: 3, step: 0.1}
    layout: {reader: table, folder: mine, table: mine.csv}
    protocol: mosi
"""


def rows() -> list[Listed]:
    """Return the table's rows: two clips a video."""
    return [
        Listed(f"{split}vid{i // 2}_{i % 2}", split, "positive" if i % 2 else "negative", i - 2.0)
        for split, size in SIZES.items()
        for i in range(size)
    ]


def table_frame() -> pd.DataFrame:
    """Return the same as an utterance table."""
    listed = rows()
    return pd.DataFrame(
        {
            "id": [row.id for row in listed],
            "split": [row.split for row in listed],
            "label": [row.label for row in listed],
            "score": [row.score for row in listed],
            "text": [f"words of {row.id}" for row in listed],
            "language": "en",
            "group": [row.id.rpartition("_")[0] for row in listed],
        }
    )


def write_corpus(root: Path) -> None:
    """Write the manifest and the corpus's own table as `data/mine/mine.csv`."""
    (root / "mine.yaml").write_text(MANIFEST, encoding="utf-8")
    (root / "data" / "mine").mkdir(parents=True)
    table_frame().to_csv(root / "data" / "mine" / "mine.csv", index=False)


def write_cached_table(cache: Path) -> None:
    write_table(table_frame(), cache / "mine" / "utterances.parquet")


def mmsa(seed: int = 0) -> dict[str, dict[str, Any]]:
    """Return a dict in MMSA's form: padded float32 arrays, zeros behind each utterance."""
    rng = np.random.default_rng(seed)
    content = {}
    for split, size in SIZES.items():
        own = [row for row in rows() if row.split == split]
        fields: dict[str, Any] = {
            "id": [row.id.replace("_", "$_$") for row in own],
            "raw_text": np.array([f"words of {row.id}" for row in own]),
            "annotations": ["Neutral"] * size,
            "regression_labels": np.array([row.score for row in own], np.float32),
            "classification_labels": np.zeros(size),
        }
        for name, dim in DIMS.items():
            lengths = rng.integers(1, TIMES[name] + 1, size)
            array = rng.normal(size=(size, TIMES[name], dim)).astype(np.float32)
            array[np.arange(TIMES[name])[None] >= lengths[:, None]] = 0
            fields[name] = array
            if name == "text":
                tokens = np.zeros((size, 3, TIMES[name]), np.int64)
                tokens[:, 1] = np.arange(TIMES[name])[None] < lengths[:, None]
                fields["text_bert"] = tokens
            else:
                fields[f"{name}_lengths"] = lengths.tolist()
        content[split] = fields
    return content


@contextmanager
def no_progress(title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda count: None


def import_into(
    cache: Path, *paths: Path, labels: Mapping[str, str] = LABELS, **options: Any
) -> tuple[dict[str, Imported], list[str]]:
    """Import files into `cache/mine`; return each modality's outcome, and the notes."""
    request = Request(paths=paths, dataset="mine", cache=cache, **options)
    imported, notes = import_files(request, rows(), labels, no_progress)
    return {one.stored.modality: one for one in imported}, notes


def stored_values(features: FeatureSet) -> dict[str, np.ndarray]:
    """Return every utterance's rows in the type in which they are stored."""
    values = {}
    for number in sorted({number for number, _ in features.index().values()}):
        with Shard(shard_path(features.folder, number), features.fingerprint) as shard:
            values |= {name: shard.read(row).value for row, name in enumerate(shard.ids)}
    return values


def assert_same(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray | Sequence[Any]]
) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
