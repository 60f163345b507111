"""CMU-MOSEI: full-length videos with transcripts that give each segment's span, or cut clips.

A transcript line reads `video___clip___start___end___sentence` (seconds). Labels lie in the SDK's
own files; the list of clips (`label.csv`) is therefore needed beside the videos. A few spans start
up to half a second before their video does; they are left as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from extract.errors import ExtractError
from extract.layouts.base import BaseLayout, LayoutRequest, LayoutRow, LayoutTable
from extract.layouts.clips import (
    MMSA_MEDIA,
    Clip,
    MediaPattern,
    clip_row,
    media_folder,
    media_of,
    place_media,
    read_clip_list,
    table_of_clips,
)
from extract.layouts.cp1252 import decode_lenient
from extract.layouts.stock import some, take_stock

_SEPARATOR = "___"
_TRANSCRIPTS = ("Raw/Transcript/Segmented/Combined", "Transcript/Segmented/Combined")


@dataclass(frozen=True)
class Segment:
    """What a transcript line says of one segment; times in seconds of the full video."""

    start: float
    end: float
    text: str | None


class MoseiLayout(BaseLayout):
    """CMU-MOSEI; `full` and `media` are the places of full videos and of clips, as tried."""

    reader: Literal["mosei"]
    full: tuple[MediaPattern, ...] = (
        "Raw/Videos/Full/Combined/{video}.mp4",
        "Videos/Full/Combined/{video}.mp4",
    )
    media: tuple[MediaPattern, ...] = (
        "Raw/Videos/Segmented/Combined/{video}_{clip}.mp4",
        "Videos/Segmented/Combined/{video}_{clip}.mp4",
        "subvideo/{video}_{clip}.mp4",
        MMSA_MEDIA,
    )

    def read(self, request: LayoutRequest) -> LayoutTable:
        """Read the list of clips and the transcripts; full videos are preferred."""
        clips = read_clip_list(request, ["label.csv"], "english")
        segments = _read_segments(request)
        full = place_media(request.root, self.full)
        if (request.root / media_folder(full)).is_dir():
            return _spans_of_videos(request, clips, segments, full)
        texts = {name: segment.text for name, segment in segments.items() if segment.text}
        return table_of_clips(request, clips, self.media, texts)


def _spans_of_videos(
    request: LayoutRequest, clips: list[Clip], segments: dict[str, Segment], pattern: str
) -> LayoutTable:
    rows: list[LayoutRow] = []
    for clip in clips:
        segment = segments.get(clip.id)
        if segment is None:  # without its span the whole video would pass for the clip
            rows.append(clip_row(clip, text=clip.text, media=None))
            continue
        rows.append(
            clip_row(
                clip,
                text=clip.text or segment.text,
                media=media_of(clip, pattern),
                start=segment.start,
                end=segment.end,
            )
        )
    names = {row.id for row in rows}
    findings = {
        "no transcript line, so no span and no media": names - segments.keys(),
        f"a span over {request.max_seconds:g} s": {
            name
            for name in names & segments.keys()
            if segments[name].end - segments[name].start > request.max_seconds
        },
    }
    notes = [
        f"clips with {what}: {len(ids)} ({some(ids)})" for what, ids in findings.items() if ids
    ]
    wanted = {row.media for row in rows if row.media is not None}
    absent, ignored = take_stock(request.root, media_folder(pattern), wanted, "videos")
    if unlisted := len(segments.keys() - names):
        ignored["transcript lines without a row"] = unlisted
    return LayoutTable(tuple(rows), (*notes, *absent), ignored)


def _read_segments(request: LayoutRequest) -> dict[str, Segment]:
    """Read every transcript line, by the clip's id."""
    segments: dict[str, Segment] = {}
    for folder in _TRANSCRIPTS:
        for path in request.files(folder, "*.txt"):
            lines = decode_lenient(path.read_bytes()).splitlines()
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    clip, segment = _parse_line(path, number, line)
                    segments[f"{path.stem}_{clip}"] = segment
    return segments


def _parse_line(path: Path, number: int, line: str) -> tuple[str, Segment]:
    # The id is taken off by the file's name: ids may end in underscores themselves.
    parts = line.strip().removeprefix(path.stem + _SEPARATOR).split(_SEPARATOR, 3)
    try:
        clip, start, end = parts[0], float(parts[1]), float(parts[2])
    except (IndexError, ValueError):
        raise ExtractError(
            f"{path} line {number} is not of the form video___clip___start___end___sentence"
        ) from None
    text = parts[3].strip() if len(parts) > 3 else ""
    return clip, Segment(start, end, text or None)
