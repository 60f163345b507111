"""CH-SIMS v2, the supervised part: `meta.csv` beside `Raw/<video>/<clip>.mp4`.

Two versions of its labels circulate that give other scores: those of `meta.csv`, read here, and
those inside `ch-simsv2s.pkl`.
"""

from __future__ import annotations

from typing import Literal

from extract.layouts.base import BaseLayout, LayoutRequest, LayoutTable
from extract.layouts.clips import MMSA_MEDIA, MediaPattern, read_clip_list, table_of_clips


class SimsV2Layout(BaseLayout):
    """CH-SIMS v2; `media` are the places where its clips may lie, in the order of trial."""

    reader: Literal["simsv2"]
    media: tuple[MediaPattern, ...] = ("video/{video}_{clip}.mp4", MMSA_MEDIA)

    def read(self, request: LayoutRequest) -> LayoutTable:
        """Read the list of clips, under the name of the release or MMSA-FET's."""
        clips = read_clip_list(request, ["meta.csv", "label.csv"], "chinese")
        return table_of_clips(request, clips, self.media)
