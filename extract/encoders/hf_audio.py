"""Speech through a model of `transformers`: wav2vec 2.0, HuBERT, WavLM and their kin.

Two families, told apart by their configuration: those that begin with convolutions over samples
(`conv_stride`), and Wav2Vec2-BERT, which begins with frames of log-mel that its feature extractor
computes (`feature_projection_input_dim`) and are never padded here either.

The feature extractor's own normalisation is applied to each utterance by itself. Models that
normalise over time in their first convolution (`feat_extract_norm` "group": the base models) would
hear padding in every row, so their utterances are encoded one at a time and never padded. The
others (the large models, XLS-R) were trained with a mask: there an utterance is padded to the
smallest of a few fixed lengths that holds it, and masked. Which of the two is part of the
fingerprint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.encoders.base import EncoderInfo, Prepared, Settings, Unit
from extract.encoders.compute import Compute, units_in
from extract.encoders.hf_model import (
    CONFIG,
    PREPROCESSOR,
    find_hf_model,
    load_hf_model,
    not_loadable,
    states_of,
)
from extract.encoders.options import Layer, split_options
from extract.encoders.weights import Memo, read_config
from extract.errors import ExtractError
from extract.media import SAMPLE_RATE, Audio

BUCKET_SECONDS = (1, 2, 5, 10, 15, 30)
_UNUSED = ("masked_spec_embed", "pooler")  # for training by masking
_FRAME_SECONDS = 0.01  # between two frames of log-mel
_FRAMES_JOINED = 2  # into one, unless the extractor's settings say otherwise
_BATCH_SECONDS = {"cpu": 10.0, "cuda": 240.0}


def resolve(reference: str, spec: str, settings: Settings, memo: Memo) -> EncoderInfo:
    """Find the model that `ID_OR_DIR[@layer]` names.

    Raises:
        ExtractError: there is no such model, or it is not one that hears waveforms at 16 kHz.
    """
    name, options = split_options(reference, spec, ["layer"])
    found = find_hf_model(name, options.layer, spec, ["*.json"], memo, also=[PREPROCESSOR])
    dim = found.number("hidden_size")
    extractor = _extractor_settings(found.folder / PREPROCESSOR, spec)
    hop = _hop_seconds(found.config, extractor)
    if dim is None or hop is None or found.config.get("add_adapter"):
        raise ExtractError(
            f"encoder {spec}: {found.folder / CONFIG} (model_type "
            f"{found.config['model_type']}) is not a speech encoder such as wav2vec2, hubert, "
            "wavlm or wav2vec2-bert; for Whisper use whisper:NAME_OR_PT"
        )
    padded = found.config.get("feat_extract_norm") == "layer"
    return EncoderInfo(
        spec=spec,
        kind="hf-audio",
        medium="audio",
        slug=found.slug,
        location=str(found.folder),
        digest=found.digest,
        dim=dim,
        rows_per_second=1 / hop,
        random_weights=found.random_weights,
        preprocessing={
            "sample_rate": SAMPLE_RATE,
            "max_seconds": settings.max_seconds,
            "layer": options.layer,
            "bucket_seconds": BUCKET_SECONDS if padded else None,
            "hop_seconds": hop,
        },
        dtype=settings.dtype,
    )


def _extractor_settings(path: Path, spec: str) -> dict[str, Any]:
    """Return how the model wants its samples."""
    if not path.is_file():
        raise ExtractError(
            f"encoder {spec}: {path.parent} holds no {path.name}, which says how the model "
            "wants its samples; take it from the published model"
        )
    settings = read_config(path, spec)
    rate = settings.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise ExtractError(f"encoder {spec}: wants {rate} Hz, but audio is read at {SAMPLE_RATE}")
    return settings


def _hop_seconds(config: dict[str, Any], extractor: dict[str, Any]) -> float | None:
    """Return the time from one row to the next, None where the model is of neither family."""
    if isinstance(strides := config.get("conv_stride"), list):
        return math.prod(strides) / SAMPLE_RATE
    if "feature_projection_input_dim" in config:
        return _FRAME_SECONDS * int(extractor.get("stride", _FRAMES_JOINED))
    return None


class HfAudio:
    """A loaded encoder of waveforms."""

    def __init__(self, info: EncoderInfo, device: str) -> None:
        from transformers import AutoFeatureExtractor

        buckets: Sequence[float] | None = info.preprocessing["bucket_seconds"]
        self._buckets = [round(seconds * SAMPLE_RATE) for seconds in buckets or ()]
        self._model = load_hf_model(
            info.location,
            info.spec,
            masked=bool(self._buckets),
            unused=_UNUSED,
        ).to(device)
        try:
            self._extractor = AutoFeatureExtractor.from_pretrained(
                info.location, local_files_only=True
            )
        except Exception as error:  # of transformers
            raise not_loadable(info.spec, info.location, error) from error
        self._hop_seconds: float = info.preprocessing["hop_seconds"]
        self._layer: Layer = info.preprocessing["layer"]
        self._compute, self._device = Compute(info, device), device

    def batch_size(self, unit: Unit) -> int:
        """Return how many utterances padded to that length make a batch."""
        if not self._buckets:
            return 1  # utterances that are not padded hardly ever share a length
        return units_in(_BATCH_SECONDS, len(unit.arrays[0]) / SAMPLE_RATE, self._device)

    def prepare(self, medium: Audio) -> Prepared:
        """Normalise an utterance as the model wants it, and pad it to its bucket."""
        found = self._extractor(medium.samples, sampling_rate=SAMPLE_RATE, return_tensors="np")
        if "input_features" in found:
            frames, mask = found["input_features"][0], found["attention_mask"][0].astype(np.int64)
            return self._one_unit((frames.astype(np.float32), mask), int(mask.sum()), medium)
        samples = found["input_values"][0].astype(np.float32)
        rows = self._rows(len(samples))
        if not self._buckets:
            return self._one_unit((samples,), rows, medium)
        # Longer than every bucket only where the user allows longer spans: then to whole seconds.
        whole = -(-len(samples) // SAMPLE_RATE) * SAMPLE_RATE
        length = next((each for each in self._buckets if each >= len(samples)), whole)
        mask = (np.arange(length) < len(samples)).astype(np.int64)
        samples = np.pad(samples, (0, length - len(samples)))
        return self._one_unit((samples, mask), rows, medium)

    def _one_unit(self, arrays: tuple[NDArray[Any], ...], rows: int, medium: Audio) -> Prepared:
        time = np.arange(rows, dtype=np.float32) * np.float32(self._hop_seconds)
        return Prepared([Unit(arrays, rows)], time, medium.flags)

    def encode(self, units: Sequence[Unit]) -> list[NDArray[np.float32]]:
        """Encode a batch of equally long waveforms [time] or frames of log-mel [time, mels]."""
        samples, *mask = self._compute.to_device(units)
        with self._compute.running():
            output = self._model(
                samples,
                attention_mask=mask[0] if mask else None,
                output_hidden_states=self._layer is not None,
            )
            return self._compute.to_host(states_of(output, self._layer), units)

    def _rows(self, samples: int) -> int:
        """Return how many rows the convolutions make of a number of samples."""
        config = self._model.config
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples
