"""MOSI, MOSEI, CH-SIMS and CH-SIMS v2: their own forms, MMSA-FET's and MERBench's."""

from pathlib import Path

import pytest

from extract.errors import ExtractError
from pipeline.corpus import Corpus, build_table
from pipeline.errors import PipelineError
from pipeline.manifest import load_manifest
from tests.helpers_layouts import SHARED_DATA, needs_shared_data, scored, write_clip, write_csv

FET = [
    "video_id",
    "clip_id",
    "text",
    "label",
    "label_T",
    "label_A",
    "label_V",
    "annotation",
    "mode",
]


def fet(video, clip, text, label, mode):
    return (video, clip, text, label, "", "", "", "Positive", mode)


def build(name: str, root: Path, **options) -> Corpus:
    options = {"allow_count_mismatch": True} | options
    return build_table(load_manifest().dataset(name), root, **options)


def refusal(name: str, root: Path) -> str:
    with pytest.raises((PipelineError, ExtractError)) as caught:
        build(name, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- MMSA-FET's form, which all four share ---------------------------------------------------


@pytest.mark.parametrize(
    ("name", "listing"),
    [("mosi", "label.csv"), ("mosei", "label.csv"), ("sims", "label.csv"), ("simsv2", "meta.csv")],
)
def test_mmsa_fet_form(tmp_path, name, listing):
    rows = [
        fet("video_0001", "0001", "我不想嫁给李茶", "-1.0", "train"),
        fet("video_0001", "0002", "NA", "0.2", "valid"),
        fet("-3g5y_", "0010", "", "1", "test"),
    ]
    write_csv(tmp_path / listing, FET, rows)
    write_clip(tmp_path / "Raw/video_0001/0001.mp4")
    write_clip(tmp_path / "Raw/video_0009/0001.mp4")  # no row names it
    (tmp_path / "Raw/-3g5y_").mkdir()
    (tmp_path / "Raw/-3g5y_/0010.mp4").write_bytes(b"")  # there, if broken
    corpus = build(name, tmp_path)
    assert corpus.table["id"].tolist() == ["video_0001_0001", "video_0001_0002", "-3g5y__0010"]
    assert corpus.table["split"].tolist() == ["train", "valid", "test"]
    assert corpus.table["score"].tolist() == [-1.0, 0.2, 1.0]
    assert corpus.table["text"].tolist() == ["我不想嫁给李茶", "NA", None]
    assert corpus.table["group"].tolist() == ["video_0001", "video_0001", "-3g5y_"]
    assert corpus.table["order"].tolist() == [1, 2, 10]
    assert corpus.table["media"].tolist()[2] == "Raw/-3g5y_/0010.mp4"
    assert corpus.table["label"].isna().all()
    assert corpus.notes == (
        "1 of 3 clips are absent (Raw/video_0001/0002.mp4)",
        "1 clips without a row, ignored",
    )


@pytest.mark.parametrize("name", ["mosi", "mosei", "sims", "simsv2"])
def test_without_media_all_rows_stay(tmp_path, name):
    write_csv(tmp_path / "label.csv", FET, [fet("video_0001", "0001", "x", "0.4", "train")])
    corpus = build(name, tmp_path)
    assert len(corpus.table) == 1
    assert corpus.notes == ("no folder Raw: all 1 clips are absent",)


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        (FET[:-1], fet("v", "1", "x", "0", "train")[:-1], "no column 'mode'; its columns are vid"),
        (FET, fet("", "1", "x", "0", "train"), "label.csv line 2 has no video_id"),
        (FET, fet("v", "1", "x", "", "train"), "'v_1' has no score, which split 'train' needs"),
        (FET, fet("v", "1", "x", "3.2", "train"), "score 3.2 is outside -3 to 3"),
        (FET, fet("v", "1", "x", "0", "all"), "split 'all' is unknown"),
        (FET, fet("../v", "1", "x", "0", "train"), "'..'"),
        (["name", "split", "val"], ("video1", "train", "0"), "not of the form video_clip"),
        (["name", "val"], ("v_1", "0"), "no column 'split'"),
    ],
)
def test_a_wrong_list_is_named(tmp_path, header, row, said):
    write_csv(tmp_path / "label.csv", header, [row])
    assert said in refusal("mosi", tmp_path)


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("mosi", "label.csv not found"),
        ("mosei", "label.csv not found"),
        ("sims", "label.csv or metadata/sentiment/label_M.csv not found"),
        ("simsv2", "meta.csv or label.csv not found"),
    ],
)
def test_a_missing_list_is_named(tmp_path, name, needed):
    assert needed in refusal(name, tmp_path)


