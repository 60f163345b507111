import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from extract.errors import ExtractError
from extract.shards import (
    Features,
    Identity,
    SetAside,
    Shard,
    Sidecar,
    find_done,
    read_sidecar,
    shard_numbers,
    shard_path,
    sidecar_path,
    write_shard,
    write_sidecar,
)

IDENTITY = Identity("corpus", "audio", "ab" * 32)


def some_features(counts: list[int], dim: int = 6) -> list[Features]:
    generator = np.random.default_rng(3)
    return [
        Features(
            generator.standard_normal((count, dim)).astype(np.float32),
            np.arange(count, dtype=np.float32) / 50,
        )
        for count in counts
    ]


def test_rows_come_back_as_float16_with_their_times(tmp_path: Path) -> None:
    features = some_features([3, 0, 5])
    write_shard(tmp_path / "00000.h5", IDENTITY, ["a", "愉快", "c"], features, dim=6)
    with Shard(tmp_path / "00000.h5", IDENTITY.fingerprint) as shard:
        assert shard.ids == ["a", "愉快", "c"]
        assert shard.offset.tolist() == [0, 3, 3, 8]
        for row, expected in enumerate(features):
            found = shard.read(row)
            np.testing.assert_array_equal(found.value, expected.value.astype(np.float16))
            np.testing.assert_array_equal(found.time, expected.time)
        assert shard.read(1).value.shape == (0, 6)


def test_layout_is_the_published_one(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.h5", IDENTITY, ["a", "bb"], some_features([2, 1]), dim=6)
    with h5py.File(tmp_path / "s.h5") as file:
        assert set(file) == {"id", "offset", "value", "time"}
        assert h5py.check_string_dtype(file["id"].dtype) == ("utf-8", 2)
        assert (file["offset"].dtype, file["value"].dtype) == (np.int64, np.float16)
        assert file["time"].dtype == np.float32
        assert all(file[name].fletcher32 for name in file)
        assert dict(file.attrs) == {
            "format_version": 1,
            "fingerprint": IDENTITY.fingerprint,
            "dataset": "corpus",
            "modality": "audio",
        }


@pytest.mark.parametrize("counts", [[0, 0], [700, 1, 300]])
def test_same_features_give_the_same_bytes(tmp_path: Path, counts: list[int]) -> None:
    ids = [f"u{i}" for i in range(len(counts))]
    first = write_shard(tmp_path / "a.h5", IDENTITY, ids, some_features(counts), dim=6)
    second = write_shard(tmp_path / "b.h5", IDENTITY, ids, some_features(counts), dim=6)
    assert first == second
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_the_bytes_are_the_same_while_a_profiler_holds_what_it_sees(tmp_path: Path) -> None:
    ids, features = ["a", "b"], some_features([15, 20])
    expected, held = write_shard(tmp_path / "a.h5", IDENTITY, ids, features, dim=6), []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, argument: held.append((frame, argument)))
    try:
        found = write_shard(tmp_path / "b.h5", IDENTITY, ids, features, dim=6)
    finally:
        sys.setprofile(before)
    assert held
    assert found == expected


def test_no_flipped_bit_goes_unseen(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    ids = ["a", "b"]
    features = some_features([900, 300])
    write_shard(path, IDENTITY, ids, features, dim=6)
    clean = path.read_bytes()
    generator = np.random.default_rng(0)
    seen = 0
    for place in generator.integers(0, len(clean), 300):
        flipped = bytearray(clean)
        flipped[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(flipped)
        try:
            with Shard(path, IDENTITY.fingerprint) as shard:
                read = [shard.read(row) for row in range(2)]
                unchanged = shard.ids == ids and all(
                    np.array_equal(one.value, other.value.astype(np.float16))
                    and np.array_equal(one.time, other.time)
                    for one, other in zip(read, features, strict=True)
                )
            assert unchanged, f"byte {place} changed a value unseen"
        except ExtractError:
            seen += 1
    assert seen > 200


def test_damage_is_named_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    write_shard(path, IDENTITY, ["a"], some_features([4000]), dim=6)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(ExtractError, match=r"s\.h5: damaged .*run egmf-extract again"):
        Shard(path, IDENTITY.fingerprint).read(0)


def test_what_is_not_finite_is_not_published(tmp_path: Path) -> None:
    features = some_features([2])
    features[0].value[1, 2] = np.nan
    with pytest.raises(ExtractError, match="features of a hold a value that is not finite"):
        write_shard(tmp_path / "s.h5", IDENTITY, ["a"], features, dim=6)
    assert list(tmp_path.iterdir()) == []


def test_times_must_be_finite_too(tmp_path: Path) -> None:
    features = some_features([2])
    features[0].time[1] = np.inf
    with pytest.raises(ExtractError, match="times of a hold a value that is not finite"):
        write_shard(tmp_path / "s.h5", IDENTITY, ["a"], features, dim=6)


def test_another_format_version_and_another_fingerprint_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    write_shard(path, IDENTITY, ["a"], some_features([2]), dim=6)
    with pytest.raises(ExtractError, match="belongs to another feature set"):
        Shard(path, "cd" * 32)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 9
    with pytest.raises(ExtractError, match="shard format 9, but this version reads format 1"):
        Shard(path, IDENTITY.fingerprint)


def test_a_text_file_is_not_a_shard(tmp_path: Path) -> None:
    (tmp_path / "s.h5").write_text("hello")
    with pytest.raises(ExtractError, match=r"s\.h5: damaged"):
        Shard(tmp_path / "s.h5", IDENTITY.fingerprint)


def sidecar_of(folder: Path, number: int) -> Sidecar:
    sha256, size = write_shard(
        shard_path(folder, number), IDENTITY, ["a", "b"], some_features([2, 0]), dim=6
    )
    return Sidecar(
        dataset=IDENTITY.dataset,
        modality=IDENTITY.modality,
        fingerprint=IDENTITY.fingerprint,
        sha256=sha256,
        size=size,
        ids=["a", "b"],
        digests=["1", "2"],
        rows=[2, 0],
        quarantined=[SetAside("b", "b.mp4", "open", "no such file")],
        flags=[("a", "cut_to_30s")],
        seconds={"decode": 0.5},
    )


def test_sidecar_comes_back_whole(tmp_path: Path) -> None:
    sidecar = sidecar_of(tmp_path, 7)
    write_sidecar(sidecar_path(tmp_path, 7), sidecar)
    assert read_sidecar(sidecar_path(tmp_path, 7)) == sidecar
    assert shard_numbers(tmp_path) == [7]
    assert find_done(tmp_path, 7, IDENTITY.fingerprint) == sidecar


def test_a_shard_without_its_sidecar_is_not_done(tmp_path: Path) -> None:
    sidecar = sidecar_of(tmp_path, 0)
    assert find_done(tmp_path, 0, IDENTITY.fingerprint) is None
    write_sidecar(sidecar_path(tmp_path, 0), sidecar)
    assert find_done(tmp_path, 0, "cd" * 32) is None
    shard_path(tmp_path, 0).write_bytes(b"short")
    assert find_done(tmp_path, 0, IDENTITY.fingerprint) is None


def test_sidecar_of_another_format_is_refused(tmp_path: Path) -> None:
    path = sidecar_path(tmp_path, 0)
    write_sidecar(path, sidecar_of(tmp_path, 0))
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "format_version": 2}))
    with pytest.raises(ExtractError, match="shard format 2"):
        read_sidecar(path)
    path.write_text("{")
    with pytest.raises(ExtractError, match="not a readable sidecar"):
        read_sidecar(path)
