"""Decode one clip, in this process or in a child that may crash or hang in its place.

Decoding in the worker costs nothing extra, so that is how a shard begins. Where a clip kills the
worker, or is still being decoded after its time is up (a watchdog in C then ends the process,
whatever holds Python's lock), the shard is tried again with a child process that decodes: what
kills the child costs that clip alone.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from extract.media import MediaError, read_audio, read_frames

CLIP_SECONDS = 30.0
_CHILD = "extract.decoding"  # the module that a child runs
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class Clip:
    """A span of a file, and what is wanted of it; times in seconds, `fps` in pictures a second."""

    medium: Literal["audio", "frames"]
    path: Path
    start: float | None
    end: float | None
    max_seconds: float
    fps: float


def decode(clip: Clip) -> object:
    """Return the clip's `Audio` or `Frames`.

    Raises:
        MediaError: it cannot be used.
    """
    try:
        if clip.medium == "audio":
            return read_audio(clip.path, clip.start, clip.end, max_seconds=clip.max_seconds)
        return read_frames(
            clip.path, clip.start, clip.end, fps=clip.fps, max_seconds=clip.max_seconds
        )
    except (MediaError, MemoryError, ImportError):
        raise
    except Exception as error:  # one odd file must not cost the shard its other rows
        raise MediaError(f"{type(error).__name__}: {error}", "decode") from error


@contextmanager
def watched(seconds: float | None) -> Iterator[None]:
    """End this process if the block takes longer; None lets it take its time."""
    if seconds is None:
        yield
        return
    with Path(os.devnull).open("w") as nowhere:
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


class ChildDecoder:
    """Decodes in a child process, which is started when first needed and after each death.

    Args:
        seconds: How long a clip may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None

    def decode(self, clip: Clip) -> object:
        """Return the clip's `Audio` or `Frames`.

        Raises:
            MediaError: it cannot be used, or it killed or held up its decoder.
        """
        if self._child is None:
            self._child = _start_child()
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            _send(self._child.stdin, (clip, self._seconds))
            decoded = _receive(self._child.stdout)
        except (BrokenPipeError, EOFError):
            code = self._child.wait()
            self._child = None
            raise MediaError(_death(code, self._seconds), "decode") from None
        if isinstance(decoded, _Refused):
            raise MediaError(decoded.reason, decoded.stage)
        return decoded

    def close(self) -> None:
        """Let the child end."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


@dataclass(frozen=True)
class _Refused:
    """A `MediaError` on its way from the child."""

    reason: str
    stage: Literal["open", "decode"]


def _start_child() -> subprocess.Popen[bytes]:
    # Not multiprocessing: a dask worker is a daemon, which may not have children of that kind.
    return subprocess.Popen(
        [sys.executable, "-m", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def _death(code: int, seconds: float) -> str:
    if code < 0:
        return f"its decoder crashed ({signal.Signals(-code).name})"
    if code == 1:  # how the watchdog ends a process
        return f"its decoder was not done after {seconds:g} s"
    return f"its decoder ended with code {code}"


def _send(stream: IO[bytes], value: object) -> None:
    content = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    stream.write(len(content).to_bytes(_LENGTH_BYTES, "big"))
    stream.write(content)
    stream.flush()


def _receive(stream: IO[bytes]) -> object:
    """Return what the other process sent.

    Raises:
        EOFError: it is gone.
    """
    size = int.from_bytes(_exactly(stream, _LENGTH_BYTES), "big")
    return pickle.loads(_exactly(stream, size))  # from a process of our own


def _exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content


def serve() -> None:
    """Decode what the parent asks for until it is gone; the child's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    while True:
        try:
            asked: Any = _receive(sys.stdin.buffer)
        except EOFError:
            return
        clip, seconds = asked
        answer: object
        try:
            with watched(seconds):
                answer = decode(clip)
        except MediaError as error:
            answer = _Refused(error.reason, error.stage)
        except MemoryError:
            answer = _Refused("too large to be decoded in memory", "decode")
        _send(answers, answer)


if __name__ == "__main__":
    from extract.decoding import serve as serve_imported  # so that pickles name one module

    serve_imported()
