"""CH-SIMS: the first release's `metadata/` folder, or one list (`label.csv`) in MMSA-FET's form.

The first release keeps labels, splits and transcripts apart: `metadata/sentiment/label_M.csv` (M is
the multimodal label), row numbers into it in `metadata/{train,val,test}_index.csv`, and the Chinese
text with a translation in `metadata/Translation.csv`. Clips are numbered with four digits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from extract.errors import ExtractError
from extract.layouts.base import BaseLayout, LayoutRequest, LayoutTable, ReleaseNotFoundError
from extract.layouts.cells import Cells, read_cells
from extract.layouts.clips import MMSA_MEDIA, Clip, MediaPattern, read_clip_list, table_of_clips

_LABELS = "metadata/sentiment/label_M.csv"
_INDEX = "metadata/{part}_index.csv"
_TRANSLATION = "metadata/Translation.csv"
_PARTS = ("train", "val", "test")


class SimsLayout(BaseLayout):
    """CH-SIMS; `media` are the places where its clips may lie, in the order of trial."""

    reader: Literal["sims"]
    media: tuple[MediaPattern, ...] = ("video/{video}_{clip}.mp4", MMSA_MEDIA)

    def read(self, request: LayoutRequest) -> LayoutTable:
        """Read the list of clips in whichever form is there."""
        unplaced = 0
        if request.file("label.csv"):
            clips = read_clip_list(request, ["label.csv"], "chinese")
        else:
            clips, unplaced = _read_metadata(request)
        # A spreadsheet on the way takes the zeros from clip numbers.
        clips = [replace(clip, clip=clip.clip.zfill(4)) for clip in clips]
        table = table_of_clips(request, clips, self.media)
        if unplaced:
            return replace(table, ignored={**table.ignored, "labels in no split": unplaced})
        return table


def _read_metadata(request: LayoutRequest) -> tuple[list[Clip], int]:
    """Join labels, splits and transcripts; also return how many labels are in no split."""
    path = request.file(_LABELS)
    if path is None:
        raise ReleaseNotFoundError(["label.csv", _LABELS], request.root)
    labels = read_cells(path)
    labels.require(("video_id", "clip_id", "label"))
    splits = _read_splits(request, len(labels.values))
    texts = _read_texts(request)
    clips = []
    for index, (origin, row) in enumerate(labels.located()):
        if index in splits:
            video, clip = _name(row, origin)
            text = texts.get((video, clip))
            clips.append(Clip(origin, video, clip, splits[index], row["label"], text))
    return clips, len(labels.values) - len(clips)


def _read_beside(request: LayoutRequest, name: str) -> Cells:
    """Read a file that the labels need."""
    path = request.file(name)
    if path is None:
        raise ExtractError(f"{_LABELS} is there, but {request.root / name}, which it needs, is not")
    return read_cells(path)


def _read_splits(request: LayoutRequest, size: int) -> dict[int, str]:
    """Return the split of each row of the label file, counted from 0."""
    splits: dict[int, str] = {}
    for part in _PARTS:
        cells = _read_beside(request, _INDEX.format(part=part))
        cells.require(("index",))
        for origin, row in cells.located():
            value = row["index"] or ""
            if not value.isdecimal() or int(value) >= size:
                raise ExtractError(
                    f"{origin}: index {value!r} is no row of {_LABELS} (0-{size - 1})"
                )
            if int(value) in splits:
                raise ExtractError(f"{origin}: row {value} is already in {splits[int(value)]}")
            splits[int(value)] = part
    return splits


def _read_texts(request: LayoutRequest) -> dict[tuple[str, str], str]:
    cells = _read_beside(request, _TRANSLATION)
    cells.require(("video_id", "clip_id", "Chinese"))
    return {_name(row, origin): text for origin, row in cells.located() if (text := row["Chinese"])}


def _name(row: dict[str, str | None], origin: str) -> tuple[str, str]:
    """Return a row's video and its clip in four digits."""
    video, clip = row["video_id"], row["clip_id"]
    if not video or not clip:
        raise ExtractError(f"{origin} has no video_id or clip_id")
    return video, clip.zfill(4)
