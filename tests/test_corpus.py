import json
from pathlib import Path

import pandas as pd
import pytest

from extract.errors import ExtractError
from extract.table import read_table, write_table
from pipeline.corpus import Corpus, build_table
from pipeline.errors import PipelineError
from tests.helpers_layouts import entry, scored, write_csv

HEADER = ["id", "split", "label"]
TABLE = {"reader": "table", "folder": "corpus", "table": "table.csv"}


def build(tmp_path: Path, header=HEADER, rows=(("a", "train", "calm"),), **fields) -> Corpus:
    """Write corpus/table.csv under a data root and build its table."""
    write_csv(tmp_path / "corpus" / "table.csv", header, rows)
    return build_table(entry(tmp_path / "m.yaml", TABLE, **fields), tmp_path)


def refusal(tmp_path: Path, *args, **fields) -> str:
    with pytest.raises((PipelineError, ExtractError)) as caught:
        build(tmp_path, *args, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_column_reaches_the_table(tmp_path):
    header = ["id", "split", "label", "text", "group", "order", "speaker", "media", "start", "end"]
    rows = [("0012", "dev", "STRESSED", "None", "7", "3", "05", "a/b.mp4", "1.5", "2")]
    corpus = build(tmp_path, header, rows)
    row = corpus.table.iloc[0]
    assert corpus.root == tmp_path
    assert row["id"] == "0012"  # zeros kept
    assert row["split"] == "valid"
    assert row["label"] == "tense"
    assert row["text"] == "None"  # a word like any other
    assert (row["group"], row["order"], row["speaker"]) == ("7", 3, "05")
    assert row["media"] == "corpus/a/b.mp4"  # relative to the data root
    assert (row["start"], row["end"]) == (1.5, 2.0)
    assert row["language"] == "en"
    assert row["audio"] is None
    assert pd.isna(row["score"])


def test_the_table_survives_being_written(tmp_path):
    rows = [("a", "train", "calm", "x", "1"), ("b", "test", "tense", "", "")]
    corpus = build(tmp_path, [*HEADER, "text", "order"], rows)
    write_table(corpus.table, tmp_path / "t.parquet")
    back = read_table(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(back, corpus.table)


@pytest.mark.parametrize("word", ["tense", "Tense", "紧张", "stressed", " tense "])
def test_labels_in_any_spelling_become_the_canonical_name(tmp_path, word):
    assert list(build(tmp_path, rows=[("a", "train", word)]).table["label"]) == ["tense"]


def test_a_blank_text_is_absent(tmp_path):
    rows = [("a", "train", "calm", "  "), ("b", "train", "calm", "")]
    assert build(tmp_path, [*HEADER, "text"], rows).table["text"].tolist() == [None, None]


def test_unlabelled_rows_need_no_label(tmp_path):
    corpus = build(tmp_path, rows=[("a", "unlabelled", ""), ("b", "train", "calm")])
    assert corpus.table["label"].tolist() == [None, "calm"]


def test_a_regression_corpus_may_call_its_scores_labels(tmp_path):
    write_csv(tmp_path / "table.csv", HEADER, [("a", "train", "-1.6"), ("b", "test", "0")])
    layout = {"reader": "table", "table": "table.csv"}
    table = build_table(scored(tmp_path / "m.yaml", layout), tmp_path).table
    assert table["score"].tolist() == [-1.6, 0.0]
    assert table["label"].tolist() == [None, None]


def test_both_tasks_take_a_label_and_a_score(tmp_path):
    rows = [("a", "train", "calm", "0.5"), ("b", "test", "tense", "-2")]
    fields = {
        "task": ["classification", "regression"],
        "scores": {"low": -3, "high": 3, "step": 0.1},
        "protocol": "mosi",
    }
    table = build(tmp_path, [*HEADER, "score"], rows, **fields).table
    assert table["label"].tolist() == ["calm", "tense"]
    assert table["score"].tolist() == [0.5, -2.0]
    message = refusal(tmp_path, [*HEADER, "score"], [("a", "train", "calm", "")], **fields)
    assert "has no score" in message


def test_a_score_off_by_single_precision_is_put_on_the_edge(tmp_path):
    write_csv(tmp_path / "table.csv", HEADER, [("a", "train", "3.0000001")])
    layout = {"reader": "table", "table": "table.csv"}
    assert build_table(scored(tmp_path / "m", layout), tmp_path).table["score"].tolist() == [3.0]


def test_language_per_row(tmp_path):
    rows = [("a", "train", "calm", "ZH"), ("b", "train", "calm", "en")]
    table = build(tmp_path, [*HEADER, "language"], rows, language="row").table
    assert table["language"].tolist() == ["zh", "en"]
    assert "line 2: 'a' has no language" in refusal(tmp_path, language="row")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("a", "train", "happpy"), "line 2: label 'happpy' is unknown"),
        (("a", "train", "tens"), "did you mean 'tense'?"),
        (("a", "trian", "calm"), "split 'trian' is unknown (did you mean 'train'?)"),
        (("a", "train", ""), "'a' has no label, which split 'train' needs"),
        (("", "train", "calm"), "table.csv line 2 has no id"),
        (("a", "", "calm"), "table.csv line 2 has no split"),
        (("/a", "train", "calm"), "id '/a' must be"),
        (("x/../../a", "train", "calm"), "or '..'"),
        (("a\x07", "train", "calm"), "without control characters"),
        (("é" * 200, "train", "calm"), "must be 1-255 bytes"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, row, said):
    assert said in refusal(tmp_path, rows=[row])


def test_a_duplicate_id_names_both_rows(tmp_path):
    message = refusal(tmp_path, rows=[("a", "train", "calm")] * 2)
    assert "table.csv line 3: id 'a' is already on table.csv line 2" in message


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ("3.5", "score 3.5 is outside -3 to 3"),
        ("-inf", "score is '-inf', expected a number"),
        ("nan", "score is 'nan', expected a number"),
        ("good", "score is 'good', expected a number"),
    ],
)
def test_a_wrong_score_is_named(tmp_path, score, said):
    write_csv(tmp_path / "table.csv", ["id", "split", "score"], [("a", "train", score)])
    layout = {"reader": "table", "table": "table.csv"}
    with pytest.raises(PipelineError) as caught:
        build_table(scored(tmp_path / "m", layout), tmp_path)
    assert "table.csv line 2: " + said in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("media", "../../secret.mp4", "climbs with '..'"),
        ("audio", "/etc/passwd", "is absolute"),
        ("video", "link/a.mp4", "--allow-symlinks"),
        ("order", "1.5", "expected a whole number"),
        ("start", "soon", "start is 'soon', expected a number"),
    ],
)
def test_a_wrong_path_or_number_is_named(tmp_path, column, value, said):
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    (root / "corpus").mkdir(parents=True)
    (root / "corpus" / "link").symlink_to(outside)
    message = refusal(root, [*HEADER, column], [("a", "train", "calm", value)])
    assert message.startswith("dataset 'mine', table.csv line 2: ")
    assert said in message


def test_links_are_followed_with_leave(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "root"
    root.mkdir()
    write_csv(
        tmp_path / "elsewhere/table.csv", [*HEADER, "media"], [("a", "train", "calm", "a.mp4")]
    )
    (root / "corpus").symlink_to(tmp_path / "elsewhere")
    one = entry(tmp_path / "m.yaml", TABLE)
    with pytest.raises(ExtractError, match="--allow-symlinks"):
        build_table(one, root)
    table = build_table(one, root, allow_symlinks=True).table
    assert table["media"].tolist() == ["corpus/a.mp4"]


def test_odd_spans_are_kept_and_noted(tmp_path):
    rows = [
        ("early", "train", "calm", "-0.5", "2"),
        ("inverted", "train", "calm", "3", "2"),
        ("empty", "train", "calm", "2", "2"),
        ("before", "train", "calm", "-2", "-1"),
        ("fine", "train", "calm", "0", ""),
    ]
    corpus = build(tmp_path, [*HEADER, "start", "end"], rows)
    assert len(corpus.table) == 5
    early, empty = corpus.notes
    assert "begins at 0: 2 (early, before)" in early
    assert "media are absent: 3 (inverted, empty, before)" in empty


def test_counts_must_be_the_manifests(tmp_path):
    rows = [("a", "train", "calm"), ("b", "test", "calm"), ("c", "unlabelled", "")]
    message = refusal(tmp_path, rows=rows, splits={"train": 2, "test": 1})
    assert "expects train 2, valid 0, test 1; found train 1, valid 0, test 1" in message
    assert "--allow-count-mismatch" in message
    assert build(tmp_path, rows=rows, splits={"train": 1, "test": 1}).count_mismatch is None
    assert "unlabelled 2" in refusal(
        tmp_path, rows=rows, splits={"train": 1, "test": 1, "unlabelled": 2}
    )


def test_a_count_mismatch_that_was_allowed_is_told(tmp_path):
    write_csv(tmp_path / "corpus/table.csv", HEADER, [("a", "train", "calm")])
    one = entry(tmp_path / "m.yaml", TABLE, splits={"train": 2})
    corpus = build_table(one, tmp_path, allow_count_mismatch=True)
    assert len(corpus.table) == 1
    assert corpus.count_mismatch == (
        "the manifest expects train 2, valid 0, test 0; found train 1, valid 0, test 0"
    )


def test_known_bad_items_that_are_there_are_counted(tmp_path):
    bad = [{"id": "a", "problem": "silent"}, {"id": "z", "problem": "not in this copy"}]
    assert build(tmp_path, known_bad=bad).notes == (
        "1 items are known to be damaged (known_bad in the manifest)",
    )


def test_a_missing_data_root_or_folder_says_where_and_how(tmp_path):
    one = entry(tmp_path / "m.yaml", TABLE, source="https://example.org/corpus")
    with pytest.raises(PipelineError, match="nowhere is no folder: give --data-root or set EGMF"):
        build_table(one, tmp_path / "nowhere")
    with pytest.raises(PipelineError) as caught:
        build_table(one, tmp_path)
    message = str(caught.value)
    assert f"no folder {tmp_path / 'corpus'}" in message
    assert f"table.csv not found in {tmp_path}" in message
    assert "--data-root or EGMF_DATA" in message
    assert "https://example.org/corpus" in message


def test_the_data_root_may_be_the_datasets_folder_itself(tmp_path):
    write_csv(tmp_path / "table.csv", [*HEADER, "media"], [("a", "train", "calm", "a.mp4")])
    corpus = build_table(entry(tmp_path / "x" / "m.yaml", TABLE), tmp_path)
    assert corpus.table["media"].tolist() == ["a.mp4"]


def test_a_table_may_lie_beside_the_manifest(tmp_path):
    data, mine = tmp_path / "data", tmp_path / "mine"
    (data / "corpus").mkdir(parents=True)
    write_csv(mine / "table.csv", [*HEADER, "media"], [("a", "train", "calm", "a.mp4")])
    corpus = build_table(entry(mine / "m.yaml", TABLE), data)
    assert corpus.table["media"].tolist() == ["corpus/a.mp4"]


def test_all_kinds_of_table_give_the_same(tmp_path):
    records = [
        {"id": "01", "split": "train", "label": "calm", "order": 1, "text": "a, \"b\"\n平静"},
        {"id": "02", "split": "test", "label": "tense", "order": 2, "text": ""},
    ]  # fmt: skip
    frame = pd.DataFrame(records)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "t.parquet")
    lines = "\n\n".join(json.dumps(record) for record in records)
    (tmp_path / "t.jsonl").write_text(lines, encoding="utf-8")
    tables = [
        build_table(
            entry(tmp_path / "m.yaml", {"reader": "table", "table": f"t.{kind}"}), tmp_path
        ).table
        for kind in ("csv", "tsv", "jsonl", "parquet")
    ]
    assert tables[0]["text"].tolist() == ['a, "b"\n平静', None]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


