"""Archives, HDF5 files and tables of features, and how their names find the table's rows."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from extract.archive import open_archive
from extract.errors import ExtractError
from extract.features import open_feature_set
from extract.importers.base import split_of_file
from extract.importers.files import name_of
from extract.shards import shard_numbers, shard_path
from tests.helpers_import import SIZES, assert_same, import_into, mmsa, rows, stored_values

SPEECH = ["duration", "pitch"]


def of_split(split: str) -> list[str]:
    return [row.id for row in rows() if row.split == split]


def vectors(dim: int, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(dim)
    return {row.id: rng.normal(size=(1, dim)).astype(dtype) for row in rows()}


def stored(tmp_path: Path, *paths: Path, **options: Any) -> dict[str, dict[str, np.ndarray]]:
    imported, _ = import_into(tmp_path / "cache", *paths, **options)
    return {
        name: stored_values(open_feature_set(one.stored.folder)) for name, one in imported.items()
    }


def write_speech(tmp_path: Path, values: dict[str, np.ndarray], **names: str) -> list[Path]:
    """Write one CSV a split, rows named after media files."""
    paths = []
    for word, split in (("train", "train"), ("dev", "valid"), ("test", "test")):
        own = of_split(split)
        frame = pd.DataFrame(np.concatenate([values[name] for name in own]), columns=SPEECH)
        frame.insert(0, "filename", [f"{names.get(name, name)}.wav" for name in own])
        paths.append(tmp_path / f"mine_{word}_audio.csv")
        frame.to_csv(paths[-1], index=False)
    return paths


# --- tables


def test_tables_of_several_splits_make_one_feature_set(tmp_path: Path) -> None:
    values = vectors(2, np.float64)
    paths = write_speech(tmp_path, values)
    assert_same(stored(tmp_path, *paths, modalities=("audio",))["audio"], values)
    imported, notes = import_into(tmp_path / "cache", *reversed(paths), modalities=("audio",))
    one = imported["audio"].stored
    assert (one.encoder, one.dtype) == ("import:mine_audio", "float64")
    assert (one.shards_written, one.shards_kept) == (0, 1)  # the order of the files is no matter
    assert notes == ["features are the columns duration, pitch"]


def test_missing_values_missing_rows_and_extra_rows(tmp_path: Path) -> None:
    paths = write_speech(tmp_path, vectors(2))
    train = pd.read_csv(paths[0])
    train.loc[0, "pitch"] = np.nan
    train.loc[1, "filename"] = "stranger.wav"
    train.to_csv(paths[0], index=False)
    one = import_into(tmp_path / "cache", *paths, modalities=("audio",))[0]["audio"]
    assert one.stored.set_to_zero == {"NaN": 1}
    assert one.stored.flags == {"NaN set to 0": 1}
    assert one.stored.absent == {"not in mine_train_audio.csv": 1}
    assert (one.joined.without_row, one.joined.first_without_row) == (1, "stranger.wav")
    value = stored_values(open_feature_set(one.stored.folder))["trainvid0_0"]
    assert value[0, 1] == 0
    assert value[0, 0] == train.loc[0, "duration"]
    again = import_into(tmp_path / "cache", *paths, modalities=("audio",))[0]["audio"].stored
    assert (again.set_to_zero, again.flags) == ({}, {"NaN set to 0": 1})


def test_a_split_without_a_file_is_absent(tmp_path: Path) -> None:
    paths = write_speech(tmp_path, vectors(2))
    one = import_into(tmp_path / "cache", *paths[:2], modalities=("audio",))[0]["audio"].stored
    assert one.absent == {"no file of split test": SIZES["test"]}


def test_a_label_is_no_feature(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": [row.id for row in rows()], "f0": 1.5, "label": 1, "score": 0.5})
    frame["comment"] = "words"
    frame.to_csv(tmp_path / "file.csv", index=False)
    imported, notes = import_into(tmp_path / "cache", tmp_path / "file.csv", modalities=("audio",))
    assert imported["audio"].stored.dim == 1
    assert notes == [
        "features are the columns f0",
        "file.csv: left out are label, score, comment",
    ]


def test_ids_keep_their_zeros_and_may_be_called_na(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id,f0\nNA,1\n0012,2\n")
    with pytest.raises(ExtractError, match=r"none of its ids is in the table \(its first: 'NA'"):
        import_into(tmp_path / "cache", tmp_path / "train.csv", modalities=("audio",))


def test_parquet_with_a_split_column(tmp_path: Path) -> None:
    values = vectors(2)
    frame = pd.DataFrame(np.concatenate(list(values.values())), columns=["a", "b"])
    frame["Name"] = list(values)
    frame["split"] = ["dev" if row.split == "valid" else row.split for row in rows()]
    frame.to_parquet(tmp_path / "file.parquet")
    found = stored(tmp_path, tmp_path / "file.parquet", modalities=("acoustic",))
    assert_same(found["acoustic"], values)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,f0\ntrainvid0_0,1\ntrainvid0_1,--undefined--\n", "'--undefined--' in row 2"),
        ("key,f0\nx,1\n", "no column of ids"),
        ("id,comment\ntrainvid0_0,words\n", "no numeric columns"),
        ("id,f0\n", "no rows"),
        ("", "no readable table"),
        ("id,f0\na,1\nb,1,2,3\n", "no readable table"),
        ("id,f0\ntrainvid0_0,1\ntrainvid0_0.wav,2\n", "second one for 'trainvid0_0'"),
        ("id,f0\n../trainvid0_0,1\n", "refused the id"),
        ("id,f0,split\ntrainvid0_0,1,training\n", "split 'training' is unknown"),
        ("id,f0\ntrainvid0_0,1e300\n", "beyond float32"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "file.csv").write_text(text)
    with pytest.raises(ExtractError, match=reason) as error:
        import_into(tmp_path / "cache", tmp_path / "file.csv", modalities=("audio",))
    assert "\n" not in str(error.value)


def test_columns_must_be_the_same_in_every_file(tmp_path: Path) -> None:
    paths = write_speech(tmp_path, vectors(2))
    pd.read_csv(paths[2])[["filename", "pitch", "duration"]].to_csv(paths[2], index=False)
    with pytest.raises(ExtractError, match="differ in their columns"):
        import_into(tmp_path / "cache", *paths, modalities=("audio",))


# --- names


def test_names_that_start_anew_in_every_split_need_one(tmp_path: Path) -> None:
    from extract.importers.files import Request, import_files
    from extract.importers.join import Listed
    from tests.helpers_import import no_progress

    table = [
        Listed(f"{word}_dia0_utt0", split, None, None)
        for word, split in (("train", "train"), ("dev", "valid"), ("test", "test"))
    ]
    (tmp_path / "clips.csv").write_text("filename,f0\ndia0_utt0.mp4.wav,1\n")
    request = Request((tmp_path / "clips.csv",), "mine", tmp_path / "cache", modalities=("audio",))
    with pytest.raises(ExtractError, match="dev_dia0_utt0, test_dia0_utt0, train_dia0_utt0"):
        import_files(request, table, {}, no_progress)
    (tmp_path / "clips_val.csv").write_text("filename,f0\ndia0_utt0.mp4.wav,1\n")
    request = Request(
        (tmp_path / "clips_val.csv",), "mine", tmp_path / "cache", modalities=("audio",)
    )
    [one], _ = import_files(request, table, {}, no_progress)
    assert list(one.joined.places) == ["dev_dia0_utt0"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("meld_dev_audio.csv", "valid"),
        ("TEST.csv", "test"),
        ("latest.csv", None),
        ("train_and_test.csv", None),
        ("val-features.csv", "valid"),
    ],
)
def test_the_split_in_a_files_name(name: str, split: str | None) -> None:
    assert split_of_file(Path(name)) == split


def test_a_feature_sets_name(tmp_path: Path) -> None:
    assert name_of([Path("unaligned_50.pkl")]) == "unaligned_50"
    assert name_of([Path("a/x_train.csv"), Path("b/x_dev.csv")]) == "x"
    with pytest.raises(ExtractError, match="--name"):
        name_of([Path("x_train.csv"), Path("y_dev.csv")])
    for name in ("../up", "/root", "a/b", ""):
        with pytest.raises(ExtractError, match=r"no name|give --name|cannot be read"):
            import_into(tmp_path / "cache", tmp_path / "x.csv", name=name or "../")
        with pytest.raises(ExtractError, match="no name"):
            import_into(tmp_path / "cache", tmp_path / "x.csv", modalities=(name,))


def test_what_is_given_for_import_must_be_there_and_known(tmp_path: Path) -> None:
    with pytest.raises(ExtractError, match="cannot be read"):
        import_into(tmp_path / "cache", tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("id,f0\n")
    with pytest.raises(ExtractError, match="give --modality"):
        import_into(tmp_path / "cache", tmp_path / "x.csv")
    (tmp_path / "x.txt").write_text("words")
    with pytest.raises(ExtractError, match=r"are imported from \.csv"):
        import_into(tmp_path / "cache", tmp_path / "x.txt")


# --- archives


def write_archive(path: Path, compress: bool = False) -> dict[str, dict[str, np.ndarray]]:
    arrays: dict[str, Any] = {}
    expected: dict[str, dict[str, np.ndarray]] = {"audio": {}, "visual": {}}
    rng = np.random.default_rng(3)
    for split in SIZES:
        arrays[f"{split}_id"] = np.array(of_split(split))
        arrays[f"{split}_audio"] = rng.normal(size=(SIZES[split], 3))
        arrays[f"{split}_video"] = rng.normal(size=(SIZES[split], 4, 2)).astype(np.float16)
        arrays[f"{split}_y"] = np.zeros(SIZES[split])
        for number, name in enumerate(of_split(split)):
            expected["audio"][name] = arrays[f"{split}_audio"][number : number + 1]
            expected["visual"][name] = arrays[f"{split}_video"][number]
    (np.savez_compressed if compress else np.savez)(path, **arrays)
    return expected


@pytest.mark.parametrize("compress", [False, True])
def test_archive_by_split_and_modality(tmp_path: Path, compress: bool) -> None:
    expected = write_archive(tmp_path / "file.npz", compress)
    found = stored(tmp_path, tmp_path / "file.npz")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert_same(found[name], values)
    dtypes = {
        name: one.stored.dtype
        for name, one in import_into(tmp_path / "cache", tmp_path / "file.npz")[0].items()
    }
    assert dtypes == {"audio": "float64", "visual": "float16"}


def test_archive_of_one_array_an_utterance(tmp_path: Path) -> None:
    values = {name: np.repeat(value, 3, axis=0) for name, value in vectors(2).items()}
    np.savez(tmp_path / "file.npz", **values)
    assert_same(stored(tmp_path, tmp_path / "file.npz", modalities=("visual",))["visual"], values)


def test_a_modality_that_is_not_there(tmp_path: Path) -> None:
    write_archive(tmp_path / "file.npz")
    with pytest.raises(ExtractError, match="holds audio, visual, and no 'text'"):
        import_into(tmp_path / "cache", tmp_path / "file.npz", modalities=("text",))


def test_archives_of_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    np.savez(path, train_id=np.array(["a"]), train_audio=np.array([{"a": 1}], object))
    with pytest.raises(ExtractError, match="'train_audio' holds Python objects"):
        import_into(tmp_path / "cache", path)


@pytest.mark.parametrize("count", [10**9, 10**15])
def test_a_header_that_claims_more_than_there_is(tmp_path: Path, count: int) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({count},), }}".ljust(117) + "\n"
    with zipfile.ZipFile(tmp_path / "file.npz", "w") as archive:
        content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
        archive.writestr("train_audio.npy", content + bytes(8))
    with pytest.raises(ExtractError, match=f"claims {8 * count:,} bytes of values, but holds 8"):
        open_archive(tmp_path / "file.npz")


def test_a_damaged_archive(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    write_archive(path, compress=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ExtractError, match=r"no readable \.npz archive"):
        import_into(tmp_path / "cache", path)


# --- HDF5


def test_hdf5_of_one_dataset_an_utterance(tmp_path: Path) -> None:
    values = vectors(2)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        for row in rows():
            file[f"{row.split}/vision/{row.id}"] = values[row.id]
            file[f"audio/{row.id}"] = values[row.id][0]
    found = stored(tmp_path, tmp_path / "file.h5")
    assert_same(found["visual"], values)
    assert_same(found["audio"], values)
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        for name, value in values.items():
            file[name] = value
    with pytest.raises(ExtractError, match="give --modality"):
        import_into(tmp_path / "cache", tmp_path / "plain.h5")
    assert_same(stored(tmp_path, tmp_path / "plain.h5", modalities=("text",))["text"], values)


def test_a_shard_of_ours_can_be_imported(tmp_path: Path) -> None:
    values = vectors(2, np.float64)
    paths = write_speech(tmp_path, values)
    folder = import_into(tmp_path / "cache", *paths, modalities=("audio",))[0][
        "audio"
    ].stored.folder
    shutil.copy(shard_path(folder, 0), tmp_path / "shard.h5")
    again = import_into(tmp_path / "other", tmp_path / "shard.h5")[0]["audio"]
    assert_same(stored_values(open_feature_set(again.stored.folder)), values)


def test_hdf5_that_reaches_into_other_files_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset(
            "audio/trainvid0_0", (2, 4), "f8", external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
        )
    with pytest.raises(ExtractError, match="keeps its values in another file; refused"):
        import_into(tmp_path / "cache", tmp_path / "raw.h5")
    for kind, link in (
        ("external", h5py.ExternalLink("raw.h5", "/audio")),
        ("soft", h5py.SoftLink("/audio")),
    ):
        with h5py.File(tmp_path / f"{kind}.h5", "w") as file:
            file["audio"] = link
        with pytest.raises(ExtractError, match="'audio' is a link; refused"):
            import_into(tmp_path / "cache", tmp_path / f"{kind}.h5")


def test_damaged_hdf5(tmp_path: Path) -> None:
    (tmp_path / "file.h5").write_bytes(os.urandom(2000))
    with pytest.raises(ExtractError, match="no readable HDF5 file") as error:
        import_into(tmp_path / "cache", tmp_path / "file.h5")
    assert "\n" not in str(error.value)
    with h5py.File(tmp_path / "unlike.h5", "w") as file:
        file["audio/trainvid0_0"] = np.zeros((2, 3))
        file["audio/trainvid0_1"] = np.zeros((2, 4))
    with pytest.raises(ExtractError, match="unlike shapes"):
        import_into(tmp_path / "cache", tmp_path / "unlike.h5")


# --- damage


def whole_file(kind: str, path: Path) -> tuple[str, ...]:
    """Write a sound file of a kind; return the modalities to import it as."""
    values = vectors(2)
    frame = pd.DataFrame(np.concatenate(list(values.values())), columns=SPEECH)
    frame.insert(0, "id", list(values))
    if kind == "npz":
        write_archive(path, compress=True)
        return ()
    if kind == "h5":
        with h5py.File(path, "w") as file:
            for name, value in values.items():
                file[name] = value
    elif kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        path.write_bytes(pickle.dumps(mmsa(), 4))
        return ()
    return ("audio",)


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz", "h5", "pkl"])
def test_random_damage_is_either_harmless_or_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"file.{kind}"
    modalities = whole_file(kind, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(len(kind))
    messages = []
    for round_ in range(25):
        damaged = bytearray(whole)
        if round_ % 4 == 0:
            del damaged[int(rng.integers(len(whole))) :]
        else:
            for place in rng.integers(len(whole), size=4):
                damaged[place] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            import_into(tmp_path / "cache", path, modalities=modalities)
        except ExtractError as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)


# --- what stays and what is written anew


def test_an_interrupted_import_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.importers.store.ROWS_PER_SHARD", 4)
    write_archive(tmp_path / "file.npz")
    whole = import_into(tmp_path / "a", tmp_path / "file.npz")[0]["audio"].stored
    assert whole.shards_written == 3
    folder = import_into(tmp_path / "b", tmp_path / "file.npz")[0]["audio"].stored.folder
    (folder / "00001.json").unlink()
    again = import_into(tmp_path / "b", tmp_path / "file.npz")[0]["audio"].stored
    assert (again.shards_written, again.shards_kept) == (1, 2)
    for number in shard_numbers(folder):
        ours, theirs = shard_path(folder, number), shard_path(whole.folder, number)
        assert ours.read_bytes() == theirs.read_bytes()


def test_another_file_is_another_feature_set(tmp_path: Path) -> None:
    write_archive(tmp_path / "file.npz")
    first = import_into(tmp_path / "cache", tmp_path / "file.npz")[0]["audio"].stored.folder
    with np.load(tmp_path / "file.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["train_audio"] = arrays["train_audio"] + 1
    np.savez(tmp_path / "file.npz", **arrays)
    second = import_into(tmp_path / "cache", tmp_path / "file.npz")[0]["audio"].stored.folder
    assert first != second
    assert first.name.partition("-")[0] == second.name.partition("-")[0] == "file"
