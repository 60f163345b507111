import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from extract.errors import ExtractError
from extract.features import (
    Description,
    FeatureSet,
    Quarantined,
    describe_feature_set,
    feature_set_folder,
    fingerprint_of,
    list_feature_sets,
    open_feature_set,
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


def make_set(cache: Path, shards: list[dict[str, int]], dim: int = 4) -> FeatureSet:
    """Write a feature set in which every value of an utterance is its number of rows."""
    fingerprint = fingerprint_of({"encoder": "constant"})
    folder = feature_set_folder(cache, "corpus", "text", "constant", fingerprint)
    identity = Identity("corpus", "text", fingerprint)
    describe_feature_set(
        folder,
        Description(
            dataset="corpus",
            modality="text",
            encoder="constant:",
            slug="constant",
            fingerprint=fingerprint,
            fingerprinted={"encoder": "constant"},
            weights_digest="0" * 64,
            dim=dim,
            dtype="float16",
            rows_per_second=None,
            random_weights=True,
            preset=None,
            versions={},
            created="2026-01-01T00:00:00+00:00",
        ),
    )
    for number, shard in enumerate(shards):
        features = [
            Features(np.full((rows, dim), rows, np.float32), np.arange(rows, dtype=np.float32))
            for rows in shard.values()
        ]
        path = shard_path(folder, number)
        sha256, size = write_shard(path, identity, list(shard), features, dim=dim)
        write_sidecar(
            sidecar_path(folder, number),
            Sidecar(
                dataset="corpus",
                modality="text",
                fingerprint=fingerprint,
                sha256=sha256,
                size=size,
                ids=list(shard),
                digests=["" for _ in shard],
                rows=list(shard.values()),
            ),
        )
    return open_feature_set(folder)


def test_rows_are_found_by_id_across_shards(tmp_path: Path) -> None:
    features = make_set(tmp_path, [{"a": 2, "b": 0}, {"c": 3}])
    assert features.index() == {"a": (0, 0), "b": (0, 1), "c": (1, 0)}
    assert features.lengths() == {"a": 2, "b": 0, "c": 3}
    reader = features.reader()
    value, time = reader.read("c")
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value, np.full((3, 4), 3.0))
    np.testing.assert_array_equal(time, [0, 1, 2])
    assert reader.read("b")[0].shape == (0, 4)
    assert ("a" in reader, "z" in reader, len(reader)) == (True, False, 3)
    with pytest.raises(ExtractError, match="no features of z"):
        reader.read("z")


def test_list_finds_every_set_of_a_dataset(tmp_path: Path) -> None:
    features = make_set(tmp_path, [{"a": 1}])
    assert list_feature_sets(tmp_path, "corpus") == [features]
    assert list_feature_sets(tmp_path, "other") == []
    assert features.folder.name == f"constant-{features.fingerprint[:8]}"


def test_no_more_shards_are_open_than_files_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.features.MAX_OPEN", 2)
    reader = make_set(tmp_path, [{"a": 1}, {"b": 2}, {"c": 3}]).reader()
    for name, rows in (("a", 1), ("b", 2), ("a", 1), ("c", 3), ("a", 1), ("b", 2)):
        np.testing.assert_array_equal(reader.value(name), np.full((rows, 4), rows))
    assert list(reader._open) == [0, 1]  # the one used least recently was closed
    assert reader.value("c").dtype == np.float16
    reader.close()
    assert len(reader.value("b")) == 2


def read_in_child(reader: object, results: "multiprocessing.Queue[list[float]]") -> None:
    results.put(reader.read("a")[0].ravel().tolist())  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_reader_goes_to_another_process(tmp_path: Path, method: str) -> None:
    reader = make_set(tmp_path, [{"a": 2}]).reader()
    reader.read("a")
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=read_in_child, args=(reader, results))
    child.start()
    assert results.get(timeout=60) == [2.0] * 8
    child.join(60)
    assert pickle.loads(pickle.dumps(reader)).read("a")[0].shape == (2, 4)


def test_fingerprint_depends_on_content_and_not_on_order() -> None:
    one = fingerprint_of({"fps": 4.0, "encoder": {"a": 1, "b": 2}})
    assert one == fingerprint_of({"encoder": {"b": 2, "a": 1}, "fps": 4.0})
    assert one != fingerprint_of({"fps": 5.0, "encoder": {"a": 1, "b": 2}})


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    folder = make_set(tmp_path, [{"a": 1}]).folder
    path = folder / "features.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 0}))
    with pytest.raises(ExtractError, match=r"features\.json: format 0, but this version reads"):
        list_feature_sets(tmp_path, "corpus")


def test_a_lost_shard_is_named(tmp_path: Path) -> None:
    features = make_set(tmp_path, [{"a": 1}, {"b": 1}])
    shard_path(features.folder, 1).unlink()
    with pytest.raises(ExtractError, match=r"00001\.h5: missing"):
        features.reader()


def test_a_folder_without_features_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExtractError, match="no feature set here"):
        open_feature_set(tmp_path)


def test_quarantine_comes_back(tmp_path: Path) -> None:
    features = make_set(tmp_path, [{"a": 1}])
    assert features.quarantine() == []
    rows = [Quarantined("a", "train", "clips/a, b.mp4", "open", 'says "no"')]
    write_quarantine(features.folder, rows)
    assert features.quarantine() == rows
