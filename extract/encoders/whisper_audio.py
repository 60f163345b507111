"""Speech through `openai-whisper`'s encoder: fifty rows a second.

Whisper sees windows of one fixed length (30 s in the published models). An utterance is padded with
silence to whole windows, its log-mel computed and normalised by itself (never with a batch, whose
loudest member would shift the others), and only rows that lie on the utterance are kept. That is
the `full` context: the features that Whisper itself would compute.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.encoders.base import EncoderInfo, Prepared, Settings, Unit
from extract.encoders.weights import Memo, has_random_weights, slug_of
from extract.errors import ExtractError
from extract.media import SAMPLE_RATE, Audio

SAMPLES_PER_ROW = 320  # 10 ms hops, halved by the second convolution
ROWS_PER_SECOND = SAMPLE_RATE / SAMPLES_PER_ROW
_HOPS_PER_ROW = 2
_BATCH = {"cpu": 8, "cuda": 32}
_ALIASES = {"large": "large-v3", "turbo": "large-v3-turbo"}


def resolve(reference: str, spec: str, settings: Settings, memo: Memo) -> EncoderInfo:
    """Find the checkpoint that `NAME_OR_PT` names, fetching a published one if need be.

    Raises:
        ExtractError: there is no such checkpoint, it cannot be fetched, or it is not Whisper's.
    """
    path = Path(reference).expanduser()
    published = path.suffix != ".pt" and not path.exists()
    if published:
        path = _published(reference, spec)
    if not path.is_file():
        raise ExtractError(f"encoder {spec}: no checkpoint {reference}; check the path")
    digest = memo.digest(path.resolve())
    dims = memo.fact(f"whisper {digest}", lambda: _dimensions(path, spec))
    return EncoderInfo(
        spec=spec,
        kind="whisper",
        medium="audio",
        slug=slug_of(f"whisper-{path.stem}" if published else path.stem),
        location=str(path.resolve()),
        digest=digest,
        dim=dims["n_audio_state"],
        rows_per_second=ROWS_PER_SECOND,
        random_weights=not published and has_random_weights(path.parent),
        preprocessing={
            "sample_rate": SAMPLE_RATE,
            "max_seconds": settings.max_seconds,
            "context": "full",
        },
        dtype=settings.dtype,
    )


def _published(name: str, spec: str) -> Path:
    """Return where a published model lies, after fetching it if it is not there."""
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whisper"
    path = root / f"{_ALIASES.get(name, name)}.pt"
    if path.is_file():
        return path
    import socket

    import whisper

    if name not in whisper.available_models():
        known = ", ".join(whisper.available_models())
        raise ExtractError(
            f"encoder {spec}: no checkpoint file {name} and no Whisper model of that name "
            f"(known: {known})"
        )
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)
    try:
        whisper.load_model(name, device="cpu")
    except (OSError, RuntimeError) as error:
        raise ExtractError(
            f"encoder {spec}: could not be fetched ({error}); give a local .pt file, or fetch it "
            "once with a network: egmf-extract --fetch-only"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
    return path


def _dimensions(path: Path, spec: str) -> dict[str, int]:
    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        dims = checkpoint["dims"]
        return {name: int(dims[name]) for name in ("n_mels", "n_audio_ctx", "n_audio_state")}
    except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError) as error:
        raise ExtractError(f"encoder {spec}: {path} is not a Whisper checkpoint") from error


class WhisperAudio:
    """A loaded Whisper encoder."""

    def __init__(self, info: EncoderInfo, device: str) -> None:
        import torch
        import whisper

        try:
            model = whisper.load_model(info.location, device="cpu")
        except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError) as error:
            raise ExtractError(
                f"encoder {info.spec}: {info.location} is not a Whisper checkpoint: {error}"
            ) from error
        self._dtype = getattr(torch, info.dtype)
        self._encoder = model.encoder.to(device, self._dtype).eval()
        for module in self._encoder.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.float()  # Whisper normalises in single precision whatever it computes in
        self._mels, self._window = model.dims.n_mels, model.dims.n_audio_ctx  # window in rows
        self._device = device
        self.batch_size = _BATCH[device.partition(":")[0]]

    def prepare(self, medium: Audio) -> Prepared:
        """Compute the log-mel of an utterance and cut it into windows."""
        from whisper.audio import log_mel_spectrogram

        count = -(-len(medium.samples) // SAMPLES_PER_ROW)
        windows = -(-count // self._window)
        padding = windows * self._window * SAMPLES_PER_ROW - len(medium.samples)
        mel = log_mel_spectrogram(medium.samples, self._mels, padding=padding).numpy()
        hops = self._window * _HOPS_PER_ROW
        units = [
            Unit(
                (mel[:, window * hops : (window + 1) * hops],),
                min(self._window, count - window * self._window),
            )
            for window in range(windows)
        ]
        time = np.arange(count, dtype=np.float32) / np.float32(ROWS_PER_SECOND)
        return Prepared(units, time, medium.flags)

    def encode(self, units: Sequence[Unit]) -> list[NDArray[np.float32]]:
        """Encode a batch of windows of log-mel [mels, hops]."""
        import torch

        mel = torch.from_numpy(np.stack([unit.arrays[0] for unit in units]))
        with torch.inference_mode():
            rows: Any = self._encoder(mel.to(self._device, self._dtype))
            values = rows.float().cpu().numpy()
        return [value[: unit.rows] for value, unit in zip(values, units, strict=True)]
