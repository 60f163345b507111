"""A table inside a numpy archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.errors import ExtractError
from pipeline.corpus import build_table
from pipeline.errors import PipelineError
from pipeline.manifest import load_manifest
from tests.helpers_layouts import SHARED_DATA, needs_shared_data, scored

LAYOUT: dict[str, Any] = {
    "reader": "npz",
    "folder": "mine",
    "file": "mine.npz",
    "parts": {"train": "tr", "test": "te"},
    "arrays": {"id": "{part}_id", "score": "{part}_y", "text": "{part}_words"},
    "id_pattern": "{group}_{order}",
    "held_out": {"array": "tr_official", "value": "val"},
}


def write(root: Path, **changed: Any) -> None:
    arrays = {
        "tr_id": np.array(["a_b_10", "a_b_2", "c_1"]),
        "tr_y": np.array([1.5, -3, 0], np.float32),
        "tr_words": np.array(["one", "two", ""]),
        "tr_official": np.array(["train", "train", "val"]),
        "te_id": np.array(["d_1"]),
        "te_y": np.array([3], np.float32),
        "te_words": np.array(["four"]),
    }
    (root / "mine").mkdir()
    np.savez(root / "mine" / "mine.npz", **{**arrays, **changed})


def entry(root: Path, **layout: Any) -> Any:
    return scored(root / "mine.yaml", {**LAYOUT, **layout})


def test_rows_groups_and_what_is_held_out(tmp_path: Path) -> None:
    write(tmp_path)
    table = build_table(entry(tmp_path), tmp_path).table
    columns = ["id", "split", "score", "text", "group", "order"]
    assert table[columns].to_numpy(object).tolist() == [
        ["a_b_10", "train", 1.5, "one", "a_b", 10],
        ["a_b_2", "train", -3.0, "two", "a_b", 2],
        ["c_1", "valid", 0.0, None, "c", 1],
        ["d_1", "test", 3.0, "four", "d", 1],
    ]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"tr_id": np.array(["a", "b", "c_1"])}, "tr row 1: id 'a' is not of the form"),
        ({"tr_y": np.zeros(2)}, "arrays of part 'tr' differ in length"),
        ({"tr_y": np.array([{}, 1, 2], object)}, "holds Python objects"),
        ({"te_id": np.array(["../d_1"])}, "without control characters, a leading '/' or '..'"),
        ({"te_id": np.array(["c_1"])}, "is already on mine.npz, tr row 3"),
        ({"te_y": np.array([9.0])}, "te row 1: score 9 is outside"),
    ],
)
def test_what_cannot_be_right_is_named(
    tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    write(tmp_path, **changed)
    with pytest.raises((PipelineError, ExtractError)) as error:
        build_table(entry(tmp_path), tmp_path)
    assert reason in str(error.value)


def test_an_array_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ExtractError, match="has no array 'tr_key'; it has te_id"):
        build_table(entry(tmp_path, arrays={"id": "{part}_key"}), tmp_path)


def test_the_archive_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"mine\.npz not found"):
        build_table(entry(tmp_path, folder="."), tmp_path)


@pytest.mark.parametrize(
    "layout",
    [
        {"arrays": {"score": "{part}_y"}},
        {"arrays": {"id": "{split}_id"}},
        {"id_pattern": "{video}_{clip}"},
        {"parts": {"dev": "dev"}},
    ],
)
def test_options_are_checked_when_the_manifest_is_loaded(
    tmp_path: Path, layout: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="validation error"):
        entry(tmp_path, **layout)


@needs_shared_data
def test_the_real_archive() -> None:
    examples = Path(__file__).resolve().parents[1] / "examples"
    entry = load_manifest(examples / "mosi_bclstm.yaml").dataset("mosi_bclstm")
    table = build_table(entry, SHARED_DATA).table
    assert table["split"].value_counts().to_dict() == {"train": 1252, "test": 752, "valid": 195}
    assert table["group"].nunique() == 93
    assert table.groupby("group")["split"].nunique().max() == 1
    assert ((table["score"] >= 0) == (table["label"] == "positive")).all()
    first = table.iloc[0]
    assert (first["id"], first["group"], first["order"]) == ("1DmNV9C1hbY_10", "1DmNV9C1hbY", 10)
