from pathlib import Path

import pytest

from pipeline.corpus import build_table
from pipeline.manifest import load_manifest
from tests.helpers_layouts import SHARED_DATA, needs_shared_data

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_loads(path):
    assert load_manifest(path).datasets


@needs_shared_data
def test_emodb_is_split_by_speaker():
    entry = load_manifest(EXAMPLES / "emodb.yaml").dataset("emodb")
    table = build_table(entry, SHARED_DATA).table
    speakers = {split: set(rows["speaker"]) for split, rows in table.groupby("split")}
    assert speakers["valid"] == {"03", "08"}
    assert speakers["test"] == {"15", "16"}
    assert len(speakers["train"]) == 6
    assert not speakers["train"] & (speakers["valid"] | speakers["test"])
    assert all((SHARED_DATA / path).is_file() for path in table["audio"])
    assert len(table) == 535
    assert table[["text", "media", "video"]].isna().all(axis=None)


@needs_shared_data
def test_wavs_and_spans_of_a_clip_are_one_corpus():
    entry = load_manifest(EXAMPLES / "emodb.yaml").dataset("talking")
    table = build_table(entry, SHARED_DATA).table
    assert table["language"].value_counts().to_dict() == {"de": 535, "en": 4}
    spans = table[table["media"].notna()]
    assert (SHARED_DATA / spans["media"].iloc[0]).is_file()
    assert spans["start"].tolist() == [0.0, 3.2, 5.4, 7.6]
    assert set(table.query("split == 'test'")["language"]) == {"de"}
