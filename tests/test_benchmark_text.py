"""What the text benchmark makes itself: joined tables, word vectors as an encoder, n-grams."""

from __future__ import annotations

import importlib
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pandas as pd
import pytest

from extract.encoders.base import Settings
from extract.encoders.registry import load_encoder, resolve_encoder
from extract.encoders.weights import Memo

BENCHMARKS = Path(__file__).parent.parent / "benchmarks" / "scores"
WORDS = {"高兴": [1.0, 2.0, 3.0], "很": [0.5, 0.0, -1.0], "兴": [9.0, 9.0, 9.0]}
CHARACTERS = {"高": [1.0, 0.0], "兴": [0.0, 1.0], "我": [0.25, 0.5]}


@pytest.fixture(scope="module")
def material() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("text_material")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """Word vectors in word2vec's binary form, characters' in its text form, and how often."""
    binary = b"3 3\n" + b"".join(
        word.encode() + b" " + struct.pack("<3f", *numbers) for word, numbers in WORDS.items()
    )
    (tmp_path / "words.vector").write_bytes(binary)
    lines = [f"{each} {' '.join(map(str, numbers))}" for each, numbers in CHARACTERS.items()]
    (tmp_path / "characters.vec").write_text("\n".join(["3 2", *lines, ""]), encoding="utf-8")
    (tmp_path / "vocab.txt").write_text("高兴 50 a\n很 40 d\n我 90 r\n兴 1 v\n", encoding="utf-8")
    return tmp_path


def test_labels_and_transcripts_are_joined_by_name(material: ModuleType, tmp_path: Path) -> None:
    labels, transcripts = tmp_path / "label.csv", tmp_path / "transcripts.csv"
    labels.write_text("name,split,emo,val\na_b_7,train,0,-0.4\nc_2,val,0,1.0\n", encoding="utf-8")
    transcripts.write_text(
        "name,chinese,english\nc_2,好,fine\nx_1,无,none\na_b_7,差,NA\n", encoding="utf-8"
    )
    table = material.joined_table(labels, transcripts)
    assert table.to_dict("list") == {
        "id": ["a_b_7", "c_2"],
        "split": ["train", "val"],
        "score": ["-0.4", "1.0"],
        "chinese": ["差", "好"],
        "english": ["NA", "fine"],
        "group": ["a_b", "c"],
        "order": [7, 2],
    }
    transcripts.write_text("name,chinese,english\nc_2,好,fine\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"1 rows of .* have no transcript"):
        material.joined_table(labels, transcripts)


def test_word_vectors_become_an_encoder(material: ModuleType, vectors: Path) -> None:
    folder = vectors / "encoder"
    material.write_encoder(
        vectors / "words.vector", vectors / "vocab.txt", vectors / "characters.vec", folder
    )
    info = resolve_encoder("text", f"hf:{folder}", Settings(), Memo(vectors / "digests.json"))
    assert (info.dim, info.random_weights) == (5, False)
    encoder = load_encoder(info, "cpu")
    prepared = encoder.prepare("我很 高兴!谜")
    rows = encoder.encode(prepared.units)[0]
    expected = [
        [0.0, 0.0, 0.0, 0.25, 0.5],  # no word of its own, the character's alone
        [0.5, 0.0, -1.0, 0.0, 0.0],
        [1.0, 2.0, 3.0, 0.5, 0.5],  # the word, not its parts; the mean of two characters
        [0.0] * 5,  # punctuation
        [0.0] * 5,  # unknown
    ]
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_ngrams_are_fitted_on_training_transcripts_alone(
    material: ModuleType, tmp_path: Path
) -> None:
    table = pd.DataFrame(
        {
            "id": ["a", "b", "c", "d"],
            "split": ["train", "train", "train", "test"],
            "english": ["good film", "good show", "bad film", "good"],
        }
    )
    rows = []
    for unseen in ("good", "zzzz"):
        table.loc[3, "english"] = unseen
        material.write_ngrams([table], "english", 2, tmp_path / "ngrams.h5")
        with h5py.File(tmp_path / "ngrams.h5") as file:
            assert sorted(file) == ["a", "b", "c", "d"]
            rows.append({name: file[name][:] for name in file})
    assert rows[0]["a"].shape == (1, 2)
    for name in ("a", "b", "c"):
        np.testing.assert_array_equal(rows[0][name], rows[1][name])
    assert np.abs(rows[0]["d"]).max() > 0.1
    np.testing.assert_allclose(rows[1]["d"], 0.0, atol=1e-6)


@pytest.mark.parametrize("name", ["text", "emodb"])
def test_rows_are_compared_with_what_is_there(material: ModuleType, name: str) -> None:
    module = importlib.import_module(name)
    benchmarks = module.BENCHMARKS if name == "text" else (module.BENCHMARK,)
    baselines = set(module.RIDGES) if name == "text" else {each.name for each in module.SVMS}
    for benchmark in benchmarks:
        rows = {row.name for row in benchmark.rows}
        assert len(rows) == len(benchmark.rows)
        for row in benchmark.rows:
            assert set(row.against) <= rows | baselines
