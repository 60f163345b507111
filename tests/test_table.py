from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extract.errors import ExtractError
from extract.table import SCHEMA, Utterance, read_table, table_problem, utterances, write_table


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": ["a", "b", "c"],
            "split": ["train", "test", "unlabelled"],
            "label": ["joy", None, None],
            "score": [1.5, None, None],
            "text": ["hello", None, "愉快"],
            "language": ["en", "en", "zh"],
            "order": pd.array([3, None, 0], dtype="Int64"),
            "media": ["a.mp4", "b.mp4", None],
            "audio": [None, "b.wav", None],
            "start": [0.5, None, None],
            "end": [1.5, None, None],
        }
    )


def test_table_comes_back_with_its_types(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "utterances.parquet"
    write_table(frame(), path)
    found = read_table(path)
    assert list(found.columns) == SCHEMA.names
    assert found["text"].tolist() == ["hello", None, "愉快"]
    assert found["order"].dtype == "Int64"
    assert found["order"].isna().tolist() == [False, True, False]
    assert found["score"].isna().tolist() == [False, True, True]
    assert found["speaker"].tolist() == [None, None, None]


def test_each_stream_has_its_own_file_or_the_common_one() -> None:
    first, second, third = utterances(frame())
    assert first == Utterance("a", "train", "hello", "a.mp4", "a.mp4", 0.5, 1.5)
    assert (second.audio, second.video) == ("b.wav", "b.mp4")
    assert (third.audio, third.video, third.start, third.text) == (None, None, None, "愉快")


def test_the_same_table_is_not_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "utterances.parquet"
    write_table(frame(), path)
    before = path.stat()
    write_table(frame(), path)
    assert path.stat().st_ino == before.st_ino
    write_table(frame().assign(text="other"), path)
    assert path.stat().st_ino != before.st_ino
    assert read_table(path)["text"].tolist() == ["other"] * 3
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "utterances.json",
        "utterances.parquet",
    ]
    (tmp_path / "utterances.json").unlink()
    write_table(frame().assign(text="other"), path)
    assert table_problem(path) is None


def test_wrong_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExtractError, match="unknown columns: emotion"):
        write_table(frame().assign(emotion=1), tmp_path / "a")
    with pytest.raises(ExtractError, match="does not fit its columns' types"):
        write_table(frame().assign(start="soon"), tmp_path / "a")
    with pytest.raises(ExtractError, match="no such table; run egmf-extract first"):
        read_table(tmp_path / "a")
    (tmp_path / "a").write_text("id,split\n")
    with pytest.raises(ExtractError, match="not a readable Parquet file"):
        read_table(tmp_path / "a")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "a")
    with pytest.raises(ExtractError, match="table format none, but this version reads format 1"):
        read_table(tmp_path / "a")
