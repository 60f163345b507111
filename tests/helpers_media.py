"""Small media files written with PyAV, whose contents tell the time."""

from __future__ import annotations

import struct
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

SIZE = (48, 64)  # height, width of the test pictures
TIME_BASE = Fraction(1, 1000)


def grey(level: int) -> NDArray[np.uint8]:
    """Return a picture of one brightness."""
    return np.full((*SIZE, 3), level, np.uint8)


def tone(seconds: float, hertz: float = 440.0, rate: int = 16_000) -> NDArray[np.float32]:
    """Return a sine at half amplitude."""
    times = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def write_wav(path: Path, samples: NDArray[np.float32], rate: int = 16_000) -> Path:
    """Write 16-bit mono PCM."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def write_clip(
    path: Path,
    *,
    pictures: Sequence[NDArray[np.uint8]] = (),
    times: Sequence[float] | None = None,
    fps: int = 10,
    sound: NDArray[np.float32] | None = None,
    rate: int = 16_000,
    sound_at: float = 0.0,
    options: dict[str, str] | None = None,
    pixel_aspect: Fraction = Fraction(1),
) -> Path:
    """Write H.264 and AAC; a picture is shown from its time (default: every 1/fps s) to the next.

    The last picture lasts 1/fps s.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        video = audio = None
        if len(pictures):
            video = container.add_stream("libx264", rate=fps, options={"crf": "10", "g": "10"})
            video.height, video.width = pictures[0].shape[:2]
            video.pix_fmt = "yuv420p"
            video.codec_context.time_base = TIME_BASE
            video.codec_context.sample_aspect_ratio = pixel_aspect
        if sound is not None:
            audio = container.add_stream("aac", rate=rate, layout="mono")
        if video is not None:
            for number, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                at = times[number] if times is not None else number / fps
                frame.pts, frame.time_base = round(at * 1000), TIME_BASE
                frame.duration = 1000 // fps
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None and sound is not None:
            frame = av.AudioFrame.from_ndarray(sound[None, :], format="fltp", layout="mono")
            frame.sample_rate = rate
            frame.pts, frame.time_base = round(sound_at * rate), Fraction(1, rate)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def rotate_quarter(path: Path) -> Path:
    """Rewrite the display matrix of an MP4's first track: shown turned by 90 degrees clockwise."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4
    version = content[at]
    matrix = at + (40 if version == 0 else 52)
    one = 0x10000
    content[matrix : matrix + 36] = struct.pack(
        ">9i", 0, one, 0, -one, 0, 0, SIZE[0] * one, 0, 0x40000000
    )
    path.write_bytes(content)
    return path
