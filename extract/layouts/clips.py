"""What the sentiment corpora share: a list of clips, each with its video, split and score.

MOSI, MOSEI, CH-SIMS and CH-SIMS v2 circulate in two forms besides their own. MMSA-FET keeps
`label.csv` (CH-SIMS v2: `meta.csv`) with `video_id, clip_id, text, label, mode` beside
`Raw/<video>/<clip>.mp4`; MERBench keeps `label.csv` with `name, split, val`, transcripts in a file
of their own, and clips named `<video>_<clip>.mp4` in one folder.

Sources: https://github.com/thuiar/MMSA-FET (`dataset.py`) and
https://github.com/zeroQiaoba/MERTools (`MERBench/toolkit/preprocess`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator

from extract.errors import ExtractError
from extract.layouts.base import LayoutRequest, LayoutRow, LayoutTable, ReleaseNotFoundError
from extract.layouts.cells import read_cells
from extract.layouts.stock import take_stock
from extract.layouts.templates import fields_of, fill

MMSA_MEDIA = "Raw/{video}/{clip}.mp4"
MMSA_COLUMNS = ("video_id", "clip_id", "label", "mode")
MERBENCH_TRANSCRIPTS = "transcription-engchi-polish.csv"


def _check_pattern(pattern: str) -> str:
    if unknown := sorted(set(fields_of(pattern)) - {"video", "clip"}):
        raise ValueError(f"{pattern!r} holds {{{unknown[0]}}}; known are {{video}} and {{clip}}")
    return pattern


MediaPattern = Annotated[str, AfterValidator(_check_pattern)]
"""Path of a clip relative to the dataset's folder, with `{video}` and `{clip}`."""


@dataclass(frozen=True)
class Clip:
    """One clip of a list; `score` is still the file's text."""

    origin: str
    video: str
    clip: str
    split: str
    score: str | None
    text: str | None = None

    @property
    def id(self) -> str:
        """Return the id: the clip's name within its video's."""
        return f"{self.video}_{self.clip}"


def read_clip_list(
    request: LayoutRequest, names: Sequence[str], language: Literal["chinese", "english"]
) -> list[Clip]:
    """Read a release's list in either form.

    Args:
        request: Where the release lies.
        names: File names that the list may have.
        language: Column of MERBench's transcripts that holds the original.

    Raises:
        ReleaseNotFoundError: there is no such list.
        ExtractError: it lacks a column or a cell.
    """
    path = next((path for name in names if (path := request.file(name))), None)
    if path is None:
        raise ReleaseNotFoundError(names, request.root)
    cells = read_cells(path)
    if "name" in cells.columns:
        cells.require(("name", "split", "val"))
        texts = _merbench_transcripts(request, language)
        return [
            replace(_named_clip(origin, row), text=texts.get(row["name"] or ""))
            for origin, row in cells.located()
        ]
    cells.require(MMSA_COLUMNS)
    return [
        Clip(
            origin,
            video=_needed(row, "video_id", origin),
            clip=_needed(row, "clip_id", origin),
            split=_needed(row, "mode", origin),
            score=row["label"],
            text=row.get("text"),
        )
        for origin, row in cells.located()
    ]


def place_media(root: Path, patterns: Sequence[str]) -> str:
    """Return the first pattern whose folder exists, and the last where none does."""
    return next((p for p in patterns if (root / media_folder(p)).is_dir()), patterns[-1])


def media_folder(pattern: str) -> str:
    """Return the part of a path pattern that comes before its first field."""
    return PurePosixPath(pattern.split("{")[0] + "_").parent.as_posix()


def media_of(clip: Clip, pattern: str) -> str | None:
    """Return the path of a clip's file."""
    return fill(pattern, {"video": clip.video, "clip": clip.clip})


def table_of_clips(
    request: LayoutRequest,
    clips: Sequence[Clip],
    patterns: Sequence[str],
    texts: Mapping[str, str] | None = None,
) -> LayoutTable:
    """Make the table of a corpus whose clips are cut and lie in files of their own.

    Args:
        request: Where the release lies.
        clips: The list.
        patterns: Where its clips may lie, with `{video}` and `{clip}`.
        texts: Transcripts by id, for clips whose list has none.
    """
    pattern = place_media(request.root, patterns)
    rows = tuple(
        clip_row(
            clip,
            text=clip.text or (texts or {}).get(clip.id),
            media=media_of(clip, pattern),
        )
        for clip in clips
    )
    wanted = {row.media for row in rows if row.media is not None}
    notes, ignored = take_stock(request.root, media_folder(pattern), wanted)
    return LayoutTable(rows, tuple(notes), ignored)


def clip_row(
    clip: Clip,
    *,
    text: str | None,
    media: str | None,
    start: float | None = None,
    end: float | None = None,
) -> LayoutRow:
    """Make a clip's row: its video is the group, its number there the order."""
    return LayoutRow(
        clip.origin,
        id=clip.id,
        split=clip.split,
        score=clip.score,
        text=text,
        group=clip.video,
        order=int(clip.clip) if clip.clip.isdecimal() else None,
        media=media,
        start=start,
        end=end,
    )


def _named_clip(origin: str, row: dict[str, str | None]) -> Clip:
    """Take MERBench's `video_clip` name apart."""
    name = _needed(row, "name", origin)
    video, _, clip = name.rpartition("_")
    if not video or not clip:
        raise ExtractError(f"{origin}: name {name!r} is not of the form video_clip")
    return Clip(origin, video, clip, _needed(row, "split", origin), row["val"])


def _merbench_transcripts(request: LayoutRequest, language: str) -> dict[str, str]:
    path = request.file(MERBENCH_TRANSCRIPTS)
    if path is None:
        return {}
    cells = read_cells(path)
    cells.require(("name", language))
    pairs = ((row["name"], row[language]) for row in cells.rows())
    return {name: text for name, text in pairs if name and text}


def _needed(row: dict[str, str | None], column: str, origin: str) -> str:
    value = (row[column] or "").strip()
    if not value:
        raise ExtractError(f"{origin} has no {column}")
    return value
