"""Which specs there are: a spec's scheme and the modality it serves choose the encoder's code.

A new encoder is one file with a `resolve` function and an encoder class, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from extract.encoders import (
    clip_visual,
    hf_audio,
    hf_text,
    hf_visual,
    opensmile_audio,
    whisper_audio,
)
from extract.encoders.base import Encoder, EncoderInfo, Settings
from extract.encoders.face_crop import FaceCrop, with_faces
from extract.encoders.options import split_face
from extract.encoders.weights import Memo
from extract.errors import ExtractError


@dataclass(frozen=True)
class _Kind:
    modality: str
    scheme: str
    form: str  # of the spec, for messages
    resolve: Callable[[str, str, Settings, Memo], EncoderInfo]
    load: Callable[[EncoderInfo, str], Encoder]


_KINDS = {
    "hf-text": _Kind("text", "hf", "hf:ID_OR_DIR[@LAYER]", hf_text.resolve, hf_text.HfText),
    "whisper": _Kind(
        "audio",
        "whisper",
        "whisper:NAME_OR_PT[@bucket]",
        whisper_audio.resolve,
        whisper_audio.WhisperAudio,
    ),
    "hf-audio": _Kind("audio", "hf", "hf:ID_OR_DIR[@LAYER]", hf_audio.resolve, hf_audio.HfAudio),
    "opensmile": _Kind(
        "audio",
        "opensmile",
        "opensmile:SET[/lld]",
        opensmile_audio.resolve,
        opensmile_audio.OpenSmileAudio,
    ),
    "open_clip": _Kind(
        "visual",
        "open_clip",
        "open_clip:ARCH/TAG, open_clip:local-dir:DIR or open_clip:hf-hub:ID, each with [@face]",
        clip_visual.resolve,
        clip_visual.ClipVisual,
    ),
    "hf-visual": _Kind(
        "visual",
        "hf",
        "hf:ID_OR_DIR[@LAYER][@face]",
        hf_visual.resolve,
        hf_visual.HfVisual,
    ),
}

MODALITIES = tuple(dict.fromkeys(kind.modality for kind in _KINDS.values()))


def resolve_encoder(modality: str, spec: str, settings: Settings, memo: Memo) -> EncoderInfo:
    """Find the encoder that a spec names, fetching its weights if need be; nothing is loaded.

    Raises:
        ExtractError: the spec is unknown, or its model is missing, unreachable or not a model.
    """
    scheme, mark, reference = spec.partition(":")
    kinds = [kind for kind in _KINDS.values() if kind.modality == modality]
    for kind in kinds:
        if kind.scheme == scheme and mark and reference:
            if modality != "visual":
                return kind.resolve(reference, spec, settings, memo)
            rest, face = split_face(reference)
            info = kind.resolve(rest, spec, settings, memo)
            return info if face is None else with_faces(info, face, spec, memo)
    forms = "; ".join(kind.form for kind in kinds)
    raise ExtractError(f"{modality} encoder {spec!r} is not a known spec; use {forms}")


def load_encoder(info: EncoderInfo, device: str) -> Encoder:
    """Load an encoder onto a device.

    Raises:
        ExtractError: its files are not what its spec says.
    """
    encoder = _KINDS[info.kind].load(info, device)
    return encoder if info.detector is None else FaceCrop(encoder, info)
