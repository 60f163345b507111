"""Feature pickles: what is read, and everything that is refused without running."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.errors import ExtractError
from extract.features import open_feature_set
from extract.importers.pickle_machine import ALLOWED
from extract.importers.pickles import StoredArray, read_pickle
from tests.helpers_import import assert_same, import_into, mmsa, rows, stored_values

PROTOCOLS = (2, 3, 4, 5)


class OfOurs:
    """A harmless class, which no feature file needs."""


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


def read(tmp_path: Path, content: Any, protocol: int = 4) -> Any:
    return read_pickle(write(tmp_path / "file.pkl", content, protocol), tmp_path / "scratch")


def refusal(tmp_path: Path, content: Any, protocol: int = 4) -> str:
    with pytest.raises(ExtractError) as error:
        read(tmp_path, content, protocol)
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith("; refused")
    return message


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reads_what_feature_files_hold(tmp_path: Path, protocol: int) -> None:
    wide = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    content = {
        "plain": [1, -2, 70_000, 2**40, 1.5, True, None, "text", "中文"],
        "wide": wide,
        "fortran": np.asfortranarray(wide),
        "big endian": wide.astype(">f8"),
        "half": wide.astype(np.float16),
        "texts": np.array(["a$_$0", "é"]),
        "objects": np.array(["words", "more"], object),
        "scalars": [np.int64(7), np.float32(0.5), np.bool_(True)],
        "nested": [{"label": "joy", "features": {"audio": wide[0]}}],
    }
    found = read(tmp_path, content, protocol)
    assert found["plain"] == content["plain"]
    assert found["objects"] == ["words", "more"]
    assert found["scalars"] == [7, 0.5, True]
    for name in ("wide", "fortran", "big endian", "half", "texts"):
        assert isinstance(found[name], StoredArray)
        assert found[name].dtype == content[name].dtype
        np.testing.assert_array_equal(found[name][...], content[name])
        np.testing.assert_array_equal(found[name][1], content[name][1])
    np.testing.assert_array_equal(found["nested"][0]["features"]["audio"][...], wide[0])


def test_scalars_that_hold_text_and_shared_values(tmp_path: Path) -> None:
    array = np.arange(3.0)
    found = read(tmp_path, {"a": array, "b": array, "c": [np.str_("word")] * 2})
    np.testing.assert_array_equal(found["b"][...], array)
    assert found["c"] == ["word", "word"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Calls(os.system, "touch ran"), "os.system"),
        (Calls(eval, "open('ran', 'w')"), "builtins.eval"),
        (Calls(exec, "open('ran', 'w')"), "builtins.exec"),
        (Calls(subprocess.Popen, ["touch", "ran"]), "Popen"),
        (OfOurs(), "OfOurs"),
        ({"train": {"audio": np.array([Calls(os.system, "touch ran")], object)}}, "os.system"),
        ([{"label": Calls(getattr, "", "upper")}], "builtins.getattr"),
        ({"train": {1, 2}}, "set"),
        (np.ma.masked_array([1.0]), "numpy.ma"),
        (np.random.default_rng(0), "numpy.random"),
    ],
)
def test_refuses_by_name_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, name: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(tmp_path, content, protocol)
    assert name in message or "EMPTY_SET" in message
    assert not (tmp_path / "ran").exists()


def call(module: str, name: str) -> bytes:
    """Return a pickle of protocol 4 that calls `module.name` with one text."""

    def text(value: str) -> bytes:
        return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()

    return b"\x80\x04" + text(module) + text(name) + b"\x93" + text("x") + b"\x85R."


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy", "core.multiarray._reconstruct"),  # a name with dots is looked up step by step
        ("numpy.core", "multiarray.scalar"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy", "load"),
        ("numpy._core.multiarray", "_reconstruct.__globals__"),
        ("_codecs", "decode"),
    ],
)
def test_names_are_compared_whole(tmp_path: Path, module: str, name: str) -> None:
    assert f"asks for {module}.{name}" in refusal(tmp_path, call(module, name))


@pytest.mark.parametrize(("module", "name"), sorted(ALLOWED))
def test_admitted_names_are_not_called_with_anything(
    tmp_path: Path, module: str, name: str
) -> None:
    refusal(tmp_path, call(module, name))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"no pickle at all", "no pickle"),
        (b"PK\x03\x04", "no pickle"),
        (pickle.dumps({"a": 1}, 0), "opcode"),
        (pickle.dumps({"a": np.zeros(9)}, 4)[:-40], "claims"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".", "claims 1,152,921,504,606,846,976"),
        (b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".", "nested too deeply"),
        (b"\x80\x04]\x94h\x00a.", "nested too deeply"),  # a list that holds itself
        (b"\x80\x04h\x07.", "damaged"),
        (b"\x80\x04R.", "damaged"),
        (b"\x80\x04Qabc.", "BINPERSID"),
        (b"\x80\x04\x97.", "NEXT_BUFFER"),
    ],
)
def test_damaged_and_malicious_files_end_in_one_line(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    assert reason in refusal(tmp_path, content)


def test_lists_that_multiply_end_early(tmp_path: Path) -> None:
    bomb: list[Any] = ["ha"] * 10
    for _ in range(12):
        bomb = [bomb] * 10
    assert "values outside arrays" in refusal(tmp_path, bomb)


def test_memory_of_the_scan_is_limited(tmp_path: Path) -> None:
    """Seen from a small process: on Linux a child's peak begins with its parent's."""
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + b"]" * 20_000_000 + b".")
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from extract.errors import ExtractError\n"
        "from extract.importers.pickles import read_pickle\n"
        "try:\n    read_pickle(*map(Path, sys.argv[1:]))\n"
        "except ExtractError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.pkl", tmp_path / "scratch"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    said, peak = done.stdout.splitlines()
    assert "memory" in said
    assert int(peak) < 700_000


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([{"a": 1}], object), "objects"),
        (np.array([1, "a"], object), "objects"),
        (np.zeros(2, [("x", "f4")]), "'V4'"),
        (np.array(["2020-01-01"], "M8[D]"), "'M8'"),
        (np.zeros(2, np.complex64), "'c8'"),
    ],
)
def test_refuses_arrays_that_are_no_numbers_or_text(
    tmp_path: Path, array: np.ndarray, reason: str
) -> None:
    assert reason in refusal(tmp_path, {"train": {"id": array}})


def test_a_shape_must_fit_the_bytes(tmp_path: Path) -> None:
    honest = pickle.dumps(np.zeros(200, np.float32), 4)
    assert honest.count(b"K\xc8\x85") == 1  # the shape (200,)
    assert "fit its shape" in refusal(tmp_path, honest.replace(b"K\xc8\x85", b"K\xc9\x85"))


def test_the_scan_imports_the_standard_library_alone(tmp_path: Path) -> None:
    script = (
        "import sys, extract.importers.pickle_scan as scan\n"
        "print([m for m in ('numpy', 'h5py', 'pandas', 'torch') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mmsa_pickle_becomes_feature_sets(tmp_path: Path, protocol: int) -> None:
    content = mmsa()
    content["train"]["audio"][0, 0, 0] = -np.inf
    content["test"]["vision"][1, 0] = np.nan
    path = write(tmp_path / "unaligned_50.pkl", content, protocol)
    imported, _ = import_into(tmp_path / "cache", path)
    assert set(imported) == {"text", "audio", "visual"}
    for modality, name in (("text", "text"), ("audio", "audio"), ("visual", "vision")):
        expected = {}
        for fields in content.values():
            lengths = (
                fields["text_bert"][:, 1].sum(axis=1)
                if name == "text"
                else fields[f"{name}_lengths"]
            )
            for identity, rows_of_one, length in zip(
                fields["id"], fields[name], lengths, strict=True
            ):
                value = np.nan_to_num(rows_of_one[:length], nan=0.0, neginf=0.0)
                expected[identity.replace("$_$", "_")] = value
        one = imported[modality]
        features = open_feature_set(one.stored.folder)
        assert (features.encoder, features.dtype) == ("import:unaligned_50", "float32")
        assert features.random_weights is False
        assert_same(stored_values(features), expected)
        assert one.joined.labels_differ == one.joined.without_row == 0
    assert imported["audio"].stored.set_to_zero == {"-inf": 1}
    assert imported["visual"].stored.set_to_zero == {"NaN": 2}
    assert imported["visual"].stored.flags == {"NaN set to 0": 1}
    assert imported["text"].stored.set_to_zero == {}


def test_padding_in_front_is_told_from_padding_behind(tmp_path: Path) -> None:
    content = mmsa()
    whole = content["train"]["audio"][0].copy()
    content["train"]["audio_lengths"][0] = 4
    content["train"]["audio"][0] = 0
    content["train"]["audio"][0, -4:] = whole[:1]
    path = write(tmp_path / "file.pkl", content)
    imported, _ = import_into(tmp_path / "cache", path, modalities=("audio",))
    stored = stored_values(open_feature_set(imported["audio"].stored.folder))
    np.testing.assert_array_equal(stored["trainvid0_0"], np.repeat(whole[:1], 4, axis=0))


def test_without_lengths_every_row_stays(tmp_path: Path) -> None:
    content = mmsa()
    for fields in content.values():
        del fields["audio_lengths"]
    path = write(tmp_path / "aligned_50.pkl", content)
    imported, _ = import_into(tmp_path / "cache", path, modalities=("audio",))
    assert imported["audio"].stored.rows == 9 * len(rows())


def test_a_length_of_zero_is_an_absent_modality(tmp_path: Path) -> None:
    content = mmsa()
    content["valid"]["vision_lengths"][1] = 0
    path = write(tmp_path / "file.pkl", content)
    stored = import_into(tmp_path / "cache", path, modalities=("visual",))[0]["visual"].stored
    assert (stored.present, stored.utterances) == (9, 10)
    assert stored.absent == {"no rows in file.pkl, valid": 1}
    [quarantined] = open_feature_set(stored.folder).quarantine()
    assert (quarantined.id, quarantined.split) == ("validvid0_1", "valid")


def test_rows_without_features_and_features_without_rows_are_counted(tmp_path: Path) -> None:
    content = mmsa()
    content["test"]["id"][2] = "another$_$0"
    content["train"]["regression_labels"][1] = -3
    one = import_into(tmp_path / "cache", write(tmp_path / "file.pkl", content))[0]["audio"]
    assert one.stored.absent == {"not in file.pkl, test": 1}
    assert (one.joined.without_row, one.joined.first_without_row) == (1, "another$_$0")
    assert one.joined.labels_differ == 1


def test_moved_rows_are_found_by_their_ids(tmp_path: Path) -> None:
    content = mmsa()
    content["train"], content["test"] = content["test"], content["train"]
    one = import_into(tmp_path / "cache", write(tmp_path / "file.pkl", content))[0]["text"]
    assert one.joined.in_another_split == 8
    assert one.stored.present == 10


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "vid/../../x", ""])
def test_ids_that_are_paths_are_refused(tmp_path: Path, name: str) -> None:
    content = mmsa()
    content["train"]["id"][0] = name
    with pytest.raises(ExtractError, match="refused the id"):
        import_into(tmp_path / "cache", write(tmp_path / "file.pkl", content))
    assert not (tmp_path / "cache").exists()


def listed(split: str, labels: list[str]) -> list[dict[str, Any]]:
    """Return MSE-Adapter's form: a padded array an utterance, no ids."""
    rng = np.random.default_rng(len(split))
    return [
        {
            "label": label,
            "features": {
                "text": "words",
                "audio": rng.normal(size=(5, 3)).astype(np.float32),
                "video": rng.normal(size=(4, 2)).astype(np.float32),
                "audio_len": 2,
                "video_len": np.int64(4),
            },
        }
        for label in labels
    ]


