"""Decode one utterance's audio and video with PyAV.

Everything goes by time, measured from the container's start: spans are cut by time, frames are
sampled by time, so variable frame rates, streams that start late and streams of unequal length
need no special case. Each file is decoded by one thread (many files are decoded side by side), and
only sampled frames are converted to pictures. Whatever is wrong with a file is a `MediaError` with
a short reason, which ends up in the quarantine list.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000  # Hz
MIN_SECONDS = 0.1  # media of at most this length count as absent
_SEEK_AFTER = 5.0  # seconds; decoding up to here costs less than a seek that misses
_GAP_SECONDS = 0.1  # a longer hole between two audio frames is filled with silence
_SHORT_BY = 0.1  # share of the declared length that may be missing before it counts as truncated
_MOST_STRETCHED = 4.0  # pixels are in use up to about 2:1; what is beyond is a broken header
_PLAYLISTS = {"hls", "dash", "concat", "imf", "sdp"}  # formats that open further files


class MediaError(Exception):
    """A stream that cannot be used: at which stage, and why, in a few plain words."""

    def __init__(self, reason: str, stage: Literal["open", "decode"]) -> None:
        super().__init__(reason)
        self.reason, self.stage = reason, stage


@dataclass(frozen=True)
class Audio:
    """Mono samples [time] at `SAMPLE_RATE`; the first one lies at the span's start."""

    samples: NDArray[np.float32]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frames:
    """Sampled pictures [height, width, 3] (RGB) and the seconds from the span's start of each."""

    pictures: list[NDArray[np.uint8]]
    times: NDArray[np.float32]
    flags: tuple[str, ...] = ()


def read_audio(path: Path, start: float | None, end: float | None, *, max_seconds: float) -> Audio:
    """Decode the audio of a span, resampled to 16 kHz mono.

    Args:
        path: The media file.
        start: Seconds from the file's start; None is its start.
        end: Seconds from the file's start, exclusive; None is its end.
        max_seconds: A longer span is cut to this length and flagged.

    Raises:
        MediaError: there is nothing to be heard in that span, for the reason given.
    """
    first, stop = _span(start, end, max_seconds)
    with _opened(path, "audio") as source:
        segments = _Segments()
        for frame, time in source.frames_from(first):
            if time >= stop:
                source.goes_on = True
                break
            finish = time + frame.samples / frame.sample_rate
            if finish > first:
                segments.add(frame, time, finish)
        heard = min(segments.finish, stop)
        source.check(first, stop, heard, "audio")
        samples = segments.samples(first, heard)
        return Audio(samples, source.flags(first, stop, heard, end, max_seconds))


def read_frames(
    path: Path, start: float | None, end: float | None, *, fps: float, max_seconds: float
) -> Frames:
    """Sample the video of a span at a fixed rate.

    Instant i lies at `(i + 0.5) / fps` seconds from the span's start; its picture is the one on
    display then (the first one, where none is yet). A span too short for an instant gives one
    picture from its middle. Rotation noted in the file is applied, and pixels that are not square
    are made so by stretching the width.

    Args:
        path: The media file.
        start: Seconds from the file's start; None is its start.
        end: Seconds from the file's start, exclusive; None is its end.
        fps: Pictures a second.
        max_seconds: A longer span is cut to this length and flagged.

    Raises:
        MediaError: there is nothing to be seen in that span, for the reason given.
    """
    first, stop = _span(start, end, max_seconds)
    with _opened(path, "video") as source:
        picked = _Picked(first, fps, source.pixel_aspect())
        shown, finish = None, first
        for frame, time in source.frames_from(first):
            if time >= stop:
                source.goes_on, finish = True, stop
                break
            picked.until(time, shown or frame)
            shown, finish = frame, time + source.length_of(frame)
        seen = min(finish, stop)
        if shown is None:
            seen = first
        source.check(first, stop, seen, "video")
        assert shown is not None  # `check` has raised
        picked.until(seen, shown)
        picked.at_least_one((seen - first) / 2, shown)
        times = np.array(picked.times, np.float32)
        return Frames(picked.pictures, times, source.flags(first, stop, seen, end, max_seconds))


