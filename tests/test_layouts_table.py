from pathlib import Path

import pandas as pd
import pytest

from extract.errors import ExtractError
from extract.layouts import LayoutRequest, ReleaseNotFoundError, TableLayout
from extract.layouts.cells import read_cells
from tests.helpers_layouts import write_csv


def layout(**options) -> TableLayout:
    return TableLayout.model_validate({"reader": "table", "table": "table.csv"} | options)


def read(folder: Path, **options):
    return layout(**options).read(LayoutRequest(root=folder, manifest_folder=folder)).rows


def refusal(folder: Path, **options) -> str:
    with pytest.raises(ExtractError) as caught:
        read(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("t.csv", b"", "t.csv is empty"),
        ("t.csv", b" \n", "t.csv is empty"),
        ("t.csv", b"id,split\n", "t.csv has no rows"),
        ("t.csv", b"id,split,id\na,b,c\n", "names column 'id' twice"),
        ("t.csv", b"id,split\na,train,x\n", "line 2 has 3 cells, the header has 2"),
        ("t.csv", b"id,split\na,train\nb\n", "line 3 has 1 cells, the header has 2"),
        ("t.csv", b'id,split\n"a,train\n', "unexpected end of data"),
        ("t.csv", b"id,split\na,train\n\xc3\x28,test\n", "line 3 is not utf-8"),
        ("t.csv", "id,text\n1,平静\n".encode("gbk"), "line 2 is not utf-8: save the file as UTF-8"),
        ("t.csv", b"x" * 200_000, "field larger than field limit"),
        ("t.jsonl", b'{"id": "a"}\n{"id"\n', "line 2 is not JSON"),
        ("t.jsonl", b"[1]\n", "line 1: expected a JSON object"),
        ("t.jsonl", b'{"id": ["a"]}\n', "line 1: a cell holds a list"),
        ("t.jsonl", b"\n\n", "is empty"),
        ("t.parquet", b"", "is no readable Parquet file"),
        ("t.parquet", b"id,split\na,train\n", "is no readable Parquet file"),
        ("t.xlsx", b"PK", "must end in .csv, .tsv, .jsonl or .parquet"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    message = refusal(tmp_path, table=name)
    assert name in message
    assert said in message


def test_a_missing_file_is_told_apart(tmp_path):
    with pytest.raises(ReleaseNotFoundError, match=r"table\.csv not found"):
        read(tmp_path)
    with pytest.raises(ExtractError, match="no such file"):
        read_cells(tmp_path / "t.parquet")
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(ExtractError, match="cannot be read"):
        read_cells(tmp_path / "t.csv")


def test_nested_parquet_is_refused(tmp_path):
    pd.DataFrame({"id": ["a"], "split": [["train"]]}).to_parquet(tmp_path / "t.parquet")
    assert "only text and numbers fit" in refusal(tmp_path, table="t.parquet")


def test_a_missing_column_names_file_column_and_those_there(tmp_path):
    write_csv(tmp_path / "table.csv", ["name", "split"], [("a", "train")])
    message = refusal(tmp_path)
    assert "table.csv has no column 'id'; its columns are name, split" in message
    message = refusal(tmp_path, columns={"id": "{name}", "label": "{emotion}"})
    assert "no column 'emotion' (for label); its columns are name, split" in message
    message = refusal(
        tmp_path,
        columns={"id": "{name}"},
        split_by={"column": "speaker", "valid": [], "test": []},
    )
    assert "no column 'speaker' (for split_by)" in message


def test_a_byte_order_mark_and_another_encoding_are_read(tmp_path):
    (tmp_path / "table.csv").write_bytes("\ufeffid,split,text\n1,train,平静\n".encode())
    assert read(tmp_path)[0].text == "平静"
    (tmp_path / "table.csv").write_bytes("id,split,text\n1,train,平静\n".encode("gbk"))
    assert read(tmp_path, encoding="gbk")[0].text == "平静"
    assert "unknown encoding 'klingon'" in refusal(tmp_path, encoding="klingon")


def test_templates_put_columns_together(tmp_path):
    write_csv(
        tmp_path / "table.csv",
        ["Sr No.", "file", "split"],
        [("1", "a", "train"), ("2", "", "test")],
    )
    rows = read(
        tmp_path,
        columns={"id": "x{Sr No.}-{split}", "audio": "wav/{file}.wav", "language": "de"},
    )
    assert [row.id for row in rows] == ["x1-train", "x2-test"]
    assert [row.audio for row in rows] == ["wav/a.wav", None]  # no file, no path
    assert [row.language for row in rows] == ["de", "de"]


def test_templates_look_columns_up_and_nothing_else(tmp_path):
    write_csv(tmp_path / "table.csv", ["id", "split"], [("a", "train")])
    message = refusal(tmp_path, columns={"text": "{id.__class__}"})
    assert "no column 'id.__class__'" in message


def test_splits_by_a_columns_values(tmp_path):
    rows = [("a", "03", "x"), ("b", "08", "x"), ("c", "15", "x"), ("d", "", "x")]
    write_csv(tmp_path / "table.csv", ["id", "speaker", "split"], rows)
    rule = {"column": "speaker", "valid": ["08"], "test": ["15"]}
    # The rule wins over a column of that name.
    splits = [row.split for row in read(tmp_path, split_by=rule)]
    assert splits == ["train", "valid", "test", "train"]
    message = refusal(tmp_path, split_by=rule | {"test": ["16"]})
    assert "no row has speaker '16', as split_by asks" in message


def test_a_table_may_not_lie_outside(tmp_path):
    assert "climbs" in refusal(tmp_path, table="../table.csv")
    assert "absolute" in refusal(tmp_path, table="/etc/passwd")


def test_lines_are_those_of_the_file(tmp_path):
    (tmp_path / "table.csv").write_text('id,split,text\na,train,"two\nlines"\n\nb,train,x\n')
    assert [row.origin for row in read(tmp_path)] == ["table.csv line 3", "table.csv line 5"]
