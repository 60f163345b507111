"""CMU-MOSI: the original folders (`Video/Segmented`, `Transcript/Segmented`) or MMSA-FET's form.

The original keeps labels in the SDK's own files; the list of clips (`label.csv`) is therefore
needed beside it. Transcripts are taken from the list, or else from `*.annotprocessed`.
"""

from __future__ import annotations

from typing import Literal

from extract.errors import ExtractError
from extract.layouts.base import BaseLayout, LayoutRequest, LayoutTable
from extract.layouts.clips import MMSA_MEDIA, MediaPattern, read_clip_list, table_of_clips
from extract.layouts.cp1252 import decode_lenient

_DELIMITER = "_DELIM_"


class MosiLayout(BaseLayout):
    """CMU-MOSI; `media` are the places where its clips may lie, in the order of trial."""

    reader: Literal["mosi"]
    media: tuple[MediaPattern, ...] = (
        "Raw/Video/Segmented/{video}_{clip}.mp4",
        "Video/Segmented/{video}_{clip}.mp4",
        "subvideo/{video}_{clip}.mp4",
        MMSA_MEDIA,
    )

    def read(self, request: LayoutRequest) -> LayoutTable:
        """Read the list of clips and the transcripts."""
        clips = read_clip_list(request, ["label.csv"], "english")
        return table_of_clips(request, clips, self.media, _transcripts(request))


def _transcripts(request: LayoutRequest) -> dict[str, str]:
    """Read `<clip>_DELIM_<text>` lines of every video, by id."""
    texts: dict[str, str] = {}
    for folder in ("Raw/Transcript/Segmented", "Transcript/Segmented"):
        for path in request.files(folder, "*.annotprocessed"):
            lines = decode_lenient(path.read_bytes()).splitlines()
            for number, line in enumerate(lines, start=1):
                clip, delimiter, text = line.partition(_DELIMITER)
                if not delimiter and line.strip():
                    raise ExtractError(f"{path} line {number} has no {_DELIMITER}")
                if text.strip():
                    texts[f"{path.stem}_{clip.strip()}"] = text.strip()
    return texts