def listed_files(tmp_path: Path) -> list[Path]:
    return [
        write(
            tmp_path / f"mine_{word}.pkl",
            listed(split, [row.label or "" for row in rows() if row.split == split]),
        )
        for word, split in (("train", "train"), ("dev", "valid"), ("test", "test"))
    ]


def test_lists_without_ids_are_joined_by_order_once_labels_agree(tmp_path: Path) -> None:
    imported, _ = import_into(tmp_path / "cache", *listed_files(tmp_path))
    assert set(imported) == {"audio", "visual"}
    audio = imported["audio"]
    assert audio.joined.by_order
    assert audio.stored.encoder == "import:mine"
    expected = {
        row.id: one["features"]["audio"][:2]
        for split in ("train", "valid", "test")
        for row, one in zip(
            [row for row in rows() if row.split == split],
            listed(split, ["x"] * 10),
            strict=False,
        )
    }
    assert_same(stored_values(open_feature_set(audio.stored.folder)), expected)


def test_lists_are_refused_when_counts_or_labels_differ(tmp_path: Path) -> None:
    files = listed_files(tmp_path)
    write(files[2], listed("test", ["negative", "positive"]))
    with pytest.raises(ExtractError, match=r"2 utterances, but the table has 3 in split 'test'"):
        import_into(tmp_path / "cache", *files)
    write(files[2], listed("test", ["neg", "negative", "消极"]))
    with pytest.raises(ExtractError, match=r"1 of its 3 labels differ .*for testvid0_1"):
        import_into(tmp_path / "cache", *files)
    write(files[2], listed("test", ["neg", "positive", "消极"]))
    assert import_into(tmp_path / "cache", *files)[0]["audio"].stored.present == 10


def test_a_list_whose_split_is_unknown_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.pkl", listed("train", ["negative"]))
    with pytest.raises(ExtractError, match="give --split"):
        import_into(tmp_path / "cache", path)


def test_other_forms_are_named(tmp_path: Path) -> None:
    for content in ({"vid_0": np.zeros(3)}, 7, [{"label": "a"}], {"train": {"audio": [1.0]}}):
        with pytest.raises(ExtractError, match=r"file\.pkl"):
            import_into(tmp_path / "cache", write(tmp_path / "file.pkl", content))
