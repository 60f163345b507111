from pathlib import Path

import pytest

from extract.errors import ExtractError
from extract.layouts.cp1252 import decode_lenient, mend
from extract.layouts.meld import parse_time
from pipeline.corpus import Corpus, build_table
from pipeline.errors import PipelineError
from pipeline.manifest import load_manifest
from tests.helpers_layouts import SHARED_DATA, needs_shared_data, write_clip, write_csv

HEADER = [
    "Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID",
    "Season", "Episode", "StartTime", "EndTime",
]  # fmt: skip


def row(number, text, speaker, emotion, dialogue, turn, start="00:00:01,000", end="00:00:03,500"):
    return (number, text, speaker, emotion, "neutral", dialogue, turn, 3, 19, start, end)


ROWS = {
    "train": [
        row(1, "also I was the point person", "Chandler", "neutral", 0, 0),
        row(2, "You must’ve had your hands full.", "The Interviewer", "surprise", 0, 1),
        row(4, "Kathy! Kathy!", "Joey", "joy", 1, 0, "0:10:44,769", "0:11:25,809"),
    ],
    "dev": [
        row(1, "Oh my God, he’s lost it.", "Phoebe", "sadness", 0, 0),
        row(2, "None", "Monica", "disgust", 0, 3),
    ],
    "test": [
        row(1, "Why do all you’re coffee mugs", "Mark", "surprise", 0, 0, end="0:0:1.082"),
        row(2, "Oh my God.", "Rachel", "fear", 0, 1, "00:00:05,000", "00:00:05,000"),
        row(3, "Push!", "Joey", "anger", 0, 2, "soon", "00:00:05,000"),
    ],
}


def write_release(root: Path) -> Path:
    """Write MELD.Raw in small: a clip missing in dev, extra ones in test, one that is no video."""
    for part, rows in ROWS.items():
        write_csv(root / f"{part}_sent_emo.csv", HEADER, rows)
    for clip in ("dia0_utt0", "dia0_utt1", "dia1_utt0"):
        write_clip(root / f"train/train_splits/{clip}.mp4")  # as its archive unpacks
    write_clip(root / "dev_splits_complete/dia0_utt0.mp4")
    for clip in ("dia0_utt0", "dia0_utt2", "final_videos_testdia0_utt0", "dia9_utt9"):
        write_clip(root / f"output_repeated_splits_test/{clip}.mp4")
    (root / "output_repeated_splits_test/dia0_utt1.mp4").write_text("no video")
    return root


def build(data_root: Path, **options) -> Corpus:
    options = {"allow_count_mismatch": True} | options
    return build_table(load_manifest().dataset("meld"), data_root, **options)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    root = tmp_path_factory.mktemp("data")
    write_release(root / "MELD.Raw")
    return build(root)


def test_every_row_stays_with_an_id_of_its_split(corpus):
    assert corpus.table["id"].tolist() == [
        "train_dia0_utt0", "train_dia0_utt1", "train_dia1_utt0",
        "dev_dia0_utt0", "dev_dia0_utt3",
        "test_dia0_utt0", "test_dia0_utt1", "test_dia0_utt2",
    ]  # fmt: skip
    assert corpus.table["split"].tolist() == ["train"] * 3 + ["valid"] * 2 + ["test"] * 3


def test_dialogue_turn_speaker_and_words_are_kept(corpus):
    turn = corpus.table.set_index("id").loc["dev_dia0_utt3"]
    assert (turn["group"], turn["order"], turn["speaker"]) == ("dev_dia0", 3, "Monica")
    assert (turn["text"], turn["label"]) == ("None", "disgust")


def test_clips_are_found_where_archives_unpack_them(corpus):
    media = corpus.table.set_index("id")["media"]
    assert media["train_dia0_utt0"] == "MELD.Raw/train/train_splits/dia0_utt0.mp4"
    assert media["dev_dia0_utt3"] == "MELD.Raw/dev_splits_complete/dia0_utt3.mp4"
    assert media["test_dia0_utt1"] == "MELD.Raw/output_repeated_splits_test/dia0_utt1.mp4"
    assert (corpus.root / media["train_dia0_utt0"]).is_file()


def test_the_csvs_times_are_no_spans_of_the_clips(corpus):
    assert corpus.table["start"].isna().all()
    assert corpus.table["end"].isna().all()


def test_what_is_odd_is_noted_and_counted(corpus):
    assert corpus.notes == (
        "train: rows whose times in the CSV are over 30 s apart: 1 (train_dia1_utt0)",
        "1 of 2 dev clips are absent (dev_splits_complete/dia0_utt3.mp4)",
        "test: rows whose times in the CSV cannot be read: 1 (test_dia0_utt2)",
        "test: rows whose times in the CSV end where they start or before: 1 (test_dia0_utt1)",
        "test: rows whose times in the CSV are at most 0.1 s apart: 1 (test_dia0_utt0)",
        "2 test clips without a row, ignored",
    )
    assert "expects train 9989, valid 1109, test 2610; found train 3" in corpus.count_mismatch


