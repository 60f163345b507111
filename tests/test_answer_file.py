"""The file that answers are added to: whole clips of one run, whatever ended the last one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline.answer_file import AnswerFile
from pipeline.errors import PipelineError

TASKS = ("classification", "regression")


def table(*ids: str, run: str = "one", valid: bool = True) -> pd.DataFrame:
    """Answers as a run gives them: all of a task, then all of the next."""
    text = 'He said "no",\nand left'
    return pd.DataFrame(
        [
            {
                "id": name,
                "task": task,
                "text": text,
                "valid": valid,
                "run": run,
            }
            for task in TASKS
            for name in ids
        ]
    )


def test_what_is_cut_off_is_done_again(tmp_path: Path) -> None:
    """Wherever a power cut ends the file: no answer is lost but the last clips', none is glued."""
    path = tmp_path / "out.csv"
    AnswerFile(path, "one", TASKS).append(table("NA", "b"))
    first = len(path.read_bytes())
    AnswerFile(path, "one", TASKS).append(table("c"))
    whole = path.read_bytes()
    for size in range(first, len(whole)):
        path.write_bytes(whole[:size])
        file = AnswerFile(path, "one", TASKS)
        assert file.answered == {"NA": True, "b": True}
        file.append(table("c"))
        assert path.read_bytes() == whole


def test_a_clip_lacking_one_of_its_answers_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    AnswerFile(path, "one", TASKS).append(table("a", "b"))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:7]))  # both classes, which are two lines each, and one number
    file = AnswerFile(path, "one", TASKS)
    assert file.answered == {"a": True}
    assert pd.read_csv(path)["id"].tolist() == ["a", "a"]


def test_a_clip_without_an_answer_is_remembered_as_such(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    AnswerFile(path, "one", TASKS).append(table("a", valid=False))
    assert AnswerFile(path, "one", TASKS).answered == {"a": False}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("my notes, which no one shall lose", "holds no predictions"),
        ("id,score\na,1\n", "no column 'task'"),
        ("id,task,valid,run\na,classification\n", "holds no predictions"),
        (b"\xff\xfe\n", "holds no predictions"),
        ("id,task,valid,run\na,classification,True,two\n", "answers of two, these are of one"),
    ],
)
def test_other_files_are_refused_and_stay_as_they_are(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    path = tmp_path / "out.csv"
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(data)
    with pytest.raises(PipelineError, match=message):
        AnswerFile(path, "one", TASKS)
    assert path.read_bytes() == data


def test_other_columns_are_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    AnswerFile(path, "one", TASKS).append(table("a"))
    with pytest.raises(PipelineError, match="has other columns"):
        AnswerFile(path, "one", TASKS).append(table("b").assign(more=1))
