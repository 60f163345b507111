"""One MP4: H.264 and AAC, written with PyAV, and the ways in which a clip can be broken."""

import io
from collections.abc import Iterable
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

_VIDEO_OPTIONS = {"preset": "superfast", "crf": "28", "threads": "1"}
_AUDIO_BITS_PER_SECOND = 48_000


def encode_clip(
    frames: NDArray[np.uint8] | None,
    frame_rate: int,
    sound: NDArray[np.float32] | None,
    sample_rate: int,
) -> bytes:
    """Return the bytes of an MP4; the same input gives the same bytes on one machine.

    Args:
        frames: `[frames, height, width, 3]` RGB, or None for a clip without a video stream.
        frame_rate: Frames a second.
        sound: `[samples]` mono, -1..1, or None for a clip without an audio stream.
        sample_rate: Samples a second.
    """
    buffer = io.BytesIO()
    # One thread and the muxer's bit-exact mode: bytes do not depend on cores or the clock.
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        streams: list[tuple[Any, Iterable[Any]]] = []
        if frames is not None:
            video = container.add_stream("libx264", rate=frame_rate, options=_VIDEO_OPTIONS)
            video.height, video.width = frames.shape[1:3]
            video.pix_fmt = "yuv420p"
            streams.append((video, (av.VideoFrame.from_ndarray(f, "rgb24") for f in frames)))
        if sound is not None:
            audio = container.add_stream("aac", rate=sample_rate, layout="mono")
            audio.bit_rate = _AUDIO_BITS_PER_SECOND
            streams.append((audio, [_audio_frame(sound, sample_rate)]))
        for stream, items in streams:
            for number, item in enumerate(items):
                item.pts = number
                container.mux(stream.encode(item))
            container.mux(stream.encode(None))
    return buffer.getvalue()


def truncate(clip: bytes) -> bytes:
    """Return the first part of a clip; the index at its end is lost, so it cannot be decoded."""
    return clip[: len(clip) * 3 // 5]


def _audio_frame(sound: NDArray[np.float32], sample_rate: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(sound[None, :], format="fltp", layout="mono")
    frame.sample_rate = sample_rate
    return frame