def test_without_media_all_rows_stay(tmp_path):
    for part, rows in ROWS.items():
        write_csv(tmp_path / f"data/MELD/{part}_sent_emo.csv", HEADER, rows)
    corpus = build(tmp_path)
    assert len(corpus.table) == 8
    assert "no folder train_splits: all 3 train clips are absent" in corpus.notes
    assert corpus.table["media"][0] == "train_splits/dia0_utt0.mp4"


def test_a_missing_part_is_named_with_the_places_looked_into(tmp_path):
    write_release(tmp_path)
    (tmp_path / "dev_sent_emo.csv").unlink()
    with pytest.raises(PipelineError) as caught:
        build(tmp_path)
    assert f"dev_sent_emo.csv not found in {tmp_path}" in str(caught.value)
    assert f"no folder {tmp_path / 'MELD.Raw'}" in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(1, "x", "A", "joyful", 0, 0)], "label 'joyful' is unknown (did you mean 'joy'?)"),
        ([row(1, "x", "A", "joy", "", 0)], "line 2: Dialogue_ID is '', expected a number"),
        ([row(1, "x", "A", "joy", 0, 0)] * 2, "'train_dia0_utt0' is already on"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, rows, said):
    write_release(tmp_path)
    write_csv(tmp_path / "train_sent_emo.csv", HEADER, rows)
    with pytest.raises((PipelineError, ExtractError)) as caught:
        build(tmp_path)
    assert said in str(caught.value)
    assert "train_sent_emo.csv line" in str(caught.value)


def test_a_csv_without_a_needed_column_is_named(tmp_path):
    write_release(tmp_path)
    write_csv(tmp_path / "dev_sent_emo.csv", ["Utterance", "Speaker"], [("x", "y")])
    with pytest.raises(ExtractError, match="no column 'Emotion'; its columns are Utterance, Sp"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:16:21,731", 981.731),
        ("0:10:44,769", 644.769),
        ("00:05:11,82", 311.82),
        ("1:02:03.5", 3723.5),
        ("00:00:07", 7.0),
        (" 00:00:07,000 ", 7.0),
        ("7,5", None),
        ("", None),
        ("-1:00:00,0", None),
    ],
)
def test_times_in_every_form(text, seconds):
    assert parse_time(text) == (None if seconds is None else pytest.approx(seconds))


SOUND = "It’s “fine” — you’re at Paul’s Café… ‘really’ – beef sautéed"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text,
        lambda text: text.encode("cp1252").decode("latin-1"),
        lambda text: text.encode().decode("latin-1"),
        # What UTF-8 shows as where code page 1252 is assumed; it leaves some bytes undefined.
        lambda text: "".join(
            bytes([byte]).decode("cp1252") if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
            else chr(byte)
            for byte in text.encode()
        ),
    ],
)  # fmt: skip
def test_text_damaged_by_code_page_1252_is_mended(damage):
    assert mend(damage(SOUND)) == SOUND


@pytest.mark.parametrize(
    "text",
    [SOUND, "平静。", "plain", "Ünal, São Paulo, àéîõü, Ça va", "“Paul’s Café…”", "„viel Spaß”"],
)
def test_sound_text_is_left_alone(text):
    assert mend(text) == text


def test_a_file_saved_in_code_page_1252_is_read(tmp_path):
    text = "It’s fine\nJoey’s Café"
    assert decode_lenient(text.encode("cp1252")) == text
    mixed = "It’s fine\n".encode() + "Joey’s Café".encode("cp1252")
    assert decode_lenient(mixed) == text
    assert decode_lenient(b"\xef\xbb\xbfa") == "a"


def test_mended_transcripts_are_counted(tmp_path):
    write_release(tmp_path)
    damaged = "You must’ve".encode("cp1252").decode("latin-1")
    write_csv(tmp_path / "train_sent_emo.csv", HEADER, [row(1, damaged, "A", "joy", 0, 0)])
    corpus = build(tmp_path)
    assert corpus.table["text"][0] == "You must’ve"
    assert "train: 1 transcripts mended (misread as code page 1252)" in corpus.notes


@needs_shared_data
def test_the_real_lists_give_every_row():
    corpus = build(SHARED_DATA / "meld", allow_count_mismatch=False)
    assert corpus.table["split"].value_counts().to_dict() == {
        "train": 9989, "valid": 1109, "test": 2610,
    }  # fmt: skip
    assert corpus.table["text"].notna().all()
    assert corpus.table["group"].nunique() == 1038 + 114 + 280
    counts = corpus.table.query("split == 'test'")["label"].value_counts().to_dict()
    assert counts == {
        "neutral": 1256, "joy": 402, "anger": 345, "surprise": 281, "sadness": 208,
        "disgust": 68, "fear": 50,
    }  # fmt: skip
    known = {bad.id for bad in load_manifest().dataset("meld").known_bad}
    assert known <= set(corpus.table["id"])
    assert not any("cannot be read" in note or "mended" in note for note in corpus.notes)
