import json
from pathlib import Path

import pytest

from extract.errors import ExtractError
from pipeline.corpus import build_table
from pipeline.errors import PipelineError
from pipeline.manifest import load_manifest


def record(stem: str, label: str) -> dict[str, str]:
    others = {f"{name}_label": "平静" for name in ("txt", "audio", "visual")}
    files = {"audio_file": f"{stem}.wav", "video_file": f"{stem}.mp4"}
    return files | others | {"video_label": label}


def write_lists(root: Path, valid: str = "dev") -> None:
    lists = {
        "train": [record("a_1", "愤怒"), record("a_2", "高兴")],
        valid: [record("b_1", "惊奇")],
        "test": [record("a_1", "悲伤")],
    }
    for stem, records in lists.items():
        (root / f"{stem}.json").write_text(json.dumps(records, ensure_ascii=False), "utf-8")


def build(root: Path):
    return build_table(load_manifest().dataset("cherma"), root, allow_count_mismatch=True)


def refusal(root: Path) -> str:
    with pytest.raises((PipelineError, ExtractError)) as caught:
        build(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("valid", ["dev", "valid", "val"])
def test_rows_take_the_fused_label(tmp_path, valid):
    write_lists(tmp_path, valid)
    table = build(tmp_path).table
    assert table["id"].tolist() == ["train_a_1", "train_a_2", f"{valid}_b_1", "test_a_1"]
    assert table["split"].tolist() == ["train", "train", "valid", "test"]
    assert table["label"].tolist() == ["anger", "happiness", "surprise", "sadness"]
    assert table[["text", "media", "audio", "video"]].isna().all(axis=None)
    assert set(table["language"]) == {"zh"}


def test_a_missing_list_is_named(tmp_path):
    write_lists(tmp_path)
    (tmp_path / "dev.json").unlink()
    assert f"dev.json not found in {tmp_path}" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "train.json is not JSON"),
        ("", "train.json is not JSON"),
        ("{}", "train.json: expected a list of records"),
        ("[]", "train.json: expected a list of records"),
        ("[3]", "train.json record 1: expected an object, got 3"),
        ('[{"audio_file": "a.wav"}]', "train.json record 1 has no video_label"),
        ('[{"video_label": "平静", "audio_file": 3}]', "train.json record 1 has no audio_file"),
        (
            json.dumps([record("a", "平淡")]),
            "train.json record 1: label '平淡' is unknown (did you mean '平静'?)",
        ),
        (json.dumps([record("a", "平静")] * 2), "record 2: id 'train_a' is already on"),
        (json.dumps([record("../../a", "平静")]), "'..'"),
    ],
)
def test_a_wrong_list_is_named(tmp_path, content, said):
    write_lists(tmp_path)
    (tmp_path / "train.json").write_text(content, encoding="utf-8")
    assert said in refusal(tmp_path)
