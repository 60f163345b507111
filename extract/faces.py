"""Find the face in sampled frames and cut it out, steadily over a clip.

The largest face of each frame counts. Its square box is smoothed by the median over neighbouring
frames, so that neither a false find nor a short look away makes the picture jump; where no frame
nearby shows a face, the whole frame stays. Two detectors, both in OpenCV 4: its Haar cascade,
which comes with it, and YuNet, more accurate, whose file the user gives. OpenCV 5 has no cascades.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.errors import ExtractError

HAAR = "haar"
MARGIN = 0.25  # of the face's side, added on each side: brows, chin and cheeks speak too
SMOOTHING_SECONDS = 0.5  # frames at most so far away have a say in a frame's box
_SIDE = 360  # pixels; larger pictures are searched at this size
_SMALLEST = 0.08  # of the picture's shorter side: smaller faces are bystanders
_YUNET_SCORE = 0.6
_CASCADE = "haarcascade_frontalface_default.xml"

Box = tuple[float, float, float]  # centre x, centre y and side, in pixels


@dataclass(frozen=True)
class Crops:
    """Pictures with what they show cut out, and how many of them showed a face."""

    pictures: list[NDArray[np.uint8]]
    with_face: int  # in which the detector found one
    cropped: int  # which were cut to one, their neighbours' included


def detector_file(detector: str, what: str) -> Path:
    """Return the file of a detector: `haar`, or the path of YuNet's.

    Raises:
        ExtractError: OpenCV is missing or has no such detector, or there is no such file.
    """
    try:
        import cv2
    except ImportError:
        raise ExtractError(
            f"{what}: finding faces needs OpenCV, which is not installed; pip install 'egmf[face]'"
        ) from None
    if detector != HAAR:
        path = Path(detector).expanduser()
        if not path.is_file():
            raise ExtractError(f"{what}: no YuNet file {detector}; check the path")
        return path.resolve()
    if not hasattr(cv2, "CascadeClassifier"):
        raise ExtractError(
            f"{what}: OpenCV {cv2.__version__} has no Haar cascades; pip install 'egmf[face]' "
            "for OpenCV 4, or give YuNet's file: @face:FILE.onnx"
        )
    return Path(cv2.__file__).parent / "data" / _CASCADE


class FaceFinder:
    """A face detector; every thread that uses it has one of its own.

    Raises:
        ExtractError: the detector's file does not load.
    """

    def __init__(self, detector: str, what: str) -> None:
        self._haar, self._what = detector == HAAR, what
        self._file = detector_file(detector, what)
        self._own = threading.local()
        self._detector()

    def find(self, picture: NDArray[np.uint8]) -> Box | None:
        """Return the box of the largest face in a picture [height, width, 3] (RGB)."""
        import cv2

        height, width = picture.shape[:2]
        scale = min(1.0, _SIDE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if scale < 1 else picture
        found = self._search_haar(small) if self._haar else self._search_yunet(small)
        if not len(found):
            return None
        x, y, w, h = max(found, key=lambda box: box[2] * box[3])
        return float((x + w / 2) / scale), float((y + h / 2) / scale), float(max(w, h) / scale)

    def _search_haar(self, picture: NDArray[np.uint8]) -> Any:
        import cv2

        grey = cv2.equalizeHist(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
        least = max(20, round(min(picture.shape[:2]) * _SMALLEST))
        return self._detector().detectMultiScale(
            grey, scaleFactor=1.1, minNeighbors=5, minSize=(least, least)
        )

    def _search_yunet(self, picture: NDArray[np.uint8]) -> Any:
        import cv2

        detector = self._detector()
        detector.setInputSize((picture.shape[1], picture.shape[0]))
        _, found = detector.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        least = min(picture.shape[:2]) * _SMALLEST
        return [box[:4] for box in (() if found is None else found) if max(box[2:4]) >= least]

    def _detector(self) -> Any:
        import cv2

        if not hasattr(self._own, "detector"):
            cv2.setNumThreads(1)  # the workers share the machine's cores already
            try:
                self._own.detector = (
                    cv2.CascadeClassifier(str(self._file))
                    if self._haar
                    else cv2.FaceDetectorYN.create(
                        str(self._file), "", (_SIDE, _SIDE), score_threshold=_YUNET_SCORE
                    )
                )
            except cv2.error as error:
                raise ExtractError(
                    f"{self._what}: {self._file} is not a face detector that OpenCV can load"
                ) from error
        return self._own.detector


def crop_faces(
    finder: FaceFinder, pictures: list[NDArray[np.uint8]], times: NDArray[np.float32]
) -> Crops:
    """Cut every picture to its face, or leave it whole where there is none."""
    boxes: list[Box | None] = []
    for number, picture in enumerate(pictures):
        again = number > 0 and picture is pictures[number - 1]  # shown at two instants
        boxes.append(boxes[-1] if again else finder.find(picture))
    smooth = smooth_boxes(boxes, times)
    cut: list[NDArray[np.uint8]] = []
    for number, (picture, box) in enumerate(zip(pictures, smooth, strict=True)):
        again = number > 0 and picture is pictures[number - 1] and box == smooth[number - 1]
        cut.append(cut[-1] if again else picture if box is None else cut_square(picture, box))
    found = sum(box is not None for box in boxes)
    return Crops(cut, found, sum(box is not None for box in smooth))


def smooth_boxes(boxes: list[Box | None], times: NDArray[np.float32]) -> list[Box | None]:
    """Return, for each frame, the median of the boxes found nearby; None where there are none."""
    held = [number for number, box in enumerate(boxes) if box is not None]
    found = np.array([boxes[number] for number in held], np.float64).reshape(-1, 3)
    when = times[held]
    smooth: list[Box | None] = []
    for time in times:
        near = found[np.abs(when - time) <= SMOOTHING_SECONDS]
        smooth.append(tuple(np.median(near, axis=0).tolist()) if len(near) else None)
    return smooth


def cut_square(picture: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """Cut the square around a face, with its margin, moved inside the picture where it must."""
    height, width = picture.shape[:2]
    x, y, side = box
    length = min(round(side * (1 + 2 * MARGIN)), height, width)
    left = min(max(round(x - length / 2), 0), width - length)
    top = min(max(round(y - length / 2), 0), height - length)
    return np.ascontiguousarray(picture[top : top + length, left : left + length])
