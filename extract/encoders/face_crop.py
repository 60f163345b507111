"""`@face`: any encoder of pictures, on faces instead of whole frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from extract.encoders.base import Encoder, EncoderInfo, Prepared, Unit
from extract.encoders.weights import Memo
from extract.faces import HAAR, MARGIN, SMOOTHING_SECONDS, FaceFinder, crop_faces, detector_file
from extract.media import Frames


def with_faces(info: EncoderInfo, detector: str, spec: str, memo: Memo) -> EncoderInfo:
    """Return an encoder's description for faces found by `detector` (`haar`, or YuNet's file).

    Raises:
        ExtractError: the detector is not to be had.
    """
    file = detector_file(detector, f"encoder {spec}")
    face = {
        "detector": "haar" if detector == HAAR else "yunet",
        "weights": memo.digest(file),
        "margin": MARGIN,
        "smoothing_seconds": SMOOTHING_SECONDS,
    }
    return replace(
        info,
        spec=spec,
        slug=f"{info.slug}-face",
        preprocessing={**info.preprocessing, "face": face},
        detector=detector if detector == HAAR else str(file),
    )


class FaceCrop:
    """An encoder of pictures that is shown faces."""

    def __init__(self, encoder: Encoder, info: EncoderInfo) -> None:
        self._encoder = encoder
        self._finder = FaceFinder(info.detector or HAAR, f"encoder {info.spec}")

    def batch_size(self, unit: Unit) -> int:
        """Return how many pictures make a batch."""
        return self._encoder.batch_size(unit)

    def prepare(self, medium: Frames) -> Prepared:
        """Cut the pictures to faces and prepare those."""
        crops = crop_faces(self._finder, medium.pictures, medium.times)
        flags = medium.flags
        if crops.cropped == 0:
            flags = (*flags, "no_face")
        elif crops.cropped < len(crops.pictures):
            flags = (*flags, "no_face_in_some_frames")
        prepared = self._encoder.prepare(replace(medium, pictures=crops.pictures, flags=flags))
        counts = {"frames": len(crops.pictures), "frames_with_face": crops.with_face}
        return replace(prepared, counts=counts)

    def encode(self, units: Sequence[Unit]) -> list[NDArray[np.float32]]:
        """Encode a batch of pictures."""
        return self._encoder.encode(units)