def test_several_tables_and_templates_make_one_corpus(tmp_path):
    write_csv(
        tmp_path / "speech.csv",
        ["file", "who", "mood"],
        [("1.wav", "03", "calm"), ("2.wav", "08", "tense"), ("3.wav", "09", "calm")],
    )
    write_csv(tmp_path / "spans.csv", ["id", "start", "end"], [("s1", "0", "2")])
    layout = {
        "reader": "table",
        "table": "speech.csv",
        "columns": {"id": "speech_{file}", "audio": "wav/{file}", "label": "{mood}"},
        "split_by": {"column": "who", "valid": ["08"], "test": ["09"]},
        "more": [
            {"table": "spans.csv", "columns": {"media": "clip.mp4", "split": "unlabelled"}},
        ],
    }
    table = build_table(entry(tmp_path / "m.yaml", layout), tmp_path).table
    assert table["id"].tolist() == ["speech_1.wav", "speech_2.wav", "speech_3.wav", "s1"]
    assert table["split"].tolist() == ["train", "valid", "test", "unlabelled"]
    assert table["audio"].tolist() == ["wav/1.wav", "wav/2.wav", "wav/3.wav", None]
    assert table["media"].tolist() == [None, None, None, "clip.mp4"]
    assert table["end"].tolist()[3] == 2.0