def test_clips_may_lie_elsewhere(tmp_path):
    write_csv(tmp_path / "label.csv", FET, [fet("v", "1", "x", "0.4", "train")])
    write_clip(tmp_path / "cut/v/v-1.mp4")
    layout = {"reader": "mosi", "media": ["cut/{video}/{video}-{clip}.mp4"]}
    corpus = build_table(scored(tmp_path / "m.yaml", layout), tmp_path)
    assert corpus.table["media"].tolist() == ["cut/v/v-1.mp4"]
    assert corpus.notes == ()


# -- MERBench's form ------------------------------------------------------------------------


def test_merbench_form(tmp_path):
    write_csv(
        tmp_path / "label.csv",
        ["name", "split", "emo", "val"],
        [("03bSn_IS_1", "val", 0, "-0.8"), ("03bSn_IS_12", "train", 0, "0.0")],
    )
    write_csv(
        tmp_path / "transcription-engchi-polish.csv",
        ["name", "chinese", "english"],
        [("03bSn_IS_1", "无论如何", "ANYHOW"), ("other_3", "", "x")],
    )
    write_clip(tmp_path / "subvideo/03bSn_IS_1.mp4")
    mosi = build("mosi", tmp_path).table
    assert mosi["text"].tolist() == ["ANYHOW", None]
    assert mosi["group"].tolist() == ["03bSn_IS"] * 2
    assert mosi["split"].tolist() == ["valid", "train"]
    assert mosi["media"].tolist()[0] == "subvideo/03bSn_IS_1.mp4"
    assert build("sims", tmp_path).table["text"].tolist() == ["无论如何", None]


# -- CMU-MOSI as released -------------------------------------------------------------------


def write_mosi(root: Path) -> None:
    rows = [fet("03bSn", "1", "", "2.4", "train"), fet("03bSn", "2", "", "-0.8", "test")]
    write_csv(root / "label.csv", FET, rows)
    for clip in (1, 2, 3):
        write_clip(root / f"Raw/Video/Segmented/03bSn_{clip}.mp4")
    text = root / "Raw/Transcript/Segmented/03bSn.annotprocessed"
    text.parent.mkdir(parents=True)
    text.write_bytes(b"1_DELIM_ANYHOW IT WAS REALLY GOOD\n2_DELIM_THAT\x92S IT\n3_DELIM_\n")


def test_mosi_original_form(tmp_path):
    write_mosi(tmp_path)
    corpus = build("mosi", tmp_path)
    assert corpus.table["text"].tolist() == ["ANYHOW IT WAS REALLY GOOD", "THAT’S IT"]
    assert corpus.table["media"].tolist() == [
        "Raw/Video/Segmented/03bSn_1.mp4",
        "Raw/Video/Segmented/03bSn_2.mp4",
    ]
    assert corpus.notes == ("1 clips without a row, ignored",)


def test_a_mosi_transcript_of_another_form_is_named(tmp_path):
    write_mosi(tmp_path)
    path = tmp_path / "Raw/Transcript/Segmented/03bSn.annotprocessed"
    path.write_text("1_DELIM_A\nplain text\n")
    assert "03bSn.annotprocessed line 2 has no _DELIM_" in refusal("mosi", tmp_path)


# -- CMU-MOSEI as released ------------------------------------------------------------------