def declared_seconds(path: Path) -> float | None:
    """Return how long a file says that it is; None where it does not say or cannot be opened."""
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            if set(container.format.name.split(",")) & _PLAYLISTS or not container.duration:
                return None
            return float(Fraction(container.duration, av.time_base))
    except (av.FFmpegError, OSError, ValueError):
        return None


def _span(start: float | None, end: float | None, max_seconds: float) -> tuple[float, float]:
    first = max(start or 0.0, 0.0)
    if end is not None and end - first <= MIN_SECONDS:
        raise MediaError(f"a span of {end - first:.2f} s", "open")
    stop = first + max_seconds
    return first, stop if end is None else min(end, stop)


@contextmanager
def _opened(path: Path, kind: Literal["audio", "video"]) -> Iterator[_Source]:
    try:
        size = path.stat().st_size
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise MediaError("no such file" if missing else f"not readable: {error}", "open") from error
    if size == 0:
        raise MediaError("empty file", "open")
    try:
        container = av.open(
            str(path), metadata_errors="ignore", options={"protocol_whitelist": "file"}
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"cannot be opened as media: {cause}", "open") from error
    with container:
        if set(container.format.name.split(",")) & _PLAYLISTS:
            raise MediaError("a playlist, not a media file", "open")
        for stream in container.streams:
            # A cover picture in an audio file is a video stream to FFmpeg, not to us.
            if stream.type == kind and not stream.disposition & av.stream.Disposition.attached_pic:
                if stream.codec_context is None:
                    raise MediaError(f"{kind} of a codec that is not known", "open")
                yield _Source(container, stream)
                return
        raise MediaError(f"no {kind} stream", "open")


