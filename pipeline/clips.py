"""Clips that a user wants judged: one by one, from files, or from a table."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from extract.layouts.cells import read_cells
from extract.paths import resolve_inside
from extract.plan import ABSENT, Row
from extract.shards import SetAside
from pipeline.errors import PipelineError
from pipeline.items import TEXT

CONTENT = ("media", "audio", "video", "text")
"""The columns of which a table needs one: what a clip can be judged by."""
COLUMNS = ("id", *CONTENT, "language", "start", "end", "group", "order", "speaker")


@dataclass(frozen=True)
class Clip:
    """A clip to be judged; any of its parts may be missing, but not all.

    `audio` and `video` are files that stand in for `media`, as in a dataset's table; `start` and
    `end` are seconds in the file; `language` None is the dataset's own. `group`, `order` and
    `speaker` place it in its dialogue, for runs with context. Empty text is none, as in training.
    """

    id: str
    media: Path | str | None = None
    text: str | None = None
    language: str | None = None
    start: float | None = None
    end: float | None = None
    audio: Path | str | None = None
    video: Path | str | None = None
    group: str | None = None
    order: int | None = None
    speaker: str | None = None

    def __post_init__(self) -> None:
        if self.text is not None and not self.text.strip():
            object.__setattr__(self, "text", None)

    @property
    def sound(self) -> Path | None:
        """The file with its sound."""
        return _path(self.audio or self.media)

    @property
    def pictures(self) -> Path | None:
        """The file with its pictures."""
        return _path(self.video or self.media)


def clips_of_files(
    files: Sequence[Path], text: str | None = None, language: str | None = None
) -> list[Clip]:
    """Make a clip of each media file, called by its path.

    Raises:
        PipelineError: a file is not there, or is given twice.
    """
    for file in files:
        if not file.is_file():
            raise PipelineError(f"{file}: no such file")
    if len(set(files)) != len(files):
        raise PipelineError("a file is given twice; give each once")
    return [Clip(str(file), file, text, language) for file in files]


def clips_of_table(path: Path, language: str | None = None) -> list[Clip]:
    """Read clips from a CSV, TSV, JSONL or Parquet file.

    Columns: `id`, one or more of `CONTENT` (files are relative to the table's folder), and any
    other of `COLUMNS`; a dataset's own table will do, and what else it has is ignored.

    Raises:
        PipelineError: a column or an id is missing, an id stands twice, or a number is none.
        ExtractError: the file is no table, or a path leads out of its folder.
    """
    cells = read_cells(path)
    if not set(CONTENT) & set(cells.columns):
        raise PipelineError(
            f"{path}: none of its columns ({', '.join(cells.columns)}) says what to judge; known "
            f"are {', '.join(COLUMNS)}, of which one of {', '.join(CONTENT)} is needed"
        )
    clips: dict[str, Clip] = {}
    for place, row in cells.located():
        name = row.get("id")
        if not name:
            raise PipelineError(f"{place}: no id; every clip needs one in the column 'id'")
        if name in clips:
            raise PipelineError(f"{place}: id {name!r} stands twice; give each clip its own")
        files = {
            column: resolve_inside(path.parent, file)
            for column in ("media", "audio", "video")
            if (file := row.get(column))
        }
        clips[name] = Clip(
            id=name,
            text=row.get("text"),
            language=row.get("language") or language,
            start=_number(row, "start", place),
            end=_number(row, "end", place),
            group=row.get("group"),
            order=_whole_number(row, "order", place),
            speaker=row.get("speaker"),
            **files,
        )
    return list(clips.values())


def parts_of(
    clips: Sequence[Clip], done: Collection[str], size: int, *, whole_groups: bool
) -> Iterator[list[Clip]]:
    """Cut what is still to be judged into parts of about `size` clips.

    Args:
        clips: All of them.
        done: Ids that need no judging any more.
        size: How many clips fill a part.
        whole_groups: Keep dialogues together, with those of their clips that are done: they are
            context of the others.
    """
    groups: dict[tuple[str, str], list[Clip]] = {}
    for clip in clips:
        in_group = whole_groups and clip.group is not None
        key = ("group", str(clip.group)) if in_group else ("clip", clip.id)
        groups.setdefault(key, []).append(clip)
    part: list[Clip] = []
    for group in groups.values():
        if all(clip.id in done for clip in group):
            continue
        part += group
        if len(part) >= size:
            yield part
            part = []
    if part:
        yield part


def row_of(clip: Clip, modality: str) -> Row:
    """Return a clip's input for one modality's encoder, or why there is none."""
    if modality == TEXT:
        if clip.text is not None:
            return Row(clip.id, "unlabelled", "", text=clip.text)
        absent = SetAside(clip.id, "", "table", "no transcript")
        return Row(clip.id, "unlabelled", ABSENT, absent=absent)
    path = clip.sound if modality == "audio" else clip.pictures
    file = "" if path is None else str(path)
    if path is None or not path.is_file():
        reason = "no file given" if path is None else "no such file"
        absent = SetAside(clip.id, file, "open", reason)
        return Row(clip.id, "unlabelled", ABSENT, file=file, absent=absent)
    return Row(clip.id, "unlabelled", "", root=Path(), file=file, start=clip.start, end=clip.end)


def _path(file: Path | str | None) -> Path | None:
    return None if file is None else Path(file)


def _number(row: Mapping[str, str | None], column: str, place: str) -> float | None:
    cell = row.get(column)
    if cell is None or not cell.strip():
        return None
    try:
        number = float(cell)
        if not isfinite(number):
            raise ValueError
        return number
    except ValueError:
        unit = "whole number" if column == "order" else "number of seconds"
        raise PipelineError(f"{place}: {cell!r} is no {unit}") from None


def _whole_number(row: Mapping[str, str | None], column: str, place: str) -> int | None:
    number = _number(row, column, place)
    if number is None:
        return None
    if not number.is_integer():
        raise PipelineError(f"{place}: {row[column]!r} is no whole number")
    return int(number)