def write_mosei(root: Path, base: str = "") -> None:
    rows = [
        fet("-3g5yACwYnA", "0", "", "1.0", "train"),
        fet("-3g5yACwYnA", "1", "", "-0.3333333432674408", "valid"),
        fet("ends_", "2", "", "2.6666667461395264", "test"),
        fet("ends_", "7", "no line", "0", "test"),
        fet("gone", "0", "", "0", "test"),
    ]
    write_csv(root / "label.csv", FET, rows)
    for video in ("-3g5yACwYnA", "ends_"):
        write_clip(root / base / f"Videos/Full/Combined/{video}.mp4", seconds=2)
    folder = root / base / "Transcript/Segmented/Combined"
    folder.mkdir(parents=True)
    (folder / "-3g5yACwYnA.txt").write_text(
        "-3g5yACwYnA___0___0.25___1.5___Key is part of the people___that we use\n"
        "-3g5yACwYnA___1___-0.4577___1.0___\n\n"
        "-3g5yACwYnA___5___1.0___1.2___nobody scored this\n",
        encoding="utf-8",
    )
    (folder / "ends_.txt").write_text("ends____2___0___45.5___It was great\n", encoding="utf-8")
    (folder / "gone.txt").write_text("gone___0___0___1___Gone\n", encoding="utf-8")


@pytest.mark.parametrize("base", ["", "Raw"])
def test_mosei_full_videos_are_cut_by_the_transcripts(tmp_path, base):
    write_mosei(tmp_path, base)
    corpus = build("mosei", tmp_path)
    table = corpus.table.set_index("id")
    first = table.loc["-3g5yACwYnA_0"]
    prefix = f"{base}/" if base else ""
    assert first["media"] == f"{prefix}Videos/Full/Combined/-3g5yACwYnA.mp4"
    assert (first["start"], first["end"]) == (0.25, 1.5)
    assert first["text"] == "Key is part of the people___that we use"
    assert table.loc["-3g5yACwYnA_1", "text"] is None
    assert table.loc["ends__2", "text"] == "It was great"
    assert table.loc["ends__2", "score"] == pytest.approx(8 / 3)
    # Without a span, the whole video must not pass for the clip.
    assert table.loc["ends__7", "media"] is None
    assert table.loc["ends__7", "text"] == "no line"
    assert corpus.notes == (
        "clips with no transcript line, so no span and no media: 1 (ends__7)",
        "clips with a span over 30 s: 1 (ends__2)",
        f"1 of 3 videos are absent ({prefix}Videos/Full/Combined/gone.mp4)",
        "1 transcript lines without a row, ignored",
        "rows whose span starts before its file and begins at 0: 1 (-3g5yACwYnA_1)",
    )


@pytest.mark.parametrize("line", ["v___0___1.0", "v___0___a___b___text", "words"])
def test_a_mosei_transcript_of_another_form_is_named(tmp_path, line):
    write_mosei(tmp_path)
    (tmp_path / "Transcript/Segmented/Combined/v.txt").write_text(line)
    message = refusal("mosei", tmp_path)
    assert "v.txt line 1 is not of the form video___clip___start___end___sentence" in message


# -- CH-SIMS's metadata form ----------------------------------------------------------------


def write_sims(root: Path, splits: dict[str, list]) -> None:
    labels = [
        ("video_0001", 1, -1.0),
        ("video_0001", 2, 0.8),
        ("video_0001", 4, 0.0),
        ("video_0002", 1, 0.6),
    ]
    write_csv(root / "metadata/sentiment/label_M.csv", ["video_id", "clip_id", "label"], labels)
    for part, index in splits.items():
        write_csv(root / f"metadata/{part}_index.csv", ["index"], [(i,) for i in index])
    write_csv(
        root / "metadata/Translation.csv",
        ["video_id", "clip_id", "Chinese", "English"],
        [(video, clip, f"第{clip}句", f"line {clip}") for video, clip, _ in labels],
    )
    write_clip(root / "Raw/video_0001/0001.mp4")