class _Source:
    """One stream of an open container, its frames timed from the container's start."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream
        self._origin = Fraction(container.start_time or 0, av.time_base)
        self._broken = 0
        self.goes_on = False  # the stream has frames after the span
        stream.codec_context.thread_count = 1

    def frames_from(self, first: float) -> Iterator[tuple[Any, float]]:
        """Yield frames with their times, from one at or before `first` if there is one."""
        if first > _SEEK_AFTER:
            self._seek(Fraction(first) + self._origin)
            frames = self._timed()
            head = next(frames, None)
            if head is not None and head[1] <= first:
                yield head
                yield from frames
                return
            self._seek(self._origin)  # the index led past the span: decode from the start
        yield from self._timed()

    def length_of(self, frame: Any) -> float:
        """Return how long a video frame stays on display, in seconds."""
        if frame.duration and frame.time_base:
            return float(frame.duration * frame.time_base)
        rate = self._stream.average_rate or self._stream.base_rate or Fraction(25)
        return float(1 / rate)

    def pixel_aspect(self) -> float:
        """Return how wide a pixel is for its height; 1 where the file says nothing sensible."""
        aspect = float(self._stream.sample_aspect_ratio or 1)
        return aspect if 1 / _MOST_STRETCHED <= aspect <= _MOST_STRETCHED else 1.0

    def check(self, first: float, stop: float, reached: float, kind: str) -> None:
        """Raise `MediaError` if what was decoded counts as absent."""
        declared = self._declared_end()
        if reached - first > MIN_SECONDS:
            return
        if declared is not None and declared <= first:
            raise MediaError("the span starts after the end of the file", "decode")
        if reached <= first:
            cause = "is damaged" if self._broken else "holds none"
            raise MediaError(f"no {kind} could be decoded: the span {cause}", "decode")
        raise MediaError(f"at most {MIN_SECONDS} s of {kind}", "decode")

    def flags(
        self, first: float, stop: float, reached: float, end: float | None, max_seconds: float
    ) -> tuple[str, ...]:
        """Say what differs from the span as it was asked for."""
        flags = []
        if end > stop if end is not None else self.goes_on:
            flags.append(f"cut_to_{max_seconds:g}s")
        declared = self._declared_end()
        expected = stop if declared is None else min(stop, declared)
        if expected - reached > max(_SHORT_BY * (expected - first), MIN_SECONDS):
            flags.append("truncated")
        if self._broken:
            flags.append("decode_errors")
        return tuple(flags)

    def _declared_end(self) -> float | None:
        stream = self._stream
        if stream.duration:
            begin = stream.start_time or 0
            return float((begin + stream.duration) * stream.time_base - self._origin)
        if self._container.duration:
            return float(Fraction(self._container.duration, av.time_base))
        return None

    def _seek(self, target: Fraction) -> None:
        offset = int(target / self._stream.time_base)
        try:
            self._container.seek(offset, stream=self._stream, backward=True)
        except av.FFmpegError as error:
            raise MediaError(f"cannot be searched: {error.strerror}", "decode") from error

    def _timed(self) -> Iterator[tuple[Any, float]]:
        following = 0.0
        for frame in self._decoded():
            if frame.pts is not None and frame.time_base:
                time = float(frame.pts * frame.time_base - self._origin)
            else:
                time = following  # raw streams carry no times: frames follow each other
            audio = self._stream.type == "audio"
            length = frame.samples / frame.sample_rate if audio else self.length_of(frame)
            following = time + length
            yield frame, time

    def _decoded(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    self._broken += 1  # a damaged packet; what follows may be sound
                    continue
                yield from frames
        except (av.FFmpegError, OSError):
            self._broken += 1  # the file breaks off


class _Segments:
    """Audio frames resampled in runs without holes, each placed by the time of its start."""

    def __init__(self) -> None:
        self.finish = float("-inf")
        self._runs: list[tuple[float, list[NDArray[np.float32]]]] = []
        self._resampler: Any = None

    def add(self, frame: Any, time: float, finish: float) -> None:
        """Add one frame that lasts from `time` to `finish`."""
        if self._resampler is None or abs(time - self.finish) > _GAP_SECONDS:
            self._flush()
            self._resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
            self._runs.append((time, []))
        self.finish = finish
        self._resample(frame)

    def samples(self, first: float, stop: float) -> NDArray[np.float32]:
        """Return the samples of `[first, stop)`; what no frame covers is silence."""
        self._flush()
        total = round((stop - first) * SAMPLE_RATE)
        placed = np.zeros(total, np.float32)
        for time, pieces in self._runs:
            run = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
            at = round((time - first) * SAMPLE_RATE)
            run, at = run[max(0, -at) :], max(0, at)
            placed[at : at + len(run)] = run[: max(0, total - at)]
        if not np.isfinite(placed).all():
            raise MediaError("samples that are not finite numbers", "decode")
        return placed

    def _resample(self, frame: Any) -> None:
        try:
            for piece in self._resampler.resample(frame):
                self._runs[-1][1].append(piece.to_ndarray().ravel())
        except (av.FFmpegError, ValueError) as error:
            raise MediaError("the audio format changes midway", "decode") from error

    def _flush(self) -> None:
        if self._resampler is not None:
            self._resample(None)
            self._resampler = None


class _Picked:
    """Pictures picked at the sampling instants, each frame converted at most once."""

    def __init__(self, first: float, fps: float, pixel_aspect: float) -> None:
        self.pictures: list[NDArray[np.uint8]] = []
        self.times: list[float] = []
        self._first, self._fps, self._pixel_aspect = first, fps, pixel_aspect
        self._converted: tuple[Any, NDArray[np.uint8]] | None = None
        self._reformatter = av.video.reformatter.VideoReformatter()

    def until(self, time: float, frame: Any) -> None:
        """Let `frame` be the one on display at every instant still open before `time`."""
        while (instant := (len(self.times) + 0.5) / self._fps) + self._first < time:
            self._pick(instant, frame)

    def at_least_one(self, instant: float, frame: Any) -> None:
        """Pick `frame` if no instant lay in the span."""
        if not self.times:
            self._pick(instant, frame)

    def _pick(self, instant: float, frame: Any) -> None:
        if self._converted is None or self._converted[0] is not frame:
            self._converted = (frame, self._convert(frame))
        self.pictures.append(self._converted[1])
        self.times.append(instant)

    def _convert(self, frame: Any) -> NDArray[np.uint8]:
        width = max(1, round(frame.width * self._pixel_aspect))
        square = self._reformatter.reformat(frame, width=width, format="rgb24", threads=1)
        picture = square.to_ndarray()
        turns = round(frame.rotation / 90) % 4  # counter-clockwise, as the display matrix says
        return np.ascontiguousarray(np.rot90(picture, turns))
