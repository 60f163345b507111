"""Exported pickles are what MMSA's loaders read, and importing them gives back the same values."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from extract.errors import ExtractError
from extract.exporters import Utterance, export_mmsa, mmsa_id
from extract.features import list_feature_sets, open_feature_set
from pipeline.errors import PipelineError
from pipeline.exporting import export_features
from pipeline.sources import Source
from tests.helpers_import import (
    SIZES,
    assert_same,
    import_into,
    mmsa,
    no_progress,
    rows,
    stored_values,
    write_cached_table,
    write_corpus,
)


def skip(count: int) -> None:
    """Count nothing."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a cache of three modalities, one of them absent in one utterance."""
    content = mmsa()
    content["valid"]["vision_lengths"][0] = 0
    for split in content.values():
        split["audio"] = split["audio"].astype(np.float64) / 3
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(content, 4))
    write_corpus(tmp_path)
    write_cached_table(tmp_path / "cache")
    import_into(tmp_path / "cache", tmp_path / "file.pkl")
    return tmp_path / "cache"


def source(cache: Path, **features: str) -> Source:
    return Source("mine", cache, (), features, cache.parent / "mine.yaml")


def export(cache: Path) -> Path:
    out = cache.parent / "out" / "mine.pkl"
    exported = export_features(source(cache), out, print, no_progress)
    assert exported.bytes == out.stat().st_size
    assert exported.utterances == 10
    return out


def test_export_then_import_gives_equal_values(cache: Path, tmp_path: Path) -> None:
    out = export(cache)
    imported, _ = import_into(tmp_path / "again", out)
    before = list_feature_sets(cache, "mine")
    assert {each.modality for each in before} == imported.keys()
    for features in before:
        again = open_feature_set(imported[features.modality].stored.folder)
        assert (again.dim, again.dtype) == (features.dim, features.dtype)
        found, expected = stored_values(again), stored_values(features)
        assert_same(found, expected)
        assert all(found[name].dtype == expected[name].dtype for name in found)
    visual = imported["visual"]
    assert visual.stored.absent == {"no rows in mine.pkl, valid": 1}
    assert visual.joined.labels_differ == visual.joined.in_another_split == 0


def test_any_program_can_unpickle_it(cache: Path) -> None:
    content = pickle.loads(export(cache).read_bytes())
    assert list(content) == ["train", "valid", "test"]
    for split, fields in content.items():
        own = [row for row in rows() if row.split == split]
        assert fields["id"] == [row.id.replace("_", "$_$") for row in own]
        assert fields["raw_text"] == [f"words of {row.id}" for row in own]
        assert fields["annotations"] == [row.label for row in own]
        assert fields["classification_labels"].tolist() == [i % 2 for i in range(SIZES[split])]
        assert fields["regression_labels"].tolist() == [row.score for row in own]
        for name in ("text", "audio", "vision"):
            array, lengths = fields[name], fields[f"{name}_lengths"]
            assert array.shape[0] == len(lengths) == SIZES[split]
            assert array.flags.c_contiguous
            behind = np.arange(array.shape[1])[None] >= lengths[:, None]
            assert not array[behind].any()
    assert content["train"]["audio"].dtype == np.float64
    assert content["valid"]["vision_lengths"][0] == 0


def test_scores_alone_are_classed_by_their_sign(cache: Path, tmp_path: Path) -> None:
    sets = {each.modality: each for each in list_feature_sets(cache, "mine")}
    scores = [-1.2, 0.0, 3.0, None, 0.4, -0.1, 1.0, 2.0, 3.0, -3.0]
    utterances = [
        Utterance(row.id, row.split, None, None, None, score)
        for row, score in zip(rows(), scores, strict=True)
    ]
    out = tmp_path / "out.pkl"
    export_mmsa(out, utterances, {"text": sets["text"]}, [], skip)
    train = pickle.loads(out.read_bytes())["train"]
    assert train["annotations"] == ["Negative", "Neutral", "Positive", "Neutral", "Positive"]
    assert train["classification_labels"].tolist() == [0, 1, 2, 1, 2]
    assert np.isnan(train["regression_labels"][3])
    assert "audio" not in train


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        ("vid_1", "vid", "vid$_$1"),
        ("a_b_c", "a_b", "a_b$_$c"),
        ("train_dia0_utt1", "train_dia0", "train_dia0$_$utt1"),
        ("vid-1", "vid", "vid-1"),
        ("vid_1", None, "vid_1"),
    ],
)
def test_ids(name: str, group: str | None, expected: str) -> None:
    assert mmsa_id(Utterance(name, "train", group, None, None, None)) == expected


def test_one_of_several_feature_sets_must_be_named(cache: Path, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "file.pkl", tmp_path / "other.pkl")
    import_into(cache, tmp_path / "other.pkl", modalities=("audio",))
    with pytest.raises(PipelineError, match="several audio feature sets"):
        export_features(source(cache), tmp_path / "out.pkl", print, no_progress)
    exported = export_features(
        source(cache, audio="import:other"), tmp_path / "out.pkl", print, no_progress
    )
    assert exported.encoders["audio"] == "import:other"


def test_a_set_that_lacks_an_utterance_and_a_disk_that_is_full(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = {each.modality: each for each in list_feature_sets(cache, "mine")}
    out = tmp_path / "out.pkl"
    with pytest.raises(ExtractError, match="no features of newcomer"):
        export_mmsa(out, [Utterance("newcomer", "test", None, None, None, 1.0)], sets, [], skip)
    assert not out.exists()
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(ExtractError, match="GiB free"):
        export_mmsa(out, [Utterance(rows()[0].id, "train", None, None, None, 1.0)], sets, [], skip)