def test_sims_metadata_form(tmp_path):
    write_sims(tmp_path, {"train": [0], "val": [3], "test": [1]})
    corpus = build("sims", tmp_path)
    table = corpus.table.set_index("id")
    assert table["split"].to_dict() == {
        "video_0001_0001": "train",
        "video_0001_0002": "test",
        "video_0002_0001": "valid",
    }
    assert table["score"].tolist() == [-1.0, 0.8, 0.6]
    assert table.loc["video_0001_0002", "text"] == "第2句"
    assert table.loc["video_0001_0001", "media"] == "Raw/video_0001/0001.mp4"
    assert (tmp_path / table.loc["video_0001_0001", "media"]).is_file()
    assert "1 labels in no split, ignored" in corpus.notes


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"train": [0], "val": [9], "test": [1]}, "val_index.csv line 2: index '9' is no row of"),
        ({"train": [0], "val": [-1], "test": [1]}, "index '-1' is no row"),
        ({"train": [0], "val": [2], "test": [0]}, "test_index.csv line 2: row 0 is already in tr"),
        ({"train": [0], "val": [2]}, "test_index.csv, which it needs, is not"),
    ],
)
def test_wrong_sims_splits_are_named(tmp_path, splits, said):
    write_sims(tmp_path, splits)
    assert said in refusal("sims", tmp_path)


def test_sims_clip_numbers_that_lost_their_zeros(tmp_path):
    write_csv(tmp_path / "label.csv", FET, [fet("video_0001", "7", "x", "0.2", "train")])
    write_clip(tmp_path / "Raw/video_0001/0007.mp4")
    corpus = build("sims", tmp_path)
    assert corpus.table["id"].tolist() == ["video_0001_0007"]
    assert corpus.notes == ()


# -- the real lists -------------------------------------------------------------------------


@needs_shared_data
@pytest.mark.parametrize(
    ("name", "folder", "videos", "negative_zero_positive"),
    [
        ("mosi", "cmumosi", 93, (379, 30, 277)),
        ("mosei", "cmumosei", 3225, (1350, 1025, 2284)),
        ("sims", "sims", 60, (248, 69, 140)),
        ("simsv2", "simsv2", 152, (488, 123, 423)),
    ],
)
def test_real_lists_have_the_manifests_counts(name, folder, videos, negative_zero_positive):
    corpus = build(name, SHARED_DATA / "labels" / folder, allow_count_mismatch=False)
    scores = corpus.table.query("split == 'test'")["score"]
    assert ((scores < 0).sum(), (scores == 0).sum(), (scores > 0).sum()) == negative_zero_positive
    assert corpus.table["group"].nunique() == videos
    assert corpus.table["order"].notna().all()
    assert corpus.table["text"].notna().all() == (name != "mosei")  # its transcripts are not there
    if name == "sims":
        speech = corpus.table.set_index("id")["text"]
        assert speech["video_0001_0001"] == "我不想嫁给李茶"


@needs_shared_data
def test_real_mosei_spans_meet_the_real_list(tmp_path):
    """The spans come from another list, whose numbering agrees for 17,463 of 22,856 clips."""
    import csv

    (tmp_path / "label.csv").symlink_to(SHARED_DATA / "labels/cmumosei/label.csv")
    folder = tmp_path / "Transcript/Segmented/Combined"
    folder.mkdir(parents=True)
    (tmp_path / "Videos/Full/Combined").mkdir(parents=True)
    lines: dict[str, list[str]] = {}
    with (SHARED_DATA / "mosei_labels/CMU_MOSEI_Labels.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            fields = (row["file"], row["index"], row["start"], row["end"], "words")
            lines.setdefault(row["file"], []).append("___".join(fields))
    for video, of_video in lines.items():
        (folder / f"{video}.txt").write_text("\n".join(of_video), encoding="utf-8")
    with pytest.raises(ExtractError, match="--allow-symlinks"):
        build("mosei", tmp_path)
    corpus = build("mosei", tmp_path, allow_count_mismatch=False, allow_symlinks=True)
    assert corpus.table["end"].notna().sum() == 17463
    assert corpus.table["media"].notna().sum() == 17463
    assert any("no transcript line, so no span and no media: 5393" in n for n in corpus.notes)
    assert (corpus.table["end"] - corpus.table["start"]).median() > 3
