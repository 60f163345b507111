"""CHERMA's released `.npy` files become feature sets named `released`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from extract.errors import ExtractError
from extract.features import open_feature_set
from extract.importers.cherma import FILES, import_cherma
from extract.importers.join import Listed
from tests.helpers_import import assert_same, no_progress, stored_values

TABLE = [
    Listed(f"{part}_clip{i}", split, "joy", None)
    for part, split in (("train", "train"), ("dev", "valid"), ("test", "test"))
    for i in range(3)
]
DIMS = {"text": 4, "audio": 3, "visual": 2}


def write_release(root: Path) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    values: dict[str, dict[str, np.ndarray]] = {}
    for modality, pattern in FILES.items():
        values[modality] = {}
        for row in TABLE:
            part, _, stem = row.id.partition("_")
            path = root / pattern.format(part=part, stem=stem)
            path.parent.mkdir(parents=True, exist_ok=True)
            value = rng.normal(size=(rng.integers(1, 6), DIMS[modality])).astype(np.float32)
            np.save(path, value)
            values[modality][row.id] = value
    return values


def test_every_modality_is_taken_as_it_is(tmp_path: Path) -> None:
    values = write_release(tmp_path / "release")
    done = import_cherma(tmp_path / "release", "cherma", TABLE, tmp_path / "cache", no_progress)
    assert [one.modality for one in done] == ["text", "audio", "visual"]
    for one in done:
        features = open_feature_set(one.folder)
        assert (features.encoder, features.slug, features.dtype) == (
            "released",
            "released",
            "float32",
        )
        assert_same(stored_values(features), values[one.modality])
    again = import_cherma(tmp_path / "release", "cherma", TABLE, tmp_path / "cache", no_progress)
    assert [(one.shards_written, one.shards_kept) for one in again] == [(0, 1)] * 3


def test_only_the_shard_of_a_replaced_file_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.importers.store.ROWS_PER_SHARD", 2)
    write_release(tmp_path / "release")
    import_cherma(tmp_path / "release", "cherma", TABLE, tmp_path / "cache", no_progress)
    np.save(tmp_path / "release" / "audio" / "dev" / "clip1.npy", np.ones((7, 3), np.float32))
    done = import_cherma(tmp_path / "release", "cherma", TABLE, tmp_path / "cache", no_progress)
    assert [one.shards_written for one in done] == [0, 1, 0]
    stored = stored_values(open_feature_set(done[1].folder))
    np.testing.assert_array_equal(stored["dev_clip1"], np.ones((7, 3)))


def test_damaged_files_are_set_aside_and_named(tmp_path: Path) -> None:
    root = tmp_path / "release"
    write_release(root)
    audio = root / "audio" / "train"
    (audio / "clip0.npy").unlink()
    (audio / "clip1.npy").write_bytes((audio / "clip1.npy").read_bytes()[:-4])
    np.save(audio / "clip2.npy", np.array([{"a": 1}], object))
    np.save(root / "audio" / "test" / "clip0.npy", np.zeros((2, 5), np.float32))
    (root / "audio" / "test" / "clip1.npy").write_bytes(b"\x80\x04cos\nsystem\n.")
    done = import_cherma(root, "cherma", TABLE, tmp_path / "cache", no_progress)
    [one] = [each for each in done if each.modality == "audio"]
    assert one.present == 4
    reasons = {row.id: row.reason for row in open_feature_set(one.folder).quarantine()}
    assert reasons["train_clip0"] == "no such file"
    assert "bytes of values, but holds" in reasons["train_clip1"]
    assert "holds Python objects" in reasons["train_clip2"]
    assert reasons["test_clip0"] == "an array of shape (2, 5), not [time, 3]"
    assert "no readable .npy file" in reasons["test_clip1"]


def test_a_modality_without_files_makes_no_feature_set(tmp_path: Path) -> None:
    root = tmp_path / "release"
    write_release(root)
    (root / "visual").rename(tmp_path / "elsewhere")
    done = import_cherma(root, "cherma", TABLE, tmp_path / "cache", no_progress)
    assert [one.modality for one in done] == ["text", "audio"]
    with pytest.raises(ExtractError, match=r"no \.npy files of CHERMA's utterances under visual"):
        import_cherma(root, "cherma", TABLE, tmp_path / "cache", no_progress, modalities=["visual"])


def test_links_out_of_the_release_are_refused_unless_allowed(tmp_path: Path) -> None:
    root = tmp_path / "release"
    values = write_release(root)
    inside = root / "text" / "train" / "clip0.npy"
    inside.rename(tmp_path / "outside.npy")
    inside.symlink_to(tmp_path / "outside.npy")
    [one] = import_cherma(
        root, "cherma", TABLE, tmp_path / "cache", no_progress, modalities=["text"]
    )
    [row] = open_feature_set(one.folder).quarantine()
    assert "--allow-symlinks" in row.reason
    [one] = import_cherma(
        root,
        "cherma",
        TABLE,
        tmp_path / "cache",
        no_progress,
        modalities=["text"],
        allow_symlinks=True,
    )
    assert_same(stored_values(open_feature_set(one.folder)), values["text"])


@pytest.mark.parametrize("name", ["train_../../secret", "train_/etc/secret", "../train_x"])
def test_ids_cannot_lead_out_of_the_release(tmp_path: Path, name: str) -> None:
    write_release(tmp_path / "release")
    np.save(tmp_path / "secret.npy", np.zeros((1, 4), np.float32))
    table = [*TABLE, Listed(name, "train", None, None)]
    [one] = import_cherma(
        tmp_path / "release", "cherma", table, tmp_path / "cache", no_progress, modalities=["text"]
    )
    assert one.present == len(TABLE)
