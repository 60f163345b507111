"""What stage one is compared with: a plain loop, and its own batches replayed from memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from extract.batches import Batches
from extract.clock import Clock
from extract.encoders.base import Encoder, EncoderInfo, Prepared, Settings, Unit
from extract.encoders.registry import load_encoder
from extract.jobs import Job
from extract.media import Frames, read_audio
from extract.plan import Row
from extract.reading import prepare_ahead

_loaded: dict[str, Encoder] = {}  # by spec; lives with the process
_held: list[tuple[str, Sequence[Unit]]] = []


def _encoder(info: EncoderInfo, threads: int) -> Encoder:
    import torch

    torch.set_num_threads(threads)
    if info.spec not in _loaded:
        _loaded[info.spec] = load_encoder(info, "cpu")
    return _loaded[info.spec]


def plain_loop(
    rows: Mapping[str, Sequence[Row]],
    infos: Mapping[str, EncoderInfo],
    settings: Settings,
    threads: int,
    folder: Path,
) -> float:
    """Encode and save one clip after the other, as a first script would; return the seconds.

    Every frame is converted, then some are picked; a clip's frames are one batch. Encoders are
    loaded before the clock starts, and compute with as many threads as there are cores.
    """
    encoders = {modality: _encoder(info, threads) for modality, info in infos.items()}
    folder.mkdir(parents=True)
    began = time.perf_counter()
    for text, audio, visual in zip(rows["text"], rows["audio"], rows["visual"], strict=True):
        media: dict[str, Any] = {"text": text.text}
        if audio.path and visual.path:
            media["audio"] = read_audio(audio.path, None, None, max_seconds=settings.max_seconds)
            media["visual"] = _every_frame(visual.path, settings)
        for modality, encoder in encoders.items():
            units = encoder.prepare(media[modality]).units
            found = np.concatenate(encoder.encode(units))
            np.save(folder / f"{text.id}-{modality}.npy", found.astype(np.float16))
    return time.perf_counter() - began


def _every_frame(path: Path, settings: Settings) -> Frames:
    pictures: list[NDArray[np.uint8]] = []
    times: list[float] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            pictures.append(frame.to_ndarray(format="rgb24"))
            times.append(float(frame.time or 0.0))
    end = min(times[-1] + times[1], settings.max_seconds) if len(times) > 1 else 0.0
    instants = (np.arange(max(1, int(end * settings.fps))) + 0.5) / settings.fps
    picked = np.searchsorted(times, instants, side="right").clip(1) - 1
    return Frames([pictures[at] for at in picked], instants.astype(np.float32))


class _Recorder:
    """An encoder that keeps its batches instead of encoding them."""

    def __init__(self, encoder: Encoder, info: EncoderInfo) -> None:
        self._encoder, self._info = encoder, info

    def batch_size(self, unit: Unit) -> int:
        return self._encoder.batch_size(unit)

    def prepare(self, medium: Any) -> Prepared:
        return self._encoder.prepare(medium)

    def encode(self, units: Sequence[Unit]) -> list[NDArray[np.float32]]:
        _held.append((self._info.spec, list(units)))
        return [np.zeros((unit.rows, self._info.dim), np.float32) for unit in units]


def hold_batches(jobs: Sequence[Job]) -> int:
    """Prepare the batches of shards and hold them in this process; return how many there are."""
    _held.clear()
    for job in jobs:
        recorder = _Recorder(_encoder(job.info, 1), job.info)
        batches = Batches(recorder, Clock(), job.info.stored)
        for row, prepared in prepare_ahead(job.shard.rows, recorder, job, Clock()):
            assert isinstance(prepared, Prepared), prepared
            batches.add(row.id, prepared)
        batches.finish()
    return len(_held)


def replay_batches() -> float:
    """Encode the batches that this process holds; return the seconds."""
    began = time.perf_counter()
    for spec, units in _held:
        _loaded[spec].encode(units)
    return time.perf_counter() - began
