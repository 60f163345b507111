"""The CSV that answers about clips are added to: whole clips of one run, whatever ended the last.

Answers of another model, or of another table of columns, must not pass for the run's own: every
row names its run, and the file is held against it before anything is encoded. What a killed run
left half-written is dropped and judged again.
"""

from __future__ import annotations

import csv
import io
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from extract.files import publish_text
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    import pandas as pd

_NEEDED = ("id", "task", "valid")


class AnswerFile:
    """Answers of one run.

    Args:
        path: The file; it need not be there.
        run: What the rows must have in the column `run`.
        tasks: What is asked about each clip.

    Attributes:
        answered: Of every clip that the file holds, whether it has its answers.

    Raises:
        PipelineError: there is a file, and it holds something else.
    """

    def __init__(self, path: Path, run: str, tasks: Sequence[str]) -> None:
        self._path = path
        self._header: list[str] | None = None
        self.answered: dict[str, bool] = {}
        if not path.is_file() or not path.stat().st_size:
            return
        header, rows, torn = _read(path)
        of_clip: dict[str, list[dict[str, str]]] = defaultdict(list)
        for row in rows:
            if row["run"] != run:
                raise PipelineError(
                    f"{path}: holds answers of {row['run']}, these are of {run}; name another --out"
                )
            of_clip[row["id"]].append(row)
        whole = {name for name, own in of_clip.items() if {r["task"] for r in own} >= set(tasks)}
        if torn or len(whole) < len(of_clip):
            publish_text(path, _written(header, [row for row in rows if row["id"] in whole]))
        self._header = header
        self.answered = {n: all(row["valid"] == "True" for row in of_clip[n]) for n in whole}

    def append(self, table: pd.DataFrame) -> None:
        """Add rows in one write, which is on the disk when this returns.

        Raises:
            PipelineError: the file has other columns.
        """
        columns = [str(name) for name in table.columns]
        if self._header not in (None, columns):
            raise PipelineError(f"{self._path}: has other columns; name another --out")
        text = table.to_csv(index=False, header=self._header is None, lineterminator="\n")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        self._header = columns


def _read(path: Path) -> tuple[list[str], list[dict[str, str]], bool]:
    """Return the columns, the whole rows, and whether the last one is cut off.

    Raises:
        PipelineError: it is no file of answers.
    """
    content = path.read_bytes()
    end = content.rfind(b"\n")
    while end >= 0 and content.count(b'"', 0, end) % 2:  # a line break within a transcript
        end = content.rfind(b"\n", 0, end)
    try:
        text = content[: end + 1].decode()
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        found = [dict(zip(header, row, strict=True)) for row in rows]
    except (ValueError, csv.Error) as error:
        raise PipelineError(
            f"{path}: is there and holds no predictions ({error}); name another --out"
        ) from None
    missing = [name for name in (*_NEEDED, "run") if name not in header]
    if missing:
        raise PipelineError(
            f"{path}: is there and holds no predictions of egmf-predict (no column "
            f"{missing[0]!r}); name another --out"
        )
    return header, found, end + 1 < len(content)


def _written(header: Sequence[str], rows: Sequence[dict[str, str]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
