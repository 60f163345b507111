"""What users get wrong, met through the console commands: one plain line each, nothing lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from extract.features import list_feature_sets
from extract.sealed import publish_sealed, read_sealed
from extract.table import read_table
from pipeline.commands.report import main as report_main
from pipeline.commands.train import main as train_main
from tests.helpers_bad_input import (
    COLUMNS,
    MANIFEST,
    ROWS,
    call,
    extract,
    specs,
    train,
    write_rows,
)


@pytest.fixture
def place(bad_corpus: Path) -> Path:
    return bad_corpus


@pytest.fixture
def copy(place: Path, tmp_path: Path) -> Path:
    """Copy data and cache, to be damaged; models stay where they are."""
    no_pipe = shutil.ignore_patterns("pipe.mp4")
    shutil.copytree(place / "data", tmp_path / "data", ignore=no_pipe)
    shutil.copytree(place / "cache" / "mine", tmp_path / "cache" / "mine")
    (tmp_path / "cache" / "models").symlink_to(place / "cache" / "models")
    shutil.copy(place / "mine.yaml", tmp_path)
    return tmp_path


def test_broken_media_are_set_aside_with_their_reason_and_the_rest_goes_on(place: Path) -> None:
    summary = json.loads((place / "summary.json").read_text())
    assert summary["failures"] == []
    assert [one["present"] for one in summary["modalities"]] == [12, 5, 5]
    sets = {one.modality: one for one in list_feature_sets(place / "cache", "mine")}
    said = {row.id: (row.stage, row.reason) for row in sets["audio"].quarantine()}
    unreadable = ("open", "cannot be opened as media: Invalid data found when processing input")
    assert said == {
        "empty": ("open", "empty file"),
        "prose": unreadable,
        "torn": unreadable,
        "silent": ("decode", "no audio could be decoded: the span holds none"),
        "gone": ("open", "no such file"),
        "pipe": ("open", "not a regular file"),
        "backwards": ("open", "a span of -0.40 s"),
    }
    assert {row.id for row in sets["visual"].quarantine()} == set(said)
    assert sets["text"].lengths()["good/3"] == 512  # 10,000 characters, cut and said
    assert summary["modalities"][0]["flags"] == {"cut_to_512_tokens": 1}
    table = read_table(place / "cache" / "mine" / "utterances.parquet")
    assert table["label"].tolist()[:5] == ["sad", "glad", "sad", "glad", "glad"]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("id", "good/0", "line 3: id 'good/0' is already on table.csv line 2; ids must be unique"),
        ("id", "a\nb", r"id 'a\nb' must be 1-255 bytes without control characters"),
        ("id", "", "table.csv line 3 has no id"),
        ("split", "tset", "line 3: split 'tset' is unknown (did you mean 'test'?)"),
        (
            "label",
            "gladd",
            "line 3: label 'gladd' is unknown (did you mean 'glad'?)",
        ),
        (
            "label",
            "",
            "line 3: 'good/1' has no label, which split 'train' needs; fill in",
        ),
        ("score", "1.5", "line 3: score 1.5 is outside -1 to 1; correct it"),
        ("score", "nan", "line 3: score is 'nan', expected a number"),
        ("start", "soon", "line 3: start is 'soon', expected a number"),
        ("media", "../mine.yaml", "path '../mine.yaml' climbs with '..': it must stay inside"),
        ("media", "/etc/passwd", "path '/etc/passwd' is absolute: give it relative to"),
        ("media", "link.mp4", "by a symbolic link: use --allow-symlinks if that is meant"),
    ],
)
def test_a_wrong_cell_is_named_with_its_line(
    place: Path, tmp_path: Path, column: str, value: str, said: str
) -> None:
    rows = [COLUMNS, *(list(row) for row in ROWS)]
    rows[2][COLUMNS.index(column)] = value
    write_rows(tmp_path / "table.csv", rows)
    (tmp_path / "link.mp4").symlink_to(place / "data" / "0.mp4")
    before = (place / "cache" / "mine" / "utterances.parquet").read_bytes()
    complaint = extract(place, "--data-root", tmp_path).complaint()
    assert "table.csv line" in complaint
    assert said in complaint
    assert (place / "cache" / "mine" / "utterances.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "table.csv is empty"),
        (b"id,split,label,score,text\n", "table.csv has no rows"),
        (b"split,label,score\ntrain,sad,-1\n", "has no column 'id'; its columns are split, label"),
        (b"id,split,label,score,text\na,train,sad,-1,caf\xe9\n", "line 2 is not utf-8: save the"),
        (b"id,split,label\na,train,sad,-1\n", "line 2 has 4 cells, the header has 3"),
        (b'id,split,label,score\na,train,sad,-1\n"b', "line 3: unexpected end of data"),
        (None, "table.csv not found in"),
    ],
)
def test_a_wrong_table_is_named(
    place: Path, tmp_path: Path, content: bytes | None, said: str
) -> None:
    if content is None:
        (tmp_path / "table.csv").mkdir()
    else:
        (tmp_path / "table.csv").write_bytes(content)
    complaint = extract(place, "--data-root", tmp_path).complaint()
    assert str(tmp_path) in complaint
    assert said in complaint


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            MANIFEST.replace("title:", "titel:"),
            "dataset 'mine', field 'titel': unknown field; field 'title': is missing",
        ),
        (MANIFEST.replace("max_seconds: 2", "max_seconds: two"), "expected a number, got 'two'"),
        (MANIFEST + "  broken: [\n", "line 15: not valid YAML"),
        (MANIFEST + "  mine: {}\n", "line 14: not valid YAML: key 'mine' is given twice"),
        ("!!python/object/apply:os.system ['id']", "line 1: not valid YAML"),
        ("- a\n", "expected a mapping, got ['a']"),
        ("[" * 5000, "not valid YAML: it is nested too deeply"),
        (b"\xff\xfe", "cannot be read: it is not UTF-8 text"),
        (None, "cannot be read: Is a directory"),
    ],
)
def test_a_wrong_manifest_is_named(
    place: Path, tmp_path: Path, content: str | bytes | None, said: str
) -> None:
    path = tmp_path / "wrong.yaml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for command in (extract, train):
        complaint = command(place, "--manifest", path).complaint()
        assert str(path) in complaint
        assert said in complaint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dataset", "mime"], "unknown dataset 'mime' (did you mean 'mine'?); known are cherma"),
        (["--data-root", "/none"], "data root /none is no folder: give --data-root or set"),
        (["--modalities", "text,adio"], "unknown modality 'adio' (did you mean 'audio'?)"),
        (["--manifest", "/none.yaml"], "/none.yaml does not exist"),
        (["--audio", "whisper:huge"], "encoder whisper:huge: no checkpoint file huge"),
    ],
)
def test_a_wrong_flag_of_extraction_is_named(place: Path, options: list[str], said: str) -> None:
    assert said in extract(place, *options).complaint()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dataset", "mime"], "unknown dataset 'mime' (did you mean 'mine'?)"),
        (["--dataset", "meld"], "no cache of 'meld'; run egmf-extract --dataset meld first"),
        (["--modalities", "adio"], "no 'adio' features of 'mine'"),
        (["--audio", "ffff"], "no audio features fit 'ffff'; there are: "),
        (["--set", "droput=0.2"], "no such setting (did you mean 'dropout'?); known: dim"),
        (["--set", "dropout"], "--set dropout: expected key=value"),
        (["--set", "dropout=2"], "'dropout': expected a value less than or equal to 1, got 2"),
        (["--set", "heads=3"], "dim (64) must be a multiple of heads (3)"),
        (["--set", "kernels=[2]"], "kernels must be odd, got 2"),
        (["--device", "gpu"], "--device gpu: no such device here, or none to be had now ("),
        (["--device", "cuda:99"], "--device cuda:99: no such device here, or none to be had now ("),
        (["--experiment", "a/b"], "--experiment a/b: give a plain name without '/'"),
        (["--context", "2"], "no utterance of 'mine' has a group and an order"),
        (["--epochs", "3", "--set", "epochs=5"], "--epochs 3: --set epochs says it too"),
        (["--resume", "--fresh"], "--resume and --fresh contradict each other"),
        (
            ["--ablate", "local", "--ablate", "semantic", "--ablate", "global"],
            "at least one expert must stay",
        ),
    ],
)
def test_a_wrong_flag_of_training_is_named_and_leaves_nothing(
    place: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    assert said in train(place, "--runs", tmp_path / "runs", *options).complaint()
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_one_line(place: Path, tmp_path: Path) -> None:
    ended = extract(
        place, "--device", "cuda", "--fresh", "--cache", tmp_path / "cache", *specs(place)
    )
    assert "device 'cuda': this machine has no such device; use --device cpu" in ended.complaint()
    assert "--device cuda: no such device here" in train(place, "--device", "cuda").complaint()


def test_what_is_no_value_of_a_flag_is_exit_code_2(place: Path) -> None:
    for options in (["--seed", "abc"], ["--seed", "-1"], ["--epochs", "0"], ["--ablate", "nose"]):
        assert train(place, *options).code == 2
    assert extract(place, "--workers", "0").code == 2
    assert call(report_main, "--format", "pdf").code == 2


def test_no_cache_is_one_line_and_none_is_made(place: Path, tmp_path: Path) -> None:
    none = tmp_path / "none"
    assert f"{none}: no cache of 'mine'; run" in train(place, "--cache", none).complaint()
    ended = call(train_main, "--from-cache", "--cache", none)
    assert f"{none}: no cache; run egmf-extract" in ended.complaint()
    assert not none.exists()


def damage_version(folder: Path) -> None:
    rewrite_json(folder / "features.json", format_version=7)


def damage_sidecar_version(folder: Path) -> None:
    rewrite_json(folder / "00000.json", format_version=7)


def damage_bytes(folder: Path) -> None:
    path = folder / "00000.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 64] = b"\xaa" * 64
    path.write_bytes(content)


def damage_length(folder: Path) -> None:
    path = folder / "00000.h5"
    path.write_bytes(path.read_bytes()[:-100])


def damage_nan(folder: Path) -> None:
    with h5py.File(folder / "00000.h5", "r+", libver="latest") as shard:
        shard["value"][0] = float("nan")
    rewrite_json(folder / "00000.json", size=(folder / "00000.h5").stat().st_size)


def damage_unfinished(folder: Path) -> None:
    (folder / "00000.json").unlink()


def damage_description(folder: Path) -> None:
    (folder / "features.json").write_text("{")


def rewrite_json(path: Path, **changed: Any) -> None:
    publish_sealed(path, read_sealed(path)[0] | changed)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_version, "features.json: format 7, but this version reads format 1; extract again"),
        (damage_sidecar_version, "00000.json: shard format 7, but this version reads format 1"),
        (damage_bytes, "00000.h5: damaged ("),
        (damage_length, "00000.h5: missing, or not the file that its sidecar describes; run"),
        (damage_nan, "00000.h5: the features of good/0 hold a value that is not finite; remove"),
        (
            damage_unfinished,
            "12 of 12 utterances are not extracted (first: good/0); run",
        ),
        (damage_description, "features.json: damaged ("),
    ],
)
def test_a_damaged_cache_is_named_and_mended_it_trains(
    place: Path, copy: Path, damage: Callable[[Path], None], said: str
) -> None:
    (audio,) = (copy / "cache" / "mine" / "audio").iterdir()
    damage(audio)
    complaint = train(copy).complaint()
    assert str(audio) in complaint
    assert said in complaint
    shutil.rmtree(audio)
    shutil.copytree(place / "cache" / "mine" / "audio" / audio.name, audio)
    assert train(copy).code == 0  # what the failure left behind stands in nobody's way


def test_a_damaged_table_is_one_line(copy: Path) -> None:
    path = copy / "cache" / "mine" / "utterances.parquet"
    path.write_text("hello")
    complaint = train(copy).complaint()
    assert f"{path}: not a readable Parquet file" in complaint
    assert "run egmf-extract again" in complaint
    assert extract(copy).code == 0
    assert len(read_table(path)) == len(ROWS)
