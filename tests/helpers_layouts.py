"""Manifest entries and little files for the tests of layouts and corpora."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.manifest import DatasetEntry

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason="the real lists are not on this machine"
)

CALM_TENSE = [
    {"name": "calm", "en": "calm", "zh": "平静"},
    {"name": "tense", "en": "tense", "zh": "紧张", "aliases": ["stressed"]},
]


def entry(manifest: Path, layout: Mapping[str, Any], **fields: Any) -> DatasetEntry:
    """Make a classification entry; `fields` replace or add."""
    base = {
        "name": "mine",
        "manifest": manifest,
        "title": "Mine",
        "task": "classification",
        "language": "en",
        "labels": CALM_TENSE,
        "protocol": "emotion",
        "layout": layout,
    }
    return DatasetEntry.model_validate(base | fields)


def scored(manifest: Path, layout: Mapping[str, Any], **fields: Any) -> DatasetEntry:
    """Make a regression entry from -3 to 3."""
    regression = {
        "task": "regression",
        "labels": [],
        "scores": {"low": -3, "high": 3, "step": 0.1},
        "protocol": "mosi",
    }
    return entry(manifest, layout, **(regression | fields))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a UTF-8 CSV file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_clip(path: Path, seconds: float = 0.4) -> Path:
    """Write a real MP4 file (H.264 and AAC), making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono")
        for _ in range(round(seconds * 10)):
            picture = np.full((32, 32, 3), 90, dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        tone = np.sin(np.arange(round(seconds * 16000)) / 9).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(audio.encode(frame))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    return path
