"""Speech through `openai-whisper`'s encoder: fifty rows a second.

Whisper sees windows of one fixed length (30 s in the published models). An utterance is padded with
silence to whole windows, its log-mel computed and normalised by itself (never with a batch, whose
loudest member would shift the others), and only rows that lie on the utterance are kept. That is
the `full` context: the features that Whisper itself would compute.

With `@bucket` a window is as long as the smallest of `BUCKET_SECONDS` that holds what is left of
the utterance, chosen by its own duration alone. An utterance of 3 s then costs a sixth of 30 s or
less, but its rows attend to less silence than Whisper was trained with: they are other features,
in a feature set of their own.
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
from extract.encoders.compute import Compute, units_in
from extract.encoders.options import split_options
from extract.encoders.weights import FETCH_ELSEWHERE, Memo, has_random_weights, slug_of
from extract.errors import ExtractError
from extract.media import SAMPLE_RATE, Audio

SAMPLES_PER_ROW = 320  # 10 ms hops, halved by the second convolution
ROWS_PER_SECOND = SAMPLE_RATE / SAMPLES_PER_ROW
BUCKET_SECONDS = (2, 5, 10, 15, 30)
_HOPS_PER_ROW = 2
_BATCH_SECONDS = {"cpu": 10.0, "cuda": 240.0}
_ALIASES = {"large": "large-v3", "turbo": "large-v3-turbo"}


def resolve(reference: str, spec: str, settings: Settings, memo: Memo) -> EncoderInfo:
    """Find the checkpoint that `NAME_OR_PT[@bucket]` names, fetching a published one if need be.

    Raises:
        ExtractError: there is no such checkpoint, it cannot be fetched, or it is not Whisper's.
    """
    name, options = split_options(reference, spec, ["context"])
    path = Path(name).expanduser()
    published = path.suffix != ".pt" and not path.exists()
    if published:
        path = _published(name, spec)
    if not path.is_file():
        raise ExtractError(f"encoder {spec}: no checkpoint {name}; check the path")
    digest = memo.digest(path.resolve())
    dims = memo.fact(f"whisper {digest}", lambda: _dimensions(path, spec))
    bucketed = options.context == "bucket"
    slug = slug_of(f"whisper-{path.stem}" if published else path.stem)
    return EncoderInfo(
        spec=spec,
        kind="whisper",
        medium="audio",
        slug=f"{slug}-bucket" if bucketed else slug,
        location=str(path.resolve()),
        digest=digest,
        dim=dims["n_audio_state"],
        rows_per_second=ROWS_PER_SECOND,
        random_weights=not published and has_random_weights(path.parent),
        preprocessing={
            "sample_rate": SAMPLE_RATE,
            "max_seconds": settings.max_seconds,
            "context": options.context,
            **({"bucket_seconds": BUCKET_SECONDS} if bucketed else {}),
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
            f"encoder {spec}: could not be fetched ({error}); give a local .pt file, or "
            f"{FETCH_ELSEWHERE}"
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


def load_whisper(info: EncoderInfo, device: str) -> Any:
    """Load a whole checkpoint, encoder and decoder.

    Raises:
        ExtractError: it is not Whisper's.
    """
    import whisper

    try:
        return whisper.load_model(info.location, device=device)
    except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError) as error:
        raise ExtractError(
            f"encoder {info.spec}: {info.location} is not a Whisper checkpoint: {error}"
        ) from error


class WhisperAudio:
    """A loaded Whisper encoder."""

    def __init__(self, info: EncoderInfo, device: str) -> None:
        model = load_whisper(info, "cpu")
        self._compute = Compute(info, device)
        self._encoder = model.encoder.to(device).eval()
        self._mels, self._window = model.dims.n_mels, model.dims.n_audio_ctx  # window in rows
        buckets = info.preprocessing.get("bucket_seconds", ())
        shorter = [round(each * ROWS_PER_SECOND) for each in buckets]
        self._lengths = [*(each for each in shorter if each < self._window), self._window]
        self._device = device

    def batch_size(self, unit: Unit) -> int:
        """Return how many windows of that length make a batch."""
        seconds = unit.arrays[0].shape[1] / _HOPS_PER_ROW / ROWS_PER_SECOND
        return units_in(_BATCH_SECONDS, seconds, self._device)

    def prepare(self, medium: Audio) -> Prepared:
        """Compute the log-mel of an utterance and cut it into windows."""
        from whisper.audio import log_mel_spectrogram

        count = -(-len(medium.samples) // SAMPLES_PER_ROW)
        whole = (count - 1) // self._window  # windows before the last one
        rest = count - whole * self._window
        last = next(length for length in self._lengths if length >= rest)
        padded = (whole * self._window + last) * SAMPLES_PER_ROW
        padding = padded - len(medium.samples)
        mel = log_mel_spectrogram(medium.samples, self._mels, padding=padding).numpy()
        hops = self._window * _HOPS_PER_ROW
        units = [
            Unit((mel[:, window * hops : (window + 1) * hops],), self._window)
            for window in range(whole)
        ]
        units.append(Unit((mel[:, whole * hops :],), rest))
        time = np.arange(count, dtype=np.float32) / np.float32(ROWS_PER_SECOND)
        return Prepared(units, time, medium.flags)

    def encode(self, units: Sequence[Unit]) -> list[NDArray[np.float32]]:
        """Encode a batch of windows of log-mel [mels, hops]."""
        [mel] = self._compute.to_device(units)
        with self._compute.running():
            return self._compute.to_host(self._forward(mel), units)

    def _forward(self, mel: Any) -> Any:
        """Do as Whisper's encoder does, for windows of any length up to its own.

        Its `forward` insists on the full length; positions are sines, so a shorter window takes
        the first of them.
        """
        from torch.nn.functional import gelu

        encoder = self._encoder
        rows = gelu(encoder.conv2(gelu(encoder.conv1(mel)))).permute(0, 2, 1)
        rows = (rows + encoder.positional_embedding[: rows.shape[1]]).to(rows.dtype)
        for block in encoder.blocks:
            rows = block(rows)
        return encoder.ln_post(rows)
